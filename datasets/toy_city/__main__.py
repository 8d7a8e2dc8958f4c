"""`python -m datasets.toy_city FOLDER [--seed 0] [--train_places 600] [--val_places 100] [--test_places 120]
[--triplet_places 0] [--lookalikes 1]`; with triplet_places there is pitts30k/images/train too, to train on by
coordinates; with 4 lookalikes each building stands at four places, which differ in details: a harder edition."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..commands import exit_with
from .city import Parameters, build_toy_city


def main(argv: Sequence[str] | None = None) -> None:
    """Build a toy city and print its folder."""
    parser = argparse.ArgumentParser(prog="python -m datasets.toy_city", description="Draw a toy city.")
    parser.add_argument("folder", type=Path)
    for name in ("seed", "train_places", "val_places", "test_places", "triplet_places", "lookalikes"):
        default = getattr(Parameters, name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    print(build_toy_city(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    exit_with(main, interrupted="nothing is left behind")
