"""What some processors need to reach their own speed. Optional: without the calls of `quicken` (inference.py) and of
`quicken_attention` (utils/training/loop.py) everything works, more slowly; utils/device.py asks `features` too.

On GPUs, and on Intel processors with AMX, torch's own kernels are as fast or faster, and nothing here is used. Measured
elsewhere, images extracted a second with the base model, two threads, torch 2.15:

    fp32, AMD EPYC   2.1 times, with folding: a linear layer as oneDNN's 1x1 convolution runs at the full vector width;
                     torch's own product is MKL's, which runs at half of it on processors that are not Intel's (1.38
                     times alone, on an Intel processor whose MKL was told to use AVX2)
    bf16, AMD EPYC   1.12 times: weights in oneDNN's order, sorted once instead of at every call, GELU in the same pass
    bf16, AMD EPYC   attention by plain products: torch's fused kernel took 2.7 times as long at 257 tokens
"""

import functools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .block import MLP, Attention

# These operators are those of torch's compiler, and not public: where one is gone, nothing is packed.
mkldnn = torch.ops.mkldnn
_PACKING = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")


@functools.cache
def features() -> frozenset[str]:
    """The processor's vendor and flags as Linux names them ("GenuineIntel", "avx512_bf16", "amx_bf16"); empty where the
    system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(word for line in lines if line.startswith(("vendor_id", "flags"))
                     for word in line.partition(":")[2].split())


def quicken(model: nn.Module) -> None:
    """Replaces, in a model on the CPU that is only to be run forward, what has a faster equal on this processor."""
    quicken_attention(model)
    vendor_slow = "AuthenticAMD" in features()
    packs = ("avx512_bf16" in features() and "amx_bf16" not in features()
             and all(hasattr(mkldnn, name) for name in _PACKING) and mkldnn._is_mkldnn_bf16_supported())
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            # torch's own modules look into their layers.
            if type(layer) is not nn.Linear or type(parent).__module__.startswith("torch."):
                continue
            if layer.weight.dtype == torch.float32 and vendor_slow:
                setattr(parent, name, ConvolutionLinear(layer))
            elif layer.weight.dtype == torch.bfloat16 and packs:
                gelu = isinstance(parent, MLP) and name == "fc1"
                setattr(parent, name, PackedLinear(layer, "gelu" if gelu else "none"))
                if gelu:
                    parent.act = nn.Identity()


def quicken_attention(model: nn.Module) -> None:
    """Has the blocks attend by plain products in half precision on a processor without AMX; they still learn."""
    if "amx_bf16" not in features():
        for module in model.modules():
            if isinstance(module, Attention):
                module.attend = _attend  # type: ignore[assignment]  # with fewer arguments


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(width)) v of (B, heads, T, width)."""
    if not q.is_cpu or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v)
    shape = q.shape
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    scores = torch.baddbmm(q.new_zeros(()), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(dim=-1), v).view(shape)


class ConvolutionLinear(nn.Module):
    """A linear layer as a 1x1 convolution of one image, whose places are the tokens."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        maps = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
        maps = F.conv2d(maps, self.weight[:, :, None, None], self.bias)
        return maps.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class PackedLinear(nn.Module):
    """A linear layer, or GELU of it, with its weights in oneDNN's order."""

    def __init__(self, linear: nn.Linear, activation: str):
        super().__init__()
        self.packed, self.bias = mkldnn._reorder_linear_weight(linear.weight.detach()), linear.bias
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        rows = mkldnn._linear_pointwise(x.flatten(0, -2), self.packed, self.bias, self.activation, [], "none")
        return rows.unflatten(0, x.shape[:-1])
