"""Backbones of every kind that is not DINOv2, and official files for them: by hand from their descriptions."""

import torch
from fill import values
from torch import Tensor

from model import BACKBONES
from model.config import DEIT, DINOV3, ViT

# All kinds of layers in small. Image sizes are EXACT where timm and we round nothing to fp32 on the way in double
# precision: the centres of patches on grids of powers of 2, and a table in its own size.
SMALL = {"dinov3": ViT(32, 3, 2, "all", 48, None, registers=4, family=DINOV3),
         "dinov3-plus": ViT(32, 3, 2, "last:2", 48, None, swiglu=128, registers=4, family=DINOV3),
         "deit": ViT(32, 3, 2, "all", 48, None, family=DEIT)}
FULL = {name: BACKBONES[name] for name in ("dinov3-small", "dinov3-small-plus")}
FULL_SIZE = (64, 128)
EXACT = {"dinov3": ((64, 64), (128, 64)), "dinov3-plus": ((64, 64), (128, 64)), "deit": ((224, 224),)}
ROUNDED = {"dinov3": ((48, 80),), "dinov3-plus": ((48, 80),), "deit": ((128, 64), (48, 80))}


def names(vit: ViT) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official file: dinov3_vit*_pretrain_lvd1689m-*.pth, or the "model" of deit_*.pth."""
    dim, rotary = vit.dim, vit.family is DINOV3
    mlp = {"w1": (vit.swiglu, dim), "w2": (vit.swiglu, dim), "w3": (dim, vit.swiglu)} if vit.swiglu else {
        "fc1": (4 * dim, dim), "fc2": (dim, 4 * dim)}
    listed: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dim)}
    listed |= {"storage_tokens": (1, 4, dim), "mask_token": (1, dim)} if rotary else {"pos_embed": (1, 197, dim)}
    listed |= {"patch_embed.proj.weight": (dim, 3, 16, 16), "patch_embed.proj.bias": (dim,)}
    listed |= {"rope_embed.periods": (dim // vit.heads // 4,)} if rotary else {}
    for number in range(vit.depth):
        linears = {"norm1": (dim,), "attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "norm2": (dim,),
                   **{f"mlp.{name}": shape for name, shape in mlp.items()}}
        block = {f"{name}.{part}": shape if part == "weight" else shape[:1]
                 for name, shape in linears.items() for part in ("weight", "bias")}
        block |= {"attn.qkv.bias_mask": (3 * dim,), "ls1.gamma": (dim,), "ls2.gamma": (dim,)} if rotary else {}
        listed |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    listed |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    return listed if rotary else listed | {"head.weight": (1000, dim), "head.bias": (1000,)}


def official(vit: ViT) -> dict[str, Tensor]:
    """A file's state dict with weights that depend on names and shapes alone; the periods rounded to bf16, as there."""
    state = {name: torch.from_numpy(values(name, shape)) for name, shape in names(vit).items()}
    if "rope_embed.periods" in state:
        count = len(state["rope_embed.periods"])
        exact = torch.tensor([100 ** (2 * j / (2 * count)) for j in range(count)])
        state["rope_embed.periods"] = exact.bfloat16().float()
    for name in [name for name in state if name.endswith("bias_mask")]:
        state[name] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(vit.dim)
    return state
