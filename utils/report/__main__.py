"""Writes a report of finished runs, one or several side by side: a page to open in a browser, in one file."""

from pathlib import Path

from ..errors import Parser
from ..files import checked_file
from ..run import exit_with
from . import write_report


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.report", description=__doc__)
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folder of a training or evaluation script")
    parser.add_argument("--output", metavar="FILE", type=Path,
                        help="default: report.html, in the run's folder where there is one run")
    chosen = parser.parse_args(argv)
    if chosen.output is not None:
        checked_file(chosen.output, "--output")
    print(write_report(chosen.runs, chosen.output))


if __name__ == "__main__":
    exit_with(main)
