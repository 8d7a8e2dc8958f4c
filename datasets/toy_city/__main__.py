"""`python -m datasets.toy_city FOLDER [--seed 0] [--train_places 600] ...` draws a toy city."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..commands import Parser, exit_with
from .city import Parameters, build_toy_city

OPTIONS = {
    "seed": "the same one draws the same images",
    "train_places": "of gsv_cities",
    "val_places": "of each validation set",
    "test_places": "of each test set",
    "triplet_places": "of pitts30k/images/train, to train on by coordinates",
    "lookalikes": "places, at which the same buildings stand; they differ in details: with 10 a harder edition",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Build a toy city and print its folder."""
    parser = Parser(prog="python -m datasets.toy_city", description="Draw a toy city.",
                    formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="gets gsv_cities, msls and pitts30k")
    for name, what in OPTIONS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", default=getattr(Parameters, name), help=what)
    print(build_toy_city(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    exit_with(main, interrupted="nothing is left behind")
