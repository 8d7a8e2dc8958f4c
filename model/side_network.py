"""The side network that runs beside the frozen backbone (section III-B of the paper)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers.multiconv import MultiConvAdapter
from .layers.recompute import in_autocast_type, recomputed
from .layers.vanilla import VanillaAdapter

ADAPTERS: dict[str, type[nn.Module]] = {"multiconv": MultiConvAdapter, "vanilla": VanillaAdapter}


class SideNetwork(nn.Module):
    """A chain of adapters that refines the backbone's levels (equations 6 and 7): y_l = A(y_{l-1} + x) + y_{l-1}.

    It starts at the tokens of `first_level` and has one adapter for each level of `taps`, whose tokens are x; the other
    levels pass it by.
    """

    def __init__(self, *, dim: int, first_level: int, taps: Sequence[int], adapter: str):
        super().__init__()
        self.first_level = first_level
        self.number = {level: number for number, level in enumerate(taps)}
        self.adapters = nn.ModuleList(ADAPTERS[adapter](dim) for _ in taps)

    def step(self, state: Tensor | None, tokens: Tensor, level: int, grid: tuple[int, int], *,
             recompute: bool = False) -> Tensor | None:
        """Takes one level's tokens x_level (B, 1+N, C) and returns the new state y; None before the first level.

        `recompute` has training keep an adapter's input alone and compute the rest again for the gradient.
        """
        if level <= self.first_level:
            return tokens if level == self.first_level else None
        if level not in self.number or state is None:
            return state
        adapter = self.adapters[self.number[level]]
        if recompute and self.training and torch.is_grad_enabled():
            # The adapter begins with a product, so that autocast's type is all that it sees of its input.
            return recomputed(adapter, in_autocast_type(state + tokens), grid, module=adapter) + state
        return adapter(state + tokens, grid) + state

    def initialise(self) -> None:
        """The published start of training: every adapter gives 0."""
        for adapter in self.adapters:
            adapter.initialise()  # type: ignore[operator]  # every one of ADAPTERS has it
