"""A table's figures: from its steps' results or from another method's predictions, and whether they are the paper's."""

import dataclasses
import functools
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datasets.protocols import MEMORY, PROTOCOLS
from utils.compare import Predictions, read_predictions

from .plan import AVERAGE, SETS, Cell, Column, Others, Settings, is_part
from .runner import Absent, Failed, Runner
from .tables import Row, Table

RANDOM = "the backbone's weights are random, not pre-trained"
POINT = 0.1  # what the paper's rounding hides, and the least that counts


@dataclasses.dataclass(kw_only=True)
class Measured:
    """A row's figures.

    paper    as printed, for each column
    values   one for each seed that gave it
    counts   of the data sets measured: database images and queries
    missing  why there is none, by data set (or group of columns)
    unlike   why a figure is not to be compared with the paper's, by data set
    part_of  what is there of the training set, where that is not all of it
    remarks  what the results say of themselves
    """

    name: str
    paper: dict[Column, float | None]
    values: dict[Column, list[float]] = dataclasses.field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    missing: dict[str, Absent | Failed] = dataclasses.field(default_factory=dict)
    unlike: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    part_of: str | None = None
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

    def why_unlike(self, of: str) -> list[str]:
        """Why a data set's figures, or the average's, are not to be compared with the paper's; empty: they are."""
        if not any(paper is not None for column, paper in self.paper.items() if column.of == of):
            return []
        return list(dict.fromkeys(reason for other, reasons in self.unlike.items() for reason in reasons
                                  if of in (other, AVERAGE)))

    def add(self, figures: Mapping[Column, float]) -> None:
        """The figures of one seed; an average is there where all its data sets are."""
        for column in self.paper:
            parts = [other for other in self.paper
                     if other.measure == column.measure and other.of != AVERAGE and not is_part(other.of)]
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
                part, value = _figure(results, cell[1])
            except (KeyError, TypeError, ValueError):
                raise Failed(f"{path}: damaged, or without {'.'.join(cell[1])}") from None
        except (Absent, Failed) as reason:
            self.missing[column.of] = reason
            return None
        if "n_queries" in part:
            self.counts[column.of] = part["n_database"], part["n_queries"]
        model = results.get("model", {})
        if model.get("pretrained") is False:
            self.unlike[column.of] = [RANDOM]
        for training in model.get("trainings", []):
            data = training["data"] or {}
            if absent := data.get("absent_cities"):
                self.part_of = (f"{data['cities']} of {data['cities'] + len(absent)} cities of {data['set']}; "
                                f"absent are {', '.join(absent[:3])}{' ...' * (len(absent) > 3)}")
        self.remarks += [*results.get("remarks", []), *_said(results, column.of)]
        return None if value is None else column.scale * value  # None: what a method or a machine does not have


def _figure(results: dict, keys: Sequence[str]) -> tuple[dict, float | None]:
    """The results, or the part of them, that the keys lead into, and the figure there."""
    part = results
    if keys[0] == "parts":
        _, name, *keys = keys
        if name not in results["parts"]:
            raise Absent("the headings of these images are not told")
        part = results["parts"][name]
    if keys[0] == "recalls" and part["recalls"]["final"] is None:
        raise Absent("no ground truth beside the images, see datasets/README.md")
    return part, functools.reduce(lambda values, key: values[key], keys, part)


