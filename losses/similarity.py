"""Similarity-constrained loss: a code before and after its sign (SelaVPR++ paper, equations 9 to 11)."""

from collections.abc import Callable

import torch
from torch import Tensor

from .multi_similarity import Pairs, inner_products


def similarity_constrained_loss(
    relaxed: Tensor,
    binary: Tensor,
    pairs: Pairs,
    *,
    fraction: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean squared change of the similarities by the sign, a scalar in float32 (float64 for float64 codes).

    Equation 11, over K mined pairs, positive and negative together, and codes of d bits:

        L_Q = 1/K sum_ij (<f_i, f_j> - <b_i, b_j> / d)^2

    The gradient flows through both terms: through the second by the straight-through estimator that made b, or not
    at all where the caller detached b.
    With no pair the loss is a zero that can still be differentiated. It is NaN when any code is not finite, in a
    pair or not: no value is read back from the device to look for that, as in `mine_pairs`.

    Args:
        relaxed: f (n, d), of unit norm, so that the inner product is the cosine of equation 10.
        binary: b (n, d), of -1/+1.
        pairs: from `mine_pairs`.
        fraction: share of the pairs used, in (0, 1]: max(1, int(fraction K)) drawn at random without repetition.
            The paper takes 1/5 to save memory; here one n x n matrix serves all pairs, so 1 is affordable.
        generator: source of that draw, on the device of `pairs`; by default torch's global one. How much is taken
            from it depends on n alone, so processes that start from one seed stay in step.

    Raises ValueError for shapes that differ or a fraction outside (0, 1].
    """
    return mean_squared_change(lambda s: s, relaxed, binary, pairs, fraction=fraction, generator=generator)


def mean_squared_change(
    kernel: Callable[[Tensor], Tensor],
    relaxed: Tensor,
    binary: Tensor,
    pairs: Pairs,
    *,
    fraction: float,
    generator: torch.Generator | None,
) -> Tensor:
    """1/K sum_ij (kernel(<f_i, f_j>) - kernel(<b_i, b_j> / d))^2 over mined pairs, a scalar.

    Args: kernel, an elementwise function of the similarities (n, n); else as in `similarity_constrained_loss`.
    """
    check_codes(relaxed, binary, pairs, fraction)
    kept = pairs.positive | pairs.negative
    if fraction < 1:
        kept = _draw(kept, fraction, generator)
    difference = kernel(inner_products(relaxed)) - kernel(inner_products(binary) / binary.shape[1])
    # A product rather than a selection: 0 times NaN is NaN.
    return (difference * kept).square().sum() / kept.sum().clamp_min(1)


def check_codes(relaxed: Tensor, binary: Tensor, pairs: Pairs, fraction: float) -> None:
    """ValueError unless these are codes (n, d) before and after their sign, pairs of them, and a share in (0, 1]."""
    if relaxed.ndim != 2 or relaxed.shape != binary.shape:
        raise ValueError(
            f"relaxed and binary codes have shapes {tuple(relaxed.shape)} and {tuple(binary.shape)}; "
            "expected (n, d) for both"
        )
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected a share of the mined pairs in (0, 1]")
    pairs.check(len(relaxed))


def _draw(kept: Tensor, fraction: float, generator: torch.Generator | None) -> Tensor:
    """The mask `kept` (n, n) of K pairs with max(1, int(fraction K)) of them left, each set equally likely."""
    # The first so many in a random order of all n * n entries, so that the host need not know K.
    order = torch.randperm(kept.numel(), generator=generator, device=kept.device)
    shuffled = kept.flatten()[order]
    count = (shuffled.sum().double() * fraction).long().clamp_min(1)  # float64, as Python computes fraction K
    drawn = shuffled & (shuffled.cumsum(0) <= count)
    return torch.empty_like(drawn).scatter_(0, order, drawn).view_as(kept)
