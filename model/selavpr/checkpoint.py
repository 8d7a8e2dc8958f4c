"""SelaVPR's files: reading ours and the published ones, exporting, writing; and where the published ones lie."""

import dataclasses
import hashlib
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import Checkpoint, CheckpointError, infer_backbone, load_as, read_as, save_as, tensor_bytes
from ..config import DINOV2
from .config import SelaVPRConfig
from .network import SelaVPR
from .published_names import to_own_names, to_published_names

FORMAT = "selavpr"
# How the keys of SelaVPR++ begin, published and ours, where SelaVPR has nothing of that name.
_OTHER_MODEL = ("float_branch.", "binary_branch.", "linear", "backbone.adapters", "aggregation_hashing.")
# (backbone, what it was trained on) -> the published file's name, and the page of a browser that gives it.
RELEASED_SELAVPR: dict[tuple[str, str], tuple[str, str]] = {
    ("dinov2-large", "msls"):
        ("SelaVPR_msls.pth", "https://drive.google.com/file/d/1vy05l0JTEgr6n8iSoz_P_yjWfEzFPAkV/view"),
    ("dinov2-large", "pitts30k"):
        ("SelaVPR_pitts30k.pth", "https://drive.google.com/file/d/1LKTZZRHfMH3dY3UPagCt2TIlMN5LguGO/view"),
    ("dinov2-large-reg", "msls"):
        ("SelaVPR_reg4_msls.pth", "https://drive.google.com/file/d/16Qkr6MGe3k0kYtFfw3YLQXZFn4c9YvJk/view"),
}


def read_selavpr(path: str | Path) -> Checkpoint[SelaVPRConfig]:
    """Reads a file of SelaVPR: ours, a published one (training file or bare state dict), with or without "module."."""
    return read_as(path, SelaVPRConfig, format=FORMAT, own_names=to_own_names, infer=infer_selavpr_config)


def infer_selavpr_config(state_dict: dict[str, Tensor], source: str) -> SelaVPRConfig:
    """The configuration of a SelaVPR on DINOv2 that names and shapes (in our names) imply; CheckpointError where they
    imply none."""
    other = next((key for key in state_dict if key.startswith(_OTHER_MODEL)), None)
    if other is not None:
        raise CheckpointError(f"{source}: a SelaVPR++ model (it has {other}), expected a SelaVPR one")
    return SelaVPRConfig(backbone=infer_backbone(state_dict, source, model="SelaVPR"))


def load_selavpr(checkpoint: Checkpoint[SelaVPRConfig] | str | Path, *, interface: type[SelaVPR] = SelaVPR) -> SelaVPR:
    """The model of a file (or of a read Checkpoint), on the CPU, in eval mode; its call is that of `interface`."""
    return load_as(checkpoint if isinstance(checkpoint, Checkpoint) else read_selavpr(checkpoint), interface)


def save_selavpr(model: SelaVPR, path: str | Path, *, pretrained: bool | None, training: dict | None = None) -> None:
    """Writes a file of ours, which carries its configuration, whole or not at all; read_selavpr is its reader."""
    save_as(model, path, format=FORMAT, pretrained=pretrained, training=training)


def published_selavpr_state_dict(model: SelaVPR) -> dict[str, Tensor]:
    """The weights under the published code's names (no "module." prefix), for its own load_state_dict.

    Raises CheckpointError for another backbone than a DINOv2: names and shapes would tell the wrong one.
    """
    if model.config.vit.family is not DINOV2:
        raise CheckpointError(f"{model.config.backbone}: the published format knows DINOv2 alone; "
                              "save_selavpr keeps the others")
    return {to_published_names(key): value for key, value in model.state_dict().items()}


def selavpr_fingerprint(model: SelaVPR) -> str:
    """sha256 over (name, shape, dtype, bytes) of the state dict in published names, sorted, as hexadecimal digits.

    Two models extract the same descriptors if it is equal, whatever file they came from.
    """
    digest = hashlib.sha256()
    for part in tensor_bytes({to_published_names(key): value for key, value in model.state_dict().items()}):
        digest.update(part)
    return digest.hexdigest()


def find_released_selavpr(backbone: str, weights: str) -> Checkpoint[SelaVPRConfig]:
    """The published model that was trained on `weights` ("msls", "pitts30k"), from torch.hub's cache.

    A program cannot fetch these files: their pages ask a person first. Raises ValueError, with what exists, where none
    is published, and CheckpointError, with the page and the place, where the cache does not hold the file.
    """
    if (backbone, weights) not in RELEASED_SELAVPR:
        exist = "; ".join(" ".join(key) for key in RELEASED_SELAVPR)
        raise ValueError(f"no SelaVPR is published for {backbone} {weights}; published are: {exist}")
    name, page = RELEASED_SELAVPR[backbone, weights]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        raise CheckpointError(f"{name} is not in {path.parent}: open {page} in a browser and save the file as {path}")
    checkpoint = read_selavpr(path)
    if checkpoint.config.backbone != backbone:
        raise CheckpointError(f"{path}: holds a model on {checkpoint.config.backbone}, expected {backbone}; save the "
                              f"file from {page} in its place")
    return dataclasses.replace(checkpoint, pretrained=True)
