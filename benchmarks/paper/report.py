"""Markdown and CSV of a table: measured, paper, difference; and what could not be measured, by name."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from utils.files import temporary_path

from .measure import Measured
from .rows import AVERAGE, Column, Table

CSV_FIELDS = ("table", "row", "of", "measure", "measured", "sd", "seeds", "paper", "difference")


def write_report(table: Table, rows: Sequence[Measured], folder: Path, *, name: str,
                 remarks: Sequence[str] = ()) -> Path:
    """Writes <folder>/<name>.md, whose path it returns, and <name>.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.md"
    for path, text in ((page, markdown(table, rows, remarks)), (folder / f"{name}.csv", as_csv(table, rows))):
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
            columns = [column for column in table.columns if column.of == group]
            cells = (" / ".join(column.measure for column in columns), _join(row, columns, measured_text),
                     _join(row, columns, paper_text), _join(row, columns, difference_text))
            lines.append(f"| {row.name} | {table.prefix}{group} | {' | '.join(cells)} |")
    below = {"Not measured": absences(table, rows), "Failed": failures(table, rows),
             "Remarks": dict.fromkeys([*remarks, *(said for row in rows for said in row.remarks), *table.notes])}
    for heading, text in below.items():
        if text:
            lines += ["", f"{heading}:", "", *(f"* {line}" for line in text)]
    return "\n".join(lines) + "\n"


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


def absences(table: Table, rows: Sequence[Measured]) -> list[str]:
    """What is not measured because it is not here: a line for each reason."""
    return _by_reason(table, {row.name: row.absent for row in rows})


def failures(table: Table, rows: Sequence[Measured]) -> list[str]:
    return _by_reason(table, {row.name: row.failed for row in rows})


def _by_reason(table: Table, found: dict[str, dict[str, str]]) -> list[str]:
    named: dict[str, list[str]] = {}
    for row, reasons in found.items():
        for reason in dict.fromkeys(reasons.values()):
            of = [group for group in table.groups if reasons.get(group) == reason]
            everywhere = set(of) >= set(table.groups) - {AVERAGE}
            named.setdefault(reason, []).append(row if everywhere else f"{row} ({', '.join(of)})")
    return [f"{', '.join(names)}: {reason}" for reason, names in named.items()]


def measured_text(row: Measured, column: Column) -> str:
    mean, deviation = row.mean(column), row.deviation(column)
    if mean is None:
        return "-"
    return f"{mean:.{column.decimals}f}" + ("" if deviation is None else f" +- {deviation:.{column.decimals}f}")


def paper_text(row: Measured, column: Column) -> str:
    value = row.paper[column]
    return "-" if value is None else f"{value:.{min(column.decimals, 2)}f}"  # the paper prints no more


def difference_text(row: Measured, column: Column) -> str:
    difference = row.difference(column)
    return "-" if difference is None else f"{difference:+.{column.decimals}f}"


def _join(row: Measured, columns: Sequence[Column], text) -> str:
    cells = [text(row, column) for column in columns]
    return " / ".join(cells) if set(cells) != {"-"} else "-"
