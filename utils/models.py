"""The model that the flags and the file of --resume agree on."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from model import (
    Checkpoint,
    DamagedCheckpointError,
    ModelConfig,
    SelaVPRpp,
    build_model,
    cut_floats,
    fetch_foundation,
    fetch_released,
    load_foundation,
    load_model,
    read_checkpoint,
)
from model.side_network import PUBLISHED_START

from .distributed import first_on_each_node
from .huggingface.folders import is_folder, read_hub
from .search import ModelIdentity

log = logging.getLogger("selavprpp")

DEFAULT_BACKBONE = "dinov2-large"
DEFAULT_AGGREGATION = "gem"
# What decides the modules that a trained branch shares with the one to be trained beside it.
_SHARED = ("tuning", "placement", "adapter", "adapter_start", "reduction_dim")
# What may change between a file and a training that goes on from it.
_OF_TRAINING = ("hashing", "quantization_weight", "pair_fraction", "nested_distillation", "places",
                "recompute")
# Likewise where the branch learns that may be cut to these lengths.
_NESTED = {"nested_bits": "binary", "nested_floats": "float"}


class Origin(NamedTuple):
    """Where a training's first weights come from: whether their backbone was pre-trained (None: not known), and earlier
    trainings, oldest first, as in Checkpoint.trainings."""

    pretrained: bool | None
    trainings: Sequence[dict] = ()


class Taught(NamedTuple):
    """The model whose descriptors a student learnt to give, and how the images that either saw were prepared, in the
    words of `data.preparation`."""

    by: ModelIdentity
    prepared: str
    prepared_for_teacher: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What was chosen of a model; what was not is the file's, or the paper's.

    resume      a model file, ours or published, or what else `read_model` takes; for a training its run folder, too
    backbone, aggregation, fields   of ModelConfig; the last by --variant and --set
    float_dim   an evaluation takes so many first dimensions of the float descriptor; None: all
    foundation  where a training starts without `resume`: its backbone's official file; "random": seeded random
                weights; None: the official file is fetched
    """

    resume: Path | None = None
    backbone: str | None = None
    aggregation: str | None = None
    fields: Mapping[str, object] = dataclasses.field(default_factory=dict)
    foundation: str | None = None
    seed: int = 0
    float_dim: int | None = None


def read_resume(chosen: ModelOptions, *, branches: tuple[str, ...]) -> tuple[Checkpoint | None, ModelConfig]:
    """The file of --resume, if any, and the configuration to train, which has `branches`.

    A model with two branches also starts from a file with one, beside which it trains the other (section III-C).
    Raises ValueError where the file holds other branches or contradicts what was chosen.
    """
    path, backbone, aggregation, fields = chosen.resume, chosen.backbone, chosen.aggregation, chosen.fields
    if path is None:
        config = ModelConfig(backbone=backbone or DEFAULT_BACKBONE, branches=branches,
                             aggregation=aggregation or DEFAULT_AGGREGATION, **fields)
        if config.learning != branches:
            raise ValueError("--resume is missing: this script starts from a trained branch (best_model.pth of "
                             "train.py or train_hashing.py, or a published file); --variant joint trains both at once")
        return None, config
    checkpoint = read_to_train(state_in(path), read_model,
                               goes_on=lambda found: found.config.branches == branches)
    found, held = checkpoint.config, checkpoint.config.branches
    _check_chosen(checkpoint, backbone=backbone)
    if held == branches:
        may_change = {*_OF_TRAINING, *(name for name, branch in _NESTED.items() if branch in found.learning)}
        _check_chosen(checkpoint, aggregation=aggregation,
                      **{name: value for name, value in fields.items() if name not in may_change})
        for name in sorted(fields.keys() & may_change):
            if fields[name] != getattr(found, name):
                log.warning("%s was %s in %s and is %s now", name, getattr(found, name), path, fields[name])
        return checkpoint, dataclasses.replace(found, **fields)
    if len(branches) == 1:
        raise ValueError(f"--resume {path} holds a {' + '.join(held)} model; this script trains {branches[0]} models")
    # The file's branch stays as it is: what it shares with the new one, or has alone, follows from the file.
    order = f"{held[0]}-{'binary' if held == ('float',) else 'float'}"
    own = ("float_dim", "nested_floats") if held == ("float",) else ("code_bits", "nested_bits")
    _check_chosen(checkpoint, **{name: fields[name] for name in (*_SHARED, *own) if name in fields})
    if fields.get("order", order) != order:
        origin = "a foundation model: leave --resume out" if fields["order"] == "joint" else "the other branch's file"
        raise ValueError(f"order {fields['order']!r} starts from {origin}; {path} holds a {held[0]} model")
    start = {"branches": branches, **fields, "order": order}
    if held == ("float",):
        _check_chosen(checkpoint, aggregation=aggregation)
    else:  # the file's values for the float branch mean nothing
        start = {"float_dim": None, "aggregation": aggregation or DEFAULT_AGGREGATION, **start}
    log.info("starting both branches from the %s model %s", held[0], path)
    return checkpoint, dataclasses.replace(found, **start)


