"""Extracting descriptors at the speed of the machine: the model's own modules, with BatchNorm folded into them."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .backbone import IMAGES_AT_ONCE
from .layers.block import Attention, KeylessBias
from .layers.boq import BoQHead
from .layers.gem import GeMHead
from .layers.processor import quicken
from .layers.salad import SaladHead
from .network import Descriptors, SelaVPRpp
from .side_network import ConvUnit

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
    fast = folded(model, dtype)
    if compiled:
        fast.backbone.compile_blocks()
    elif fast.backbone.cls_token.is_cpu:
        quicken(fast)

    @torch.inference_mode()
    def extract(images: Tensor, branches: Sequence[str] | None = None) -> Descriptors:
        at_once = IMAGES_A_THREAD * torch.get_num_threads() if images.is_cpu else IMAGES_AT_ONCE
        with torch.autocast(images.device.type, enabled=False):
            parts = [SelaVPRpp.forward(fast, part, branches) for part in images.split(at_once)]
        return Descriptors(*(None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True)))

    return extract


def folded(model: SelaVPRpp, dtype: torch.dtype) -> SelaVPRpp:
    """A copy in eval mode without BatchNorm and masks and with the weights in `dtype`: the same memory where that is
    theirs."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    fast = copy.deepcopy(model, shared).eval()
    for unit in [module for module in fast.modules() if isinstance(module, ConvUnit)]:
        unit.conv = fuse_conv_bn_eval(unit.conv, unit.bn)  # type: ignore[arg-type]  # before anything is rounded
        unit.bn = nn.Identity()
    for attention in [module for module in fast.modules() if isinstance(module, Attention)]:
        if isinstance(attention.qkv, KeylessBias):
            attention.qkv = attention.qkv.unmasked()
    exact = set()
    for name in fast.config.branches:
        branch = fast.branch(name)
        if type(branch.head) in ROUNDED_HEADS:
            exact |= {id(p) for part, p in branch.head.named_parameters() if part.startswith(("pool.", "expand."))}
        else:
            exact |= {id(p) for p in branch.head.parameters()}
            branch.head = _ExactHead(branch.head)
    for p in fast.parameters():
        if id(p) not in exact:
            p.data = p.data.to(dtype)
    return fast


class _ExactHead(nn.Module):
    """A head of one's own, in fp32: it need not know other types."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.own = head

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.own(tokens.float(), grid)
