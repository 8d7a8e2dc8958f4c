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


@torch.no_grad()
def batch_triplets(descriptors: Tensor, labels: Tensor, *, negatives: int) -> Tensor:
    """Triplets among the images of a batch: (places * negatives, 3) int64 rows of query, positive and negative.

    The first image of each place is a query; its positive is the nearest other image of that place, its negatives are
    the nearest images of other places, by L2. Not in the published code, which has no places.

    Args: descriptors (B, D), labels (B,) integers. Raises ValueError where a place has one image, or the others have
    fewer than `negatives`.
    """
    first = torch.tensor([int((labels == label).nonzero()[0]) for label in labels.unique()], device=labels.device)
    apart = torch.cdist(descriptors[first].float(), descriptors.float())
    same = labels[first][:, None] == labels
    if not (same.sum(dim=1) > 1).all() or (~same).sum(dim=1).min() < negatives:
        raise ValueError(f"a batch of {len(labels)} images of {len(first)} places: expected at least two of each place "
                         f"and {negatives} of others; take more places a batch")
    own = same.clone()
    own[torch.arange(len(first)), first] = False
    positive = apart.masked_fill(~own, torch.inf).argmin(dim=1)
    far = apart.masked_fill(same, torch.inf).topk(negatives, dim=1, largest=False).indices
    rows = torch.stack([first, positive], dim=1).repeat_interleave(negatives, dim=0)
    return torch.cat([rows, far.reshape(-1, 1)], dim=1)


def check_triplets(query: Tensor, positive: Tensor, negative: Tensor, *, shape: str) -> None:
    """ValueError unless the three have one shape, with as many axes as `shape` names."""
    shapes = [tuple(part.shape) for part in (query, positive, negative)]
    if len({*shapes}) > 1 or len(shapes[0]) != shape.count(",") + 1:
        raise ValueError(f"query, positive and negative have shapes {shapes[0]}, {shapes[1]} and {shapes[2]}; "
                         f"expected {shape} for all three")
