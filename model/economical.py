"""Training at a fraction of the memory: the same functions as the readable modules, but only their inputs are kept.

A MultiConv adapter keeps its input tokens in the precision of the computation, and ten small vectors of statistics; the
rest is computed again when the gradient arrives. A head keeps the tokens it pools. The readable modules
(adapter.py, gem.py) say what is computed and are the oracle of this file; everything here is about how.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import IMAGES_AT_ONCE
from .layers.batch_norm import BatchNorm, merge_statistics, processes, sum_over_processes

aten = torch.ops.aten

# The units whose BatchNorms run side by side, and those whose convolutions are one product, in its columns' order.
THIN, WIDE = ("reduce3x3", "reduce5x5"), ("conv1x1", "conv3x3", "conv5x5")
ONE_BY_ONE = (*THIN, "conv1x1")


def economical_step(adapter: nn.Module, state: Tensor, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """`adapter(state + tokens, grid) + state` in training mode (equation 6); tokens are the frozen backbone's.

    Running statistics move once, in the forward pass. Under autocast it computes, and keeps, autocast's type.
    """
    return _Step.apply(adapter, grid, state, tokens, *adapter.parameters())


def keep_input_only(function: Callable[[Tensor], Tensor], tokens: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """`function(tokens)`, computed again for the gradient, some images at a time; (B, T, C) -> (B, ...).

    For functions of each image alone, hence without BatchNorm, and without random draws. `parameters` are all those
    that it uses and that take part in training.
    """
    return _Recomputed.apply(function, tokens, *(p for p in parameters if p.requires_grad))


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function: Callable[[Tensor], Tensor], tokens: Tensor, *parameters: Tensor) -> Tensor:
        ctx.function, ctx.autocast = function, _autocast_type(tokens)
        ctx.save_for_backward(tokens, *parameters)
        with _Recomputed.autocast(ctx, tokens):
            return torch.cat([function(part) for part in tokens.split(IMAGES_AT_ONCE)])

    @staticmethod
    def autocast(ctx, tokens: Tensor) -> torch.autocast:
        # Without the cache of cast weights: older versions of torch would take those made here, where no gradient is
        # recorded, for the ones that need one.
        return torch.autocast(tokens.device.type, ctx.autocast, enabled=ctx.autocast is not None, cache_enabled=False)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        tokens, *parameters = ctx.saved_tensors
        through, sums = [], []
        for part, g in zip(tokens.split(IMAGES_AT_ONCE), gradient.split(IMAGES_AT_ONCE), strict=True):
            inputs = [part.detach().requires_grad_()] if ctx.needs_input_grad[1] else []
            with torch.enable_grad(), _Recomputed.autocast(ctx, part):
                output = ctx.function(*(inputs or [part]))
            found = torch.autograd.grad(output, [*inputs, *parameters], g)
            through += found[:len(inputs)]
            found = found[len(inputs):]
            sums = [old.add_(new) for old, new in zip(sums, found, strict=True)] if sums else list(found)
        return None, torch.cat(through) if through else None, *sums


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, adapter: nn.Module, grid: tuple[int, int], state: Tensor, tokens: Tensor, *_: Tensor) -> Tensor:
        ctx.adapter, ctx.grid = adapter, grid
        dtype = _autocast_type(state) or state.dtype
        with torch.autocast(state.device.type, enabled=False):
            kept = (state + tokens).to(dtype)
            inside = _inside(adapter, kept, grid)
            ctx.save_for_backward(kept, *inside.statistics)
            return F.linear(inside.sum, adapter.up.weight.to(dtype), adapter.up.bias.to(dtype)) + state

    @staticmethod
    def backward(ctx, gradient: Tensor):
        kept, *statistics = ctx.saved_tensors
        with torch.autocast(kept.device.type, enabled=False):
            inside = _inside(ctx.adapter, kept, ctx.grid, statistics)
            through, parameters = _backward(ctx.adapter, kept, ctx.grid, inside, gradient.to(kept.dtype),
                                            want_tokens=ctx.needs_input_grad[2])
        state = None if through is None else gradient + through
        return None, None, state, None, *(parameters[name] for name, _ in ctx.adapter.named_parameters())


class _Inside(NamedTuple):
    """What the adapter computes between its input and `up`; M = B * rows * columns, H = C / 2."""

    hidden: Tensor  # (B, T, H) after down and ReLU
    thin: Tensor  # (M, C / 16) both reductions' products, before BatchNorm
    thin_out: Tensor  # after BatchNorm and ReLU
    maps: list[Tensor]  # the inputs of the 3x3 and the 5x5 convolution, (B, C / 32, rows, columns), channels last
    wide: Tensor  # (M, H) 1x1, 3x3 and 5x5 products, before BatchNorm
    wide_out: Tensor  # after BatchNorm and ReLU
    sum: Tensor  # (B, T, H) the input of up
    statistics: list[Tensor]  # mean and biased variance of thin and of wide


def _norms(adapter: nn.Module, names: tuple[str, ...]) -> list[BatchNorm]:
    return [getattr(adapter, name).bn for name in names]


def _one_by_one(adapter: nn.Module) -> tuple[Tensor, Tensor]:
    """The three 1x1 convolutions of the hidden tokens as one product: weight (C / 16 + C / 4, H), bias."""
    convolutions = [getattr(adapter, name).conv for name in ONE_BY_ONE]
    return torch.cat([conv.weight for conv in convolutions]).flatten(1), torch.cat([conv.bias for conv in convolutions])


def _inside(adapter: nn.Module, tokens: Tensor, grid: tuple[int, int],
            statistics: list[Tensor] | None = None) -> _Inside:
    """The adapter up to the input of `up`. With `statistics` from an earlier pass nothing is measured or updated."""
    dtype = tokens.dtype
    n_patches = grid[0] * grid[1]
    first = tokens.shape[1] - n_patches
    hidden = F.linear(tokens, adapter.down.weight.to(dtype), adapter.down.bias.to(dtype)).relu_()
    # The class token goes through the product with the patches, which spares a copy of them, and is cut off after it.
    products = F.linear(hidden, *(x.to(dtype) for x in _one_by_one(adapter)))[:, first:].flatten(0, 1)
    n_thin = 2 * adapter.reduce3x3.conv.out_channels
    thin = products[:, :n_thin].contiguous()
    norms = _norms(adapter, THIN)
    thin_statistics = statistics[:2] if statistics else _measure(norms, thin)
    thin_out = _normalise(norms, thin, thin_statistics)
    maps = [half.reshape(len(tokens), *grid, -1).permute(0, 3, 1, 2) for half in thin_out.chunk(2, dim=1)]
    scales = [F.conv2d(half, unit.conv.weight.to(dtype), unit.conv.bias.to(dtype), padding=unit.conv.padding)
              for half, unit in zip(maps, (adapter.conv3x3, adapter.conv5x5), strict=True)]
    wide = torch.cat([products[:, n_thin:], *map(_rows, scales)], dim=1)
    norms = _norms(adapter, WIDE)
    wide_statistics = statistics[2:] if statistics else _measure(norms, wide)
    wide_out = _normalise(norms, wide, wide_statistics)
    total = hidden.clone()
    total[:, :first] += hidden[:, :first]
    total[:, first:] += wide_out.view(len(tokens), n_patches, -1)
    return _Inside(hidden, thin, thin_out, maps, wide, wide_out, total, [*thin_statistics, *wide_statistics])


def _backward(adapter: nn.Module, tokens: Tensor, grid: tuple[int, int], inside: _Inside, gradient: Tensor, *,
              want_tokens: bool) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Gradients of the tokens and, by name, of the parameters (theirs in the parameters' type)."""
    dtype = tokens.dtype
    n_patches = grid[0] * grid[1]
    first = tokens.shape[1] - n_patches
    found: dict[str, Tensor] = {}

    def linear(name: str, x: Tensor, g: Tensor) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = _rows(g).T @ _rows(x), _rows(g).sum(0)

    linear("up", inside.sum, gradient)
    total = gradient @ adapter.up.weight.to(dtype)
    wide = _normalise_backward(adapter, WIDE, total[:, first:].flatten(0, 1), inside.wide, inside.wide_out,
                               inside.statistics[2:], found)
    n_direct = adapter.conv1x1.conv.out_channels
    thin = []
    for half, name, g in zip(inside.maps, WIDE[1:], wide[:, n_direct:].chunk(2, dim=1), strict=True):
        conv = getattr(adapter, name).conv
        g = g.reshape(len(tokens), *grid, -1).permute(0, 3, 1, 2)
        g, found[f"{name}.conv.weight"], found[f"{name}.conv.bias"] = aten.convolution_backward(
            g, half, conv.weight.to(dtype), [len(conv.bias)], conv.stride, conv.padding, conv.dilation, False, [0, 0],
            1, [True, True, True])
        thin.append(_rows(g))
    thin = _normalise_backward(adapter, THIN, torch.cat(thin, dim=1), inside.thin, inside.thin_out,
                               inside.statistics[:2], found)
    products = tokens.new_zeros(*tokens.shape[:2], thin.shape[1] + n_direct)
    products[:, first:, :thin.shape[1]] = thin.view(len(tokens), n_patches, -1)
    products[:, first:, thin.shape[1]:] = wide[:, :n_direct].view(len(tokens), n_patches, -1)
    weight = _one_by_one(adapter)[0].to(dtype)
    total[:, :first] *= 2
    hidden = torch.addmm(_rows(total), _rows(products), weight)
    hidden = aten.threshold_backward(hidden, _rows(inside.hidden), 0)
    sizes = [getattr(adapter, name).conv.out_channels for name in ONE_BY_ONE]
    weights = (_rows(products).T @ _rows(inside.hidden)).split(sizes)
    for name, w, b in zip(ONE_BY_ONE, weights, _rows(products).sum(0).split(sizes), strict=True):
        found[f"{name}.conv.weight"], found[f"{name}.conv.bias"] = w[:, :, None, None], b
    linear("down", tokens, hidden)
    found = {name: found[name].to(parameter.dtype) for name, parameter in adapter.named_parameters()}
    return (hidden @ adapter.down.weight.to(dtype)).view_as(tokens) if want_tokens else None, found


