"""Figure 7, with the minutes of Table VI: what a training costs against what it reaches."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageFont

from utils.plots import load_figure
from utils.sheets import SMALL, Cell, sheet, shortened

from ..plan import SETS
from ..tables import TABLES
from .caption import write_figure
from .runs import Run, read_runs, said_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL = 190  # pixels of a name in the list of points, at most
AXES = {"memory": "highest memory of an epoch, GiB", "minutes": "minutes an epoch"}
MARKS: dict[bool, dict] = {
    True: {"linestyle": "", "marker": "o", "color": "#1f5fa8"},  # measured
    False: {"linestyle": "", "marker": "D", "color": "#d95f02", "markerfacecolor": "white", "markeredgewidth": 1.5}}
ROOM = 18, 14  # pixels, width and height: of a number of two digits, or of a mark
RECALLS = {"B": "IV", "L": "V"}  # tables with the recalls of the methods whose minutes are in Table VI
DATA_SETS = tuple(dict.fromkeys(  # with printed recalls
    column.of for column, recall in zip(TABLES["IV"].columns, TABLES["IV"].rows[0].paper, strict=True)
    if recall is not None))
PRINTED = ("the paper's points: minutes of Table VI (NVIDIA A800, batches of 40 places), recalls of Tables IV (B, "
           "batches of 120) and V (L, of 60); it prints no figures of memory, and no recall of MCA(4) on GSV-Cities")


class Point(NamedTuple):
    """A method's training: highest memory of an epoch in GiB, minutes an epoch (None: not known), recall in percent."""

    memory: float | None
    minutes: float | None
    recall: float
    label: str
    measured: bool


def draw_costs(*, runs: Sequence[str], out: Path, k: int, data_set: str | None) -> Path:
    """Two panels, recall@k against the highest memory of an epoch and against its minutes, a point for each run.

    data_set  whose recalls the paper's points have, one of DATA_SETS; None: that of the runs where it is one of them,
              else the paper has no points beside them. Without runs the paper's stand alone.
    Raises ValueError for runs of several data sets, or that trained nothing.
    """
    read = read_runs(runs)
    data_sets = sorted({run.data_set for run in read})
    if len(data_sets) > 1:
        raise ValueError(f"runs of several data sets, whose recalls do not compare: {', '.join(data_sets)}")
    if data_set is not None and data_set not in DATA_SETS:
        raise ValueError(f"--data_set {data_set!r}: expected one of {', '.join(DATA_SETS)}")
    if data_set is None:
        tested = next(((run.results["dataset"], run.results["split"]) for run in read), SETS[DATA_SETS[0]][:2])
        data_set = next((name for name in DATA_SETS if SETS[name][:2] == tested), None)
    paper = printed(data_set, k) if data_set else []
    if not read and not paper:
        raise ValueError(f"recall@{k}: the paper prints recall@1 and recall@5 of these methods")
    costs = [_costs(run) for run in read]
    points = [Point(None if cost["peak_memory_mib"] is None else cost["peak_memory_mib"] / 1024,
                    cost["minutes_per_epoch"], run.recall(k),
                    f"{run.name} ({cost['trainable_parameters'] / 1e6:.2f})", True)
              for run, cost in zip(read, costs, strict=True)]
    drawn = io.BytesIO()
    chart([*points, *paper], k).savefig(drawn, format="png")
    panels = Cell(Image.open(drawn).convert("RGB"), frame=(255, 255, 255))
    marks = [*(f"filled circles: measured, {name}" for name in data_sets),
             *([f"hollow diamonds: printed in the paper, {data_set}"] if paper else [])]
    notes = ["; ".join(marks), *dict.fromkeys(map(_machine, read)), *([PRINTED] if paper else [])]
    if read:
        notes.append("in brackets: million trained parameters; memory: of a GPU that of tensors, without one that of "
                     "the whole process")
    title, warnings = "Figure 7: what training costs, and what it reaches", said_of(read)
    image = sheet([[panels]], {0: title}, notes=[*notes, *warnings])
    rows = [f"{run.name}: {cost['trainable_parameters'] / 1e6:.2f} million trained parameters, "
            f"{_said(cost['peak_memory_mib'], 'MiB')}, {_said(cost['minutes_per_epoch'], 'minutes an epoch')}, "
            f"R@{k} {run.recall(k):.1f}; {run.folder}" for run, cost in zip(read, costs, strict=True)]
    rows += [f"{point.label}: {point.minutes:g} minutes an epoch, R@{k} {point.recall:g} (printed)" for point in paper]
    return write_figure(image, out, title=title, drawn=[*rows, *notes], warnings=warnings)


