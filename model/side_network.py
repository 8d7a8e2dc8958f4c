"""MultiConv adapters, and the side network of them beside the frozen backbone (section III-B of the paper)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers.batch_norm import BatchNorm
from .layers.recompute import in_autocast_type, recomputed
from .layers.vanilla import VanillaAdapter

# Weights and biases of a MultiConv adapter's convolutions at the start of training.
PUBLISHED_START = "constant"
ADAPTER_STARTS: dict[str, Callable[[Tensor], Tensor]] = {
    PUBLISHED_START: partial(nn.init.constant_, val=1e-5),
    "gaussian": partial(nn.init.normal_, std=1e-5),
    "pytorch": lambda drawn: drawn,  # as nn.Conv2d draws them
}


class ConvUnit(nn.Module):
    """Convolution over the grid of patches, BatchNorm, ReLU; keeps rows and columns."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.bn: nn.Module = BatchNorm(outputs, eps=1e-3)

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, rows * columns, inputs), (rows, columns) -> (B, rows * columns, outputs)."""
        maps = patches.unflatten(1, grid).permute(0, 3, 1, 2)  # (B, inputs, rows, columns), channels last: a view
        return self.activate(self.conv(maps).permute(0, 2, 3, 1).flatten(1, 2))

    def activate(self, convolved: Tensor) -> Tensor:
        """What follows the convolution; (B, rows * columns, outputs) -> the same."""
        return F.relu(self.bn(convolved))


class MultiConvAdapter(nn.Module):
    """Bottleneck with parallel 1x1, 3x3 and 5x5 convolutions over the patch grid (Fig. 3c).

    Widths follow the token width C: bottleneck C/2; branch outputs C/4, C/8, C/8; reductions before the
    larger kernels C/32. Tokens before the patches (the class token) pass by the convolutions.

    reduction_dim  another width of the reductions
    start          one of ADAPTER_STARTS
    """

    def __init__(self, dim: int, *, reduction_dim: int | None = None, start: str = PUBLISHED_START):
        super().__init__()
        if dim % 32:
            raise ValueError(f"token width {dim} must be a multiple of 32 for the MultiConv adapter")
        self.start = start
        hidden, wide, narrow, reduced = dim // 2, dim // 4, dim // 8, reduction_dim or dim // 32
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
        prefix = tokens.shape[1] - grid[0] * grid[1]
        x = F.relu(self.down(tokens))
        one, three, five = self._convolve_1x1(x, prefix)
        scales = [self.conv1x1.activate(one),
                  self.conv3x3(self.reduce3x3.activate(three), grid),
                  self.conv5x5(self.reduce5x5.activate(five), grid)]
        return self.up(torch.cat([x[:, :prefix], torch.cat(scales, dim=2)], dim=1) + x)

    def _convolve_1x1(self, x: Tensor, prefix: int) -> tuple[Tensor, ...]:
        """The convolutions of conv1x1, reduce3x3 and reduce5x5, each (B, rows * columns, outputs).

        A 1x1 convolution is a linear layer of each patch, so that the three are one product, which reads x once. The
        tokens before the patches go through it too and are cut off: cheaper than a copy of all the others.
        """
        convolutions = [unit.conv for unit in (self.conv1x1, self.reduce3x3, self.reduce5x5)]
        weight, bias = (torch.cat([conv.get_parameter(name) for conv in convolutions]) for name in ("weight", "bias"))
        products = F.linear(x, weight.flatten(1), bias)[:, prefix:]
        return products.split([conv.out_channels for conv in convolutions], dim=2)

    @torch.no_grad()
    def initialise(self) -> None:
        """The start of training: A(u) = 0 (zero `up`), and the convolutions as `start` has them."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                ADAPTER_STARTS[self.start](module.weight)
                ADAPTER_STARTS[self.start](module.get_parameter("bias"))


ADAPTERS = ("multiconv", "vanilla")


class SideNetwork(nn.Module):
    """A chain of adapters that refines the backbone's levels (equations 6 and 7): y_l = A(y_{l-1} + x) + y_{l-1}.

    It starts at the tokens of `first_level` and has one adapter for each level of `taps`, whose tokens are x; the other
    levels pass it by.

    adapter               one of ADAPTERS
    reduction_dim, start  of MultiConv adapters
    """

    def __init__(self, *, dim: int, first_level: int, taps: Sequence[int], adapter: str,
                 reduction_dim: int | None = None, start: str = PUBLISHED_START):
        super().__init__()
        self.first_level = first_level
        self.number = {level: number for number, level in enumerate(taps)}
        self.adapters = nn.ModuleList(
            MultiConvAdapter(dim, reduction_dim=reduction_dim, start=start) if adapter == "multiconv"
            else VanillaAdapter(dim) for _ in taps)

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
        """The start of training: every adapter gives 0."""
        for adapter in self.adapters:
            adapter.initialise()  # type: ignore[operator]  # each has it
