"""The model as one graph for exporters: of any batch and image size, or of one."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .backbone import VisionTransformer
from .inference import folded
from .network import SelaVPRpp

Kernel = Callable[[Tensor], Tensor]


def exportable(model: SelaVPRpp, *, size: tuple[int, int] | None = None) -> SelaVPRpp:
    """A copy in eval mode, with the same weights and with descriptors equal to 1e-5, that `torch.export` can trace with
    any size of images, or of `size` (H, W) alone.

    F.interpolate by factors is exported with the traced size inside, whatever is said to be dynamic. Here the table of
    positions is resized by two products instead, or is of one size already.
    """
    copy = folded(model, torch.float32)
    backbone = copy.backbone
    if backbone.pos_embed is not None:
        resized: Callable[..., Tensor] = partial(positions, backbone)
        if size is not None:
            fixed = backbone.position_embedding(size[0] // backbone.vit.patch, size[1] // backbone.vit.patch)
            backbone.register_buffer("positions", fixed.detach())  # type: ignore[union-attr]  # of a table
            resized = partial(_fixed, backbone)
        backbone.position_embedding = resized  # type: ignore[method-assign]
    return copy


def _fixed(backbone: VisionTransformer, rows: int, columns: int) -> Tensor:
    return backbone.get_buffer("positions")


def positions(backbone: VisionTransformer, rows: int, columns: int) -> Tensor:
    """`backbone.position_embedding(rows, columns)` to 1e-6, as W_rows table W_columns^T."""
    table, side = backbone.pos_embed, backbone.vit.family.table
    assert table is not None
    patches = table[:, 1:].unflatten(1, (side, side))
    if backbone.antialiased:
        down, across = (averaging(side, count, partial(cubic, a=-0.5)) for count in (rows, columns))
    else:
        # In its own size the table is taken as it is, without the offset's shift.
        fits = torch.logical_and(*(_number(count, table) == side for count in (rows, columns)))
        offset = torch.where(fits, 0.0, backbone.vit.family.table_offset)
        down, across = (interpolating(side, count, side / (_number(count, table) + offset))
                        for count in (rows, columns))
        patches = _repeated_edges(_repeated_edges(patches, 1), 2)
    return torch.cat([table[:, :1], resample(patches.movedim(3, 1), down, across).flatten(2).transpose(1, 2)], dim=1)


def resample(maps: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """(..., H, W), weights (rows, H) and (columns, W) -> (..., rows, columns)."""
    return down @ (maps @ across.T)


def cubic(x: Tensor, a: float) -> Tensor:
    """Keys' kernel."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


_MARGIN = 3  # sources beyond the edge that the cubic kernel may reach


def interpolating(sources: int, targets: int, scale: Tensor) -> Tensor:
    """Weights (targets, 3 + sources + 3) of bicubic interpolation, whose edges are repeated three times; `scale` is the
    step from target to target."""
    centres = (torch.arange(targets, device=scale.device) + 0.5) * scale - 0.5
    return cubic(centres[:, None] - torch.arange(-_MARGIN, sources + _MARGIN, device=scale.device), a=-0.75)


def _repeated_edges(x: Tensor, dim: int) -> Tensor:
    first, last = (edge.repeat_interleave(_MARGIN, dim) for edge in (x.narrow(dim, 0, 1), x.narrow(dim, -1, 1)))
    return torch.cat([first, x, last], dim=dim)


def averaging(sources: int, targets: int, kernel: Kernel) -> Tensor:
    """Weights (targets, sources) of interpolation with antialias=True: the kernel widens as the image shrinks."""
    scale = _number(sources) / _number(targets)
    centres = (torch.arange(targets) + 0.5) * scale
    weights = kernel((torch.arange(sources) + 0.5 - centres[:, None]) / scale.clamp(min=1))
    return weights / weights.sum(dim=1, keepdim=True)


def _number(value: int, like: Tensor | None = None) -> Tensor:
    """Of a size that may be known only while the graph runs."""
    return torch.full((), value, dtype=torch.float32, device=None if like is None else like.device)
