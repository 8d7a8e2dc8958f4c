"""DINOv2 vision transformer (Oquab et al., TMLR 2023), frozen, with the official files' own key names."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 14  # pixels
PRETRAINING_GRID = 37  # patches a side: 518-pixel pictures
# The official position table is resized by scale factors (size + 0.1) / 37, which shifts the sampling step a little.
POSITION_OFFSET = 0.1


class Attention(nn.Module):
    """Multi-head self-attention, one fused qkv product; (B, 1+N, C) -> the same."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, 1+N, C / heads)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


class MLP(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block (equations 1 and 2 of the paper, with DINOv2's layer scale)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, N, C), row-major


class DinoV2(nn.Module):
    """The frozen backbone. Its tokens are streamed level by level; no gradient ever runs through it."""

    def __init__(self, *, dim: int, depth: int, heads: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + PRETRAINING_GRID**2, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # never used here; part of the official files
        self.patch_embed = PatchEmbed(dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @staticmethod
    def grid(images: Tensor) -> tuple[int, int]:
        """Patches (rows, columns) of (B, 3, H, W) pictures; ValueError unless both sides are multiples of 14."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"pictures must be (B, 3, H, W), got {tuple(images.shape)}")
        height, width = images.shape[2:]
        if height < PATCH or width < PATCH or height % PATCH or width % PATCH:
            raise ValueError(f"picture size {height} x {width} must be multiples of {PATCH} (rows x columns); "
                             "datasets.transforms.nearest_multiple gives the nearest")
        return height // PATCH, width // PATCH

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows * columns, C): the pre-training table, resized bicubically in fp32 unless it fits."""
        if rows == columns == PRETRAINING_GRID:
            return self.pos_embed
        side = PRETRAINING_GRID
        table = self.pos_embed[:, 1:].float().view(1, side, side, -1).permute(0, 3, 1, 2)
        table = F.interpolate(
            table, mode="bicubic", align_corners=False, recompute_scale_factor=False, antialias=False,
            scale_factor=((rows + POSITION_OFFSET) / side, (columns + POSITION_OFFSET) / side))
        assert table.shape[2:] == (rows, columns)
        table = table.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], table], dim=1)

    @torch.no_grad()
    def stream_tokens(self, images: Tensor) -> Iterator[Tensor]:
        """Yields x_0 (embedded patches), x_1, ..., x_depth (block outputs), each (B, 1+N, C), class token first.

        A consumer that keeps none of them holds one level in memory at a time.
        """
        rows, columns = self.grid(images)
        patches = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1).to(patches.dtype), patches], dim=1)
        x = x + self.position_embedding(rows, columns)
        yield x
        for block in self.blocks:
            x = block(x)
            yield x
