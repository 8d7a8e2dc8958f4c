"""Training in less memory: a function keeps its inputs alone, and is computed again when the gradient arrives."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .batch_norm import BatchNorm


def recomputed(function: Callable[..., Tensor], *inputs: object, module: nn.Module) -> Tensor:
    """`function(*inputs)` with the same values and gradients, of which the backward pass finds the inputs alone.

    `module` is what the function runs: it is computed again as it was, in training mode or not, but for BatchNorm's
    running statistics, which move once. Dropout draws the same both times.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=draws(module),
                      context_fn=lambda: (contextlib.nullcontext(), _Again(module)))


def draws(module: nn.Module) -> bool:
    """Whether it draws random numbers in training."""
    return any(isinstance(part, nn.Dropout) and part.p for part in module.modules())


def in_autocast_type(x: Tensor) -> Tensor:
    """x in the type in which autocast would give it to a product; x itself without autocast."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class _Again:
    """A context, which can be entered again, in which the modules are in the mode in which they are now."""

    def __init__(self, module: nn.Module):
        self.modes = [(part, part.training) for part in module.modules()]

    def __enter__(self) -> None:
        self.between = [part.training for part, _ in self.modes]
        self._set(mode for _, mode in self.modes)
        self._move(False)

    def __exit__(self, *_) -> None:
        self._set(self.between)
        self._move(True)

    def _set(self, modes) -> None:
        for (part, _), mode in zip(self.modes, modes, strict=True):
            part.training = mode

    def _move(self, moves: bool) -> None:
        for part, _ in self.modes:
            if isinstance(part, BatchNorm):
                part.moves = moves
