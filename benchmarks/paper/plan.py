"""What a row of a table measures, and the commands that measure it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from model import BACKBONES, ModelConfig, released_address

from .runner import Step

AVERAGE = "Average"  # of the same measure over the table's data sets


class EvaluationSet(NamedTuple):
    """What the scripts call a data set. A protocol that is not called like its folder lies in one of `folders`.

    part      of results.json, which counts other answers right among the same images; empty: the results themselves
    database  sets of one such name are searched in one database, extracted once
    """

    name: str
    split: str
    folders: tuple[str, ...] = ()
    part: str = ""
    database: str = ""

    def needs(self, data: Path) -> tuple[Path, ...]:
        """Folders that must be there; the command itself knows the details of a protocol's layout."""
        if self.folders:
            there = [data / folder for folder in self.folders if (data / folder).is_dir()]
            return (there or [data / self.folders[0]])[0],
        return tuple(data / self.name / "images" / self.split / side for side in ("database", "queries"))


MSLS = ("msls", "mapillary_sls")
SETS = {  # by the tables' names
    "Pitts30k-test": EvaluationSet("pitts30k", "test"),
    "MSLS-val": EvaluationSet("msls_val_740", "val", folders=MSLS),
    "MSLS-val, also within 40 degrees": EvaluationSet("msls_val_740", "val", folders=MSLS, part="msls_val_740_40deg"),
    "MSLS-challenge": EvaluationSet("msls_test", "test", folders=MSLS),
    "Tokyo24/7": EvaluationSet("tokyo247", "test"),
    "Nordland": EvaluationSet("nordland_27592_w2s_10f", "test", folders=("nordland",)),
    "SPED": EvaluationSet("sped", "test"),
    "Eynsham": EvaluationSet("eynsham", "test"),
    **{f"SVOX-{name}": EvaluationSet(f"svox_{name.lower()}", "test", folders=("svox", f"svox_{name.lower()}"),
                                     database="svox") for name in ("Night", "Rain", "Overcast", "Snow", "Sun")},
}


def is_part(of: str) -> bool:
    """Whether a column is another reading of a data set's images, which no average counts twice."""
    return of in SETS and bool(SETS[of].part)


TEST_SET = SETS["Pitts30k-test"]  # which the training scripts evaluate themselves


class Column(NamedTuple):
    """A data set (a key of SETS, or AVERAGE) and a recall; or a group of other measures and one of them.

    keys, scale  of a measure that is no recall: where results.json has it, and what turns that into the column's unit
    """

    of: str
    measure: str  # "R@1": percent
    decimals: int = 1
    keys: tuple[str, ...] = ()
    scale: float = 1.0

    @property
    def k(self) -> str:
        """The k of recall@k, as in results.json."""
        return self.measure.removeprefix("R@")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """A model by the command of a training script that gives it, but for its seed, folders and machine.

    places      a batch
    variant     of utils.cli.variants; None: the paper's final method for that backbone
    fields      words for --set
    cities      of the training set; empty: all
    validation  sets that are evaluated after every epoch, protocols or `val` splits; the last decides
    start       the training whose best model this one begins with
    published   its model is the file that the authors published: nothing is trained
    """

    backbone: str
    dataset: str
    places: int = 120
    variant: str | None = None
    fields: tuple[str, ...] = ()
    script: str = "train.py"
    cities: tuple[str, ...] = ()
    epochs: int = 25
    validation: tuple[str, ...] = ("pitts30k", "msls_val_740")
    start: "Training | None" = None
    published: bool = False

    def __str__(self) -> str:
        if self.published:
            return f"published {self.backbone} file, {self.kind}"
        said = ("an epoch of", self.backbone) if self.epochs == 1 else (self.script, self.backbone, self.dataset)
        return " ".join(filter(None, [*said, self.variant, *self.fields]))

    @property
    def kind(self) -> str:
        return self.script.removesuffix(".py").partition("_")[2] or "float"

    @property
    def name(self) -> str:
        """Of its folder."""
        cities = f"{len(self.cities)}cities" if self.cities else None
        places = f"{self.places}places" if self.places != 120 else None
        words = (self.kind, self.backbone, self.dataset, cities, self.variant, *self.fields, places)
        return "-".join(filter(None, words))

    @property
    def published_config(self) -> ModelConfig:
        """Of the published file."""
        branches = ("float",) if self.kind == "float" else ("float", "binary")
        return ModelConfig(backbone=self.backbone, branches=branches)


