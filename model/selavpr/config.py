"""What a SelaVPR is made of, as data."""

import dataclasses

from ..config import BACKBONES, ViT, check_choice, check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelaVPRConfig:
    """Everything that decides the modules of a SelaVPR.

    backbone  a key of BACKBONES; the published models are "dinov2-large" and "dinov2-large-reg"

    Raises ValueError, with the choices, for another backbone.
    """

    backbone: str = "dinov2-large"

    def __post_init__(self):
        check_choice("backbone", self.backbone, BACKBONES)

    @property
    def vit(self) -> ViT:
        return BACKBONES[self.backbone]

    def licence(self, *, pretrained: bool | None) -> str | None:
        """That of the backbone's pre-trained weights, which others inherit from; None where they were random."""
        return None if pretrained is False else self.vit.family.licence

    def to_dict(self) -> dict:
        """Plain values only, so that a checkpoint with it loads under weights_only=True."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "SelaVPRConfig":
        check_fields(cls, values)
        return cls(**values)
