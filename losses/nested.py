"""Codes and float descriptors that may be cut: each of their shorter lengths learns as a descriptor of its own."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor
from torch.nn import functional as F

from .multi_similarity import inner_products


def float_prefixes(floats: Tensor, lengths: Sequence[int]) -> Iterator[Tensor]:
    """The first `length` numbers of descriptors (n, d), for each length, of unit length again: (n, length).

    The whole descriptor comes as it is. The gradient is that of a head with so many outputs alone, as d numbers that
    are normalised and cut and normalised again are the first ones normalised. Raises ValueError for other lengths than
    1 to d.
    """
    whole = floats.shape[1]
    for length in lengths:
        if not 1 <= length <= whole:
            raise ValueError(f"a prefix of {length} of {whole} dimensions; expected 1 to {whole}")
        yield floats if length == whole else F.normalize(floats[:, :length], dim=1)


def code_prefixes(relaxed: Tensor, binary: Tensor, lengths: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `length` bits of codes before and after their sign (n, d), for each length, as a branch of so many bits
    would give them: the former as `float_prefixes`, the latter of -1/+1, straight-through from the former.

    The whole codes come as they are. Raises ValueError for other lengths than 1 to d.
    """
    for prefix in float_prefixes(relaxed, lengths):
        if prefix is relaxed:
            yield relaxed, binary
        else:
            # Exactly -1 or 1: |h| is at most 1, so that what 1 - h is rounded by is lost when h is added again.
            yield prefix, prefix + (binary[:, :prefix.shape[1]] - prefix).detach()


def distillation_loss(descriptors: Tensor, lengths: Sequence[int]) -> Tensor:
    """What each shorter prefix still has to learn of the next longer one, a scalar: summed over neighbours in `lengths`
    (ascending; 0 for one length), the mean over the n images of

        || g_i(shorter) - g_i(longer) ||^2,    g_i the i-th row of the Gram matrix of a prefix, of unit length

    that is: of how alike image i is to all images of the batch. The longer one is a constant (Nested Hash Layer, arXiv
    2412.08922; the mean over images, and not over the n x n numbers, does not depend on n). For codes it takes those
    before their sign. Descriptors (n, d) in, float32 out (float64 for float64).
    """
    rows = [F.normalize(inner_products(prefix), dim=1) for prefix in float_prefixes(descriptors, lengths)]
    return sum(((shorter - longer.detach()).square().sum(dim=1).mean() for shorter, longer in pairwise(rows)),
               start=rows[0].new_zeros(()))