def published(backbone: str, kind: str) -> Training:
    """The model of a published file; kind "float" or "rerank" (both branches)."""
    first = Training(backbone=backbone, dataset="unified_dataset")
    if kind == "rerank":
        first = dataclasses.replace(first, script="train_rerank.py", start=first)
    return dataclasses.replace(first, published=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Where data, weights and results lie, how the machine is used, and what all trainings share (section IV-B).

    weights_folder  searched before torch.hub's cache for published and official files, by their names
    machine         options of every command that trains or evaluates
    image_options, training_image_options  sizes, where they are not the scripts' own
    random_weights  instead of DINOv2's
    others          other methods' models are fetched by torch.hub, and their code run
    """

    out: Path
    datasets_folder: Path
    weights_folder: Path | None = None
    machine: tuple[str, ...] = ()
    lr: str = "0.0004"
    image_options: tuple[str, ...] = ()
    training_image_options: tuple[str, ...] = ()
    random_weights: bool = False
    others: bool = False

    def file(self, address: str) -> list[str]:
        """The path of a file that can be fetched from `address`, where the weights folder has it."""
        file = self.weights_folder / address.rsplit("/", 1)[-1] if self.weights_folder else None
        return [str(file)] if file and file.is_file() else []


def training_step(training: Training, seed: int, settings: Settings) -> Step:
    data, after, fetched = settings.datasets_folder, None, None
    if training.start:
        after = training_step(training.start, seed, settings)
        options = ["--resume", str(after.best_model)]
    else:
        file = ["random"] if settings.random_weights else settings.file(BACKBONES[training.backbone].weights_url)
        fetched = None if file else training.backbone
        options = ["--backbone", training.backbone, *(["--foundation_model_path", *file] if file else [])]
    if training.variant:
        options += ["--variant", training.variant]
    options += ["--set", *training.fields] if training.fields else []
    options += ["--training_dataset", training.dataset, *(["--cities", *training.cities] if training.cities else []),
                "--train_batch_size", str(training.places), "--epochs_num", str(training.epochs), "--patience", "12",
                "--lr", settings.lr, "--lr_halving", "3", "--seed", str(seed), "--val_datasets", *training.validation,
                "--datasets_folder", str(data), "--dataset_name", TEST_SET.name,
                *settings.training_image_options, *settings.image_options]
    known = {tested.name: tested for tested in SETS.values() if tested.split == "val"}
    needs = [data / training.dataset / "Dataframes", *TEST_SET.needs(data)]
    for name in training.validation:
        needs += known.get(name, EvaluationSet(name, "val")).needs(data)
    return Step(out=settings.out, name=f"{training.name}/seed{seed}/train", command=(training.script, *options),
                machine=settings.machine, needs=tuple(needs), weights=fetched, after=after)


def evaluation_on(tested: EvaluationSet, words: Sequence[str], folder: str, settings: Settings, *,
                  after: Step | None = None, sizes: Sequence[str] = (), **fetched) -> Step:
    """The evaluation of a set by a script's `words`, in a folder below `folder`; `fetched`: Step's weights or hub."""
    data = settings.datasets_folder
    index = ("--index", str(settings.out / folder / f"{tested.database}-index")) if tested.database else ()
    return Step(out=settings.out, name=f"{folder}/{tested.name}-{tested.split}", machine=settings.machine,
                command=(*words, "--datasets_folder", str(data), "--dataset_name", tested.name, "--split", tested.split,
                         *sizes, *index), needs=tested.needs(data), after=after, **fetched)


def recall_keys(tested: EvaluationSet, stage: str, column: Column) -> tuple[str, ...]:
    """Where results.json has a set's recall."""
    return (*(("parts", tested.part) if tested.part else ()), "recalls", stage, column.k)


def evaluation_step(model: Training, tested: EvaluationSet, seed: int, settings: Settings, depth: int | None) -> Step:
    """The evaluation of a model on a set; the training itself where it evaluates that set.

    depth  candidates that are re-ranked; evaluations of several depths share one extraction, which stays on disk
    """
    trained, fetched = None, None
    if model.published:
        file = settings.file(released_address(model.published_config))
        fetched = None if file else model.published_config
        folder = f"published-{model.backbone}-{model.kind}"
        options = ["--backbone", model.backbone, *(["--resume", *file] if file else [])]
    else:
        trained = training_step(model, seed, settings)
        if tested == TEST_SET and depth is None:
            return trained
        folder, options = f"{model.name}/seed{seed}", ["--resume", str(trained.best_model)]
    step = evaluation_on(tested, (model.script.replace("train", "eval"), *options), folder, settings, after=trained,
                         sizes=settings.image_options, weights=fetched)
    if depth is None:
        return step
    deeper = ("--rerank_num", str(depth), "--index", str(step.folder / "index"))
    return dataclasses.replace(step, name=f"{step.name}-top{depth}", command=(*step.command, *deeper))


# How a row is measured. `cell`: the step, and the keys in its results.json that lead to a column's figure, or why there
# is none; `untrained`: what gives the same figures without training, or None; `trained`: what gives them by training,
# where a published file can; `of_images`: whether it needs some; a string for `list`.

Cell = tuple[Step, tuple[str, ...]] | str


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Recalls of a model, or what its training takes; stage "first_stage" (binary codes alone) or "final".

    depth  candidates that are re-ranked; None: the scripts' 100
    """

    model: Training
    stage: str = "final"
    depth: int | None = None
    of_images = True

    @property
    def untrained(self) -> "Evaluated | None":
        """By the published file, where there is one."""
        files = [published(self.model.backbone, kind) for kind in ("float", "rerank")]
        file = dataclasses.replace(self.model, published=True)
        return dataclasses.replace(self, model=file) if file in files else None

    @property
    def trained(self) -> "Evaluated":
        """By training what a published file holds."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, published=False))

    def cell(self, column: Column, seed: int, settings: Settings) -> Cell:
        if column.keys:
            return training_step(self.model, seed, settings), column.keys
        tested = SETS[column.of]
        return (evaluation_step(self.model, tested, seed, settings, self.depth),
                recall_keys(tested, self.stage, column))

    def __str__(self) -> str:
        return str(self.model)


@dataclasses.dataclass(frozen=True)
class Own:
    """What a module of this package measures without a model: images are counted, or searching is timed.

    of  a data set, or a key of latency.METHODS
    """

    of: str
    untrained = trained = property(lambda self: self)
    of_images = property(lambda self: self.of in SETS)

    def cell(self, column: Column, seed: int, settings: Settings) -> Cell:
        if not self.of_images:
            step = Step(out=settings.out, name="latency", command=("-m", f"{__package__}.latency"))
            way = {"One query at a time": "one"}.get(column.of, "batched")
            return step, ("methods", self.of, way, *column.keys)
        (name, split, *_), data = SETS[self.of], settings.datasets_folder
        command = ("-m", f"{__package__}.counts", "--datasets_folder", str(data), "--dataset_name", name,
                   "--split", split)
        return Step(out=settings.out, name=f"counts/{name}-{split}", command=command,
                    needs=SETS[self.of].needs(data)), column.keys

    def __str__(self) -> str:
        return "its images are counted" if self.of_images else "timed"


@dataclasses.dataclass(frozen=True)
class Others:
    """Recalls of another method's model, by the torch.hub entry of its authors: eval.py's words of --hub."""

    words: tuple[str, ...]
    size: tuple[int, int]
    normalise: str = "imagenet"
    untrained = None  # what the paper has of it is not ours to check
    trained = property(lambda self: self)
    of_images = True

    def cell(self, column: Column, seed: int, settings: Settings) -> Cell:
        if not settings.others:
            return f"quoted; --others evaluates {self}"
        tested, name = SETS[column.of], self.words[0].translate(str.maketrans("/:", "--"))
        words = ("eval.py", "--hub", *self.words, "--normalise", self.normalise, "--resize", *map(str, self.size))
        return (evaluation_on(tested, words, f"hub-{name}", settings, hub=self.words),
                recall_keys(tested, "final", column))

    def __str__(self) -> str:
        return f"torch.hub {' '.join(self.words)}"


How = Evaluated | Own | Others
