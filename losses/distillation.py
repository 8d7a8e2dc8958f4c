"""What a student learns by: descriptors of a frozen teacher, of the same images and without labels."""

from torch import Tensor


def float_distillation_loss(floating: Tensor, taught: Tensor) -> Tensor:
    """Mean over the batch of 1 - cos(f, t), of a student's float descriptors f and its teacher's t.

    Args: floating, taught: (B, D), rows of unit length. Without gradient to the teacher. 0 where both agree, at most 2.
    """
    return (1 - (floating * taught.detach()).sum(dim=1)).mean()


def code_distillation_loss(relaxed: Tensor, taught: Tensor) -> Tensor:
    """Mean over the batch of 1 - <h, b> / sqrt(d), of a student's codes before their sign h and its teacher's codes b.

    That is 1 - cos(h, b): 0 where h is b brought to unit length, so that each value of h has its bit's sign and all are
    equally far from 0.

    Args: relaxed: (B, d), rows of unit length; taught: (B, d) of -1 and +1. Without gradient to the teacher.
    """
    return (1 - (relaxed * taught.detach()).sum(dim=1) / relaxed.shape[1] ** 0.5).mean()
