"""The paper's tables as commands: `python -m benchmarks.paper table XI --datasets_folder FOLDER`.

`table NUMBER` measures a table's rows and writes <out>/table_<NUMBER>.md and .csv: measured, the paper's, the
difference; mean and standard deviation over --seeds. What is done stays done: the same call goes on where it was
interrupted, and a training that several rows or tables share runs once for all that are given the same --out (one call
at a time). Rows whose data or weights are absent, and other methods' rows, are named and are no failures.

    --dry_run        prints every command, in order, and runs nothing; no data are needed
    --check          measures what needs no training, and compares: a recall may differ from the paper's by 0.1 point
                     or one query, whichever is more, a count not at all
    --predictions    figures of another method from its predictions.npz: CosPlace=FILE, or CosPlace:Tokyo24/7=FILE
                     where no results.json beside the file tells the data set; a name that the table lacks becomes a
                     row of its own
    --weights_folder is searched for SelaVPRplusplus_*.pth and dinov2_*_pretrain.pth before torch.hub's cache; what
                     is in neither is fetched
    --toy            the same rows on a drawn city, small models and random weights; minutes, and no reproduction

`toy` runs all toy tables and writes benchmarks/toy_tables.md; `list` names tables and rows. Exit code 1 where a command
failed, a checked figure differs or --check found nothing to check; 2 for a wrong call.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.run import exit_with

from .plan import Settings
from .predictions import read_given
from .rows import Table, Timed
from .runner import Runner
from .steps import PROJECT
from .tables import TABLES, find
from .tasks import draw, listing, print_commands, run_table, run_toys, say, toy_tables
from .toy import MACHINE, toy_settings, toy_table

NOT_GIVEN = Path("DATASETS_FOLDER")  # stands for the folder in printed commands
MACHINE_OPTIONS = ("device", "num_workers", "infer_batch_size")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__, allow_abbrev=False,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = options.add_subparsers(dest="task", required=True, metavar="list | table | toy")
    tasks.add_parser("list", help="names the tables and how each row is got")
    table = tasks.add_parser("table", help="one table")
    toy = tasks.add_parser("toy", help="all toy tables, and their page")
    table.add_argument("number", help=f"{', '.join(TABLES)}")
    table.add_argument("--datasets_folder", type=Path, default=os.environ.get("DATASETS_FOLDER"),
                       help="holds the sets and the training sets; or environment DATASETS_FOLDER")
    table.add_argument("--weights_folder", type=Path, help="holds published and official files")
    table.add_argument("--seeds", type=int, nargs="+", help="of trained rows; default: 0 (--toy: the toy table's)")
    table.add_argument("--predictions", nargs="+", default=[], metavar="NAME[:SET]=FILE", help="of other methods")
    what = table.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="with published weights: are the figures the paper's?")
    what.add_argument("--toy", action="store_true", help="on the toy city")
    toy.add_argument("--page", type=Path, default=PROJECT / "benchmarks" / "toy_tables.md",
                     help="default: benchmarks/toy_tables.md")
    for one in (table, toy):
        one.add_argument("--dry_run", action="store_true", help="print the commands alone")
        one.add_argument("--out", type=Path, default=Path("logs/paper"), help="default: logs/paper")
        one.add_argument("--device", choices=("cuda", "cpu"), help="default: the scripts' (--toy: cpu)")
        for name in MACHINE_OPTIONS[1:]:
            one.add_argument(f"--{name}", type=int, help="default: the scripts' (--toy: one fit for two cores)")
    return options


def main(argv: Sequence[str] | None = None, *, runner: Runner | None = None) -> None:
    args = parser().parse_args(argv)
    if args.task == "list":
        print("\n".join(line for table in TABLES.values() for line in listing(table)))
        return
    sys.exit(0 if (all_toys if args.task == "toy" else one_table)(args, runner or Runner()) else 1)


def all_toys(args: argparse.Namespace, runner: Runner) -> bool:
    out = args.out.resolve()
    settings = toy_settings(out, machine_options(args, MACHINE))
    if args.dry_run:
        print_commands([toy_table(table) for table in toy_tables()], None, settings, checking=False, drawn=True)
        return True
    return run_toys(settings=settings, runner=runner, folder=out, page=args.page)


def one_table(args: argparse.Namespace, runner: Runner) -> bool:
    table, out = find(args.number), args.out.resolve()
    if args.toy:
        if args.datasets_folder:
            say("--toy: --datasets_folder is not read, the images are drawn")
        table, settings = toy_table(table), toy_settings(out, machine_options(args, MACHINE))
    else:
        if args.weights_folder and not args.weights_folder.is_dir():
            raise FileNotFoundError(f"--weights_folder {args.weights_folder}: no such folder")
        settings = Settings(out=out, datasets_folder=data_folder(args, table), machine=machine_options(args),
                            weights_folder=args.weights_folder and args.weights_folder.resolve())
    seeds = args.seeds or (table.toy_seeds if args.toy else (0,))
    given = read_given(args.predictions, table)
    if args.dry_run:
        print_commands([table], seeds, settings, checking=args.check, drawn=args.toy)
        return True
    if args.toy:
        draw(settings)
    return run_table(table, seeds=seeds, settings=settings, runner=runner, folder=out, given=given, checking=args.check,
                     name=f"{'toy_' if args.toy else ''}table_{table.number}{'_check' if args.check else ''}")[1]


def data_folder(args: argparse.Namespace, table: Table) -> Path:
    """Absolute. ValueError where it is missing and needed."""
    if args.datasets_folder is None and (args.dry_run or all(isinstance(row.how, Timed | None) for row in table.rows)):
        return NOT_GIVEN
    if args.datasets_folder is None:
        raise ValueError("--datasets_folder is missing (or set DATASETS_FOLDER): the folder that holds "
                         "<name>/images/<split>/{database,queries} and the training sets")
    folder = Path(args.datasets_folder).resolve()
    if not args.dry_run and not folder.is_dir():
        raise FileNotFoundError(f"--datasets_folder {folder}: no such folder")
    return folder


def machine_options(args: argparse.Namespace, defaults: Sequence[str] = ()) -> tuple[str, ...]:
    """--device and the like for every script, as given or as in `defaults`."""
    chosen = dict(zip(defaults[::2], defaults[1::2], strict=True))
    chosen |= {f"--{name}": str(value) for name in MACHINE_OPTIONS if (value := getattr(args, name)) is not None}
    return tuple(word for pair in chosen.items() for word in pair)


if __name__ == "__main__":
    exit_with(main)
