"""Describing images at the speed of the machine: the model's own functions, arranged for that alone.

A copy of the model's modules in which a few are replaced by faster equals. In fp32 it shares the model's weights; in
another type it holds rounded ones. The readable modules say what is computed and are the oracle of this file.
"""

import copy
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import IMAGES_AT_ONCE
from .layers.adapter import ConvUnit, MultiConvAdapter
from .layers.block import MLP, Attention, run_block
from .layers.boq import BoQHead
from .layers.gem import GeMHead
from .layers.salad import SaladHead
from .network import Descriptors, SelaVPRpp

mkldnn = torch.ops.mkldnn

# On a processor so many images for each of its threads go through the whole model at a time: enough to fill the
# products, and what a block computes of them still fits into the cache.
IMAGES_A_THREAD = 2
ROUNDED_HEADS = (GeMHead, BoQHead, SaladHead)  # which take tokens of any type


def fast_inference(model: SelaVPRpp, *, dtype: torch.dtype = torch.float32, compiled: bool = False,
                   ) -> Callable[..., Descriptors]:
    """A function (images, branches=None) of the same images, results and errors as `model.eval()(images, branches)`.

    images  (B, 3, H, W), fp32, ImageNet-normalised, on the model's device
    result  Descriptors, fp32, without gradient

    `dtype` is the type of the computation: in fp32 the results are the model's to 1e-5; bfloat16 and float16 round the
    weights once, here. Pooling and the linear layer after it stay fp32. `compiled` lets torch.compile translate the
    blocks, which share one translation, at their first use.

    The model stays as it is and where it is. The function knows its weights of this moment: make a new one after they
    change. ValueError for another dtype.
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"fast_inference computes in torch.float32, bfloat16 or float16, not in {dtype}")
    fast = _copy(model, dtype, readable_blocks=compiled)
    backbone = fast.backbone
    # The same grid comes again with every few images; sizes of their own come one after the other.
    backbone.position_embedding = functools.lru_cache(maxsize=4)(backbone.position_embedding)
    if compiled:
        backbone._run_block = torch.compile(run_block)

    @torch.inference_mode()
    def describe(images: Tensor, branches: Sequence[str] | None = None) -> Descriptors:
        at_once = IMAGES_A_THREAD * torch.get_num_threads() if images.is_cpu else IMAGES_AT_ONCE
        with torch.autocast(images.device.type, enabled=False):
            parts = [SelaVPRpp.forward(fast, part, branches) for part in images.split(at_once)]
        return Descriptors(*(None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True)))

    return describe


def _copy(model: SelaVPRpp, dtype: torch.dtype, *, readable_blocks: bool) -> SelaVPRpp:
    """A copy in eval mode with the weights in `dtype`, the same memory where that is theirs; faster modules inside.

    `readable_blocks` leaves the blocks' modules as they are: the compiler cannot read the operators of the others.
    """
    heads = {name: module for name, module in model.named_modules() if name.endswith("_branch.head")}
    exact = {id(p) for name, head in heads.items() for part, p in head.named_parameters()
             if type(head) not in ROUNDED_HEADS or part.startswith(("pool.", "expand."))}
    known = {id(p): nn.Parameter(p.detach() if id(p) in exact else p.detach().to(dtype), requires_grad=False)
             for p in model.parameters()}
    # Folded from the exact weights, before they are rounded.
    adapters = {name: FoldedAdapter(module, dtype) for name, module in model.named_modules()
                if isinstance(module, MultiConvAdapter)}
    fast = copy.deepcopy(model, known).eval()
    for name, adapter in adapters.items():
        fast.set_submodule(name, adapter)
    for name, head in heads.items():
        if type(head) not in ROUNDED_HEADS:
            fast.set_submodule(name, ExactHead(fast.get_submodule(name)))
    for kind, faster in ((Attention, FastAttention), (MLP, FastMLP), (nn.Linear, FastLinear)):
        for name, module in list(fast.named_modules()):
            if type(module) is kind and not (readable_blocks and name.startswith("backbone.")) and (
                    ".head." not in name or name.endswith(".head.project")):  # the heads' product of all tokens
                fast.set_submodule(name, faster(module))
    return fast


class ExactHead(nn.Module):
    """A head of one's own, in fp32: it need not know other types."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.own = head

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.own(tokens.float(), grid)


