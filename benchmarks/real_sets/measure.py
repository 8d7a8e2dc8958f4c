"""Recalls of models without learning and of trained ones, by set and seed."""

import dataclasses
import json
import os
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from datasets import BenchmarkDataset, evaluation_transform, read_folder
from utils.evaluation.baselines import BASELINES, search_baseline

from ..paper.runner import Runner, Step
from .frozen import SIZE, backbone_of, search_frozen
from .plan import PLACES, Model, Place, write_subset

RECALLS = (1, 5, 10)
Recalls = list[float]  # in percent, at RECALLS


@dataclasses.dataclass(frozen=True)
class Row:
    """A trained model as a line of a table; stage "first_stage" (binary codes alone) or "final".

    words  of its evaluations, beside those that all share
    """

    name: str
    model: Model
    stage: str = "final"
    words: tuple[str, ...] = ()


def without_learning(place: Place) -> dict[str, dict[str, Recalls]]:
    """By row and set."""
    figures: dict[str, dict[str, Recalls]] = {}
    backbone = backbone_of(place.pretrained) if place.pretrained.is_file() else None
    for name in place.test_sets:
        dataset = BenchmarkDataset(read_folder(place.real, name, split="test"),
                                   transform=evaluation_transform((SIZE, SIZE)))
        found = [(row, search_baseline(describe, dataset, recall_values=RECALLS))
                 for row, describe in BASELINES.items()]
        found += search_frozen(backbone, dataset, recall_values=RECALLS) if backbone else []
        for row, searched in found:
            figures.setdefault(row, {})[name] = [*searched.final_recalls(RECALLS).values()]
    return figures


class Trainer:
    """Runs trainings and evaluations, `jobs` at a time, each with its share of the cores; what is done is skipped."""

    def __init__(self, place: Place, jobs: int):
        self.place, self.runner = place, Runner()
        if jobs > 1:
            os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
        self._pool = ThreadPoolExecutor(jobs)
        self._futures: dict[Step, Future[Path]] = {}

    def ask(self, rows: Iterable[Row], seeds: Sequence[int], *, test_sets: Sequence[str]) -> None:
        """Queues what the rows need on these sets, trainings before evaluations."""
        wanted = [(row, seed) for row in rows for seed in seeds]
        for row, seed in wanted:
            if row.model.places != PLACES:
                write_subset(self.place, row.model.places, seed)
        steps = [row.model.evaluation(seed, name, self.place, row.words) for row, seed in wanted
                 for name in test_sets]
        chains = [step.chain for step in steps]
        for depth in range(max(map(len, chains), default=0)):
            for chain in chains:
                if depth < len(chain) and chain[depth] not in self._futures:
                    self._futures[chain[depth]] = self._pool.submit(self._run, chain[depth])

    def _run(self, step: Step) -> Path:
        if step.after:
            self._futures[step.after].result()  # which was queued before
        return self.runner.results(step)

    def results(self, row: Row, seed: int, test_set: str) -> Path:
        """The results.json of what was asked for. Raises Failed where its command failed."""
        return self._futures[row.model.evaluation(seed, test_set, self.place, row.words)].result()

    def recalls(self, row: Row, seed: int, test_set: str) -> Recalls:
        recalls = json.loads(self.results(row, seed, test_set).read_text())["recalls"][row.stage]
        return [recalls[str(k)] for k in RECALLS]

    def runs(self, row: Row, seeds: Sequence[int], test_set: str) -> list[Path]:
        """Run folders."""
        return [self.results(row, seed, test_set).parent for seed in seeds]

    def samples(self) -> dict[str, dict[str, Recalls]]:
        """Everything that was measured so far: "model/seed/set", and the evaluation's further words -> recalls of
        each stage at RECALLS."""
        found = {}
        for step, future in self._futures.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                results = json.loads(future.result().read_text())
                *of, what = Path(step.name).parts
                name = "/".join((*of, results["dataset"] if what == "train" else what))
                found[name] = {stage: [recalls[str(k)] for k in RECALLS]
                               for stage, recalls in results["recalls"].items() if recalls}
        return dict(sorted(found.items()))

    def seconds(self) -> float:
        return self.runner.seconds()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def mean(recalls: Sequence[Recalls], at: int = 0) -> float:
    return statistics.mean(values[at] for values in recalls)


def spread(recalls: Sequence[Recalls], at: int = 0) -> float | None:
    return statistics.stdev(values[at] for values in recalls) if len(recalls) > 1 else None
