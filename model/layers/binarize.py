"""Binary quantization with a straight-through gradient (equations 8, 13 and 14 of the paper)."""

import torch
from torch import Tensor


class _StraightThroughSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, relaxed: Tensor) -> Tensor:
        return torch.where(relaxed >= 0, 1.0, -1.0).to(relaxed.dtype)  # -0.0 >= 0: sign(0) = +1

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


def straight_through_sign(relaxed: Tensor) -> Tensor:
    """-1 where an entry is negative, +1 elsewhere; backward passes the gradient unchanged (g(x) = x)."""
    return _StraightThroughSign.apply(relaxed)
