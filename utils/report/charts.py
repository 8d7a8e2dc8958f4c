"""The charts of a report, drawn by matplotlib as SVG whose text and axes take the page's colour."""

import dataclasses
import importlib.util
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..plots import add_legend, draw_recall_curves
from .runs import EvaluatedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # becomes the colour of the text around
GRID = "#80808055"
RIGHT, WRONG, OTHER = "#1f9d55", "#d64545", "#8a8f98"  # as the frames of the galleries
RUNS = ("#3b82c4", "#e08a1e", "#8e5bb5", "#2a9d8f", "#c2577d", "#7a7a2a")
SIZE = 5.6, 3.4  # inches: what a telephone can still show
BINS = 60  # of a histogram, about
CROWD = 1000  # points, beyond which a map is drawn as a picture
AREAS, CELL = 4, 10_000  # of a map at most, and metres between what belongs to one area, in steps of this


@dataclasses.dataclass(frozen=True)
class Chart:
    """svg: whole, to be put into a page; alt: what it shows, for who cannot see it; caption: below it."""

    svg: str
    alt: str
    caption: str = ""


def check_libraries() -> None:
    """Raises ValueError where a library of the report is missing."""
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"a report needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
                         "installed: pip install -r requirements.txt")


def recall_curve(curves: Sequence[tuple[str, int, str, np.ndarray]], intervals: Sequence[np.ndarray]) -> Chart:
    """Of (label, number of the run, stage, recall@1..K in percent) and their intervals (K, 2)."""
    figure, axes = _figure()
    lines = draw_recall_curves(axes, [
        (recall, between, {"color": RUNS[run % len(RUNS)], "linestyle": "-" if stage == "final" else "--"})
        for (_, run, stage, recall), between in zip(curves, intervals, strict=True)])
    axes.set_ylabel("recall@k in percent")
    add_legend(axes, lines, [label for label, *_ in curves], labelcolor=INK, fontsize=9)
    told = "; ".join(f"{label}: {recall[0]:.1f} at k = 1, {recall[-1]:.1f} at {len(recall)}"
                      for label, _, _, recall in curves)
    return Chart(_svg(figure), f"Recall@k against k. {told}",
                 "Bands are 95 % intervals (Wilson): of other queries of the same kind, not of other trainings.")


