"""Locality-constrained losses, two readings of "a Gaussian prior on the pair-wise quantization loss" (Table XI)."""

import torch
from torch import Tensor

from .multi_similarity import Pairs
from .similarity import mean_squared_change, similarity_constrained_loss


def locality_constrained_loss(
    relaxed: Tensor,
    binary: Tensor,
    pairs: Pairs,
    *,
    fraction: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean squared change of Gaussian similarities by the sign, a scalar in float32 (float64 for float64 codes).

    OUR READING, no equation of the paper. It says in prose alone that locality-constrained hashing (reference [70],
    Zhu and Gao, IJCAI 2017) "imposes a Gaussian prior on the pair-wise quantization loss", and that equation 11 is
    what remains without that prior. So this is equation 11, its pairs and mean included, with the cosine s replaced
    by a Gaussian of unit width of the distance between unit vectors, f and b / sqrt(d):

        L_LC = 1/K sum_ij (g(f_i, f_j) - g(b_i / sqrt(d), b_j / sqrt(d)))^2
        g(x, y) = exp(-||x - y||^2 / 2) = exp(s(x, y) - 1)

    As dg = exp(s - 1) ds, a change of similarity counts exp(2 (s - 1)) times what it does in equation 11: fully for
    images that look the same, 0.14 times for unrelated ones (s = 0). That is the locality.

    Arguments, errors, and what happens without pairs and to NaN: as in `similarity_constrained_loss`.
    """
    return mean_squared_change(_gaussian, relaxed, binary, pairs, fraction=fraction, generator=generator)


def _gaussian(cosines: Tensor) -> Tensor:
    """g as a function of the cosine of two unit vectors, whose squared distance is 2 - 2 s."""
    return torch.exp(cosines - 1)


def gaussian_error_loss(
    relaxed: Tensor,
    binary: Tensor,
    pairs: Pairs,
    *,
    fraction: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Negative log-likelihood of the similarities' change by the sign, a scalar in float32 (float64 for float64 codes).

    OUR SECOND READING, as the first no equation of the paper: the Gaussian is the model of the error. What the sign
    does to a pair's similarity is drawn from a Gaussian of mean 0, whose variance is the one that is likeliest for the
    batch's pairs. Without constants, and with L_Q of equation 11, that is

        L_LC = 1/2 log L_Q

    Its gradient is that of L_Q divided by 2 L_Q: the smaller the error is already, the more it counts. (With a variance
    that is fixed it would be equation 11 with another lambda.)

    Arguments, errors, and what happens without pairs and to NaN: as in `similarity_constrained_loss`; it is 0 where
    nothing changes, too.
    """
    change = similarity_constrained_loss(relaxed, binary, pairs, fraction=fraction, generator=generator)
    return torch.where(change == 0, change, change.clamp_min(torch.finfo(change.dtype).tiny).log() / 2)
