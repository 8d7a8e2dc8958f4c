"""The other ways to learn codes that the paper compares (Table XI, section III-D), beside equation 15."""

import torch
from torch import Tensor

from .locality import gaussian_error_loss, locality_constrained_loss
from .multi_similarity import mine_pairs, multi_similarity_loss
from .similarity import similarity_constrained_loss


def ablated_hashing_losses(
    method: str,
    relaxed: Tensor,
    binary: Tensor,
    labels: Tensor,
    *,
    fraction: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Metric and quantization loss of a row of Table XI, two scalars as `multi_similarity_loss` gives them.

    Without straight-through estimation codes are constants, and the metric loss compares the relaxed codes f:

        direct   L_M(f)
        lc       L_M(f) + lambda L_LC(f, b), our reading of reference [70], see locality.py
        lc-error the same by our second reading
        sc       L_M(f) + lambda L_Q(f, b), equations 11 and 12

    With it (equations 13 and 14) a gradient passes through the binary codes b, which the metric loss compares:

        ste      L_M(b)
        sc+ste   L_M(b) + lambda L_Q(f, b), equation 15: what the training scripts spell out

    Args: relaxed f (n, d), unit norm; binary b (n, d) of -1/+1, straight-through; labels (n,), the places; fraction
    and generator as in `similarity_constrained_loss`. Where a method has no second term it is a zero that can be
    differentiated, NaN when a code is not finite: a metric loss on codes would not tell, as the sign of NaN is finite.
    Raises ValueError for another method and for shapes that differ.
    """
    if method not in ("direct", "lc", "lc-error", "sc", "ste", "sc+ste"):
        raise ValueError(f"hashing {method!r}: expected direct, lc, lc-error, sc, ste or sc+ste")
    straight_through = method.endswith("ste")
    codes = binary if straight_through else binary.detach()
    compared = codes if straight_through else relaxed
    pairs = mine_pairs(compared, labels)
    metric = multi_similarity_loss(compared, pairs)
    if method in ("direct", "ste"):
        return metric, (0 * relaxed.to(metric.dtype)).sum()
    quantization_loss = {"lc": locality_constrained_loss, "lc-error": gaussian_error_loss}.get(
        method, similarity_constrained_loss)
    return metric, quantization_loss(relaxed, codes, pairs, fraction=fraction, generator=generator)
