"""The runs that figures are drawn from: their results, their images, what must be said of them."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from datasets import Listing
from utils.compare import Predictions, read_predictions
from utils.data import EvaluatedSet, EvaluationImages, evaluated_set, validation_and_test_sets
from utils.report.runs import read_results, said_of_results

from ..report import said_once

_REQUIRED = {"dataset", "split", "benchmark", "recalls", "model", "training", "options", "hardware", "n_database"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder and what its figure calls it."""

    name: str
    folder: Path
    results: dict

    @property
    def data_set(self) -> str:
        return " ".join(filter(None, (self.results["dataset"], self.results["split"])))

    def recall(self, k: int, stage: str = "final") -> float:
        """Recall@k in percent. ValueError where results.json lacks it."""
        recalls = self.results["recalls"][stage] or {}
        if str(k) not in recalls:
            raise ValueError(f"{self.folder}: no {stage} recall@{k} in its results.json; it has "
                             f"{', '.join(recalls) or 'none'}")
        return recalls[str(k)]

    @property
    def warnings(self) -> list[str]:
        return said_of_results(self.results)


def named(word: str, default: Callable[[Path], str]) -> tuple[str, Path]:
    """Of `NAME=PATH`, or `PATH`, whose name is its default; a "/" before the first "=" belongs to a path."""
    name, mark, path = word.partition("=")
    return (name, Path(path)) if mark and "/" not in name else (default(Path(word)), Path(word))


def once(names: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """ValueError where two paths have one name."""
    found: dict[str, Path] = {}
    for name, path in names:
        if name in found:
            raise ValueError(f"{found[name]} and {path} are both called {name!r}; name them: NAME=PATH")
        found[name] = path
    return found


def read_runs(words: Sequence[str]) -> list[Run]:
    """Of `FOLDER` or `NAME=FOLDER`; without a name a run is called like the folder around it, its --save_dir.

    Raises FileNotFoundError and ValueError for what is no run folder, and ValueError for runs of one name.
    """
    folders = once(named(word, lambda folder: folder.resolve().parent.name) for word in words)
    return [Run(name, folder, read_results(folder, _REQUIRED)) for name, folder in folders.items()]


def said_of(runs: Sequence[Run]) -> list[str]:
    """Each warning once, behind the names of the runs that give it where others do not."""
    return said_once({run.name: run.warnings for run in runs})


def images_of(run: Run, datasets_folder: Path | None = None) -> Listing:
    """The images that a run evaluated, read anew from the data set's folder: that of its options, unless given.

    Raises FileNotFoundError where they do not lie there, ValueError where others do.
    """
    options = run.results["options"]
    folder = datasets_folder or _path(options["datasets_folder"])
    images = EvaluationImages(datasets_folder=folder, threshold_m=options["val_positive_dist_threshold"])
    try:
        if "split" in options:
            chosen = EvaluatedSet(
                name=options["dataset_name"], split=options["split"], file_lists=_path(options["file_lists"]),
                database_folder=_path(options["database_folder"]), queries_folder=_path(options["queries_folder"]),
                coordinates=_path(options["coordinates"]), labels=not options["no_labels"])
            listing = evaluated_set(chosen, images).listing
        else:  # a training script's test set
            listing = validation_and_test_sets((), options["dataset_name"], images)[1].listing
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; the images of {run.folder} belong there, or say --datasets_folder") from None
    if listing.fingerprint() != run.results["benchmark"]["files_sha256"]:
        raise ValueError(f"{listing.folder}: other images, or other right answers, than {run.folder} evaluated; say "
                         "--datasets_folder")
    return listing


def _path(option: str | None) -> Path | None:
    return None if option is None else Path(option)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a run found for the queries of a listing, in its order: database ids (m, k), and which are right."""

    ids: np.ndarray
    correct: np.ndarray

    def rank(self) -> np.ndarray:
        """(m,) int64: rank of the first right answer, from 1; one more than is kept where none is among them."""
        return np.where(self.correct.any(axis=1), self.correct.argmax(axis=1), self.correct.shape[1]) + 1


def found_by(run: Run, listing: Listing, stage: str) -> Found:
    """Raises what `read_predictions` does, and ValueError for predictions of other images than the listing's."""
    predictions = read_predictions(run.folder, stage)
    with np.load(predictions.path, allow_pickle=False) as file:
        ids = file.get(f"{stage}_ids")
    if ids is None or ids.shape != predictions.correct.shape or ids.dtype.kind not in "iu":
        raise ValueError(f"{predictions.path}: no integers {stage}_ids beside {stage}_correct; expected the "
                         "predictions of a run")
    rows, columns = _places(predictions, listing)
    if ids.min() < 0 or ids.max() >= len(columns):
        raise ValueError(f"{predictions.path}: {stage}_ids from {ids.min()} to {ids.max()}; expected 0 to "
                         f"{len(columns) - 1}")
    return Found(columns[ids[rows]], predictions.correct[rows])


def _places(predictions: Predictions, listing: Listing) -> tuple[np.ndarray, np.ndarray]:
    """For each query of the listing its row of the predictions; for each database id there the listing's."""
    known = {side: {name: i for i, name in enumerate(names)} for side, names in (
        ("query", predictions.query_names.tolist()), ("database", listing.names("database")))}
    try:
        return (np.array([known["query"][name] for name in listing.names("query")]),
                np.array([known["database"][name] for name in predictions.database_names.tolist()]))
    except KeyError as name:
        raise ValueError(f"{predictions.path}: image {name} is not both there and in {listing.folder}; expected runs "
                         "on one data set") from None
