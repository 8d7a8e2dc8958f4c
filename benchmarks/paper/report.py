"""Markdown and CSV of a table: measured, paper, difference; and what could not be measured, by name."""

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.files import temporary_path

from .measure import Measured
from .plan import AVERAGE, Column, is_part
from .runner import Absent, Failed
from .tables import Table

CSV_FIELDS = ("table", "row", "of", "measure", "measured", "sd", "seeds", "paper", "difference", "not_comparable")


def write_report(table: Table, rows: Sequence[Measured], folder: Path, *, name: str,
                 remarks: Sequence[str] = ()) -> Path:
    """Writes <folder>/<name>.md, whose path it returns, and <name>.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.md"
    for path, text in ((page, markdown(table, rows, remarks)), (page.with_suffix(".csv"), as_csv(table, rows))):
        with temporary_path(path) as temporary:
            temporary.write_text(text)
    return page


def markdown(table: Table, rows: Sequence[Measured], remarks: Sequence[str] = ()) -> str:
    """A line for each row and data set, its measures one behind the other."""
    lines = [f"# Table {table.number}: {table.title}", "",
             "Measured (mean, and +- standard deviation over seeds) | the paper's | measured - paper", "",
             "| row | of | measure | measured | paper | difference |", "|---|---|---|---:|---:|---:|"]
    for row in rows:
        for group in table.groups:
            figures = [(column.measure, measured_text(row, column), number(row.paper[column], min(column.decimals, 2)),
                        number(row.difference(column), column.decimals, sign="+"))
                       for column in table.columns if column.of == group]
            cells = [" / ".join(cell) if set(cell) != {"-"} else "-" for cell in zip(*figures, strict=True)]
            if cells[1] != "-" and row.why_unlike(group):
                cells[-1] = "not comparable"
            lines.append(f"| {row.name} | {table.prefix}{group} | {' | '.join(cells)} |")
    below = {**missing(table, rows), "Not comparable with the paper's": unlike(table, rows),
             "Remarks": [*remarks, *said_once({row.name: row.remarks for row in rows if row.remarks}), *table.notes]}
    for heading, text in below.items():
        lines += ["", f"{heading}:", "", *(f"* {line}" for line in text)] if text else []
    return "\n".join(lines) + "\n"


def said_once(texts: Mapping[str, Sequence[str]]) -> list[str]:
    """What is said under several names, each text once, behind the names that say it where others do not."""
    named: dict[str, list[str]] = {}
    for name, said in texts.items():
        for text in dict.fromkeys(said):
            named.setdefault(text, []).append(name)
    return [text if len(names) == len(texts) else f"{', '.join(names)}: {text}" for text, names in named.items()]


def number(value: float | None, decimals: int, *, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{decimals}f}"


def measured_text(row: Measured, column: Column) -> str:
    deviation = row.deviation(column)
    return number(row.mean(column), column.decimals) + (
        "" if deviation is None else f" +- {number(deviation, column.decimals)}")


def as_csv(table: Table, rows: Sequence[Measured]) -> str:
    """A line for each figure, unrounded; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for row in rows:
        for column in table.columns:
            why = "; ".join(row.why_unlike(column.of))
            writer.writerow((table.number, row.name, table.prefix + column.of, column.measure, row.mean(column),
                             row.deviation(column), len(row.values.get(column, ())), row.paper[column],
                             None if why else row.difference(column), why))
    return text.getvalue()


def missing(table: Table, rows: Sequence[Measured]) -> dict[str, list[str]]:
    """Why figures are missing, by heading: a line for each reason, with the rows and data sets without a figure."""
    return {heading: _by_reason(table, {row.name: {of: [str(reason)] for of, reason in row.missing.items()
                                                   if isinstance(reason, kind)} for row in rows})
            for heading, kind in (("Not measured", Absent), ("Failed", Failed))}


def unlike(table: Table, rows: Sequence[Measured]) -> list[str]:
    """Why figures are not to be compared with the paper's: a line for each reason, with rows and data sets."""
    measured = {row.name: {column.of for column in row.values} for row in rows}
    return _by_reason(table, {row.name: {of: row.why_unlike(of) for of in table.groups if of in measured[row.name]}
                              for row in rows})


def _by_reason(table: Table, found: dict[str, dict[str, list[str]]]) -> list[str]:
    """Rows and data sets before each reason, of the reasons by row and data set."""
    named: dict[str, list[str]] = {}
    whole = {group for group in table.groups if group != AVERAGE and not is_part(group)}
    for row, reasons in found.items():
        for reason in dict.fromkeys(itertools.chain(*reasons.values())):
            of = [group for group in table.groups if reason in reasons.get(group, ())]
            named.setdefault(reason, []).append(row if whole <= {*of} else f"{row} ({', '.join(of)})")
    return [f"{', '.join(names)}: {reason}" for reason, names in named.items()]
