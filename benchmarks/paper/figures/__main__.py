"""`python -m benchmarks.paper.figures NUMBER ...`: one of the paper's figures."""

import argparse
from collections.abc import Sequence

from utils.errors import Parser
from utils.run import exit_with

from . import __doc__ as description
from . import add_options, draw


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m benchmarks.paper.figures", description=description, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    print(draw(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    exit_with(main)