def _said(results: dict, of: str) -> Iterator[str]:
    """What results.json says that a figure of it must not be read without."""
    benchmark, model, hardware = (results.get(key, {}) for key in ("benchmark", "model", "hardware"))
    yield from (f"{of}: {warning}" for warning in benchmark.get("warnings", []))
    if model.get("pretrained") is False:
        yield RANDOM
    if results.get("training"):  # this run's own, whose costs are those of a machine
        yield f"trained on {hardware.get('gpu') or hardware.get('cpu')}"
    for training in model.get("trainings", []):
        script, data, chose = training["script"], training["data"], training["selected_by"]
        if data:
            yield (f"{script} on {data['set']}: {data['places']:,} places, {data['images']:,} images, {data['cities']} "
                   f"cities; in {training['precision']}")
        yield f"{script}: best epoch {training['epoch']}, chosen on {chose}"
        selecting = (training["validation"] or {}).get(chose, {"files_sha256": "", "warnings": []})
        yield from (f"{chose}, which chose the best epoch: {warning}" for warning in selecting["warnings"])
        if selecting["files_sha256"] == benchmark.get("files_sha256"):
            yield f"{of} has the images that chose the best epoch, as in the paper"


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
        of_seeds = [] if measured.values else cells_of(row, table, seeds, settings, checking=checking)
        if not of_seeds and not measured.values:
            measured.missing = dict.fromkeys(table.groups, Absent(row.why_not))
        for cells in of_seeds:
            figures = {column: measured.read(column, cell, runner) for column, cell in cells.items()}
            measured.add({column: value for column, value in figures.items() if value is not None})
        for of, counts in measured.counts.items():
            if differing := counts_differ(of, counts):
                measured.unlike.setdefault(of, []).append(differing)
        if measured.part_of and not table.prefix:  # another row than the paper's
            whole = Measured.of(row.name, table)
            whole.missing = dict.fromkeys(table.groups, Absent(f"only {measured.part_of}"))
            yield whole
            measured.name, measured.paper = f"{row.name} (a part of its cities)", dict.fromkeys(measured.paper)
            measured.remarks.append(f"{row.name}: trained on {measured.part_of}")
        yield measured
    yield from given.values()


def read_given(words: Sequence[str], table: Table) -> dict[str, Measured]:
    """Figures of other methods from predictions.npz as the evaluation scripts write it: `ROW=FILE` or `ROW:SET=FILE`.

    Without a set, results.json beside the file tells it. ValueError for what fits no column, or a row that is measured
    by itself.
    """
    sets = {name: SETS[name] for name in table.groups if name in SETS and not is_part(name)}
    known = f"the data sets of Table {table.number} are {', '.join(sets)}" if sets else (
        f"Table {table.number} has no data sets")
    files: dict[str, dict[str, Predictions]] = {}  # of a method, by data set
    for word in words:
        left, _, file = word.partition("=")
        name, _, data_set = left.partition(":")
        if not name or not file or not sets:
            raise ValueError(f"--predictions {word!r}: expected NAME=FILE or NAME:SET=FILE, and {known}")
        if any(row.name == name and row.how and not isinstance(row.how, Others) for row in table.rows):
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
        measured.counts = {of: (len(predictions.database_names), len(predictions.correct))
                           for of, predictions in files[name].items()}
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


def counts_differ(of: str, counts: tuple[int, int]) -> str | None:
    """What to say where a set has not the (database images, queries) that a source states; None: nothing."""
    tested = SETS.get(of)
    protocol = tested and PROTOCOLS.get(tested.part or tested.name)
    stated = protocol and protocol.source != MEMORY and (protocol.n_database, protocol.n_queries)
    if not stated or all(expected in (None, found) for expected, found in zip(stated, counts, strict=True)):
        return None
    said = ("{} database images and {} queries".format(*("?" if n is None else f"{n:,}" for n in pair))
            for pair in (counts, stated))
    return "{}, expected {}".format(*said)


def check(table: Table, rows: Sequence[Measured]) -> tuple[int, list[str]]:
    """Are measured figures the paper's? How many were compared, and a line for each that differs.

    Recalls may differ by 0.1 point or one query, whichever is more, counts of images not at all, in Table I or of the
    sets behind a recall. Averages follow from the others, and times and memory are those of a machine: neither is
    compared.
    """
    counted = {of: said for row in rows for of, counts in row.counts.items() if (said := counts_differ(of, counts))}
    compared, differing = 0, [f"{of}: {said}" for of, said in counted.items()]
    for row, column in ((row, column) for row in rows for column in table.columns):
        if column.decimals == 0:
            allowed = 0.0
        elif column.of in row.counts and not column.keys:
            allowed = max(POINT, 100 / row.counts[column.of][1])
        else:
            continue
        difference, places = row.difference(column), column.decimals
        if difference is not None:
            compared += 1
            if abs(difference) > allowed + 1e-9:
                differing.append(f"{row.name}, {column.of} {column.measure}: {row.mean(column):.{places + 2}f}, "
                                 f"paper {row.paper[column]:.{places}f} (allowed: {allowed:.3g})")
    return compared, differing
