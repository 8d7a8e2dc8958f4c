"""The runs that a report is of: what they left in their folders, which queries were right, what must be said."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from pathlib import Path

import numpy as np

from ..models import said_of_weights

STAGES = ("first_stage", "final")
WRONG, RESCUED, HURT, UNANSWERABLE = KINDS = ("wrong", "rescued", "hurt", "unanswerable")
_REQUIRED = {"dataset", "split", "protocol", "benchmark", "n_database", "n_queries", "threshold_m", "recalls",
             "latency_ms", "bytes_per_image", "extraction", "model", "options", "hardware"}


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A finished run: its results.json and the arrays of its predictions.npz."""

    name: str  # as the report calls it
    folder: Path
    results: dict
    arrays: dict[str, np.ndarray]

    @property
    def n_queries(self) -> int:
        return len(self.arrays["query_names"])

    @property
    def labelled(self) -> bool:
        return "final_correct" in self.arrays

    @property
    def stages(self) -> list[str]:
        """Those that it has, of STAGES."""
        return [stage for stage in STAGES if f"{stage}_ids" in self.arrays]

    @property
    def data_set(self) -> str:
        return " ".join(filter(None, (self.results["dataset"], self.results["split"])))

    def stage_name(self, stage: str) -> str:
        """What a stage is called, in the words of the script."""
        if stage == "final":
            return self.results["protocol"]
        if self.results["bytes_per_image"]["binary"] is None:
            return "first stage"
        return f"Hamming of {bits[0]} bits" if (bits := self.results["options"].get("code_bits")) else "Hamming"

    def counted(self) -> Iterator[tuple[str, dict[str, float], int]]:
        """What has recalls, each stage and each part of the set: its name, recalls in percent by k, and queries."""
        for stage in self.stages:
            if recalls := self.results["recalls"][stage]:
                yield self.stage_name(stage), recalls, self.n_queries
        for name, part in self.results.get("parts", {}).items():
            if recalls := part["recalls"]["final"]:
                yield f"{name} ({part['rule']})", recalls, part["n_queries"]

    @property
    def images(self) -> Path | None:
        """The folder that the names of images are relative to; None: the run does not tell."""
        folder = self.results.get("folder")
        return None if folder is None else Path(folder)

    def ranks(self, stage: str) -> np.ndarray | None:
        """(m,) int64: rank of the first right answer, from 1; 0 where none is among those kept. None without labels,
        or without that stage."""
        correct = self.arrays.get(f"{stage}_correct")
        return None if correct is None else np.where(correct.any(axis=1), correct.argmax(axis=1) + 1, 0)

    @cached_property
    def kinds(self) -> dict[str, np.ndarray]:
        """By names of KINDS, as far as they can be told, which queries (m,) bool are so.

        wrong         at rank 1, also where the database has no right answer: what R@1 counts as missed
        rescued       right at rank 1 behind re-ranking, and not before; hurt: the reverse
        unanswerable  without a right answer in the database
        """
        ranks = {stage: self.ranks(stage) for stage in self.stages}
        found = {}
        if ranks["final"] is not None:
            right = ranks["final"] == 1
            found[WRONG] = ~right
            if "first_stage" in ranks:
                found |= {RESCUED: right & (ranks["first_stage"] != 1), HURT: ~right & (ranks["first_stage"] == 1)}
        if "query_positives" in self.arrays:
            found[UNANSWERABLE] = self.arrays["query_positives"] == 0
        return found

    def metres(self, count: int) -> np.ndarray | None:
        """(m, count) float64 between each query and the first images of its final stage; NaN where one of both is not
        known. None: no coordinates at all."""
        if not {"query_utm", "database_utm"} <= self.arrays.keys():
            return None
        away = self.arrays["database_utm"][self.arrays["final_ids"][:, :count]] - self.arrays["query_utm"][:, None]
        return np.hypot(away[..., 0], away[..., 1])

    @property
    def warnings(self) -> list[str]:
        """What a reader must hear before the figures are believed."""
        found = said_of_results(self.results)
        if not self.labelled:
            found.append("no labels: which answers are right is not known, and there are no recalls")
        if self.images is None:
            found.append("results.json does not say where the images lie, as it was written by an earlier version: no "
                         "pictures; evaluate again to have them")
        return found


