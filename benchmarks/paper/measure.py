"""A table's figures from its steps' results: seeds, averages, and what could not be measured."""

import dataclasses
import functools
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from .plan import Cell, Settings, row_cells
from .predictions import Given
from .rows import AVERAGE, Column, How, Row, Table
from .runner import Absent, Failed, Runner

NOT_CHECKED = "trained, not checked: its figures vary with the seed"


@dataclasses.dataclass(kw_only=True)
class Measured:
    """A row's figures.

    paper    as printed, for each column
    values   one for each seed that gave it
    queries  of the data sets measured
    absent   why there is none, by data set (or group of columns): data or weights that are not here
    failed   the same for commands that ended with an error
    remarks  what the results say of themselves
    """

    name: str
    paper: dict[Column, float | None]
    values: dict[Column, list[float]] = dataclasses.field(default_factory=dict)
    queries: dict[str, int] = dataclasses.field(default_factory=dict)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    remarks: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of_row(cls, row: Row, table: Table) -> "Measured":
        return cls(name=row.name, paper=dict(zip(table.columns, row.paper, strict=True)))

    def mean(self, column: Column) -> float | None:
        return statistics.mean(self.values[column]) if column in self.values else None

    def deviation(self, column: Column) -> float | None:
        """Standard deviation of a sample (n - 1 in the denominator); None with fewer than two seeds."""
        return statistics.stdev(self.values[column]) if len(self.values.get(column, ())) > 1 else None

    def difference(self, column: Column) -> float | None:
        """Measured - paper."""
        mean, paper = self.mean(column), self.paper[column]
        return None if mean is None or paper is None else mean - paper

    def add(self, figures: dict[Column, float]) -> None:
        """The figures of one seed; an average is there where all its data sets are."""
        for column in self.paper:
            parts = [other for other in self.paper if other.measure == column.measure and other.of != AVERAGE]
            if column.of == AVERAGE and all(part in figures for part in parts):
                figures = {**figures, column: statistics.mean(figures[part] for part in parts)}
        for column, value in figures.items():
            self.values.setdefault(column, []).append(value)


def measure(table: Table, *, seeds: Sequence[int], settings: Settings, runner: Runner, given: Given | None = None,
            checking: bool = False) -> Iterator[Measured]:
    """Row by row, as they are measured. `checking`: only what needs no training.

    A row that others measured (`given`) takes their figures; methods beyond the paper's come behind its rows.
    """
    given = given or {}
    for row in table.rows:
        measured = Measured.of_row(row, table)
        how = row.checkable if checking else row.how
        if row.name in given:
            _take(measured, given[row.name])
        elif how is None and row.how is not None:
            measured.absent = dict.fromkeys(table.groups, NOT_CHECKED)
        else:
            _run(measured, how, table, seeds, settings, runner)
        yield measured
    for name in (name for name in given if name not in {row.name for row in table.rows}):
        measured = Measured(name=name, paper=dict.fromkeys(table.columns))
        _take(measured, given[name])
        yield measured


def _take(measured: Measured, given: dict) -> None:
    figures = {}
    for column in measured.paper:
        if column.of in given:
            recalls = given[column.of]
            measured.queries[column.of] = recalls.n_queries
            figures[column] = recalls.at(int(column.k))
    measured.add(figures)
    measured.absent = {column.of: "no predictions given" for column in measured.paper
                       if column.of not in (*given, AVERAGE)}


def _run(measured: Measured, how: How | None, table: Table, seeds: Sequence[int], settings: Settings,
         runner: Runner) -> None:
    done: list[dict[Column, Cell | str]] = []
    for seed in seeds:
        cells = row_cells(how, table, seed, settings)
        if cells in done:  # nothing in it depends on the seed
            continue
        done.append(cells)
        figures = {}
        for column, cell in cells.items():
            if isinstance(cell, str):
                measured.absent[column.of] = cell
                continue
            try:
                value, results = read_figure(runner.results(cell.step), cell.keys)
            except Absent as reason:
                measured.absent[column.of] = str(reason)
            except Failed as reason:
                measured.failed[column.of] = str(reason)
            else:
                if value is not None:  # what a method or a machine does not have
                    figures[column] = cell.scale * value
                if "n_queries" in results:
                    measured.queries[column.of] = results["n_queries"]
                measured.remarks += results.get("remarks", [])
        measured.add(figures)


def read_figure(path: Path, keys: Sequence[str]) -> tuple[float | None, dict]:
    """A figure of a results.json, and the whole file. Raises Failed where it is not there."""
    try:
        results = json.loads(path.read_text())
        return functools.reduce(lambda part, key: part[key], keys, results), results
    except (KeyError, TypeError, ValueError):
        raise Failed(f"{path}: damaged, or without {'.'.join(keys)}") from None