def hamming_histogram(run: EvaluatedRun) -> Chart:
    """How far apart codes of right answers and of other images lie."""
    used = sum(run.arrays[name] for name in ("codes_positives", "codes_negatives") if name in run.arrays).nonzero()[0]
    edges = np.arange(used.min(), used.max() + 1 + (width := 1 + int(np.ptp(used)) // BINS), width) - 0.5
    figure, axes = _figure()
    said = []
    for name, colour, label in (("codes_positives", RIGHT, "query and right answer"),
                                ("codes_negatives", WRONG, "query and another image") if run.labelled else
                                ("codes_negatives", OTHER, "query and any image")):
        counts = run.arrays.get(name)
        if counts is None or not counts.sum():
            continue
        axes.hist(np.arange(len(counts)), bins=edges, weights=100 * counts / counts.sum(), color=colour, alpha=0.55,
                  label=label)
        mean = np.average(np.arange(len(counts)), weights=counts)
        said.append(f"{label}: {mean:.0f} bits in the mean, {counts.sum():,} pairs")
    axes.set(xlabel=f"Hamming distance in bits, of {len(run.arrays['codes_ones'])}", ylabel="percent of the pairs")
    _legend(axes)
    return Chart(_svg(figure), f"Histogram of Hamming distances. {'; '.join(said)}", "; ".join(said) + ".")


def bit_balance(run: EvaluatedRun) -> Chart:
    """How many bits are set in which share of the codes."""
    ones = run.arrays["codes_ones"]
    figure, axes = _figure()
    axes.hist(100 * ones, bins=np.arange(0, 101, 2.5), color=RUNS[0])
    axes.set(xlabel="percent of the database's codes that have the bit", ylabel="bits", xlim=(0, 100))
    constant = int(((ones < 0.01) | (ones > 0.99)).sum())
    caption = (f"{len(ones)} bits; 50 % carries most. From {100 * ones.min():.0f} to {100 * ones.max():.0f} %; "
               f"{constant} hardly ever change (less than 1 % of the codes differ).")
    return Chart(_svg(figure), f"Histogram of the balance of the code's bits. {caption}", caption)


def bit_correlation(run: EvaluatedRun) -> Chart:
    """How alike pairs of bits are."""
    counts = run.arrays["codes_correlations"]
    values = np.linspace(-1, 1, len(counts))
    figure, axes = _figure()
    axes.stairs(counts, np.linspace(-1.005, 1.005, len(counts) + 1), color=RUNS[1], fill=True)
    axes.set(xlabel="correlation of two bits over the database", ylabel="pairs of bits", xlim=(-1, 1), yscale="symlog")
    mean = float((np.abs(values) * counts).sum() / max(1, counts.sum()))
    alike = int(counts[np.abs(values) > 0.9].sum())
    caption = (f"{counts.sum():,} pairs of bits that change; {mean:.2f} in the mean without the sign, {alike:,} "
               "of them beyond 0.9.")
    return Chart(_svg(figure), f"Histogram of the correlation of pairs of bits. {caption}", caption)


def reliability(bins: Sequence[dict]) -> Chart:
    """How often an answer is right that is said to be so with some probability; bins of confidence.reliability."""
    figure, axes = _figure()
    said, true, count = (np.array([one[name] for one in bins]) for name in ("said", "true", "queries"))
    axes.plot([0, 100], [0, 100], color=OTHER, linestyle="--", linewidth=1)
    axes.plot(100 * said, 100 * true, color=RUNS[0])
    axes.scatter(100 * said, 100 * true, s=np.clip(400 * count / count.sum(), 12, 200), color=RUNS[0])
    axes.set(xlabel="percent, as said", ylabel="percent that are right", xlim=(0, 100), ylim=(0, 103))
    told = "; ".join(f"said {100 * a:.0f} %, true {100 * b:.0f} %, {n} queries" for a, b, n in zip(
        said, true, count, strict=True))
    return Chart(_svg(figure), f"Reliability of the probability. {told}",
                 "A true probability lies on the dashed line; larger points are more queries.")


def query_map(run: EvaluatedRun) -> tuple[Chart, list[str]]:
    """Queries by where they were taken, right and wrong, wrong ones with a line to what was found; and what is left
    out. Areas that lie far apart are drawn beside each other."""
    from matplotlib.collections import LineCollection

    query, database = run.arrays["query_utm"], run.arrays["database_utm"]
    found = database[run.arrays["final_ids"][:, 0]]
    known = np.isfinite(query).all(axis=1)
    areas, left_out = _areas(query[known])
    notes = [] if known.all() else [f"{(~known).sum()} queries without coordinates are not on the map."]
    notes += [f"{left_out} queries in smaller areas, far from these, are not on the map."] if left_out else []
    right = run.arrays["final_correct"][:, 0] if run.labelled else None
    unanswerable = run.kinds.get("unanswerable", np.zeros(run.n_queries, bool))
    figure, panels = _figure(len(areas))
    picture = len(query) + len(database) > CROWD
    for axes, rows in zip(np.atleast_1d(panels), areas, strict=True):
        shown = np.flatnonzero(known)[rows]
        low, high = query[shown].min(axis=0), query[shown].max(axis=0)
        origin, middle, extent = low, (high - low) / 2, high - low
        half = np.maximum(0.55 * extent, 0.2 * extent.max()) + 10  # a street is more than a line
        low, high = middle - half, middle + half
        inside = ((database - origin >= low) & (database - origin <= high)).all(axis=1)
        axes.scatter(*(database[inside] - origin).T, s=4, color=OTHER, alpha=0.5, linewidth=0, rasterized=picture,
                     label="database")
        wrong = shown[~right[shown]] if right is not None else shown
        axes.add_collection(LineCollection(np.stack([query[wrong], found[wrong]], axis=1) - origin, linewidth=0.6,
                                           color=OTHER if right is None else WRONG, alpha=0.45, rasterized=picture))
        kinds = [("query", RUNS[0], np.ones(len(query), bool))] if right is None else [
            ("right", RIGHT, right), ("wrong", WRONG, ~right & ~unanswerable),
            ("no right answer in the database", RUNS[1], ~right & unanswerable)]
        for label, colour, chosen in kinds:
            chosen = shown[chosen[shown]]
            axes.scatter(*(query[chosen] - origin).T, s=np.clip(8000 / len(query), 2, 12), color=colour, linewidth=0,
                         rasterized=picture, zorder=3, label=label)
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xlabel="metres east",
                 ylabel="metres north")
        axes.locator_params(nbins=5)
        axes.tick_params(labelsize=8)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9,
                  labelcolor=INK, markerscale=1.5)
    counts = f"{known.sum()} queries" + ("" if right is None else f", {right[known].sum()} right at rank 1")
    lines = "a query" if right is None else "a query that is wrong at rank 1"
    return Chart(_svg(figure), f"Map of queries. {counts}",
                 f"{counts}. Lines lead from {lines} to where its first answer was taken."), notes


def _areas(utm: np.ndarray) -> tuple[list[np.ndarray], int]:
    """Rows of the largest groups, between which there are kilometres without a query; and how many others there are.

    Cities of one set lie in several UTM zones: on one map each would be a dot.
    """
    from sklearn.cluster import DBSCAN

    cells, cell = np.unique(np.floor(utm / CELL), axis=0, return_inverse=True)
    area = DBSCAN(eps=2, min_samples=1).fit_predict(cells)[cell.ravel()]
    largest = np.argsort(-np.bincount(area), kind="stable")[:AREAS]
    return [np.flatnonzero(area == number) for number in largest], int((~np.isin(area, largest)).sum())


def _figure(panels: int = 1) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    columns = min(2, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(SIZE[0] * columns, SIZE[1] * rows), dpi=130, layout="constrained")
    found = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in found[panels:]:
        axes.remove()
    for axes in found[:panels]:
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_facecolor("none")
        axes.tick_params(colors=INK)
        for part in (axes.xaxis.label, axes.yaxis.label):
            part.set_color(INK)
        for name, spine in axes.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(INK)
    return figure, found[0] if panels == 1 else found[:panels]


def _legend(axes: "Axes") -> None:
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)


def _svg(figure: "Figure") -> str:
    """Text stays text; the same figure gives the same bytes."""
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(written, format="svg", transparent=True, bbox_inches="tight",
                       metadata={"Date": None, "Creator": None})
    whole = written.getvalue()
    return whole[whole.index("<svg"):].replace(INK, "currentColor")
