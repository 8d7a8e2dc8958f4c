"""The model that the flags and the file of --resume agree on."""

import dataclasses
import logging
from pathlib import Path

from model import (
    Checkpoint,
    ModelConfig,
    SelaVPRpp,
    build_model,
    fetch_foundation,
    fetch_released,
    load_foundation,
    load_model,
    read_checkpoint,
)

from .distributed import first_on_each_node

log = logging.getLogger("selavprpp")

DEFAULT_BACKBONE = "dinov2-large"
DEFAULT_AGGREGATION = "gem"


def read_resume(path: Path | None, *, backbone: str | None, aggregation: str | None, branches: tuple[str, ...],
                also_from: tuple[str, ...] | None = None,
                required: str | None = None) -> tuple[Checkpoint | None, ModelConfig]:
    """The file of --resume, if any, and the configuration to train, which has `branches`.

    also_from  branches of another kind of file that is welcome as a start
    required   what the file must be, where there is no training without one
    Raises ValueError where the file holds other branches or contradicts the flags.
    """
    if path is None and required:
        raise ValueError(f"--resume is missing: this script starts from {required}")
    if path is None:
        return None, ModelConfig(backbone=backbone or DEFAULT_BACKBONE, branches=branches,
                                 aggregation=aggregation or DEFAULT_AGGREGATION)
    checkpoint = read_checkpoint(path)
    _check_flags(checkpoint, backbone=backbone, aggregation=aggregation)
    held = checkpoint.config.branches
    if held == also_from:
        log.info("starting both branches from the float model %s", path)
    elif held != branches:
        raise ValueError(f"--resume {path} holds a {' + '.join(held)} model; this script trains "
                         f"{' + '.join(branches)} models{' and starts from float ones' if also_from else ''}")
    return checkpoint, dataclasses.replace(checkpoint.config, branches=branches)


def model_from_foundation(config: ModelConfig, path: str | None, *, seed: int) -> tuple[SelaVPRpp, bool]:
    """A model at the start of its training on a DINOv2 file, and whether that was a pre-trained one.

    path  an official file; "random": seeded random weights; None: the official file is fetched

    Adapters start at zero, so that training starts from what the pre-trained model sees. Random weights see nothing
    that would be worth it, and random adapters learn twice as fast on them (benchmarks/demo.md).
    """
    model = build_model(config, seed=seed)
    if path == "random":
        log.warning("foundation model: random weights (seed %d); results are stamped pretrained: false", seed)
    else:
        path = path or first_on_each_node(lambda: fetch_foundation(config.backbone))
        load_foundation(model, path)
        model.initialise_adapters()
        log.info("foundation model: %s", path)
    return model, path != "random"


def model_to_train(checkpoint: Checkpoint | None, config: ModelConfig, *, foundation: str | None,
                   seed: int) -> tuple[SelaVPRpp, bool | None]:
    """The model of --resume's file, or one at the start of its training; and whether its DINOv2 was pre-trained."""
    if checkpoint is not None:
        return load_model(checkpoint), checkpoint.pretrained
    return model_from_foundation(config, foundation, seed=seed)


def model_for_evaluation(path: Path | None, *, backbone: str | None, aggregation: str | None,
                         branches: tuple[str, ...]) -> tuple[SelaVPRpp, Checkpoint]:
    """The model of --resume, or the published one of that backbone, with at least `branches`; in eval mode."""
    if path is None:
        # No file with a binary branch alone is published: the two-branch file holds it.
        published = ModelConfig(backbone=backbone or DEFAULT_BACKBONE, aggregation=aggregation or DEFAULT_AGGREGATION,
                                branches=("float", "binary") if "binary" in branches else branches)
        checkpoint = first_on_each_node(lambda: fetch_released(published))
        log.info("no --resume: published weights of %s, %s", published.backbone, checkpoint.source)
    else:
        checkpoint = read_checkpoint(path)
        _check_flags(checkpoint, backbone=backbone, aggregation=aggregation)
    held = checkpoint.config.branches
    missing = [name for name in branches if name not in held]
    if missing:
        raise ValueError(f"--resume {path} holds a {' + '.join(held)} model; this script needs its "
                         f"{' and '.join(missing)} branch (train_rerank.py trains both)")
    return load_model(checkpoint), checkpoint


def _check_flags(checkpoint: Checkpoint, **flags: str | None) -> None:
    for flag, value in flags.items():
        found = getattr(checkpoint.config, flag)
        if value is not None and value != found:
            raise ValueError(f"--{flag} {value} contradicts {checkpoint.source}, which holds {found}; "
                             "leave the flag out, or give another file")
