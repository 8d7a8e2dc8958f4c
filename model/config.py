"""What a model is made of, as data: the backbones and one frozen configuration that every checkpoint carries."""

import dataclasses
from typing import NamedTuple

BRANCHES = ("float", "binary")


class BackboneVariant(NamedTuple):
    """A DINOv2 ViT and the paper's choices for it (section IV-B)."""

    dim: int  # token width C
    depth: int  # transformer blocks
    heads: int
    placement: str  # where the side network's adapters sit by default
    float_dim: int  # float descriptor's dimension
    weights_url: str | None  # official pre-trained file; None: this size was never released


_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_{0}/dinov2_{0}_pretrain.pth"

VARIANTS: dict[str, BackboneVariant] = {
    # Not a released DINOv2: small enough to train from random weights on a CPU (demo and tests).
    "dinov2-tiny": BackboneVariant(192, 4, 3, "all", 512, None),
    "dinov2-small": BackboneVariant(384, 12, 6, "all", 1024, _DINOV2.format("vits14")),
    "dinov2-base": BackboneVariant(768, 12, 12, "all", 2048, _DINOV2.format("vitb14")),
    "dinov2-large": BackboneVariant(1024, 24, 16, "last:16", 4096, _DINOV2.format("vitl14")),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the modules of a model; fields left at None take the backbone's default.

    backbone     a key of VARIANTS
    branches     which of "float" and "binary" exist
    aggregation  head of the float branch, a key of network.AGGREGATORS (the binary head is always GeM)
    placement    "all": an adapter after every block; "last:N": after the last N blocks
    float_dim    dimension of the float descriptor
    code_bits    length of the binary code, a multiple of 8

    Raises ValueError, with the choices, for a value that fits no model.
    """

    backbone: str
    branches: tuple[str, ...] = BRANCHES
    aggregation: str = "gem"
    placement: str | None = None
    float_dim: int | None = None
    code_bits: int = 512

    def __post_init__(self):
        if self.backbone not in VARIANTS:
            raise ValueError(f"unknown backbone {self.backbone!r}; choose one of {', '.join(VARIANTS)}")
        variant = VARIANTS[self.backbone]
        branches = tuple(name for name in BRANCHES if name in self.branches)
        if not branches or len(branches) != len(self.branches):
            raise ValueError(f"branches {self.branches!r} must be one or both of {BRANCHES}, each once")
        object.__setattr__(self, "branches", branches)
        for name in ("placement", "float_dim"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(variant, name))
        if self.code_bits < 8 or self.code_bits % 8:
            raise ValueError(f"code_bits {self.code_bits} must be a positive multiple of 8")
        if self.float_dim < 1:
            raise ValueError(f"float_dim {self.float_dim} must be positive")
        _ = self.first_level

    @property
    def variant(self) -> BackboneVariant:
        return VARIANTS[self.backbone]

    @property
    def first_level(self) -> int:
        """The level whose tokens start the side networks: 0 is the patch embedding x_0, l the output of block l."""
        depth = self.variant.depth
        kind, _, count = self.placement.partition(":")
        if self.placement == "all":
            return 0
        if kind == "last" and count.isdigit() and 1 <= int(count) <= depth:
            return depth - int(count)
        raise ValueError(f"placement {self.placement!r} does not fit {self.backbone} ({depth} blocks); "
                         f"use 'all' or 'last:N' with N from 1 to {depth}")

    def to_dict(self) -> dict:
        """Plain values only, so that a checkpoint with it loads under weights_only=True."""
        return {**dataclasses.asdict(self), "branches": list(self.branches)}

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"model configuration has unknown fields {sorted(unknown)}; "
                             "the file was written by a newer version of this project: update it")
        return cls(**{**values, "branches": tuple(values.get("branches", BRANCHES))})
