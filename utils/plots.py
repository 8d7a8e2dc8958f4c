"""Plots of matplotlib, which is imported where it draws: legends and files that take any name."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import named
from .files import temporary_path
from .sheets import drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
# Told apart by colour-blind eyes too (Okabe and Ito, 2008), but for their yellow, which is pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLES = ("-", "--", ":", "-.")  # behind the last colour the next style
GRID: dict[str, Any] = {"color": "#dddddd", "linewidth": 0.6}


def load_figure() -> "type[Figure]":
    """matplotlib's class. ValueError where that is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ValueError("matplotlib, which draws this, is not installed: pip install -r requirements.txt") from None
    return Figure


def checked_plot(path: Path, option: str) -> Path:
    """ValueError for a name that tells no format, or in no folder."""
    if path.suffix.lower() not in FORMATS or path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{option} {path}: expected the name of a file in a folder that exists, ending in "
                         f"{' or '.join(FORMATS)}")
    return path


def look(number: int) -> dict[str, Any]:
    """Colour and style of the number-th line."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number // len(COLOURS) % len(STYLES)]}


def draw_recall_curves(axes: "Axes", curves: Sequence[tuple[np.ndarray, np.ndarray, dict[str, Any]]]) -> list[Any]:
    """Of recall@1..K and intervals, as `metrics.recall_curve` has them, and each line's look; returns the lines."""
    lines = []
    for recall, intervals, looks in curves:
        k = np.arange(1, len(recall) + 1)
        lines += axes.plot(k, recall, marker="" if len(recall) > 1 else "o", **looks)
        axes.fill_between(k, *intervals.T, alpha=0.15, linewidth=0, color=lines[-1].get_color())
    deepest = max(len(recall) for recall, _, _ in curves)
    axes.set(xscale="log", xlabel="k")
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k <= deepest]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    return lines


def add_legend(to: "Axes | Figure", lines: Sequence[Any], labels: Sequence[str], **options: Any) -> None:
    """Labels are text as it stands: matplotlib would take $ for a formula, and leave out what begins with "_"."""
    legend = to.legend(lines, [str(number) for number in range(len(lines))], frameon=False,
                       **{"fontsize": 8, **options})
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(drawable(label))
        text.set_parse_math(False)


def write_plot(figure: "Figure", path: Path) -> None:
    """Under a temporary name, then renamed; the format is the name's."""
    with named(path), temporary_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a name's letters: boxes stand for them
        figure.savefig(temporary, format=path.suffix[1:].lower())
