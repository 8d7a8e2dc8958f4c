"""DINOv2 vision transformer (Oquab et al., TMLR 2023), frozen, with the official files' own key names."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 14  # pixels
# A block runs over so many pictures at a time: its hidden layer, four times as wide as the tokens, would be the largest
# tensor of a training step.
PICTURES_AT_ONCE = 64
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
        attend = F.scaled_dot_product_attention if x.is_cuda or q.dtype == torch.float32 else _attend_by_products
        x = attend(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(width)) v, as `scaled_dot_product_attention`: torch's fused kernel for processors takes
    2.7 times as long in bfloat16 at 257 tokens (benchmarks/training.md)."""
    shape = q.shape
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    scores = torch.baddbmm(q.new_zeros(()), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(dim=-1), v).view(shape)


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

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return torch.addcmul(residual, x, self.gamma)


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
        x = self.ls1(self.attn(self.norm1(x)), residual=x)
        return self.ls2(self.mlp(self.norm2(x)), residual=x)


def _run_block(block: Block, x: Tensor) -> Tensor:
    return block(x)


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
        self._run_block: Callable[[Block, Tensor], Tensor] = _run_block
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
        x = self._embed(images)
        yield x
        for block in self.blocks:
            x = self._run(block, x)
            yield x

    def _embed(self, images: Tensor) -> Tensor:
        rows, columns = self.grid(images)
        patches = self.patch_embed(images.to(self.patch_embed.proj.weight.dtype))
        x = torch.cat([self.cls_token.expand(len(images), -1, -1).to(patches.dtype), patches], dim=1)
        return x + self.position_embedding(rows, columns)

    def _run(self, block: Block, x: Tensor) -> Tensor:
        # Rounded weights decide the type themselves; autocast would turn LayerNorm and the residuals back to fp32.
        rounded = x.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(x.device.type, enabled=False) if rounded else contextlib.nullcontext():
            parts = [self._run_block(block, part) for part in x.split(PICTURES_AT_ONCE)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    @contextlib.contextmanager
    def rounded(self, dtype: torch.dtype, *, compiled: bool = False) -> Iterator[None]:
        """Inside the context, embedding and blocks hold their weights, and compute, in `dtype`; exact again after it.

        `compiled` lets torch.compile translate the blocks, which share one translation, at their first use.

        Nothing here is trained, so that half the memory and no conversion in every step cost no more than rounding.
        On a GPU the exact weights wait in the processor's memory. The last LayerNorm stays: it takes the side networks'
        states, not the tokens.
        """
        parameters = [p for name, p in self.named_parameters() if not name.startswith("norm.")]
        exact = [p.data if dtype == p.dtype else p.data.cpu() for p in parameters]
        for p in parameters:
            p.data = p.data.to(dtype)
        if compiled:
            self._run_block = torch.compile(_run_block)
        try:
            yield
        finally:
            self._run_block = _run_block
            for p, values in zip(parameters, exact, strict=True):
                p.data = values.to(p.device)