def said_of_results(results: dict) -> list[str]:
    """What a reader must hear before the figures of a results.json are believed, as far as that file tells."""
    model, options = results["model"], results["options"]
    found = [*results["benchmark"]["warnings"]]
    for training in model.get("trainings") or ():
        found += [f"validation set {name}: {warning}" for name, validated in training.get("validation", {}).items()
                  for warning in validated.get("warnings", ())]
    if results["dataset"].startswith("toy_city/"):
        found.append("toy city: drawn images, no photographs")
    found += said_of_weights(model.get("pretrained"), "the model's file")
    if model.get("pretrained") and model.get("licence") is None:
        found.append("the licence of the model's weights is not known")
    if options.get("rerank_num", 0) >= results["n_database"]:
        found.append(f"all {results['n_database']} database images were re-ranked: the final stage says nothing of "
                     "the first")
    if options.get("test_method", "hard_resize") != "hard_resize":
        found.append(f"queries were prepared by {options['test_method']}, not by hard_resize, which is the default")
    extraction = results.get("extraction") or {}
    if by := extraction.get("database_by"):
        found.append(f"descriptors of the database are by {by['name']} ({by['fingerprint'][:12]}, images of "
                     f"{by['prepared']}), those of queries by its student {model.get('fingerprint', '')[:12]}")
    if rounding := extraction.get("rounding"):
        values = {"least cosine to the exact descriptor": rounding["least_cosine"],
                  "percent of bits changed": rounding["bits_changed_percent"]}
        found.append(f"descriptors are rounded (precision {extraction['precision']}, store {extraction['store']}): on "
                     f"{rounding['images']} images " + ", ".join(
                         f"{name} {value:.6g}" for name, value in values.items() if value is not None))
    return found


def read_runs(folders: Sequence[Path]) -> list[EvaluatedRun]:
    """Raises FileNotFoundError and ValueError for what is no folder of a finished run, or is given twice."""
    resolved = [folder.resolve() for folder in folders]
    if len({*resolved}) < len(resolved):
        raise ValueError(f"{', '.join(map(str, folders))}: one run is given twice; expected different ones")
    # As much of the paths' ends as tells them apart: every script calls its folders by the time.
    depth = next(depth for depth in range(2, 99) if len({path.parts[-depth:] for path in resolved}) == len(resolved))
    return [_read("/".join(path.parts[-depth:]), folder) for path, folder in zip(resolved, folders, strict=True)]


def _read(name: str, folder: Path) -> EvaluatedRun:
    results, path = read_results(folder, _REQUIRED), _of_a_run(folder / "predictions.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # what is wrong with an archive shows in many ways
        raise ValueError(f"{path}: damaged, or not the predictions of a run: {error}") from error
    _check(path, arrays)
    return EvaluatedRun(name, folder, results, arrays)


def read_results(folder: Path, required: AbstractSet[str]) -> dict:
    """A run's results.json. FileNotFoundError where there is none, ValueError where it lacks what is required of it."""
    path = _of_a_run(folder / "results.json")
    try:
        results = json.loads(path.read_text())
        missing = sorted(required - {*results})
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or not the results of a run: {error!r}") from error
    if missing:
        raise ValueError(f"{path}: no {', '.join(missing)} in it; expected the results of a run (schema 2)")
    return results


def _of_a_run(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the folder of a finished training or evaluation")
    return path


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises ValueError where they are not of one run."""
    missing = {"query_names", "database_names", "final_ids", "final_distances"} - arrays.keys()
    if missing:
        raise ValueError(f"{path}: no {', '.join(sorted(missing))} in it; expected the predictions of a run")
    for name in ("query_names", "database_names"):
        if arrays[name].ndim != 1 or arrays[name].dtype.kind != "U":
            raise ValueError(f"{path}: {name} is {arrays[name].dtype} {arrays[name].shape}; expected a list of text")
    m, n = len(arrays["query_names"]), len(arrays["database_names"])
    lengths = {"query_positives": (m,), "query_utm": (m, 2), "database_utm": (n, 2)}
    for name, array in arrays.items():
        if name.endswith(("_ids", "_correct")):
            lengths[name] = (m, *arrays["final_ids"].shape[1:])
        if name in lengths and array.shape != lengths[name]:
            raise ValueError(f"{path}: {name} has shape {array.shape}; expected {lengths[name]}, of one run")
        if name.endswith("_ids") and (array.dtype.kind not in "iu" or array.ndim != 2 or not array.size
                                      or not 0 <= array.min() <= array.max() < n):
            raise ValueError(f"{path}: {name} is {array.dtype} {array.shape}; expected integers below {n}, a row of "
                             "them for each query")


def said_of(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Each warning once, behind the names of the runs that give it where there are several; and why their figures do
    not compare."""
    said: dict[str, list[str]] = {}
    for run in runs:
        for warning in dict.fromkeys(run.warnings):
            said.setdefault(warning, []).append(run.name)
    lines = [warning if len(runs) == 1 else f"{', '.join(names)}: {warning}" for warning, names in said.items()]
    for what, values in (
            ("data sets", [run.data_set for run in runs]),
            ("rules for what is right", [run.results["benchmark"]["rule"] for run in runs]),
            ("images or right answers", [run.results["benchmark"].get("files_sha256") for run in runs])):
        if len({*values}) > 1:
            lines.append(f"runs of different {what}: their recalls do not compare")
            break
    return lines
