"""A table's figures: from its steps' results or from another method's predictions, and whether they are the paper's."""

import dataclasses
import functools
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from utils.compare import Predictions, read_predictions

from .plan import AVERAGE, SETS, Cell, Column, Settings
from .runner import Absent, Failed, Runner
from .tables import Row, Table

POINT = 0.1  # what the paper's rounding hides, and the least that counts


@dataclasses.dataclass(kw_only=True)
class Measured:
    """A row's figures.

    paper    as printed, for each column
    values   one for each seed that gave it
    queries  of the data sets measured
    missing  why there is none, by data set (or group of columns)
    remarks  what the results say of themselves
    """

    name: str
    paper: dict[Column, float | None]
    values: dict[Column, list[float]] = dataclasses.field(default_factory=dict)
    queries: dict[str, int] = dataclasses.field(default_factory=dict)
    missing: dict[str, Absent | Failed] = dataclasses.field(default_factory=dict)
    remarks: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, name: str, table: Table) -> "Measured":
        """Of the table's row of that name, or of another method, without figures yet."""
        paper = next((row.paper for row in table.rows if row.name == name), [None] * len(table.columns))
        return cls(name=name, paper=dict(zip(table.columns, paper, strict=True)))

    def mean(self, column: Column) -> float | None:
        return statistics.mean(self.values[column]) if column in self.values else None

    def deviation(self, column: Column) -> float | None:
        """Standard deviation of a sample (n - 1 in the denominator); None with fewer than two seeds."""
        return statistics.stdev(self.values[column]) if len(self.values.get(column, ())) > 1 else None

    def difference(self, column: Column) -> float | None:
        """Measured - paper."""
        mean, paper = self.mean(column), self.paper[column]
        return None if mean is None or paper is None else mean - paper

    def add(self, figures: Mapping[Column, float]) -> None:
        """The figures of one seed; an average is there where all its data sets are."""
        for column in self.paper:
            parts = [other for other in self.paper if other.measure == column.measure and other.of != AVERAGE]
            if column.of == AVERAGE and all(part in figures for part in parts):
                figures = {**figures, column: statistics.mean(figures[part] for part in parts)}
        for column, value in figures.items():
            self.values.setdefault(column, []).append(value)

    def read(self, column: Column, cell: Cell, runner: Runner) -> float | None:
        """The figure that a cell leads to; None where there is none."""
        try:
            if isinstance(cell, str):
                raise Absent(cell)
            path = runner.results(cell[0])
            try:
                results = json.loads(path.read_text())
                value = functools.reduce(lambda part, key: part[key], cell[1], results)
            except (KeyError, TypeError, ValueError):
                raise Failed(f"{path}: damaged, or without {'.'.join(cell[1])}") from None
        except (Absent, Failed) as reason:
            self.missing[column.of] = reason
            return None
        if "n_queries" in results:
            self.queries[column.of] = results["n_queries"]
        self.remarks += [*results.get("remarks", []), *_warnings(results, column.of)]
        return None if value is None else column.scale * value  # None: what a method or a machine does not have


def _warnings(results: dict, of: str) -> Iterator[str]:
    """What results.json says that a figure of it must not be read without."""
    model = results.get("model", {})
    yield from (f"{of}: {warning}" for warning in results.get("benchmark", {}).get("warnings", []))
    if model.get("pretrained") is False:
        yield "the backbone's weights are random, not DINOv2's; the figures are not the paper's method's"
    if model.get("selected_by"):
        yield f"the best epoch was chosen on {model['selected_by']}"


def cells_of(row: Row, table: Table, seeds: Sequence[int], settings: Settings, *, checking: bool
             ) -> list[dict[Column, Cell]]:
    """What leads to each column's figure, for each seed on which that depends; `checking`: without training."""
    how, found = row.how, []
    if checking and how:
        how = how.untrained
    for seed in seeds if how else ():
        cells = {column: how.cell(column, seed, settings) for column in table.columns if column.of != AVERAGE}
        if cells not in found:
            found.append(cells)
    return found