class FastLinear(nn.Module):
    """A linear layer, and "relu" or "gelu" of it; (..., inputs) -> (..., outputs).

    In fp32 on a processor it is a 1x1 convolution of one image whose places are the tokens. The convolution is
    oneDNN's, which multiplies at the processor's full width; torch's fp32 product is MKL's, which runs at half of it on
    processors that are not Intel's. In bfloat16 both are oneDNN's, but it would sort the weights anew at every call,
    and leave the activation to another pass: where torch has the operators that its compiler uses against that, so does
    this class (12 % of a description's time).
    """

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self.weight, self.bias, self.activation = linear.weight, linear.bias, activation
        self.packed = None
        if _can_pack(self.weight):
            self.packed, self.weight = mkldnn._reorder_linear_weight(self.weight.detach()), None

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            rows = mkldnn._linear_pointwise(x.flatten(0, -2), self.packed, self.bias, self.activation, [], "none")
            return rows.unflatten(0, x.shape[:-1])
        if not x.is_cpu or x.dtype != torch.float32:
            x = F.linear(x, self.weight, self.bias)
        else:
            maps = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
            maps = F.conv2d(maps, self.weight[:, :, None, None], self.bias)
            x = maps.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
        return x.relu_() if self.activation == "relu" else F.gelu(x) if self.activation == "gelu" else x


def _can_pack(weight: Tensor) -> bool:
    operators = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    return (weight.is_cpu and weight.dtype == torch.bfloat16 and all(hasattr(mkldnn, name) for name in operators)
            and mkldnn._is_mkldnn_bf16_supported())


class FastMLP(nn.Module):
    def __init__(self, mlp: MLP):
        super().__init__()
        self.fc1, self.fc2 = FastLinear(mlp.fc1, "gelu"), FastLinear(mlp.fc2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))


class FastAttention(nn.Module):
    """Attention; in half precision on a processor by plain operators, which there take half the time of torch's fused
    kernel. One copy puts each head's rows together, and the scores of one image at a time stay in the cache."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.heads, self.qkv, self.proj = attention.heads, attention.qkv, attention.proj

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, 1+N, C / heads)
        if not x.is_cpu or x.dtype == torch.float32:
            attended = F.scaled_dot_product_attention(*qkv)
        else:
            q, k, v = qkv.contiguous()
            q *= q.shape[-1] ** -0.5
            attended = torch.empty_like(v)
            for i, out in enumerate(attended):
                scores = torch.bmm(q[i], k[i].transpose(1, 2))
                torch.bmm(torch.softmax(scores, dim=-1, out=scores), v[i], out=out)
        return self.proj(attended.transpose(1, 2).flatten(2))


class FoldedAdapter(nn.Module):
    """MultiConvAdapter in eval mode: BatchNorm is folded into the convolutions, and the three 1x1 convolutions are one
    product of the tokens, which stay (B, T, C); the maps of the larger ones are views of them, channels last."""

    def __init__(self, adapter: MultiConvAdapter, dtype: torch.dtype):
        super().__init__()
        self.down = FastLinear(_linear(adapter.down.weight, adapter.down.bias, dtype), "relu")
        self.up = FastLinear(_linear(adapter.up.weight, adapter.up.bias, dtype))
        one_by_one = [_fold(unit) for unit in (adapter.reduce3x3, adapter.reduce5x5, adapter.conv1x1)]
        weight, bias = (torch.cat(parts) for parts in zip(*one_by_one, strict=True))
        self.one_by_one = FastLinear(_linear(weight.flatten(1), bias, dtype), "relu")
        self.sizes = [len(bias) for _, bias in one_by_one]
        self.larger = nn.ParameterList()
        for unit in (adapter.conv3x3, adapter.conv5x5):
            weight, bias = (x.to(dtype, memory_format=torch.channels_last if x.ndim == 4 else torch.preserve_format)
                            for x in _fold(unit))
            self.larger += [nn.Parameter(weight, False), nn.Parameter(bias, False)]

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.down(tokens)
        first = x.shape[1] - grid[0] * grid[1]
        products = self.one_by_one(x)  # the tokens before the patches too, which spares a copy of the others
        thin3, thin5, wide = products[:, first:].split(self.sizes, dim=-1)
        weight3, bias3, weight5, bias5 = self.larger
        x[:, :first] *= 2
        sums = x[:, first:].split([wide.shape[-1], len(bias3), len(bias5)], dim=-1)
        sums[0].add_(wide)
        for out, thin, weight, bias in ((sums[1], thin3, weight3, bias3), (sums[2], thin5, weight5, bias5)):
            maps = thin.unflatten(1, grid).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
            maps = F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2).relu_()
            out.add_(maps.permute(0, 2, 3, 1).flatten(1, 2))
        return self.up(x)


def _fold(unit: ConvUnit) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that is `unit`'s convolution and BatchNorm with its running statistics."""
    norm = unit.bn
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = unit.conv.weight * scale[:, None, None, None]
    return weight.detach(), ((unit.conv.bias - norm.running_mean) * scale + norm.bias).detach()


def _linear(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], len(weight), device="meta")
    linear.weight, linear.bias = (nn.Parameter(x.detach().to(dtype), False) for x in (weight, bias))
    return linear
