"""What a model is made of and learns by, as data: backbones, and the frozen configuration that every file carries."""

import dataclasses
import sys
import typing
from collections.abc import Collection, Sequence
from typing import NamedTuple

from .aggregators import AGGREGATORS
from .side_network import ADAPTER_STARTS, ADAPTERS, PUBLISHED_START

BRANCHES = ("float", "binary")
LARGEST = 2**31 - 1  # of a number that sizes weights: torch counts their bytes in 64 bits
HASHING_METHODS = ("direct", "lc", "lc-error", "sc", "ste", "sc+ste")
ORDERS = ("float-binary", "binary-float", "joint")
PLACES = ("paper", "hard")


class Family(NamedTuple):
    """What the vision transformers of one publication share.

    patch         side of a patch in pixels
    table         side in patches of the table of positions; 0: rotary positions, inside the attention
    table_offset  without registers a table is resized by factors (size + offset) / table; 0: to the size itself
    eps           of every LayerNorm
    layer_scale   whether blocks weigh their outputs
    key_bias      False: keys have no bias, which the official files' `bias_mask` says
    mask_token    part of the official files; never used here
    fused_gate    a SwiGLU holds its two first layers as one
    registers     the registers' name in the official files
    unused        how names of the official files begin that belong to no backbone: a classifier
    files         how the official files are called
    licence       which fine-tuned weights inherit
    on_request    where to ask for files that have no public address
    """

    name: str
    patch: int
    table: int
    table_offset: float
    eps: float
    layer_scale: bool
    key_bias: bool
    mask_token: bool
    fused_gate: bool
    registers: str
    unused: tuple[str, ...]
    files: str
    licence: str
    on_request: str | None


# Oquab et al., TMLR 2023; the 37 patches are those of 518-pixel images.
DINOV2 = Family(
    "DINOv2", patch=14, table=37, table_offset=0.1, eps=1e-6, layer_scale=True, key_bias=True, mask_token=True,
    fused_gate=True, registers="register_tokens", unused=(), files="dinov2_*_pretrain.pth", licence="Apache-2.0",
    on_request=None)
# Simeoni et al., 2025.
DINOV3 = Family(
    "DINOv3", patch=16, table=0, table_offset=0, eps=1e-5, layer_scale=True, key_bias=False, mask_token=True,
    fused_gate=False, registers="storage_tokens", unused=(), files="dinov3_*_pretrain_lvd1689m-*.pth",
    licence="DINOv3 License",
    on_request="https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/")
# Touvron et al., ICML 2021.
DEIT = Family(
    "DeiT", patch=16, table=14, table_offset=0, eps=1e-6, layer_scale=False, key_bias=True, mask_token=False,
    fused_gate=True, registers="register_tokens", unused=("head.",), files="deit_*_patch16_224-*.pth",
    licence="Apache-2.0", on_request=None)


class ViT(NamedTuple):
    """A vision transformer and the paper's choices for it (section IV-B)."""

    dim: int  # token width C
    depth: int  # transformer blocks
    heads: int
    placement: str  # where the side network's adapters sit by default
    float_dim: int  # float descriptor's dimension
    weights_url: str | None  # official pre-trained file; None: there is none, or it is given on request alone
    swiglu: int | None = None  # hidden width of a SwiGLU in place of the MLP
    registers: int = 0  # tokens between the class token and the patches (Darcet et al., ICLR 2024)
    family: Family = DINOV2

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.family.patch


# Where the adapters sit and the float descriptor's dimension, by width: the paper's of base and large, and ours beyond.
_CHOICES: dict[int, tuple[str, int]] = {
    192: ("all", 512), 384: ("all", 1024), 768: ("all", 2048), 1024: ("last:16", 4096), 1280: ("last:16", 4096),
    1536: ("last:16", 4096)}


def _dinov2(letter: str, dim: int, depth: int, heads: int, swiglu: int | None = None) -> dict[str, ViT]:
    """A size of DINOv2 and its 4-register model."""
    url = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{letter}14/dinov2_vit{letter}14_{{}}pretrain.pth"
    name = {"s": "small", "b": "base", "l": "large", "g": "giant"}[letter]
    return {f"dinov2-{name}": ViT(dim, depth, heads, *_CHOICES[dim], url.format(""), swiglu),
            f"dinov2-{name}-reg": ViT(dim, depth, heads, *_CHOICES[dim], url.format("reg4_"), swiglu, 4)}


