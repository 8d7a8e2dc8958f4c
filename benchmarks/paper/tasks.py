"""What `python -m benchmarks.paper` does with a table: measure and report, check, print commands, the toy tables."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets.toy_city.city import build_toy_city

from .check import check
from .dry_run import commands
from .measure import Measured, measure
from .plan import Settings
from .predictions import Given
from .report import absences, failures, write_report
from .rows import Costs, Counted, Evaluated, Row, Table, Timed, Training
from .runner import Runner
from .tables import TABLES
from .toy import toy_table
from .toy_page import ToyResult, write_page


def listing(table: Table) -> list[str]:
    """The table's title, and each row with how it is got."""
    return [f"Table {table.number}: {table.title}" + (" [--toy]" if table.toy_seeds else ""),
            *(f"    {row.name}: {_how(row)}" for row in table.rows)]


def _how(row: Row) -> str:
    match row.how:
        case Evaluated(model=Training() as training):
            return " ".join([training.script, training.backbone, training.dataset, training.variant or ""]).strip()
        case Evaluated(model=model):
            return f"published {model.backbone} file, {model.branches}"
        case Costs(training=training):
            return f"an epoch of {training.backbone} {training.variant or ''}".strip()
        case Counted():
            return "its images are counted"
        case Timed():
            return "timed"
    return "the paper's figures"


def run_table(table: Table, *, seeds: Sequence[int], settings: Settings, runner: Runner, folder: Path, name: str,
              given: Given | None = None, checking: bool = False) -> tuple[list[Measured], bool]:
    """Measures, writes <folder>/<name>.md and .csv row by row, and says what is not there; False where a command failed
    or the check did not pass."""
    rows: list[Measured] = []
    for row in measure(table, seeds=seeds, settings=settings, runner=runner, given=given, checking=checking):
        rows.append(row)
        page = write_report(table, rows, folder, name=name)
    missing, failed = absences(table, rows), failures(table, rows)
    for heading, lines in (("not measured", missing), ("failed", failed)):
        for line in lines:
            say(f"Table {table.number}: {heading}: {line}")
    passed = not failed
    if checking:
        checked = check(table, rows)
        verdict = f"{checked.figures} figures checked, {len(checked.differing)} differ from the paper's"
        remarks = [verdict if checked.figures else "nothing could be checked", *checked.differing]
        page = write_report(table, rows, folder, name=name, remarks=remarks)
        for line in remarks:
            say(f"Table {table.number}: {line}")
        passed = passed and checked.figures > 0 and not checked.differing
    print(page)
    return rows, passed


def run_toys(*, settings: Settings, runner: Runner, folder: Path, page: Path) -> bool:
    """All toy tables, and the page that holds them; False where a command failed."""
    draw(settings)
    results, passed = [], True
    for table in toy_tables():
        toy = toy_table(table)
        rows, good = run_table(toy, seeds=table.toy_seeds, settings=settings, runner=runner, folder=folder,
                               name=f"toy_table_{table.number}")
        results.append(ToyResult(table, toy, rows, table.toy_seeds))
        passed = passed and good
    write_page(page, results, seconds=runner.seconds())
    print(page)
    return passed


def toy_tables() -> list[Table]:
    return [table for table in TABLES.values() if table.toy_seeds]


def draw(settings: Settings) -> None:
    """The toy city; where it lies complete already, it stays as it is."""
    build_toy_city(settings.datasets_folder)


def print_commands(tables: Sequence[Table], seeds: Sequence[int] | None, settings: Settings, *, checking: bool,
                   drawn: bool) -> None:
    """Every command, in order, with a comment that names its row."""
    if drawn:
        print(f"# The toy city\n{shlex.join(['python', '-m', 'datasets.toy_city', str(settings.datasets_folder)])}")
    printed = set()
    for table in tables:
        for line in commands(table, seeds=seeds or table.toy_seeds or (0,), settings=settings, checking=checking,
                             printed=printed):
            print(line)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
