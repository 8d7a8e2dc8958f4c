"""Figures of other methods from predictions files of our format (predictions.npz, as utils/evaluation.py writes it)."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.compare import read_predictions

from .rows import SETS, Table


@dataclasses.dataclass(frozen=True)
class GivenRecalls:
    """Which of a query's first images are right, (queries, k) bool; n_database tells whether k is all of them."""

    path: Path
    correct: np.ndarray
    n_database: int

    @property
    def n_queries(self) -> int:
        return len(self.correct)

    def at(self, k: int) -> float:
        """Recall@k in percent. ValueError where fewer predictions than that were kept."""
        if self.correct.shape[1] < min(k, self.n_database):
            raise ValueError(f"{self.path}: {self.correct.shape[1]} predictions of each query; recall@{k} needs {k}")
        return 100 * float(self.correct[:, :k].any(axis=1).mean())


Given = dict[str, dict[str, GivenRecalls]]  # row -> data set -> recalls


def read_given(words: Sequence[str], table: Table) -> Given:
    """Reads `ROW=FILE` or `ROW:DATA SET=FILE`. ValueError for what fits no column, or a row that is measured by itself.

    Without a data set, results.json beside the file tells it.
    """
    sets = [name for name in table.groups if name in SETS]
    given: Given = {}
    for word in words:
        left, equals, file = word.partition("=")
        row, _, data_set = left.partition(":")
        if not equals or not row or not file or not sets:
            raise ValueError(f"--predictions {word!r}: expected NAME=FILE or NAME:SET=FILE"
                             + (f", and Table {table.number} has no data sets" if not sets else ""))
        if any(row == known.name and known.how for known in table.rows):
            raise ValueError(f"--predictions {word!r}: that row is measured by commands; choose another name")
        predictions = read_predictions(Path(file), "final")
        data_set = data_set or _set_beside(predictions.path, sets)
        if data_set not in sets:
            raise ValueError(f"--predictions {word!r}: the data sets of Table {table.number} are {', '.join(sets)}")
        if data_set in given.setdefault(row, {}):
            raise ValueError(f"--predictions {word!r}: a second file of {row} on {data_set}")
        given[row][data_set] = GivenRecalls(predictions.path, predictions.correct, len(predictions.database_names))
    for row in given.values():
        for column in table.columns:
            if column.of in row:
                row[column.of].at(int(column.k))
    return given


def _set_beside(path: Path, sets: Sequence[str]) -> str:
    results = path.with_name("results.json")
    if not results.is_file():
        raise ValueError(f"{path}: no results.json beside it that names its data set; write NAME:SET={path} with a SET "
                         f"of {', '.join(sets)}")
    written = json.loads(results.read_text())
    of = written.get("dataset"), written.get("split")
    for name in sets:
        if of == (SETS[name].name, SETS[name].split):
            return name
    raise ValueError(f"{results}: of {of[0]} {of[1]}; expected one of {', '.join(sets)}")
