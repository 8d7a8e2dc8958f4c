"""The paper's tables as commands: `python -m benchmarks.paper table XI --datasets_folder FOLDER`.

`table NUMBER` measures a table's rows and writes <out>/table_<NUMBER>.md and .csv: measured, the paper's, the
difference; mean and standard deviation over --seeds. The same call resumes where it was interrupted, and a training
that several rows or tables share runs once for all calls with the same --out (one call at a time). Rows whose data or
weights are absent, and rows of other methods, are named; they are no failures.

    --dry_run        prints every command, in order, and runs nothing; no data are needed
    --trained        trains what a row otherwise takes from a published file: the float model on the unified data set,
                     then the binary branch beside it; every table that has such a row shares these trainings
    --check          measures what needs no training, and compares: a recall may differ from the paper's by 0.1 point
                     or one query, whichever is more, a count not at all
    --others         other methods too, whose repositories have a torch.hub entry: their code is fetched and run
    --predictions    figures of another method from its predictions.npz: CosPlace=FILE, or CosPlace:Tokyo24/7=FILE
                     where no results.json beside the file tells the data set; a name that the table lacks becomes a
                     row of its own
    --weights_folder is searched for SelaVPRplusplus_*.pth and dinov2_*_pretrain.pth before torch.hub's cache; what
                     is in neither is fetched
    --toy            the same rows on a drawn city with small models and random weights: minutes, but no reproduction

`figure NUMBER` draws one of the paper's figures from models and runs of your own (`figure --help`). `toy` runs all toy
tables and writes docs/benchmarks/toy_tables.md; `list` names tables and rows. Exit code 1 where a
command failed, a checked figure differs or --check found nothing to check; 2 for a wrong call.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets.toy_city.city import build_toy_city
from utils.errors import Parser
from utils.run import exit_with

from ..report import PAGES
from . import figures
from .measure import Measured, cells_of, check, measure, read_given
from .plan import Settings
from .report import missing, write_report
from .runner import Runner, Step
from .tables import TABLES, Table, find
from .toy import MACHINE, toy_settings, toy_table, write_page

NOT_GIVEN = Path("DATASETS_FOLDER")  # stands for the folder in printed commands
MACHINE_OPTIONS = ("device", "num_workers", "infer_batch_size")


def parser() -> argparse.ArgumentParser:
    options = Parser(prog="python -m benchmarks.paper", description=__doc__, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = options.add_subparsers(dest="task", required=True, metavar="list | table | figure | toy")
    tasks.add_parser("list", help="names the tables and how each row is got")
    table = tasks.add_parser("table", help="one table")
    figures.add_options(tasks.add_parser("figure", help="one figure, from models and runs"))
    toy = tasks.add_parser("toy", help="all toy tables, and their page")
    table.add_argument("number", help=f"{', '.join(TABLES)}")
    table.add_argument("--datasets_folder", type=Path, default=os.environ.get("DATASETS_FOLDER"),
                       help="holds the sets and the training sets; or environment DATASETS_FOLDER")
    table.add_argument("--weights_folder", type=Path, help="holds published and official files")
    table.add_argument("--seeds", type=int, nargs="+", help="of trained rows; default: 0 (--toy: the toy table's)")
    table.add_argument("--predictions", nargs="+", default=[], metavar="NAME[:SET]=FILE", help="of other methods")
    table.add_argument("--others", action="store_true", help="other methods' torch.hub models: runs their code")
    what = table.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="with published weights: are the figures the paper's?")
    what.add_argument("--trained", action="store_true", help="train what published files hold, instead of fetching it")
    what.add_argument("--toy", action="store_true", help="on the toy city")
    toy.set_defaults(toy=True, check=False, trained=False, others=False, datasets_folder=None, seeds=None,
                     predictions=[])
    toy.add_argument("--page", type=Path, default=PAGES / "toy_tables.md",
                     help="default: docs/benchmarks/toy_tables.md")
    for one in (table, toy):
        one.add_argument("--dry_run", action="store_true", help="print the commands alone")
        one.add_argument("--out", type=Path, default=Path("logs/paper"), help="default: logs/paper")
        one.add_argument("--device", choices=("cuda", "cpu"), help="default: the scripts' (--toy: cpu)")
        for name in MACHINE_OPTIONS[1:]:
            one.add_argument(f"--{name}", type=int, help="default: the scripts' (--toy: one fit for two cores)")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.task == "list":
        for table in TABLES.values():
            print(f"Table {table.number}: {table.title}" + (" [--toy]" if table.toy_seeds else ""))
            for row in table.rows:
                print(f"    {row.name}: {row.how or row.why_not}")
        return
    if args.task == "figure":
        print(figures.draw(**{name: value for name, value in vars(args).items() if name != "task"}))
        return
    sys.exit(0 if run(args) else 1)


def run(args: argparse.Namespace) -> bool:
    """One table, or all that have a toy; False where a command failed or a check did not pass."""
    args.out = args.out.resolve()
    tables = [find(args.number)] if args.task == "table" else [table for table in TABLES.values() if table.toy_seeds]
    if args.trained:
        tables = [table.trained for table in tables]
    if args.toy:
        tables = [toy_table(table) for table in tables]
        settings = toy_settings(args.out, machine(args, MACHINE))
        if args.datasets_folder:
            say("--toy: --datasets_folder is not read, the images are drawn")
    else:
        settings = paper_settings(args, tables[0])
    given = read_given(args.predictions, tables[0])
    if args.dry_run:
        print_commands(tables, args, settings)
        return True
    if args.toy:
        build_toy_city(settings.datasets_folder)  # where it lies complete already, it stays as it is
    runner = Runner()
    results = [(table, *run_table(table, args, settings, runner, given)) for table in tables]
    if args.task == "toy":
        write_page(args.page, [(table, rows) for table, rows, _ in results], seconds=runner.seconds())
        print(args.page)
    return all(passed for *_, passed in results)


def paper_settings(args: argparse.Namespace, table: Table) -> Settings:
    """Of the real sets. ValueError or FileNotFoundError where a folder is missing."""
    data, weights = (folder and Path(folder).resolve() for folder in (args.datasets_folder, args.weights_folder))
    if weights and not weights.is_dir():
        raise FileNotFoundError(f"--weights_folder {args.weights_folder}: no such folder")
    if not args.dry_run:
        if data is None and any(row.how and row.how.of_images for row in table.rows):
            raise ValueError("--datasets_folder is missing (or set DATASETS_FOLDER): the folder that holds "
                             "<name>/images/<split>/{database,queries} and the training sets")
        if data and not data.is_dir():
            raise FileNotFoundError(f"--datasets_folder {data}: no such folder")
    return Settings(out=args.out, datasets_folder=data or NOT_GIVEN, machine=machine(args, {}), weights_folder=weights,
                    others=args.others)


def machine(args: argparse.Namespace, defaults: dict[str, str]) -> tuple[str, ...]:
    """--device and the like for every script, as given or as in `defaults`."""
    chosen = {f"--{name}": str(value) for name in MACHINE_OPTIONS if (value := getattr(args, name)) is not None}
    return tuple(word for pair in (defaults | chosen).items() for word in pair)


def run_table(table: Table, args: argparse.Namespace, settings: Settings, runner: Runner,
              given: dict[str, Measured]) -> tuple[list[Measured], bool]:
    """Measures, writes the page and its .csv row by row, and says what is not there."""
    rows, remarks = [], []
    name = "".join(("toy_" * args.toy, f"table_{table.number}", "_check" * args.check, "_trained" * args.trained))
    for row in measure(table, seeds=args.seeds or table.seeds, settings=settings, runner=runner, given=given,
                       checking=args.check):
        rows.append(row)
        page = write_report(table, rows, args.out, name=name)
    reasons = missing(table, rows)
    passed = not reasons["Failed"]
    if args.check:
        figures, differing = check(table, rows)
        verdict = f"{figures} figures checked, {len(differing)} differ from the paper's"
        remarks = [verdict if figures else "nothing could be checked", *differing]
        write_report(table, rows, args.out, name=name, remarks=remarks)
        passed = passed and figures > 0 and not differing
    for line in [*(f"{heading.lower()}: {line}" for heading, lines in reasons.items() for line in lines), *remarks]:
        say(f"Table {table.number}: {line}")
    print(page)
    return rows, passed


def print_commands(tables: Sequence[Table], args: argparse.Namespace, settings: Settings) -> None:
    """Every command, in order, behind a comment with the row's name and the folder; what rows share, with the first."""
    if args.toy:
        print(f"# The toy city\n{shlex.join(['python', '-m', 'datasets.toy_city', str(settings.datasets_folder)])}")
    printed: set[Step] = set()
    for table, row in [(one, row) for one in tables for row in one.rows]:
        name = f"# Table {table.number}, {row.name}"
        of_seeds = cells_of(row, table, args.seeds or table.seeds, settings, checking=args.check)
        cells = [pair for of_seed in of_seeds for pair in of_seed.items()]
        reasons = [f"{column.of}: {cell}" for column, cell in cells if isinstance(cell, str)]
        steps = dict.fromkeys(step for _, cell in cells if not isinstance(cell, str) for step in cell[0].chain)
        for step in steps:  # in order, each once
            if step in printed:
                print(f"{name}; shares {step.folder}")
            else:
                print(f"{name}; in {step.folder}{' (done)' if step.results else ''}\n{step.shell()}")
        for reason in dict.fromkeys(reasons if cells else [row.why_not]):
            print(f"{name}; not measured: {reason}")
        printed |= steps.keys()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    exit_with(main)
