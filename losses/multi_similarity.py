"""Multi-similarity loss and its pair miner (Wang et al., CVPR 2019; equation 16 of the SelaVPR++ paper)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Pairs(NamedTuple):
    """Ordered pairs of batch indices, int64: row 0 the anchor, row 1 the other picture."""

    positive: Tensor  # (2, P), same place
    negative: Tensor  # (2, N), different places


def inner_products(descriptors: Tensor) -> Tensor:
    """All inner products (n, n) of descriptors (n, d), in float32 (float64 stays), also under autocast."""
    # The miner's margin (0.1) and exp(50 s) cannot afford the 8 bits of a bfloat16 product.
    with torch.autocast(descriptors.device.type, enabled=False):
        rows = descriptors.to(torch.promote_types(descriptors.dtype, torch.float32))
        return rows @ rows.T


def cosine_similarities(descriptors: Tensor) -> Tensor:
    """All cosines S (n, n) of descriptors (n, d), equation 10; same precision as `inner_products`."""
    if descriptors.ndim != 2 or len(descriptors) == 0:
        raise ValueError(f"descriptors have shape {tuple(descriptors.shape)}; expected (n, d) with n >= 1")
    precise = descriptors.to(torch.promote_types(descriptors.dtype, torch.float32))
    return inner_products(F.normalize(precise, dim=1))


@torch.no_grad()
def mine_pairs(descriptors: Tensor, labels: Tensor, *, epsilon: float = 0.1) -> Pairs:
    """Keep the informative pairs of a batch.

    With S the cosines, a negative (q, k) is kept when S_qk + epsilon > min over positives of S_qp, and a
    positive (q, p) when S_qp - epsilon < max over negatives of S_qk. An anchor without positives or without
    negatives keeps no pair.

    Args: descriptors (n, d), of any norm; labels (n,), the place of each picture, integers.
    Raises ValueError for a wrong shape, and for descriptors that are not finite: every comparison with NaN is
    false, so their pairs would be dropped without a word.
    """
    cosines = cosine_similarities(descriptors)
    if labels.shape != (len(descriptors),):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; expected ({len(descriptors)},), one per descriptor"
        )
    if not cosines.isfinite().all():
        raise ValueError("descriptors hold NaN or infinity; check the pictures, or lower the learning rate")

    same_place = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive, negative = same_place & ~itself, ~same_place
    # Where there is no positive the minimum is +inf, where no negative the maximum is -inf: nothing passes.
    hardest_positive = cosines.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)
    hardest_negative = cosines.masked_fill(~negative, -torch.inf).amax(dim=1, keepdim=True)
    return Pairs(
        positive=(positive & (cosines - epsilon < hardest_negative)).nonzero().T,
        negative=(negative & (cosines + epsilon > hardest_positive)).nonzero().T,
    )


def multi_similarity_loss(
    descriptors: Tensor, pairs: Pairs, *, alpha: float = 1.0, beta: float = 50.0, base: float = 0.0
) -> Tensor:
    """Multi-similarity loss L_M over the mined pairs, a scalar in float32 (float64 for float64 descriptors).

    Equation 16, with S the cosines, P_q and N_q the kept pairs of anchor q and gamma = base:

        L_M = 1/n sum_q { 1/alpha log[1 + sum_{p in P_q} exp(-alpha (S_qp - gamma))]
                        + 1/beta  log[1 + sum_{k in N_q} exp( beta  (S_qk - gamma))] }

    Every one of the n anchors counts in the mean, those without pairs as 0: with no pair at all the loss is a
    zero that can still be differentiated.

    Args: descriptors (n, d), of any norm; pairs from `mine_pairs`. Raises ValueError for a wrong shape.
    """
    shifted = cosine_similarities(descriptors) - base
    positive_term = _log_one_plus_sum_exp(-alpha * shifted, pairs.positive) / alpha
    negative_term = _log_one_plus_sum_exp(beta * shifted, pairs.negative) / beta
    return (positive_term + negative_term).mean()


def _log_one_plus_sum_exp(exponents: Tensor, pairs: Tensor) -> Tensor:
    """For each anchor q, log(1 + sum over its pairs (q, k) of exp(exponents[q, k])), overflow-safe: (n,)."""
    kept = torch.zeros_like(exponents, dtype=torch.bool)
    kept[pairs[0], pairs[1]] = True
    one = exponents.new_zeros(len(exponents), 1)  # exp(0), the 1 of the logarithm
    return torch.cat([one, exponents.masked_fill(~kept, -torch.inf)], dim=1).logsumexp(dim=1)
