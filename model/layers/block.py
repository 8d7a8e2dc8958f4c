"""Transformer blocks of DINOv2, plain and with SelaVPR's adapters inside, with the official files' own key names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .vanilla import VanillaAdapter

PARALLEL_SCALE = 0.2  # s of equation 4


class Attention(nn.Module):
    """Multi-head self-attention, one fused qkv product; (B, 1+N, C) -> the same."""

    attend = staticmethod(F.scaled_dot_product_attention)  # processor.py may set another on an instance

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, 1+N, C / heads)
        x = self.attend(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


class MLP(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class SwiGLU(nn.Module):
    """w3(silu(a) * b), where a and b are the halves of w12(x); in the giant model's blocks."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return torch.addcmul(residual, x, self.gamma)


class Block(nn.Module):
    """Pre-norm transformer block (equations 1 and 2 of the paper, with DINOv2's layer scale)."""

    def __init__(self, dim: int, heads: int, swiglu: int | None = None):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim) if swiglu is None else SwiGLU(dim, swiglu)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ls1(self.attn(self.norm1(x)), residual=x)
        return self.ls2(self.mlp(self.norm2(x)), residual=x)


class AdaptedBlock(Block):
    """A block with SelaVPR's two adapters inside (equations 3 and 4 of the paper; Fig. 3b).

    The layer scales, of which the equations do not speak, weigh the adapters' outputs too, as in the published code.
    """

    def __init__(self, dim: int, heads: int, swiglu: int | None = None):
        super().__init__(dim, heads, swiglu)
        self.adapter1 = VanillaAdapter(dim)
        self.adapter2 = VanillaAdapter(dim)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attn(self.norm1(x))
        x = self.ls1(attended + self.adapter1(attended), residual=x)
        hidden = self.norm2(x)
        return self.ls2(self.mlp(hidden) + PARALLEL_SCALE * self.adapter2(hidden), residual=x)


def run_block(block: Block, x: Tensor) -> Tensor:
    return block(x)
