"""Triplet loss of global descriptors (SelaVPR, ICLR 2024)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def triplet_loss(query: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 0.1) -> Tensor:
    """Sum over the batch of max(0, |q - p| - |q - n| + margin), a scalar in float32 (float64 for float64 descriptors).

    torch's own: |x| is Euclidean, not squared, and 1e-6 is added to every coordinate of x.

    Args: three times (B, D), row by row a triplet. Raises ValueError for other shapes.
    """
    check_triplets(query, positive, negative, shape="(B, D)")
    # Distances of unit vectors differ by less than what 8 bits of a bfloat16 tell apart.
    with torch.autocast(query.device.type, enabled=False):
        q, p, n = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (query, positive, negative))
        return F.triplet_margin_loss(q, p, n, margin=margin, reduction="sum")


def check_triplets(query: Tensor, positive: Tensor, negative: Tensor, *, shape: str) -> None:
    """ValueError unless the three have one shape, with as many axes as `shape` names."""
    shapes = [tuple(part.shape) for part in (query, positive, negative)]
    if len({*shapes}) > 1 or len(shapes[0]) != shape.count(",") + 1:
        raise ValueError(f"query, positive and negative have shapes {shapes[0]}, {shapes[1]} and {shapes[2]}; "
                         f"expected {shape} for all three")
