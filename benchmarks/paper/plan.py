"""From a table's rows to steps: which command gives which figure."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from model import BACKBONES, ModelConfig, released_address

from .rows import AVERAGE, SETS, Column, Counted, Evaluated, EvaluationSet, How, Model, Released, Table, Timed, Training
from .steps import Step

TEST_SET = EvaluationSet("pitts30k", "test")  # which the training scripts evaluate themselves
EVALUATE = {"train.py": "eval.py", "train_hashing.py": "eval_hashing.py", "train_rerank.py": "eval_rerank.py",
            "float": "eval.py", "rerank": "eval_rerank.py"}


# Columns of the tables that are not of recalls: keys in results.json, and the unit.
COUNTS = ((("n_database",), 1.0), (("n_queries",), 1.0))
COSTS = ((("training", "minutes_per_epoch"), 1.0), (("training", "trainable_parameters"), 1e-6),
         (("training", "peak_memory_mib"), 2.0**-10))
TIMES = tuple((way, stage) for way in ("one", "batched") for stage in ("initial", "rerank", "total"))


class Cell(NamedTuple):
    """Where a figure stands: a step's results.json and the keys that lead to it; the figure is that times `scale`."""

    step: Step
    keys: tuple[str, ...]
    scale: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """The paper's settings (section IV-B) as far as rows share them; the toy city has others (toy.py).

    image_options, training_image_options  sizes, where they are not the scripts' own
    """

    lr: str = "0.0004"
    image_options: tuple[str, ...] = ()
    training_image_options: tuple[str, ...] = ()

    def model(self, model: Model) -> Model:
        """What stands for a model."""
        return model

    def foundation(self, backbone: str, weights_folder: Path | None) -> tuple[list[str], str | None]:
        """Options that name the DINOv2 file, and the backbone whose file is fetched where there is none."""
        file = in_folder(weights_folder, BACKBONES[backbone].weights_url)
        return (["--foundation_model_path", str(file)], None) if file else ([], backbone)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Where data, weights and results lie, and how the machine is used.

    weights_folder  searched before torch.hub's cache for published and official files, by their names
    machine         options of every command that trains or evaluates
    """

    out: Path
    datasets_folder: Path
    weights_folder: Path | None = None
    machine: tuple[str, ...] = ()
    protocol: Protocol = Protocol()


def in_folder(folder: Path | None, address: str) -> Path | None:
    file = folder / address.rsplit("/", 1)[-1] if folder else None
    return file if file and file.is_file() else None


def published_config(released: Released) -> ModelConfig:
    branches = {"float": ("float",), "rerank": ("float", "binary")}[released.branches]
    return ModelConfig(backbone=released.backbone, branches=branches)


def training_step(training: Training, seed: int, settings: Settings) -> Step:
    protocol, data, fetched = settings.protocol, settings.datasets_folder, None
    after = training_step(training.start, seed, settings) if training.start else None
    if after:
        options = ["--resume", str(after.best_model)]
    else:
        foundation, fetched = protocol.foundation(training.backbone, settings.weights_folder)
        options = ["--backbone", training.backbone, *foundation]
    if training.variant:
        options += ["--variant", training.variant]
    options += ["--training_dataset", training.dataset, *(["--cities", *training.cities] if training.cities else []),
                "--train_batch_size", str(training.places), "--epochs_num", str(training.epochs), "--patience", "12",
                "--lr", protocol.lr, "--lr_halving", "3", "--seed", str(seed), "--val_datasets", *training.validation,
                "--datasets_folder", str(data), "--dataset_name", TEST_SET.name,
                *protocol.training_image_options, *protocol.image_options]
    needs = [data / training.dataset / "Dataframes", *_folders(data, TEST_SET)]
    for name in training.validation:
        needs += _folders(data, EvaluationSet(name, "val"))
    return Step(out=settings.out, name=f"{_name(training)}/seed{seed}/train", command=(training.script, *options),
                machine=settings.machine, needs=tuple(needs), weights=fetched, after=after)


def evaluation_step(how: Evaluated, tested: EvaluationSet, seed: int, settings: Settings) -> Step:
    """The evaluation of a model on a set; the training itself where it evaluates that set."""
    model = settings.protocol.model(how.model)
    trained = training_step(model, seed, settings) if isinstance(model, Training) else None
    if trained and tested == TEST_SET and not how.depths:
        return trained
    if trained:
        options, fetched, folder = ["--resume", str(trained.best_model)], None, f"{_name(model)}/seed{seed}"
    else:
        file = in_folder(settings.weights_folder, released_address(published_config(model)))
        options = ["--backbone", model.backbone, *(["--resume", str(file)] if file else [])]
        fetched, folder = None if file else model, f"published-{model.backbone}-{model.branches}"
    options += ["--datasets_folder", str(settings.datasets_folder), "--dataset_name", tested.name,
                "--split", tested.split, *settings.protocol.image_options]
    command, name = [EVALUATE[model.script if trained else model.branches], *options], f"{tested.name}-{tested.split}"
    if how.depths:
        command = ["-m", "benchmarks.paper.depths", *options, "--depths", *map(str, how.depths)]
        name += "-depths"
    return Step(out=settings.out, name=f"{folder}/{name}", command=tuple(command), machine=settings.machine,
                needs=tuple(_folders(settings.datasets_folder, tested)), weights=fetched, after=trained)


def row_cells(how: How | None, table: Table, seed: int, settings: Settings) -> dict[Column, Cell | str]:
    """Where each figure of a row comes from, or why from nowhere; averages are for the reader of the figures."""
    if how is None:
        return dict.fromkeys(table.columns, "the paper's figures alone")
    if isinstance(how, Evaluated):
        return {column: _recall(how, column, seed, settings) for column in table.columns if column.of != AVERAGE}
    if isinstance(how, Counted):
        counted = SETS[how.of]
        name, needs = f"counts/{counted.name}-{counted.split}", _folders(settings.datasets_folder, counted)
        command = ("-m", "benchmarks.paper.counts", "--datasets_folder", str(settings.datasets_folder),
                   "--dataset_name", counted.name, "--split", counted.split)
        step, keys = Step(out=settings.out, name=name, command=command, needs=tuple(needs)), COUNTS
    elif isinstance(how, Timed):
        step = Step(out=settings.out, name="latency", command=("-m", "benchmarks.paper.latency"))
        keys = [(("methods", how.method, *pair), 1.0) for pair in TIMES]
    else:
        step, keys = training_step(settings.protocol.model(how.training), seed, settings), COSTS
    return {column: Cell(step, *key) for column, key in zip(table.columns, keys, strict=True)}


def _recall(how: Evaluated, column: Column, seed: int, settings: Settings) -> Cell | str:
    tested = SETS[column.of]
    if tested.name is None:
        return tested.why_not
    return Cell(evaluation_step(how, tested, seed, settings), ("recalls", str(how.depth or how.stage), column.k))


def _folders(data: Path, tested: EvaluationSet) -> list[Path]:
    """What must be there; the command itself knows the details of a protocol's layout."""
    if tested.folders:
        there = [data / folder for folder in tested.folders if (data / folder).is_dir()]
        return there[:1] or [data / tested.folders[0]]
    return [data / tested.name / "images" / tested.split / side for side in ("database", "queries")]


def _name(training: Training) -> str:
    kind = training.script.removesuffix(".py").partition("_")[2] or "float"
    cities = f"{len(training.cities)}cities" if training.cities else None
    places = f"{training.places}places" if training.places != 120 else None
    return "-".join(filter(None, (kind, training.backbone, training.dataset, cities, training.variant, places)))