def _dinov3(dim: int, depth: int, heads: int, swiglu: int | None = None) -> ViT:
    return ViT(dim, depth, heads, *_CHOICES[dim], None, swiglu, 4, DINOV3)


def _deit(dim: int, heads: int, file: str) -> ViT:
    return ViT(dim, 12, heads, *_CHOICES[dim], f"https://dl.fbaipublicfiles.com/deit/{file}", family=DEIT)


BACKBONES: dict[str, ViT] = {
    # Not released DINOv2s: small enough to train from random weights on a CPU (demo, toy tables, tests).
    "dinov2-tiny": ViT(192, 4, 3, "all", 512, None),
    "dinov2-narrow": ViT(64, 24, 2, "last:16", 512, None),
    **_dinov2("s", 384, 12, 6),
    **_dinov2("b", 768, 12, 12),
    **_dinov2("l", 1024, 24, 16),
    **_dinov2("g", 1536, 40, 24, swiglu=4096),
    "dinov3-small": _dinov3(384, 12, 6),
    "dinov3-small-plus": _dinov3(384, 12, 6, swiglu=1536),
    "dinov3-base": _dinov3(768, 12, 12),
    "dinov3-large": _dinov3(1024, 24, 16),
    "dinov3-large-plus": _dinov3(1024, 24, 16, swiglu=4096),
    "dinov3-huge-plus": _dinov3(1280, 32, 20, swiglu=5120),
    "deit-tiny": _deit(192, 3, "deit_tiny_patch16_224-a1311bcf.pth"),
    "deit-small": _deit(384, 6, "deit_small_patch16_224-cd65a155.pth"),
    "deit-base": _deit(768, 12, "deit_base_patch16_224-b5f2ef4d.pth"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the modules of a model and its losses; fields left at None take the default that fits.

    backbone             a key of BACKBONES
    branches             which of "float" and "binary" exist
    aggregation          head of the float branch, a key of AGGREGATORS (the binary head is always GeM)
    tuning               what learns below the head. "side": side networks beside the frozen backbone; else the
                         backbone itself: "full", "partial:N" (its last N blocks) or "selavpr" (adapters inside every
                         block, equations 3 and 4)
    placement            where a side network's adapters sit. "all": after every block; "every:m": after every m-th
                         (equation 7); "last:N": after the last N; "none": nowhere, the head sees the last block
    adapter              "multiconv" (Fig. 3c) or "vanilla" (the bottleneck without convolutions)
    adapter_start        convolutions of MultiConv adapters at the start of training on a pre-trained backbone: all
                         1e-5 ("constant", as published), normal around 0 with a deviation of 1e-5 ("gaussian") or as
                         PyTorch draws them ("pytorch"); the last layer is 0 in each case
    reduction_dim        channels that a MultiConv adapter reduces to before its 3x3 and its 5x5 convolution; by default
                         1/32 of the token width, as published
    float_dim            dimension of the float descriptor
    code_bits            length of the binary code, a multiple of 8
    hashing              loss of the binary branch, see losses/ablations.py (Table XI)
    quantization_weight  lambda of equations 12 and 15
    pair_fraction        share of the mined pairs in the quantization loss
    nested_bits          lengths of codes that learn to be cut, as 64,128,256,512: the losses are summed over these
                         prefixes, see losses/nested.py; multiples of 8, ascending, the last is code_bits
    nested_floats        the same of the float descriptor; the last is float_dim
    nested_distillation  weight of what a shorter prefix learns from the next longer one
    order                how two branches are trained (section III-C): "float-binary", "binary-float" or "joint"
    places               which places meet in a training batch. "paper": any of a city; "hard": half of a batch are such
                         as looked alike in the epoch before, 100 m apart and more
    recompute            training keeps the inputs of adapters and heads alone and computes the rest again for the
                         gradient; False, as published: everything is kept, equal results in some six times the memory

    Raises ValueError, with the choices, for a value that fits no model.
    """

    backbone: str
    branches: tuple[str, ...] = BRANCHES
    aggregation: str = "gem"
    tuning: str = "side"
    placement: str = None  # type: ignore[assignment]  # until __post_init__
    adapter: str = "multiconv"
    adapter_start: str = PUBLISHED_START
    reduction_dim: int = None  # type: ignore[assignment]
    float_dim: int = None  # type: ignore[assignment]
    code_bits: int = 512
    hashing: str = "sc+ste"
    quantization_weight: float = 0.1
    pair_fraction: float = 1.0
    nested_bits: tuple[int, ...] = ()
    nested_floats: tuple[int, ...] = ()
    nested_distillation: float = 0.0
    order: str = "float-binary"
    places: str = "paper"
    recompute: bool = True

    def __post_init__(self):
        check_choice("backbone", self.backbone, BACKBONES)
        vit = BACKBONES[self.backbone]
        branches = tuple(name for name in BRANCHES if name in self.branches)
        if not branches or len(branches) != len(self.branches):
            raise ValueError(f"branches {self.branches!r} must be one or both of {BRANCHES}, each once")
        object.__setattr__(self, "branches", branches)
        if self.placement is None:
            object.__setattr__(self, "placement", vit.placement if self.tuning == "side" else "none")
        check_choice("aggregation", self.aggregation, AGGREGATORS)
        fixed_dim = AGGREGATORS[self.aggregation].fixed_dim
        if self.float_dim is None:
            object.__setattr__(self, "float_dim", fixed_dim or vit.float_dim)
        if fixed_dim not in (None, self.float_dim):
            raise ValueError(f"float_dim {self.float_dim}: the descriptor of {self.aggregation} has {fixed_dim}")
        for field, choices in (("adapter", ADAPTERS), ("adapter_start", ADAPTER_STARTS), ("hashing", HASHING_METHODS),
                               ("order", ORDERS), ("places", PLACES)):
            check_choice(field, getattr(self, field), choices)
        if self.code_bits < 8 or self.code_bits % 8:
            raise ValueError(f"code_bits {self.code_bits} must be a positive multiple of 8")
        if self.float_dim < 1:
            raise ValueError(f"float_dim {self.float_dim} must be positive")
        for field in ("quantization_weight", "nested_distillation"):
            if not 0 <= getattr(self, field) <= sys.float_info.max:
                raise ValueError(f"{field} {getattr(self, field)} must be a number of at least 0")
        if not 0 < self.pair_fraction <= 1:
            raise ValueError(f"pair_fraction {self.pair_fraction} must be above 0 and at most 1")
        if self.reduction_dim is None:
            object.__setattr__(self, "reduction_dim", vit.dim // 32)
        if self.reduction_dim < 1:
            raise ValueError(f"reduction_dim {self.reduction_dim} must be positive")
        for field in ("float_dim", "code_bits", "reduction_dim"):
            if getattr(self, field) > LARGEST:
                raise ValueError(f"{field} {getattr(self, field)} must be at most {LARGEST}")
        self._check_nested("nested_bits", "binary", self.code_bits, 8)
        self._check_nested("nested_floats", "float", self.float_dim, 1)
        if fixed_dim and self.nested_floats:
            raise ValueError(f"nested_floats {self.nested_floats}: the descriptor of {self.aggregation} cannot be cut; "
                             "leave them out, or use aggregation 'gem'")
        if self.nested_distillation and not (self.nested_bits or self.nested_floats):
            raise ValueError(f"nested_distillation {self.nested_distillation} needs nested_bits or nested_floats")
        _ = self.tuned_blocks, self.taps
        if (self.adapter_start, self.reduction_dim) != (PUBLISHED_START, vit.dim // 32) and not (
                self.taps and self.adapter == "multiconv"):
            raise ValueError(f"adapter_start {self.adapter_start!r} with reduction_dim {self.reduction_dim}: this "
                             "model has no MultiConv adapters; leave them out")
        if self.tuning != "side" and self.placement != "none":
            raise ValueError(f"placement {self.placement!r} with tuning {self.tuning!r}: adapters beside the backbone "
                             "belong to tuning 'side'; leave the placement out")
        if self.tuning != "side" and len(branches) > 1 and self.order != "joint":
            raise ValueError(f"tuning {self.tuning!r} with two branches changes the backbone under the branch that is "
                             "already trained; train one branch, or use order 'joint'")

    def _check_nested(self, field: str, branch: str, whole: int, step: int) -> None:
        lengths = tuple(getattr(self, field))
        object.__setattr__(self, field, lengths)
        if not lengths:
            return
        if branch not in self.branches:
            raise ValueError(f"{field} {lengths}: this model has no {branch} branch; leave them out")
        if (len(lengths) < 2 or any(type(length) is not int or length < 1 or length % step for length in lengths)
                or list(lengths) != sorted(set(lengths)) or lengths[-1] != whole):
            kind = f"multiples of {step}" if step > 1 else "whole numbers"
            raise ValueError(f"{field} {lengths} must be two or more ascending {kind}, of which the last is {whole}")

    @property
    def code_lengths(self) -> tuple[int, ...]:
        """Those of the binary code that learn, in bits, ascending; the last is the whole code's."""
        return self.nested_bits or (self.code_bits,)

    @property
    def float_lengths(self) -> tuple[int, ...]:
        """The same of the float descriptor."""
        return self.nested_floats or (self.float_dim,)

    @property
    def vit(self) -> ViT:
        return BACKBONES[self.backbone]

    def licence(self, *, pretrained: bool | None) -> str | None:
        """That of the backbone's pre-trained weights, which others inherit from; None where they were random."""
        return None if pretrained is False else self.vit.family.licence

    @property
    def learning(self) -> tuple[str, ...]:
        """The branches that a training with this configuration changes."""
        if len(self.branches) == 1 or self.order == "joint":
            return self.branches
        return self.order.partition("-")[2],

    @property
    def tuned_blocks(self) -> range:
        """The backbone's blocks that learn, or hold adapters that do; numbered from 0."""
        depth = self.vit.depth
        if self.tuning in ("full", "selavpr"):
            return range(depth)
        kind, _, count = self.tuning.partition(":")
        if self.tuning == "side":
            return range(depth, depth)
        if kind == "partial" and count.isdecimal() and 1 <= int(count) <= depth:
            return range(depth - int(count), depth)
        raise ValueError(f"tuning {self.tuning!r} does not fit {self.backbone} ({depth} blocks); use 'side', 'full', "
                         f"'selavpr', or 'partial:N' with N from 1 to {depth}")

    @property
    def first_level(self) -> int:
        """The level whose tokens start the side networks: 0 is the patch embedding x_0, l the output of block l."""
        if self.placement == "none":
            return self.vit.depth
        return self.taps[0] - 1 if self.placement.startswith("last:") else 0

    @property
    def taps(self) -> Sequence[int]:
        """The levels that the adapters refine the state by, one adapter for each."""
        depth = self.vit.depth
        kind, _, count = self.placement.partition(":")
        number = int(count) if count.isdecimal() and 1 <= int(count) <= depth else None
        if self.placement == "none":
            return range(0)
        if self.placement == "all":
            return range(1, depth + 1)
        if kind == "last" and number:
            return range(depth - number + 1, depth + 1)
        if kind == "every" and number and depth % number == 0:
            return range(number, depth + 1, number)
        raise ValueError(f"placement {self.placement!r} does not fit {self.backbone} ({depth} blocks); use 'all', "
                         f"'none', 'last:N' with N from 1 to {depth}, or 'every:m' where m divides {depth}")

    def to_dict(self) -> dict:
        """Plain values only, so that a checkpoint with it loads under weights_only=True."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        check_fields(cls, values)
        return cls(**{**values, "branches": tuple(values.get("branches", BRANCHES))})


def check_fields(record: type, values: dict) -> None:
    """ValueError for what a file cannot give this dataclass: no dictionary, unknown names, values of other types."""
    if not isinstance(values, dict):
        raise ValueError(f"model configuration is a {type(values).__name__}, expected a dictionary")
    unknown = set(values) - {field.name for field in dataclasses.fields(record)}
    if unknown:
        raise ValueError(f"model configuration has unknown fields {sorted(map(str, unknown))}; "
                         "the file was written by a newer version of this project: update it")
    for name, hint in typing.get_type_hints(record).items():
        kind = typing.get_origin(hint) or hint
        fitting = {float: (int, float), tuple: (list, tuple)}.get(kind, (kind,))
        if name in values and type(values[name]) not in fitting:  # an instance would be too little: a bool is an int
            raise ValueError(f"{name} is a {type(values[name]).__name__}, expected {kind.__name__}")


def check_choice(field: str, value: str, choices: Collection[str]) -> None:
    """ValueError, with the choices, for a value that is none of them."""
    if value not in choices:
        raise ValueError(f"unknown {field} {value!r}; choose one of {', '.join(choices)}")
