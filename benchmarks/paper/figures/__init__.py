"""The paper's figures from models and runs of one's own: `python -m benchmarks.paper figure 6 --models FILE --images
FOLDER`.

    1, 6   where models look: each image, the frozen backbone, the float branch, the binary branch
    5      what several runs retrieve for the same queries
    7      memory and minutes of a training against recall, beside what the paper prints
    8      where a run fails

A run is the folder of a training or evaluation script (results.json, predictions.npz). Each figure is an image, and
beside it a page of the same name (.md) with its caption and every warning of the results.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.compare import STAGES
from utils.sheets import checked_format

from .costs import DATA_SETS, draw_costs
from .looks import draw_looks
from .retrieved import draw_failures, draw_retrieved

OUT = Path("logs/paper")
TITLES = {"1": "where models look", "5": "what several runs retrieve", "6": "where models look (as 1)",
          "7": "what training costs against recall", "8": "where a run fails"}
ROWS, TOP = 6, 3
RUN_HELP = "a run folder; it is called like the folder that it lies in unless it is named"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The figure's number and its options, by the names of `draw`'s arguments; what is not said is left to them."""
    numbers = parser.add_subparsers(dest="number", required=True, metavar="|".join(TITLES))
    for number, title in TITLES.items():
        figure = numbers.add_parser(number, help=title, description=f"Figure {number}: {title}", allow_abbrev=False,
                                    argument_default=argparse.SUPPRESS)
        figure.add_argument("--out", type=Path, metavar="FILE",
                            help=f"default: {_default_out(number)}; its caption lies beside it as .md")
        if number in ("1", "6"):
            figure.add_argument("--models", nargs="+", required=True, metavar="[NAME=]FILE", help="ours or published")
            figure.add_argument("--images", type=Path, nargs="+", required=True, metavar="PATH",
                                help="files, or folders to search for them")
            figure.add_argument("--resize", type=int, nargs=2, metavar=("H", "W"),
                                help="pixels; default: in its ratio, the shorter side at the evaluation scripts' size")
            figure.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
        elif number == "7":
            figure.add_argument("--runs", nargs="+", metavar="[NAME=]FOLDER",
                                help="of training scripts; default: the paper's points alone")
            figure.add_argument("--k", type=int, help="of recall@k; default: 1")
            figure.add_argument("--data_set", choices=DATA_SETS,
                                help="of the paper's points; default: the runs', Pitts30k-test without runs")
        else:
            many = {"nargs": "+"} if number == "5" else {"nargs": 1}
            figure.add_argument("--runs", required=True, metavar="[NAME=]FOLDER", help=RUN_HELP, **many)
            figure.add_argument("--datasets_folder", type=Path, help="where the images lie; default: as the run says")
            figure.add_argument("--stage", choices=STAGES, help="default: final")
            figure.add_argument("--top", type=int, help=f"images of each query; default: {TOP}")
        if number == "5":
            figure.add_argument("--queries", nargs="+", metavar="PART",
                                help="parts of queries' names; default: first those on which the runs differ")
        if number != "7":
            figure.add_argument("--rows", type=int, help=f"default: {ROWS}")


def draw(*, number: str, out: Path | None = None, models: Sequence[str] = (), images: Sequence[Path] = (),
         resize: Sequence[int] | None = None, device: str | None = None, runs: Sequence[str] = (),
         datasets_folder: Path | None = None, stage: str = "final", queries: Sequence[str] = (), rows: int = ROWS,
         top: int = TOP, k: int = 1, data_set: str | None = None) -> Path:
    """Draws the figure `number`, a key of TITLES, and returns the image's path; what the options mean, and what is
    raised, say the functions that are called here, each with those that it reads."""
    out = checked_format(_default_out(number) if out is None else out, "--out")
    if min(rows, top, k) < 1:
        raise ValueError(f"--rows {rows}, --top {top}, --k {k}: expected at least 1")
    if number == "5":
        return draw_retrieved(runs=runs, out=out, datasets_folder=datasets_folder, stage=stage, queries=queries,
                              rows=rows, top=top)
    if number == "7":
        return draw_costs(runs=runs, out=out, k=k, data_set=data_set)
    if number == "8":
        run, = runs
        return draw_failures(run=run, out=out, datasets_folder=datasets_folder, stage=stage, rows=rows, top=top)
    return draw_looks(number, models=models, images=images, out=out, size=resize, rows=rows, device=device)


def _default_out(number: str) -> Path:
    return OUT / f"figure_{number}.{'png' if number == '7' else 'jpg'}"