def _measure(norms: list[BatchNorm], x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the channels of (M, channels), of all processes; moves the running statistics."""
    # The kernel's results have the type of the running statistics that it is given; these are thrown away.
    unused = x.new_zeros(2, x.shape[1], dtype=norms[0].running_mean.dtype)
    mean, variance = torch.batch_norm_update_stats(_as_maps(x), *unused, 0.0)
    mean, variance, count = merge_statistics(mean, variance, len(x))
    sizes = [norm.num_features for norm in norms]
    for norm, m, v in zip(norms, mean.split(sizes), variance.split(sizes), strict=True):
        norm.update_statistics(m, v, count)
    return mean, variance


def _normalise(norms: list[BatchNorm], x: Tensor, statistics: list[Tensor]) -> Tensor:
    """ReLU(BatchNorm(x)) of (M, channels), the channels of several modules side by side."""
    weight, bias = (torch.cat([getattr(norm, name) for norm in norms]) for name in ("weight", "bias"))
    out, _, _ = torch.native_batch_norm(_as_maps(x), weight, bias, *statistics, False, 0.0, norms[0].eps)
    return _rows(out.relu_())


def _normalise_backward(adapter: nn.Module, names: tuple[str, ...], gradient: Tensor, x: Tensor, out: Tensor,
                        statistics: list[Tensor], found: dict[str, Tensor]) -> Tensor:
    """Gradient of `_normalise`'s input; its parameters' go into `found`."""
    norms = _norms(adapter, names)
    weight, eps = torch.cat([norm.weight for norm in norms]), norms[0].eps
    mean, variance = statistics
    gradient = aten.threshold_backward(gradient, out, 0)
    alone = processes() == 1
    scale = (variance + eps).rsqrt()
    g, weights, biases = aten.native_batch_norm_backward(
        _as_maps(gradient), _as_maps(x), weight, mean, variance, mean, scale, alone, eps, [True, True, True])
    g = _rows(g)
    if not alone:  # the batch's mean and variance depend on every process's images
        count = sum_over_processes(weights.new_full((1,), len(x)))
        shared = sum_over_processes(torch.stack([weights, biases])) / count
        unit = (x - mean) * scale
        g = g - (weight * scale * (shared[1] + unit * shared[0])).to(g.dtype)
    sizes = [norm.num_features for norm in norms]
    for name, w, b in zip(names, weights.split(sizes), biases.split(sizes), strict=True):
        found[f"{name}.bn.weight"], found[f"{name}.bn.bias"] = w, b
    return g


def _rows(x: Tensor) -> Tensor:
    """(B, T, C), or maps (B, C, rows, columns) with channels last, as (all, C)."""
    return x.flatten(0, 1) if x.ndim == 3 else x.permute(0, 2, 3, 1).flatten(0, 2) if x.ndim == 4 else x


def _as_maps(x: Tensor) -> Tensor:
    """(M, C) as one image (1, C, M, 1), channels last, whose BatchNorm kernels are the fast ones; a view."""
    return x.view(1, len(x), 1, -1).permute(0, 3, 1, 2)


def _autocast_type(x: Tensor) -> torch.dtype | None:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
