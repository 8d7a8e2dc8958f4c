"""How the codes of the binary branch are learnt: the methods of Table XI (SelaVPR++ paper, section III-D)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .locality import locality_constrained_loss
from .multi_similarity import Pairs
from .similarity import check_codes, similarity_constrained_loss


def no_quantisation_loss(
    relaxed: Tensor,
    binary: Tensor,
    pairs: Pairs,
    *,
    fraction: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A zero that can be differentiated, where a method has no second term: a scalar as the other losses give it.

    NaN when any code is not finite: the sign of NaN is finite, so a metric loss on codes alone would not tell.
    Arguments and errors: as in `similarity_constrained_loss`. Nothing is drawn, so `generator` stays as it is.
    """
    check_codes(relaxed, binary, pairs, fraction)
    dtype = torch.promote_types(relaxed.dtype, torch.float32)
    return (0 * relaxed.to(dtype)).sum() + (0 * binary.to(dtype)).sum()


class HashingMethod(NamedTuple):
    """L = L_M(described) + lambda * quantisation(relaxed, codes, pairs), with f the relaxed and b the binary codes.

    straight_through  whether codes pass a gradient back to f (equations 13 and 14) and are what the metric loss L_M
                      compares; else they are constants, and L_M compares f
    quantisation      the second term, one of three losses with one signature
    equation          both for people, with the paper's number
    """

    straight_through: bool
    quantisation: Callable[..., Tensor]
    equation: str


HASHING: dict[str, HashingMethod] = {
    "direct": HashingMethod(False, no_quantisation_loss, "L_M(f)"),
    "lc": HashingMethod(False, locality_constrained_loss, "L_M(f) + lambda L_LC(f, b), our reading of reference [70]"),
    "sc": HashingMethod(False, similarity_constrained_loss, "L_M(f) + lambda L_Q(f, b), equations 11 and 12"),
    "ste": HashingMethod(True, no_quantisation_loss, "L_M(b), equations 13 and 14"),
    "sc+ste": HashingMethod(True, similarity_constrained_loss, "L_M(b) + lambda L_Q(f, b), equations 11 and 15"),
}
