"""Describing, searching and re-ranking: `python -m benchmarks.retrieval [--device cuda] [--images N]`.

Extraction against the plain path, in memory and from files; one query and a whole set against a row-at-a-time numpy;
curves over the number of images. Prints the rows and writes them, with every sample, into retrieval.json and
retrieval.md; the curves are scale.md's.
"""

from utils.device import pick_device
from utils.run import exit_with

from . import extraction, scale, search
from .report import Report, command_parser


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__spec__.name, __doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    scale.add_options(parser)
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    report = Report()
    extraction.rows_from_files(report, device=device)  # first: the process's peak of memory is then its own
    extraction.rows(report, device=device)
    search.rows(report, device=device)
    scale.rows(report, images=args.images, work=args.work, out=args.out)
    report.write(args.out / "retrieval.md", device)


if __name__ == "__main__":
    exit_with(main)
