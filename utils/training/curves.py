"""What a training has come to, to look at: curves.png, TensorBoard, and the curves of several trainings.

All of it is drawn from metrics.jsonl, so that a resumed run's curves hold the epochs before the break too.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import named, what_to_do
from ..plots import GRID, add_legend, load_figure, look, write_plot
from ..sheets import drawable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("selavprpp")

METRICS, CURVES = "metrics.jsonl", "curves.png"
RECALLS = (1, 5)
FROM_ZERO = ("learning rate", "images a second")  # whose small changes are none
STAGES = {"final": "", "first_stage": ", first stage"}
_NO_LOSSES = {"epoch", "lr", "images_per_second", "peak_memory_mib", "seconds", "recalls", "score", "best_score",
              "first_stage_score", "hard_places"}
Panels = dict[str, dict[str, tuple[list[int], list[float]]]]  # title -> label -> epochs and values


class Curves:
    """Keeps curves.png, and TensorBoard's file where that is asked for, at what metrics.jsonl holds.

    What goes wrong is a warning in the log, once: no training ends by it.
    Raises ValueError where TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool):
        self.folder, self.written, self.warned = folder, 0, set[str]()
        self.writer = load_tensorboard()(log_dir=str(folder)) if tensorboard else None

    def refresh(self) -> None:
        """To be called when an epoch has been added."""
        for what, refreshed in ((CURVES, self._draw), ("TensorBoard's file", self._write)):
            try:
                refreshed()
            except Exception as error:  # whatever a library of drawing meets
                if what not in self.warned:
                    log.warning("%s: %s cannot be written: %s%s; the training goes on without it", self.folder, what,
                                " ".join(str(error).split()) or type(error).__name__, what_to_do(error))
                self.warned.add(what)

    def _draw(self) -> None:
        write_plot(draw_training(read_metrics(self.folder)), self.folder / CURVES)

    def _write(self) -> None:
        if self.writer is None:
            return
        for record in read_metrics(self.folder)[self.written:]:
            self.written += 1
            for panel, lines in figures(record).items():
                for line, value in lines.items():
                    self.writer.add_scalar(f"{panel}/{line}", value, record["epoch"])
        self.writer.flush()


def load_tensorboard() -> Any:
    """torch's SummaryWriter. ValueError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(f"--tensorboard: TensorBoard is not installed ({error}); pip install tensorboard, or leave "
                         "the option out: curves.png is always drawn") from None
    return SummaryWriter


def read_metrics(folder: Path) -> list[dict]:
    """The epochs of a training's run folder. FileNotFoundError without metrics.jsonl, ValueError, with the line, for
    what no training writes, and for a file without an epoch."""
    path = folder / METRICS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a training's run folder after its first epoch")
    records = []
    with named(path):
        lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            for lines_of in figures(record).values():
                sum(lines_of.values())  # numbers
            _ = record["epoch"] + 1, record["score"] + record["first_stage_score"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: line {number} is damaged, or not of a training: {error!r}; remove it") from error
        records.append(record)
    if not records:
        raise ValueError(f"{path}: empty; expected a training after its first epoch")
    return records


def figures(record: Mapping) -> dict[str, dict[str, float]]:
    """What is shown of an epoch, by panel and line: the loss and its parts, recalls in percent on each validation set,
    the learning rate, and images a second."""
    recalls = {f"recall on {name}": {f"R@{k}{said}": stages[stage][str(k)] for stage, said in STAGES.items()
                                     if stages[stage] for k in RECALLS if str(k) in stages[stage]}
               for name, stages in record["recalls"].items()}
    losses = {name: value for name, value in record.items() if name not in _NO_LOSSES}
    return {"loss": losses, **recalls, "learning rate": {"learning rate": record["lr"]},
            "images a second": {"images a second": record["images_per_second"]}}


def draw_training(records: Sequence[Mapping]) -> "Figure":
    """One training: a panel for each group of figures; a grey line marks the best epoch so far."""
    shown = {panel: {line: _line(records, panel, line) for line in lines}
             for panel, lines in _named([records]).items()}
    figure = _drawn(shown)
    best = max(records, key=lambda record: (record["score"], record["first_stage_score"]))["epoch"]
    for panel, lines in zip(figure.axes, shown.values(), strict=True):
        panel.axvline(best, color="#bbbbbb", linewidth=1, zorder=0)
        if len(lines) > 1:
            add_legend(panel, panel.lines[:len(lines)], list(lines))
    figure.suptitle(f"after epoch {records[-1]['epoch']}; grey line: the best so far ({best})", fontsize=10)
    return figure


def draw_trainings(runs: Mapping[str, Sequence[Mapping]]) -> "Figure":
    """Several trainings by name: a panel for each figure, in which every run that has it is a line."""
    shown: Panels = {}
    for panel, lines in _named(list(runs.values())).items():
        for line in lines:
            of_runs = {name: _line(records, panel, line) for name, records in runs.items()}
            shown[panel if line == panel else f"{panel}: {line}"] = of_runs
    figure = _drawn(shown)
    longest = max(map(len, runs))  # letters, some 16 to the inch with the line before them
    columns = int(16 * figure.get_figwidth()) // (longest + 6)
    add_legend(figure, figure.axes[0].lines, list(runs), loc="outside lower left", ncols=min(max(columns, 1), 4))
    return figure


def _named(runs: Sequence[Sequence[Mapping]]) -> dict[str, dict[str, None]]:
    """The panels and lines that one of the runs has."""
    found: dict[str, dict[str, None]] = {}
    for panel, lines in (item for records in runs for record in records for item in figures(record).items()):
        if lines:
            found.setdefault(panel, {}).update(dict.fromkeys(lines))
    return {panel: found[panel] for panel in sorted(found, key=lambda panel: panel in FROM_ZERO)}


def _line(records: Sequence[Mapping], panel: str, line: str) -> tuple[list[int], list[float]]:
    """Its epochs and values, of those that have it."""
    points = [(record["epoch"], lines[line]) for record in records if line in (lines := figures(record).get(panel, {}))]
    return [epoch for epoch, _ in points], [value for _, value in points]


def _drawn(shown: Panels) -> "Figure":
    """Panels side by side, at most three in a row; the lines of a panel are told apart by their order."""
    new_figure = load_figure()
    from matplotlib.ticker import MaxNLocator

    columns = 2 if len(shown) == 4 else min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    ends = [epoch for lines in shown.values() for epochs, _ in lines.values() for epoch in epochs]
    figure = new_figure(figsize=(4.2 * columns, 3.1 * rows + 0.5), dpi=100, layout="constrained")
    for number, (title, lines) in enumerate(shown.items(), start=1):
        panel = figure.add_subplot(rows, columns, number, xlim=(min(ends) - 0.5, max(ends) + 0.5))
        for place, (epochs, values) in enumerate(lines.values()):
            width = min(3.6, 1.5 + 0.7 * (len(lines) - 1 - place))  # so that one that lies behind another is seen
            panel.plot(epochs, values, marker=".", linewidth=width, **look(place))
        panel.set_title(drawable(title), fontsize=10, parse_math=False)
        panel.set_xlabel("epoch", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.grid(**GRID)
        if title in FROM_ZERO:
            panel.set_ylim(bottom=0)
        elif title.startswith("recall "):
            panel.set_ylim(top=min(panel.get_ylim()[1], 100.5))  # one that stays at 100 has no range of its own
    return figure
