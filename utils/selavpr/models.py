"""The SelaVPR that the flags and the file of --resume agree on."""

import dataclasses
import logging
from pathlib import Path

from model import (
    Checkpoint,
    SelaVPR,
    SelaVPRConfig,
    build_selavpr,
    fetch_foundation,
    find_released_selavpr,
    load_foundation,
    load_selavpr,
    read_selavpr,
)

from ..distributed import first_on_each_node
from ..huggingface.folders import is_folder
from ..models import DEFAULT_BACKBONE, Origin, read_to_train, state_in

log = logging.getLogger("selavprpp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelaVPROptions:
    """What was chosen of a SelaVPR.

    resume      a model file, ours or published
    backbone    a key of BACKBONES; None: the file's, dinov2-large without one
    foundation  where a training starts without `resume`: the backbone's official file; "random": seeded random
                weights; None: the official file is fetched
    weights     without `resume`, which published model an evaluation takes from torch.hub's cache
    """

    resume: Path | None = None
    backbone: str | None = None
    foundation: str | None = None
    weights: str = "msls"
    seed: int = 0


def read_selavpr_resume(chosen: SelaVPROptions) -> tuple[Checkpoint[SelaVPRConfig] | None, SelaVPRConfig]:
    """The file of --resume, if any, and what is trained."""
    if chosen.resume is None:
        return None, SelaVPRConfig(backbone=chosen.backbone or DEFAULT_BACKBONE)
    checkpoint = _fitting(read_to_train(state_in(chosen.resume), _read), chosen.backbone)
    return checkpoint, checkpoint.config


def selavpr_to_train(checkpoint: Checkpoint[SelaVPRConfig] | None, config: SelaVPRConfig, chosen: SelaVPROptions
                     ) -> tuple[SelaVPR, Origin]:
    """The model of a file, or one at the start of its training; and where its weights come from.

    Its adapters give 0 at the start on a pre-trained backbone; on random weights they start at random.
    """
    if checkpoint is not None:
        return load_selavpr(checkpoint), Origin(checkpoint.pretrained, checkpoint.earlier)
    model = build_selavpr(config, seed=chosen.seed)
    if chosen.foundation == "random":
        log.warning("foundation model: random weights (seed %d); results are stamped pretrained: false", chosen.seed)
        return model, Origin(False)
    path = chosen.foundation or first_on_each_node(lambda: fetch_foundation(config.backbone))
    load_foundation(model, path)
    model.initialise_adapters()
    log.info("foundation model: %s", path)
    return model, Origin(True)


def selavpr_for_evaluation(chosen: SelaVPROptions) -> tuple[SelaVPR, Checkpoint[SelaVPRConfig]]:
    """The model of --resume, or the published one, in eval mode."""
    if chosen.resume is not None:
        checkpoint = _fitting(_read(chosen.resume), chosen.backbone)
    else:
        checkpoint = find_released_selavpr(chosen.backbone or DEFAULT_BACKBONE, chosen.weights)
        log.info("no --resume: published weights, %s", checkpoint.source)
    return load_selavpr(checkpoint), checkpoint


def _read(path: Path) -> Checkpoint[SelaVPRConfig]:
    if is_folder(path):
        raise ValueError(f"--resume {path}: a SelaVPR++ model, in the hub's form; expected a SelaVPR file")
    return read_selavpr(path)


def _fitting(checkpoint: Checkpoint[SelaVPRConfig], backbone: str | None) -> Checkpoint[SelaVPRConfig]:
    if backbone not in (None, checkpoint.config.backbone):
        raise ValueError(f"--backbone {backbone} contradicts {checkpoint.source}, which holds "
                         f"{checkpoint.config.backbone}; leave it out, or give another file")
    return checkpoint
