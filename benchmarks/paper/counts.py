"""Counts the images of one split of a benchmark set (Table I): `python -m benchmarks.paper.counts --help`."""

import argparse
from pathlib import Path

from datasets import resolve
from utils.errors import Parser
from utils.files import write_json
from utils.run import exit_with


def parser() -> argparse.ArgumentParser:
    options = Parser(prog="python -m benchmarks.paper.counts", description=__doc__.splitlines()[0])
    options.add_argument("--datasets_folder", type=Path, required=True)
    options.add_argument("--dataset_name", required=True)
    options.add_argument("--split", default="test")
    return options


def main(argv: list[str] | None = None) -> None:
    """Writes results.json into the working directory; its path is the last line on stdout."""
    args = parser().parse_args(argv)
    listing = resolve(args.datasets_folder, args.dataset_name, split=args.split)
    results = Path("results.json")
    write_json({"dataset": listing.name, "split": listing.split, "n_database": listing.n_database,
                "n_queries": listing.n_queries, "threshold_m": listing.threshold_m,
                "n_queries_without_positives": listing.n_unanswerable}, results)
    print(results)


if __name__ == "__main__":
    exit_with(main)