def measure(table: Table, *, seeds: Sequence[int], settings: Settings, runner: Runner,
            given: Mapping[str, Measured] | None = None, checking: bool = False) -> Iterator[Measured]:
    """Row by row, as they are measured. `checking`: only what needs no training.

    A row that others measured (`given`) takes their figures; methods beyond the paper's come behind its rows.
    """
    given = dict(given or {})
    for row in table.rows:
        measured = given.pop(row.name, None) or Measured.of(row.name, table)
        of_seeds = cells_of(row, table, seeds, settings, checking=checking)
        if not of_seeds and not measured.values:
            measured.missing = dict.fromkeys(table.groups, Absent(row.why_not))
        for cells in of_seeds:
            figures = {column: measured.read(column, cell, runner) for column, cell in cells.items()}
            measured.add({column: value for column, value in figures.items() if value is not None})
        yield measured
    yield from given.values()


def read_given(words: Sequence[str], table: Table) -> dict[str, Measured]:
    """Figures of other methods from predictions.npz as the evaluation scripts write it: `ROW=FILE` or `ROW:SET=FILE`.

    Without a set, results.json beside the file tells it. ValueError for what fits no column, or a row that is measured
    by itself.
    """
    sets = {name: SETS[name] for name in table.groups if name in SETS}
    known = f"the data sets of Table {table.number} are {', '.join(sets)}" if sets else (
        f"Table {table.number} has no data sets")
    files: dict[str, dict[str, Predictions]] = {}  # of a method, by data set
    for word in words:
        left, _, file = word.partition("=")
        name, _, data_set = left.partition(":")
        if not name or not file or not sets:
            raise ValueError(f"--predictions {word!r}: expected NAME=FILE or NAME:SET=FILE, and {known}")
        if any(row.name == name and row.how for row in table.rows):
            raise ValueError(f"--predictions {word!r}: that row is measured by commands; choose another name")
        predictions = read_predictions(Path(file), "final")
        written = predictions.ground_truth and predictions.ground_truth[:2]
        data_set = data_set or next((of for of, tested in sets.items() if tested[:2] == written), None)
        if data_set not in sets:
            found = "" if data_set else f"of {' '.join(written)}; " if written else (
                "no results.json beside it that names its data set, write NAME:SET=FILE; ")
            raise ValueError(f"--predictions {word!r}: {found}{known}")
        if data_set in files.setdefault(name, {}):
            raise ValueError(f"--predictions {word!r}: a second file of {name} on {data_set}")
        files[name][data_set] = predictions
    given = {name: Measured.of(name, table) for name in files}
    for name, measured in given.items():
        measured.queries = {of: len(predictions.correct) for of, predictions in files[name].items()}
        measured.add({column: _recall(files[name][column.of], int(column.k)) for column in table.columns
                      if column.of in files[name]})
        measured.missing = {of: Absent("no predictions given") for of in sets if of not in files[name]}
    return given


def _recall(predictions: Predictions, k: int) -> float:
    """In percent. ValueError where fewer predictions than that were kept."""
    kept = predictions.correct.shape[1]  # of each query's first images: which are right
    if kept < min(k, len(predictions.database_names)):
        raise ValueError(f"{predictions.path}: {kept} predictions of each query; recall@{k} needs {k}")
    return 100 * float(predictions.correct[:, :k].any(axis=1).mean())


def check(table: Table, rows: Sequence[Measured]) -> tuple[int, list[str]]:
    """Are measured figures the paper's? How many were compared, and a line for each that differs.

    Recalls may differ by 0.1 point or one query, whichever is more, counts not at all. Averages follow from the others,
    and times and memory are those of a machine: neither is compared.
    """
    compared, differing = 0, []
    for row, column in ((row, column) for row in rows for column in table.columns):
        if column.decimals == 0:
            allowed = 0.0
        elif column.of in row.queries and not column.keys:
            allowed = max(POINT, 100 / row.queries[column.of])
        else:
            continue
        difference, places = row.difference(column), column.decimals
        if difference is not None:
            compared += 1
            if abs(difference) > allowed + 1e-9:
                differing.append(f"{row.name}, {column.of} {column.measure}: {row.mean(column):.{places + 2}f}, "
                                 f"paper {row.paper[column]:.{places}f} (allowed: {allowed:.3g})")
    return compared, differing
