"""Frozen vision transformers (DINOv2, DINOv3, DeiT), with the official files' own key names."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ViT
from .layers.block import AdaptedBlock, Block, RotaryPositions, Rotation, run_block

# A block runs over so many images at a time: its hidden layer, four times as wide as the tokens, would be the largest
# tensor of a training step.
IMAGES_AT_ONCE = 64


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, N, C), row-major


class VisionTransformer(nn.Module):
    """The backbone, whose tokens are streamed level by level; `set_trained` says what of it learns.

    vit             its sizes, and what its family has
    inner_adapters  SelaVPR's adapters inside every block
    plain_resize    resizes the table of positions of a model with registers as that of one without
    """

    def __init__(self, vit: ViT, *, inner_adapters: bool = False, plain_resize: bool = False):
        super().__init__()
        self.vit, family, dim = vit, vit.family, vit.dim
        self.antialiased = bool(vit.registers) and not plain_resize
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + family.table**2, dim)) if family.table else None
        self.register_parameter(family.registers,
                                nn.Parameter(torch.zeros(1, vit.registers, dim)) if vit.registers else None)
        self.mask_token = nn.Parameter(torch.zeros(1, dim)) if family.mask_token else None
        self.patch_embed = PatchEmbed(dim, family.patch)
        self.rope_embed = None if family.table else RotaryPositions(dim // vit.heads)
        self.blocks = nn.ModuleList((AdaptedBlock if inner_adapters else Block)(vit) for _ in range(vit.depth))
        self.norm = nn.LayerNorm(dim, eps=family.eps)
        self.run_block: Callable[[Block, Tensor, Rotation | None], Tensor] = run_block
        self._initialise()

    def _initialise(self) -> None:
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.registers is not None:
            nn.init.normal_(self.registers, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def registers(self) -> nn.Parameter | None:
        """(1, registers, C), under their official name in state dicts; None where there are none."""
        return getattr(self, self.vit.family.registers)

    def initialise_adapters(self) -> None:
        """The start of training: every adapter inside a block gives 0."""
        for block in self.blocks:
            if isinstance(block, AdaptedBlock):
                block.adapter1.initialise()
                block.adapter2.initialise()

    def set_trained(self, tuning: str, blocks: range) -> None:
        """Decides what learns, by `requires_grad`: nothing ("side"); all but a mask token, which nothing uses
        ("full"); `blocks` and the last LayerNorm ("partial:N"); the adapters inside every block ("selavpr").

        Raises ValueError for another tuning, and for "selavpr" where the blocks hold no adapters.
        """
        self.requires_grad_(False)
        if tuning == "full":
            self.requires_grad_(True)
            if self.mask_token is not None:
                self.mask_token.requires_grad_(False)
        elif tuning.startswith("partial:"):
            for part in (*(self.blocks[number] for number in blocks), self.norm):
                part.requires_grad_(True)
        elif tuning == "selavpr":
            for block in self.blocks:
                if not isinstance(block, AdaptedBlock):
                    raise ValueError("tuning 'selavpr' needs adapters inside the blocks; make the backbone with "
                                     "inner_adapters=True")
                block.adapter1.requires_grad_(True)
                block.adapter2.requires_grad_(True)
        elif tuning != "side":
            raise ValueError(f"unknown tuning {tuning!r}; use 'side', 'full', 'partial:N' or 'selavpr'")

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Patches (rows, columns) of (B, 3, H, W) images; ValueError unless both sides are multiples of the patch and
        the values floats."""
        patch = self.vit.patch
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got {tuple(images.shape)}")
        if not images.is_floating_point():  # whose values from 0 to 255 would pass for normalised ones
            raise ValueError(f"images must be floats, ImageNet-normalised, got {images.dtype}; datasets.normalise "
                             "makes them of uint8")
        height, width = images.shape[2:]
        if height < patch or width < patch or height % patch or width % patch:
            raise ValueError(f"image size {height} x {width} must be multiples of {patch} (rows x columns); "
                             "datasets.transforms.nearest_multiple gives the nearest")
        return height // patch, width // patch

    def position_embedding(self, rows: int, columns: int) -> Tensor | None:
        """(1, 1 + rows * columns, C): the pre-training table, resized bicubically in fp32 unless it fits.

        For the class token and the patches; registers have no position. None for rotary positions.
        """
        if self.pos_embed is None or rows == columns == self.vit.family.table:
            return self.pos_embed
        side, offset = self.vit.family.table, self.vit.family.table_offset
        table = self.pos_embed[:, 1:].float().view(1, side, side, -1).permute(0, 3, 1, 2)
        if offset and not self.antialiased:
            # DINOv2's factors shift the sampling step a little; its models with registers, which came later, resize to
            # the size itself, and antialiased.
            table = F.interpolate(
                table, mode="bicubic", align_corners=False, recompute_scale_factor=False, antialias=False,
                scale_factor=((rows + offset) / side, (columns + offset) / side))
        else:
            table = F.interpolate(table, (rows, columns), mode="bicubic", align_corners=False,
                                  antialias=self.antialiased)
        assert table.shape[2:] == (rows, columns)
        table = table.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat([self.pos_embed[:, :1], table], dim=1)

    def stream_tokens(self, images: Tensor) -> Iterator[Tensor]:
        """Yields x_0 (embedded patches), x_1, ..., x_depth (block outputs), each (B, 1 + registers + N, C), class token
        first, patches last.

        A consumer that keeps none holds one level in memory at a time. If gradient is recorded at all, then from
        the first trained part on; what comes before, and all of a frozen backbone, runs without.
        """
        first = self._first_trained_level() if torch.is_grad_enabled() else len(self.blocks) + 1
        rows, columns = self.grid(images)
        # The mode is set around the work alone: around a `yield` it would hold in the consumer too.
        with _gradient(first == 0):
            x = self._embed(images, self.position_embedding(rows, columns))
            rotation = None if self.rope_embed is None else self.rope_embed(rows, columns)
        yield x
        for level, block in enumerate(self.blocks, start=1):
            with _gradient(level >= first):
                x = self._run(block, x, rotation)  # type: ignore[arg-type]  # a Block
            yield x

    def _first_trained_level(self) -> int:
        """The first level that depends on a trained parameter; depth + 1 if none does."""
        embedding = [self.cls_token, self.pos_embed, self.registers, *self.patch_embed.parameters()]
        parts = [[p for p in embedding if p is not None], *(block.parameters() for block in self.blocks)]
        return next((level for level, part in enumerate(parts) if any(p.requires_grad for p in part)), len(parts))

    def _embed(self, images: Tensor, positions: Tensor | None) -> Tensor:
        patches = self.patch_embed(images.to(self.patch_embed.proj.weight.dtype))
        x = torch.cat([self.cls_token.expand(images.shape[0], -1, -1).to(patches.dtype), patches], dim=1)
        if positions is not None:
            x = x + positions
        if self.registers is None:
            return x
        registers = self.registers.expand(images.shape[0], -1, -1).to(x.dtype)
        return torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)

    def _run(self, block: Block, x: Tensor, rotation: Rotation | None) -> Tensor:
        # Rounded weights decide the type themselves; autocast would turn LayerNorm and the residuals back to fp32.
        rounded = x.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(x.device.type, enabled=False) if rounded else contextlib.nullcontext():
            parts = [self.run_block(block, part, rotation) for part in x.split(IMAGES_AT_ONCE)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def compile_blocks(self) -> None:
        """Lets torch.compile translate the blocks, which share one translation, at their first use."""
        self.run_block = torch.compile(run_block)

    @contextlib.contextmanager
    def rounded(self, dtype: torch.dtype, *, compiled: bool = False) -> Iterator[None]:
        """Inside the context, embedding and blocks hold their weights, and compute, in `dtype`; exact again after it.

        `compiled` compiles the blocks, see `compile_blocks`. A backbone with trained parameters is left alone: its
        steps need the exact weights. ValueError if it is to be compiled.

        Nothing here is trained, so that half the memory and no conversion in every step cost no more than rounding.
        On a GPU the exact weights wait in the processor's memory. The last LayerNorm stays: it takes the side networks'
        states, not the tokens.
        """
        if any(p.requires_grad for p in self.parameters()):
            if compiled:
                raise ValueError("--compile needs a frozen backbone (tuning 'side')")
            yield
            return
        parameters = [p for name, p in self.named_parameters() if not name.startswith("norm.")]
        exact = [p.data if dtype == p.dtype else p.data.cpu() for p in parameters]
        for p in parameters:
            p.data = p.data.to(dtype)
        if compiled:
            self.compile_blocks()
        try:
            yield
        finally:
            self.run_block = run_block
            for p, values in zip(parameters, exact, strict=True):
                p.data = values.to(p.device)


def _gradient(wanted: bool) -> contextlib.AbstractContextManager:
    """Leaves the caller's grad mode alone if `wanted`, else switches it off."""
    return contextlib.nullcontext() if wanted else torch.no_grad()
