"""The page of real photographs: what is measured, as Markdown."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence

from scipy.stats import t

from model import read_checkpoint
from utils.compare import difference_over_seeds
from utils.reductions import Reduction, reductions

from ..report import table
from .measure import RECALLS, Recalls, Row, Trainer, mean, spread
from .plan import DRAWN, TEST_SET

START_SETS = (TEST_SET, "corridor")  # fixed beforehand, as is the measure: R@1 + R@5


def recalls_text(recalls: Sequence[Recalls]) -> str:
    """R@1 / R@5 / R@10: means, and the standard deviation of R@1 over seeds."""
    means = [f"{mean(recalls, at):.1f}" for at in range(len(RECALLS))]
    deviation = spread(recalls)
    return " / ".join([means[0] + ("" if deviation is None else f" +- {deviation:.1f}"), *means[1:]])


def all_rows(without: Mapping[str, Mapping[str, Recalls]], rows: Sequence[Row], trainer: Trainer, seeds: Sequence[int]
             ) -> str:
    sets = trainer.place.test_sets
    lines = [(name, *(recalls_text([by_set[of]]) for of in sets)) for name, by_set in without.items()]
    lines += [(row.name, *(recalls_text([trainer.recalls(row, seed, of) for seed in seeds]) for of in sets))
              for row in rows]
    return table(("descriptor, search", *sets), lines, figures=len(sets))


def predecessor(rows: Sequence[Row], trainer: Trainer, seeds: Sequence[int]) -> str:
    """Recalls of SelaVPR's two stages and of the other rows, and how far each final one is from SelaVPR's, which is the
    second row."""
    sets = trainer.place.telling_sets
    columns: list[list[str]] = []
    for of, own in (*((of, rows) for of in sets), (DRAWN.test, [on_toy_city(row) for row in rows])):
        reference = own[1]
        columns.append([recalls_text([trainer.recalls(row, seed, of) for seed in seeds]) for row in own])
        columns.append(["" if row is reference or row.stage != reference.stage else interval_text(
            *difference_over_seeds(trainer.runs(reference, seeds, of), trainer.runs(row, seeds, of), k=1))
            for row in own])
    head = ("row", *itertools.chain(*((of, "R@1 - SelaVPR's") for of in (*sets, "toy city"))))
    return table(head, zip((row.name for row in rows), *columns, strict=True), figures=len(head) - 1)


def on_toy_city(row: Row) -> Row:
    return dataclasses.replace(row, model=row.model.moved(DRAWN))


def beside_the_paper(rows: Sequence[Row], paper: Mapping[str, float], trainer: Trainer, seeds: Sequence[int]) -> str:
    """A table of the paper in small: each row's recalls, how far it is from the last row's R@1, and which of the
    paper's orders hold."""
    sets, reference = trainer.place.telling_sets, rows[-1]
    lines = []
    for row in rows:
        cells = []
        for of in sets:
            cells.append(recalls_text([trainer.recalls(row, seed, of) for seed in seeds]))
            cells.append("" if row is reference else interval_text(*difference_over_seeds(
                trainer.runs(reference, seeds, of), trainer.runs(row, seeds, of), k=1)))
        figure = paper.get(row.name)
        lines.append((row.name, *cells, "-" if figure is None else f"{figure:.1f}"))
    head = ("row", *itertools.chain(*((of, f"R@1 - {reference.name}") for of in sets)), "the paper's mean R@1")
    return "\n".join([table(head, lines, figures=len(head) - 1), *orders(rows, paper, trainer, seeds)])


def interval_text(difference: float, interval: tuple[float, float]) -> str:
    return f"{difference:+.1f} ({interval[0]:+.1f} .. {interval[1]:+.1f})"


def orders(rows: Sequence[Row], paper: Mapping[str, float], trainer: Trainer, seeds: Sequence[int]) -> list[str]:
    """For each set, which of the paper's pairs of rows, the better one first, hold by R@1, are reversed, or cannot be
    told."""
    lines = []
    for of in trainer.place.telling_sets:
        found: dict[str, list[str]] = {"hold": [], "reversed": [], "cannot be told": []}
        for a, b in itertools.permutations([row for row in rows if row.name in paper], 2):
            if paper[a.name] > paper[b.name]:
                _, (low, high) = difference_over_seeds(trainer.runs(b, seeds, of), trainer.runs(a, seeds, of), k=1)
                verdict = "hold" if low > 0 else "reversed" if high < 0 else "cannot be told"
                found[verdict].append(f"{a.name} > {b.name}")
        lines.append(f"* {of}: of the paper's {sum(map(len, found.values()))} orders {len(found['hold'])} hold"
                     f"{listed(found['hold'])}; {len(found['reversed'])} are reversed{listed(found['reversed'])}; "
                     f"{len(found['cannot be told'])} cannot be told.")
    return lines


def listed(pairs: Sequence[str]) -> str:
    return f" ({', '.join(pairs)})" if pairs else ""


def curve(rows: Mapping[int, Row], trainer: Trainer, seeds: Sequence[int]) -> str:
    sets = trainer.place.telling_sets
    lines = [(places, *(recalls_text([trainer.recalls(row, seed, of) for seed in seeds]) for of in sets))
             for places, row in rows.items()]
    return table(("places", *sets), lines, figures=len(sets) + 1)


def starts(rows: Sequence[Row], trainer: Trainer, seeds: Sequence[int]) -> str:
    """R@1 + R@5 of each seed, and the mean difference to the first row with its t-interval over the paired seeds."""
    lines = []
    for of in (name for name in START_SETS if name in trainer.place.telling_sets):
        scores = {row.name: [sum(trainer.recalls(row, seed, of)[:2]) for seed in seeds] for row in rows}
        first = scores[rows[0].name]
        for name, values in scores.items():
            changes = [value - other for value, other in zip(values, first, strict=True)]
            lines.append((of, name, " ".join(f"{value:.1f}" for value in values), f"{statistics.mean(values):.1f}",
                          "" if values is first else interval_text(statistics.mean(changes), t_interval(changes))))
    head = ("set", "start", f"R@1 + R@5, seeds {', '.join(map(str, seeds))}", "mean",
            "difference to (a), 95 % t-interval")
    return table(head, lines, figures=3)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean, 95 %; NaN of fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    centre, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
    reach = float(t.ppf(0.975, len(values) - 1)) * error
    return centre - reach, centre + reach


def ranks(rows: Sequence[tuple[str, int, Row]], trainer: Trainer, seed: int) -> str:
    """Of the last state of trainings that ended after so many epochs; rows: (start, epochs, row)."""
    lines = []
    for name, epochs, row in rows:
        state = trainer.results(row, seed, TEST_SET).with_name("last_model.pth")
        found = list(reductions(read_checkpoint(state)))
        lines.append((name, epochs, *rank_cells(found)))
    return table(("start", "epochs", "reductions with all rows equal", "distinct rows, 1e-6 apart", "effective rank",
                  "2nd / largest singular value"), lines, figures=5)


def rank_cells(found: Sequence[Reduction]) -> tuple[str, ...]:
    effective, second = ([getattr(one, name) for one in found] for name in ("effective_rank", "second"))
    return (f"{sum(one.distinct == 1 for one in found)} of {len(found)}",
            f"{sum(one.distinct_close for one in found)} of {sum(one.shape[0] for one in found)}",
            f"{statistics.median(effective):.2f} ({min(effective):.2f} .. {max(effective):.2f})",
            f"{statistics.median(second):.1e} ({min(second):.1e} .. {max(second):.1e})")
