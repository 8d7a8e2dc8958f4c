"""Mutual nearest neighbours of two maps of local features, and the loss on them (SelaVPR, ICLR 2024)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .triplet import check_triplets


class Matches(NamedTuple):
    """What `mutual_nearest` found for the N locations of each query map, row by row.

    nearest  (B, N) int64  the candidate's location whose feature is nearest
    mutual   (B, N) bool   whether the query's location is nearest to that one in turn; their number is the score
                           that SelaVPR re-ranks by
    """

    nearest: Tensor
    mutual: Tensor


@torch.no_grad()
def mutual_nearest(query: Tensor, candidate: Tensor) -> Matches:
    """The mutual nearest neighbours, by inner product, of B pairs of maps; no gradient.

    Of equal products the first counts, in both directions. So each pair of finite maps has a mutual pair: the first of
    those with the largest product of all.

    Args: query (B, rows, columns, C), candidate the same with rows and columns of its own. All products of one pair are
    held at a time, N M of them, in float32 (float64 stays), also under autocast. Raises ValueError for other shapes.
    """
    if query.ndim != 4 or candidate.ndim != 4 or (len(query), query.shape[-1]) != (len(candidate), candidate.shape[-1]):
        raise ValueError(f"query and candidate maps have shapes {tuple(query.shape)} and {tuple(candidate.shape)}; "
                         "expected (B, rows, columns, C), with the same B and C")
    found = []
    for own, other in zip(_locations(query), _locations(candidate), strict=True):
        with torch.autocast(query.device.type, enabled=False):
            products = own @ other.T  # (N, M)
        nearest = products.argmax(dim=1)
        back = products.argmax(dim=0)  # (M,): the query's location nearest to each of the candidate's
        found.append((nearest, back[nearest] == torch.arange(len(nearest), device=nearest.device)))
    return Matches(*map(torch.stack, zip(*found, strict=True)))


def mutual_similarity(query: Tensor, candidate: Tensor) -> Tensor:
    """Mean inner product of the features of mutual pairs, (B,) in float32 (float64 stays).

    Which features are paired is a constant; the gradient runs through the features of both maps. The mean over a single
    pair is that pair's product; the published code takes there the mean over features at equal positions instead, and
    0 for the score. Arguments and errors: as in `mutual_nearest`.
    """
    nearest, mutual = mutual_nearest(query, candidate)
    with torch.autocast(query.device.type, enabled=False):
        own, other = _locations(query), _locations(candidate)
        paired = other.gather(1, nearest[:, :, None].expand(-1, -1, other.shape[2]))
        # A product rather than a selection: 0 times NaN is NaN, for the caller to notice.
        return ((own * paired).sum(dim=2) * mutual).sum(dim=1) / mutual.sum(dim=1)


def local_feature_loss(query: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Sum over the batch of max(0, s(q, n) - s(q, p)), s the `mutual_similarity`: a scalar in float32 (float64 stays).

    There is no margin. A map that is not finite makes it NaN.

    Args: three times (B, rows, columns, C), row by row a triplet. Raises ValueError for other shapes.
    """
    check_triplets(query, positive, negative, shape="(B, rows, columns, C)")
    return F.relu(mutual_similarity(query, negative) - mutual_similarity(query, positive)).sum()


def _locations(maps: Tensor) -> Tensor:
    """(B, rows, columns, C) -> (B, rows * columns, C), in float32 at least."""
    return maps.flatten(1, 2).to(torch.promote_types(maps.dtype, torch.float32))
