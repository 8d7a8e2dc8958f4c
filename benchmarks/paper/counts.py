"""Counts the pictures of one split of a benchmark set (Table I): `python -m benchmarks.paper.counts --help`."""

import argparse
from pathlib import Path

from datasets import BenchmarkDataset
from utils.run import exit_with, write_json


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks.paper.counts", description=__doc__.splitlines()[0])
    options.add_argument("--datasets_folder", type=Path, required=True)
    options.add_argument("--dataset_name", required=True)
    options.add_argument("--split", default="test")
    return options


def main(argv: list[str] | None = None) -> None:
    """Writes results.json into the working directory; its path is the last line on stdout."""
    args = parser().parse_args(argv)
    dataset = BenchmarkDataset(args.datasets_folder, args.dataset_name, split=args.split, transform=None)
    results = Path("results.json")
    write_json({"dataset": dataset.display_name, "split": dataset.split, "n_database": dataset.n_database,
                "n_queries": dataset.n_queries, "threshold_m": dataset.threshold_m,
                "n_queries_without_positives": sum(len(ids) == 0 for ids in dataset.positives)}, results)
    print(results)


if __name__ == "__main__":
    exit_with(main)
