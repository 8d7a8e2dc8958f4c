"""Markdown and CSV of a table: measured, paper, difference; and what could not be measured, by name."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from utils.files import temporary_path

from .measure import Measured
from .plan import AVERAGE, Column
from .runner import Absent, Failed
from .tables import Table

CSV_FIELDS = ("table", "row", "of", "measure", "measured", "sd", "seeds", "paper", "difference")


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
            cells = (" / ".join(cell) if set(cell) != {"-"} else "-" for cell in zip(*figures, strict=True))
            lines.append(f"| {row.name} | {table.prefix}{group} | {' | '.join(cells)} |")
    below = {**missing(table, rows),
             "Remarks": [*remarks, *said_of(rows), *table.notes]}
    for heading, text in below.items():
        lines += ["", f"{heading}:", "", *(f"* {line}" for line in text)] if text else []
    return "\n".join(lines) + "\n"


def said_of(rows: Sequence[Measured]) -> list[str]:
    """What the rows' results say of themselves, each once, behind the rows' names where others do not say it."""
    named: dict[str, list[str]] = {}
    for row in rows:
        for text in dict.fromkeys(row.remarks):
            named.setdefault(text, []).append(row.name)
    speaking = sum(bool(row.remarks) for row in rows)
    return [text if len(names) == speaking else f"{', '.join(names)}: {text}" for text, names in named.items()]


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
            writer.writerow((table.number, row.name, table.prefix + column.of, column.measure, row.mean(column),
                             row.deviation(column), len(row.values.get(column, ())), row.paper[column],
                             row.difference(column)))
    return text.getvalue()


def missing(table: Table, rows: Sequence[Measured]) -> dict[str, list[str]]:
    """Why figures are missing, by heading: a line for each reason, with the rows and data sets without a figure."""
    lines = {}
    for heading, kind in (("Not measured", Absent), ("Failed", Failed)):
        named: dict[str, list[str]] = {}
        for row in rows:
            found = {of: str(reason) for of, reason in row.missing.items() if isinstance(reason, kind)}
            for reason in dict.fromkeys(found.values()):
                of = [group for group in table.groups if found.get(group) == reason]
                everywhere = set(of) >= set(table.groups) - {AVERAGE}
                named.setdefault(reason, []).append(row.name if everywhere else f"{row.name} ({', '.join(of)})")
        lines[heading] = [f"{', '.join(names)}: {reason}" for reason, names in named.items()]
    return lines