def chart(points: Sequence[Point], k: int) -> "Figure":
    """Recall@k against memory and against minutes, where a point has them; a point's mark bears its number in the list
    below, which begins with the highest recall. ValueError where matplotlib is not installed."""
    new_figure = load_figure()
    font = ImageFont.load_default(SMALL)
    ranked = dict(enumerate(sorted(points, key=lambda point: -point.recall), start=1))
    known = [name for name in AXES if any(getattr(point, name) is not None for point in points)]
    columns = 2 * len(known)
    figure = new_figure(figsize=(5.6 * len(known), 4.2 + 0.2 * math.ceil(len(points) / columns)), dpi=100,
                    layout="constrained")
    panels = [(axes, {number: (cost, point.recall) for number, point in ranked.items()
                      if (cost := getattr(point, name)) is not None})
              for axes, name in zip(figure.subplots(1, len(known), squeeze=False)[0], known, strict=True)]
    marks = {}
    for (axes, drawn), name in zip(panels, known, strict=True):
        axes.set(xlabel=AXES[name], ylabel=f"R@{k} in percent")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.margins(0.1)
        for number, place in drawn.items():
            label = shortened(f"{number}  {ranked[number].label}", font, LABEL)
            marks[number], = axes.plot(*place, label=label, **MARKS[ranked[number].measured])
    listed = figure.legend(handles=[marks[number] for number in ranked], loc="outside lower left", ncols=columns,
                           frameon=False, fontsize=9, handletextpad=0.2)
    for text in listed.get_texts():
        text.set_parse_math(False)  # a run's name may hold a $
    figure.draw_without_rendering()  # settles where the marks lie
    for axes, drawn in panels:
        _number(axes, drawn)
    return figure


def _number(axes: "Axes", drawn: Mapping[int, tuple[float, float]]) -> None:
    """Writes each point's number as near as it covers no mark and no other number, and a line between them."""
    taken = list(axes.transData.transform(list(drawn.values())))
    directions = [np.array((math.cos(turn), math.sin(turn))) for turn in np.arange(8) * math.pi / 4]
    for (number, place), mark in zip(drawn.items(), taken[:], strict=True):
        aways = (away * direction for away in itertools.count(18, 6) for direction in directions)
        away = next(away for away in aways if (np.abs(mark + away - taken) >= ROOM).any(axis=1).all())
        taken.append(mark + away)
        axes.annotate(f"{number}", place, away, textcoords="offset pixels", ha="center", va="center", fontsize=9,
                      in_layout=False, arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "shrinkA": 0, "shrinkB": 3})


def printed(data_set: str, k: int) -> list[Point]:
    """Of the methods whose minutes stand in Table VI and whose recalls in Table IV or V."""
    recalls = {(row.name, backbone): recall for backbone, number in RECALLS.items() for row in TABLES[number].rows
               for column, recall in zip(TABLES[number].columns, row.paper, strict=True)
               if column[:2] == (data_set, f"R@{k}")}
    return [Point(None, row.paper[0], recall, f"{method}, {backbone}", False)
            for row in TABLES["VI"].rows for (method, backbone), recall in recalls.items()
            if row.name == f"{method}, DINOv2-{backbone}" and recall is not None and row.paper[0] is not None]


def _costs(run: Run) -> dict:
    costs = run.results["training"]
    if not costs or costs["peak_memory_mib"] is None and costs["minutes_per_epoch"] is None:
        raise ValueError(f"{run.folder}: no costs of a training in its results.json; expected the folder of a training "
                         "script, which trained an epoch or more")
    return costs


def _said(value: float | None, unit: str) -> str:
    return f"{unit} not measured" if value is None else f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def _machine(run: Run) -> str:
    hardware, options = run.results["hardware"], run.results["options"]
    size = "x".join(map(str, options["train_resize"]))
    of_cpu = f"{hardware['cpu']}, {hardware['threads']} of {hardware['cores']} cores"
    return (f"measured on {hardware.get('gpu', of_cpu)}: {options['train_batch_size']} places of "
            f"{options['images_per_place']} images a batch, {size} pixels, {options['precision']}")

