"""Transformer blocks, plain and with SelaVPR's adapters inside, with the official files' own key names."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ViT
from .vanilla import VanillaAdapter

PARALLEL_SCALE = 0.2  # s of equation 4
ROTARY_BASE = 100.0  # the longest period of DINOv3's rotary positions, nearly
Rotation = tuple[Tensor, Tensor]  # cosines and sines of the patches' angles, each (N, C / heads)


class RotaryPositions(nn.Module):
    """DINOv3's rotary positions; the augmentation of its training is left out, in every mode.

    periods  (C / heads / 4,); those of the official files are rounded to bf16, which moves the tokens
    """

    periods: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("periods", ROTARY_BASE ** (4 * torch.arange(width // 4) / width))

    def forward(self, rows: int, columns: int) -> Rotation:
        """Angles 2 pi c / period of the patches' centres c, from -1 to 1 down and across the image: for every period by
        the row, then by the column, and all of them once more. In fp32, or the wider type of the periods."""
        periods = self.periods.to(torch.promote_types(self.periods.dtype, torch.float32))
        down, across = (2 * ((torch.arange(count, dtype=periods.dtype, device=periods.device) + 0.5) / count) - 1
                        for count in (rows, columns))
        centres = torch.stack(torch.meshgrid(down, across, indexing="ij"), dim=-1)
        angles = (2 * math.pi * centres[..., None] / periods).view(rows * columns, -1).tile(2)
        return angles.cos(), angles.sin()


def rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """Queries or keys (..., T, C / heads), of which those of the patches, the last N, are turned by their positions."""
    cosines, sines = rotation
    prefix, patches = x.tensor_split([x.shape[-2] - cosines.shape[0]], dim=-2)
    exact = patches.to(cosines.dtype)
    first, second = exact.chunk(2, dim=-1)
    turned = exact * cosines + torch.cat([-second, first], dim=-1) * sines
    return torch.cat([prefix, turned.to(x.dtype)], dim=-2)


class KeylessBias(nn.Linear):
    """DINOv3's qkv: its bias counts where `bias_mask` is 1, and that of the keys is masked."""

    bias_mask: Tensor

    def __init__(self, dim: int):
        super().__init__(dim, 3 * dim)
        self.register_buffer("bias_mask", torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.effective_bias())

    def effective_bias(self) -> Tensor:
        return self.bias * self.bias_mask.to(self.bias.dtype)

    def unmasked(self) -> nn.Linear:
        """A plain layer of the same weight and of the bias that is left."""
        plain = nn.Linear(self.in_features, self.out_features, device="meta")
        plain.weight = self.weight
        plain.bias = nn.Parameter(self.effective_bias().detach(), requires_grad=False)
        return plain


class Attention(nn.Module):
    """Multi-head self-attention, one fused qkv product; (B, T, C) -> the same.

    `rotation` turns the queries and keys of the patches; None: positions are part of the tokens.
    """

    attend = staticmethod(F.scaled_dot_product_attention)  # processor.py may set another on an instance

    def __init__(self, dim: int, heads: int, *, key_bias: bool = True):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim) if key_bias else KeylessBias(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, C / heads)
        if rotation is not None:
            q, k = rotated(q, rotation), rotated(k, rotation)
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


class FusedSwiGLU(nn.Module):
    """w3(silu(a) * b), where a and b are the halves of w12(x); DINOv2's layout."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class SwiGLU(nn.Module):
    """w3(silu(w1(x)) * w2(x)); DINOv3's layout."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.w1 = nn.Linear(dim, hidden)
        self.w2 = nn.Linear(dim, hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class LayerScale(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return torch.addcmul(residual, x, self.gamma)


class Unscaled(nn.Module):
    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + x


class Block(nn.Module):
    """Pre-norm transformer block (equations 1 and 2 of the paper, with layer scale where the family has it)."""

    def __init__(self, vit: ViT):
        super().__init__()
        dim, family = vit.dim, vit.family
        self.norm1 = nn.LayerNorm(dim, eps=family.eps)
        self.attn = Attention(dim, vit.heads, key_bias=family.key_bias)
        self.ls1 = LayerScale(dim) if family.layer_scale else Unscaled()
        self.norm2 = nn.LayerNorm(dim, eps=family.eps)
        gated = FusedSwiGLU if family.fused_gate else SwiGLU
        self.mlp = MLP(dim) if vit.swiglu is None else gated(dim, vit.swiglu)
        self.ls2 = LayerScale(dim) if family.layer_scale else Unscaled()

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        x = self.ls1(self.attn(self.norm1(x), rotation), residual=x)
        return self.ls2(self.mlp(self.norm2(x)), residual=x)


class AdaptedBlock(Block):
    """A block with SelaVPR's two adapters inside (equations 3 and 4 of the paper; Fig. 3b).

    The layer scales, of which the equations do not speak, weigh the adapters' outputs too, as in the published code.
    """

    def __init__(self, vit: ViT):
        super().__init__(vit)
        self.adapter1 = VanillaAdapter(vit.dim)
        self.adapter2 = VanillaAdapter(vit.dim)

    def forward(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        attended = self.attn(self.norm1(x), rotation)
        x = self.ls1(attended + self.adapter1(attended), residual=x)
        hidden = self.norm2(x)
        return self.ls2(self.mlp(hidden) + PARALLEL_SCALE * self.adapter2(hidden), residual=x)


def run_block(block: Block, x: Tensor, rotation: Rotation | None) -> Tensor:
    return block(x, rotation)
