"""Describing, searching and re-ranking: `python -m benchmarks.retrieval [--device cuda] [--images N]`.

Extraction against the plain path, in memory and from files; one query and a whole set against a row-at-a-time numpy;
curves over the number of images. Prints the rows and writes them, with every sample, into retrieval.json and
retrieval.md; the curves are scale.md's.
"""

import argparse
from pathlib import Path

from utils.device import pick_device
from utils.run import exit_with

from . import extraction, scale, search
from .report import PAGES, Report


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=int, default=1_000_000, help="largest database of the curves (1000000)")
    parser.add_argument("--work", type=Path, help="folder for their files, some 4.4 GB for a million images")
    parser.add_argument("--out", type=Path, default=PAGES, help="folder of what is written (docs/benchmarks)")
    args = parser.parse_args(argv)
    if args.images < scale.SIZES[0]:
        parser.error(f"--images {args.images}: expected at least {scale.SIZES[0]}")
    device = pick_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    report = Report()
    extraction.rows_from_files(report, device=device)  # first: the process's peak of memory is then its own
    extraction.rows(report, device=device)
    search.rows(report, device=device)
    scale.rows(report, images=args.images, work=args.work, out=args.out)
    report.write(args.out / "retrieval.md", device)


if __name__ == "__main__":
    exit_with(main)
