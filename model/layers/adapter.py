"""MultiConv adapter and the side network that runs beside the frozen backbone (section III-B of the paper)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..economical import economical_step, keep_input_only
from .batch_norm import BatchNorm
from .vanilla import VanillaAdapter


class ConvUnit(nn.Module):
    """Convolution, BatchNorm, ReLU; keeps height and width."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.bn = BatchNorm(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class MultiConvAdapter(nn.Module):
    """Bottleneck with parallel 1x1, 3x3 and 5x5 convolutions over the patch grid (Fig. 3c).

    Widths follow the token width C: bottleneck C/2; branch outputs C/4, C/8, C/8; reductions before the
    larger kernels C/32. Tokens before the patches (the class token) pass by the convolutions.
    """

    def __init__(self, dim: int):
        super().__init__()
        if dim % 32:
            raise ValueError(f"token width {dim} must be a multiple of 32 for the MultiConv adapter")
        hidden, wide, narrow, reduced = dim // 2, dim // 4, dim // 8, dim // 32
        self.down = nn.Linear(dim, hidden)
        self.conv1x1 = ConvUnit(hidden, wide, 1)
        self.reduce3x3 = ConvUnit(hidden, reduced, 1)
        self.conv3x3 = ConvUnit(reduced, narrow, 3)
        self.reduce5x5 = ConvUnit(hidden, reduced, 1)
        self.conv5x5 = ConvUnit(reduced, narrow, 5)
        self.up = nn.Linear(hidden, dim)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, prefix + rows * columns, C), (rows, columns) -> the same shape; no outer skip."""
        rows, columns = grid
        x = F.relu(self.down(tokens))
        prefix, patches = x.split([x.shape[1] - rows * columns, rows * columns], dim=1)
        maps = patches.transpose(1, 2).unflatten(2, (rows, columns))  # (B, C/2, rows, columns)
        scales = [self.conv1x1(maps), self.conv3x3(self.reduce3x3(maps)), self.conv5x5(self.reduce5x5(maps))]
        patches = torch.cat(scales, dim=1).flatten(2).transpose(1, 2)
        return self.up(torch.cat([prefix, patches], dim=1) + x)

    @torch.no_grad()
    def initialise(self) -> None:
        """The published start of training: A(u) = 0 (zero `up`), every convolution weight and bias 1e-5."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.constant_(module.weight, 1e-5)
                nn.init.constant_(module.bias, 1e-5)


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
             economical: bool = False) -> Tensor | None:
        """Takes one level's tokens x_level (B, 1+N, C) and returns the new state y; None before the first level.

        `economical` has training keep an adapter's input alone, with equal results (economical.py).
        """
        if level <= self.first_level:
            return tokens if level == self.first_level else None
        if level not in self.number:
            return state
        adapter = self.adapters[self.number[level]]
        if not (economical and self.training and torch.is_grad_enabled()):
            return adapter(state + tokens, grid) + state
        if isinstance(adapter, MultiConvAdapter):
            return economical_step(adapter, state, tokens, grid)
        return keep_input_only(lambda x: adapter(x, grid), state + tokens, adapter.parameters()) + state

    def initialise(self) -> None:
        for adapter in self.adapters:
            adapter.initialise()


ADAPTERS: dict[str, type[nn.Module]] = {"multiconv": MultiConvAdapter, "vanilla": VanillaAdapter}
