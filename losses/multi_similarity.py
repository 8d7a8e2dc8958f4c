"""Multi-similarity loss and its pair miner (Wang et al., CVPR 2019; equation 16 of the SelaVPR++ paper).

Nothing here reads a value back from the device, so on a GPU the host never waits; only `Pairs.indices` does.
Descriptors that are not finite are therefore not looked for: they make the losses NaN, for the caller to notice.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Ordered pairs of batch indices as bool masks: entry (q, k) tells whether anchor q keeps the pair with k."""

    positive: Tensor  # (n, n), same place
    negative: Tensor  # (n, n), different places

    def indices(self) -> tuple[Tensor, Tensor]:
        """The same as int64 lists (2, P) and (2, N), row 0 the anchor; on a GPU the host waits for P and N."""
        return self.positive.nonzero().T, self.negative.nonzero().T

    def check(self, n: int) -> None:
        """ValueError unless these are pairs of n images."""
        for mask in self:
            if mask.shape != (n, n):
                raise ValueError(f"pairs have a mask of shape {tuple(mask.shape)}; expected ({n}, {n}), one row each")


def inner_products(descriptors: Tensor) -> Tensor:
    """All inner products (n, n) of descriptors (n, d), in float32 (float64 stays), also under autocast."""
    # The miner's margin (0.1) and exp(50 s) cannot afford the 8 bits of a bfloat16 product.
    with torch.autocast(descriptors.device.type, enabled=False):
        rows = descriptors.to(torch.promote_types(descriptors.dtype, torch.float32))
        products = rows @ rows.detach().T
        # The gradient of the right factor is that of the left one transposed. Let in here, by a term that is 0, it
        # costs a transposition in place of a second product of n * n * d.
        return products + (products.T - products.T.detach())


def cosine_similarities(descriptors: Tensor) -> Tensor:
    """All cosines S (n, n) of descriptors (n, d), equation 10; same precision as `inner_products`.

    For norms from 1e-12 (what shorter ones are divided by) to 1e15 (float32 gradients of longer ones underflow). A
    descriptor that is not finite, or whose square is not, makes its row and column NaN, the diagonal included.
    Raises ValueError for a wrong shape.
    """
    if descriptors.ndim != 2 or len(descriptors) == 0:
        raise ValueError(f"descriptors have shape {tuple(descriptors.shape)}; expected (n, d) with n >= 1")
    products = inner_products(descriptors)
    # The squared norms stand on the diagonal: normalising n * n entries is cheaper than n * d, forward and backward.
    # Not rsqrt, whose gradient holds the cube of the inverse norm and underflows sooner.
    inverse_norms = products.diagonal().clamp_min(1e-24).sqrt().reciprocal()
    return products * (inverse_norms[:, None] * inverse_norms)


@torch.no_grad()
def mine_pairs(descriptors: Tensor, labels: Tensor, *, epsilon: float = 0.1) -> Pairs:
    """Keep the informative pairs of a batch.

    With S the cosines, a negative (q, k) is kept when S_qk + epsilon > min over positives of S_qp, and a
    positive (q, p) when S_qp - epsilon < max over negatives of S_qk. An anchor without positives or without
    negatives keeps no pair.

    Args: descriptors (n, d), of any norm; labels (n,), the place of each image, integers.
    Raises ValueError for a wrong shape. Descriptors that are not finite raise nothing: comparisons with NaN are
    false, so pairs are missing, but the losses of such descriptors are NaN whatever the pairs.
    """
    cosines = cosine_similarities(descriptors)
    if labels.shape != (len(descriptors),):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; expected ({len(descriptors)},), one per descriptor"
        )
    positive = labels[:, None] == labels
    negative = ~positive
    positive.fill_diagonal_(False)
    # Where there is no positive the minimum is +inf, where no negative the maximum is -inf: nothing passes.
    hardest_positive = cosines.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)
    hardest_negative = cosines.masked_fill(~negative, -torch.inf).amax(dim=1, keepdim=True)
    return Pairs(
        positive=positive & (cosines - epsilon < hardest_negative),
        negative=negative & (cosines + epsilon > hardest_positive),
    )


def multi_similarity_loss(
    descriptors: Tensor, pairs: Pairs, *, alpha: float = 1.0, beta: float = 50.0, base: float = 0.0
) -> Tensor:
    """Multi-similarity loss L_M over the mined pairs, a scalar in float32 (float64 for float64 descriptors).

    Equation 16, with S the cosines, P_q and N_q the kept pairs of anchor q and gamma = base:

        L_M = 1/n sum_q { 1/alpha log[1 + sum_{p in P_q} exp(-alpha (S_qp - gamma))]
                        + 1/beta  log[1 + sum_{k in N_q} exp( beta  (S_qk - gamma))] }

    Every one of the n anchors counts in the mean, those without pairs as 0: with no pair at all the loss is a
    zero that can still be differentiated. It is NaN when any descriptor is not finite, in a pair or not.

    Args: descriptors (n, d), of any norm; pairs from `mine_pairs`. Raises ValueError for a wrong shape.
    """
    shifted = cosine_similarities(descriptors) - base
    pairs.check(len(descriptors))
    positive_term = _log_one_plus_sum_exp(-alpha * shifted, pairs.positive) / alpha
    negative_term = _log_one_plus_sum_exp(beta * shifted, pairs.negative) / beta
    return (positive_term + negative_term).mean()


def _log_one_plus_sum_exp(exponents: Tensor, kept: Tensor) -> Tensor:
    """For each anchor q, log(1 + sum over its kept pairs (q, k) of exp(exponents[q, k])), overflow-safe: (n,)."""
    one = exponents.new_zeros(len(exponents), 1)  # exp(0), the 1 of the logarithm
    # Added rather than filled in: exp(-inf) drops a pair all the same, and NaN stays NaN.
    dropped = torch.zeros_like(exponents).masked_fill_(~kept, -torch.inf)
    return torch.cat([one, exponents + dropped], dim=1).logsumexp(dim=1)