def read_model(path: Path, *, mapped: bool = False) -> Checkpoint:
    """What --resume names: a model file (`model.read_checkpoint`), a folder that utils.huggingface wrote, or a
    repository of the Hugging Face hub, OWNER/REPO or OWNER/REPO@REVISION. What exists here is not looked for there."""
    return read_hub(path, mapped=mapped) or read_checkpoint(path, mapped=mapped)


def state_in(path: Path) -> Path:
    """The file of --resume: itself, or in a training's run folder the newest state. A folder of the hub is one model.

    Raises FileNotFoundError for a folder without one.
    """
    state = path / "last_model.pth"
    if not path.is_dir() or is_folder(path):
        return path
    if not state.is_file():
        raise FileNotFoundError(f"{path}: a folder without last_model.pth; expected a training's run folder, or a file")
    return state


def read_to_train(path: Path, read: Callable[[Path], Checkpoint], *, goes_on: Callable[[Checkpoint], bool] = bool
                  ) -> Checkpoint:
    """A training's file. In place of a damaged last_model.pth the best_model.pth beside it, with a warning: going on
    from there comes to the same, some epochs later. Only for a training that goes on: one that starts from that file's
    weights would start from others."""
    try:
        return read(path)
    except DamagedCheckpointError as damage:
        best = path.with_name("best_model.pth")
        if path.name != "last_model.pth" or not best.is_file():
            raise
        checkpoint = read(best)
        if checkpoint.training is None or not goes_on(checkpoint):
            raise
        log.warning("%s; going on from %s instead, after %s epochs", damage, best, checkpoint.training.get("epoch"))
        return checkpoint


def model_to_train(checkpoint: Checkpoint | None, config: ModelConfig, chosen: ModelOptions) -> tuple[
        SelaVPRpp, Origin]:
    """The model of --resume's file, one with a new branch beside that file's, or one at its start on a backbone's file.
    A branch that does not learn is the script's to freeze."""
    if checkpoint is None:
        model, pretrained = model_from_foundation(config, chosen.foundation, seed=chosen.seed)
        return model, Origin(pretrained)
    if checkpoint.config.branches == config.branches:
        return load_model(dataclasses.replace(checkpoint, config=config)), Origin(checkpoint.pretrained,
                                                                                   checkpoint.earlier)
    done = load_model(checkpoint)  # first: a file whose sizes are not those of its weights takes no memory
    model = build_model(config, seed=chosen.seed)
    model.start_from(done)
    return model, Origin(checkpoint.pretrained, checkpoint.trainings)


def model_from_foundation(config: ModelConfig, path: str | None, *, seed: int) -> tuple[SelaVPRpp, bool]:
    """A model at the start of its training on its backbone's file (`ModelOptions.foundation`), and whether that was a
    pre-trained one.

    Adapters start at zero, so that training starts from what the pre-trained model sees. Random weights see nothing
    that would be worth it, and random adapters learn twice as fast on them (docs/benchmarks/demo.md).
    """
    model = build_model(config, seed=seed)
    if path == "random":
        if config.adapter_start != PUBLISHED_START:
            raise ValueError(f"adapter_start {config.adapter_start!r}: on random weights adapters start at random; "
                             "leave it out, or give the backbone's file")
        log.warning("foundation model: random weights (seed %d); results are stamped pretrained: false", seed)
    else:
        path = path or first_on_each_node(lambda: fetch_foundation(config.backbone))
        unused = load_foundation(model, path)
        model.initialise_adapters()
        log.info("foundation model: %s%s", path,
                 f", without {', '.join(unused)}: its classifier is not used" if unused else "")
    return model, path != "random"


