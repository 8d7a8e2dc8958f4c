"""Similarity-constrained loss: a code before and after its sign (SelaVPR++ paper, equations 9 to 11)."""

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

    The gradient flows through both terms (through the second by the straight-through estimator that made b).
    With no pair the loss is a zero that can still be differentiated.

    Args:
        relaxed: f (n, d), of unit norm, so that the inner product is the cosine of equation 10.
        binary: b (n, d), of -1/+1.
        pairs: from `mine_pairs`.
        fraction: share of the pairs used, in (0, 1], drawn at random without repetition (at least one pair).
            The paper takes 1/5 to save memory; here one n x n matrix serves all pairs, so 1 is affordable.
        generator: source of that draw, on the device of `pairs`; by default torch's global one.

    Raises ValueError for shapes that differ or a fraction outside (0, 1].
    """
    if relaxed.ndim != 2 or relaxed.shape != binary.shape:
        raise ValueError(
            f"relaxed and binary codes have shapes {tuple(relaxed.shape)} and {tuple(binary.shape)}; "
            "expected (n, d) for both"
        )
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected a share of the mined pairs in (0, 1]")

    first, second = torch.cat([pairs.positive, pairs.negative], dim=1)
    if fraction < 1:
        count = max(1, int(fraction * len(first)))
        drawn = torch.randperm(len(first), generator=generator, device=first.device)[:count]
        first, second = first[drawn], second[drawn]
    difference = inner_products(relaxed) - inner_products(binary) / binary.shape[1]
    return difference[first, second].square().sum() / max(1, len(first))