def model_for_evaluation(chosen: ModelOptions, *, branches: tuple[str, ...], mapped: bool = False
                         ) -> tuple[SelaVPRpp, Checkpoint]:
    """The model of --resume, or the published one of that backbone, with at least `branches`; in eval mode. And where
    it comes from, its float descriptor whole, also where `chosen.float_dim` cuts that of the model.

    mapped  --resume is read where its weights are used, and not verified: for whoever knows the model's fingerprint
    """
    if chosen.resume is None:
        # No file with a binary branch alone is published: the two-branch file holds it.
        published = ModelConfig(backbone=chosen.backbone or DEFAULT_BACKBONE,
                                aggregation=chosen.aggregation or DEFAULT_AGGREGATION,
                                branches=("float", "binary") if "binary" in branches else branches)
        checkpoint = first_on_each_node(lambda: fetch_released(published))
        log.info("no --resume: published weights of %s, %s", published.backbone, checkpoint.source)
    else:
        checkpoint = read_model(chosen.resume, mapped=mapped)
        _check_chosen(checkpoint, backbone=chosen.backbone, aggregation=chosen.aggregation)
    held = checkpoint.config.branches
    missing = [name for name in branches if name not in held]
    if missing:
        raise ValueError(f"--resume {chosen.resume} holds a {' + '.join(held)} model; this script needs its "
                         f"{' and '.join(missing)} branch (train_rerank.py trains both)")
    loaded = checkpoint if chosen.float_dim is None else cut_floats(checkpoint, chosen.float_dim)
    return load_model(loaded, shared=mapped), checkpoint


def said_of_cuts(trained: ModelConfig, *, code_bits: int | None = None, float_dim: int | None = None) -> list[str]:
    """What a reader must hear of descriptors that are cut to lengths that their model did not train.

    Raises ValueError for codes that cannot be so short or long. (float_dim: `model.cut_floats` does.)
    """
    if code_bits is not None and (code_bits % 8 or not 8 <= code_bits <= trained.code_bits):
        raise ValueError(f"--code_bits {code_bits}: expected a multiple of 8, at most the {trained.code_bits} bits of "
                         "this model's codes")
    said = []
    for what, length, lengths in (("codes", code_bits, trained.code_lengths),
                                  ("float descriptors", float_dim, trained.float_lengths)):
        if length is not None and length not in lengths:
            unit = "bits" if what == "codes" else "dimensions"
            said.append(f"{what} were not trained to be cut at {length} {unit}")
    for warning in said:
        log.warning("%s", warning)
    return said


def taught_by(checkpoint: Checkpoint, float_dim: int | None = None) -> Taught | None:
    """What a student's file tells of its teacher; None where its last training was another than that (utils.distil).

    float_dim  to which the student's float descriptors are cut: of its teacher, cut alike, where that was trained to be
    Raises ValueError where that cannot be used.
    """
    last = (checkpoint.trainings or [{}])[-1]
    data = last["data"] if isinstance(last.get("data"), dict) else {}
    if "teacher" not in data:
        return None
    by = data["teacher"] if isinstance(data["teacher"], dict) else {}
    cuts = by.get("cuts") if isinstance(by.get("cuts"), dict) else {}
    told = [cuts.get(str(float_dim), by.get("fingerprint")), by.get("name"), data.get("prepared"),
            data.get("prepared_for_teacher")]
    if not all(isinstance(word, str) for word in told):
        raise ValueError(f"{checkpoint.source}: what it says of its teacher cannot be used; give another file")
    return Taught(ModelIdentity(*told[:2]), *told[2:])


def said_of_weights(pretrained: bool | None, file: str) -> list[str]:
    """What a reader must hear of a backbone that was not pre-trained, or of which that is not known."""
    if pretrained is None:
        return [f"{file} does not say whether its DINOv2 was pre-trained"]
    return [] if pretrained else ["pretrained: false, the backbone started from random weights, not from DINOv2's"]


def _check_chosen(checkpoint: Checkpoint, **chosen: object) -> None:
    for name, value in chosen.items():
        found = getattr(checkpoint.config, name)
        if value is not None and value != found:
            option = f"--{name} {value}" if name in ("backbone", "aggregation") else f"{name} {value!r}"
            raise ValueError(f"{option} contradicts {checkpoint.source}, which holds {found}; "
                             "leave it out, or give another file")
