"""benchmarks/toy_tables.md: the toy city's tables, with a place for words that a new run keeps."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from utils.files import temporary_path
from utils.run import hardware, versions

from .measure import Measured
from .report import absences, failures, measured_text
from .rows import AVERAGE, Row, Table
from .toy import BACKBONES, CITIES, EPOCHS, PLACES, RERANK_EPOCHS, SIZE
from .trained import BASE, GSV, LARGE, UNIFIED

WORDS = "## What agrees, and what does not"
TO_WRITE = "(To be written by whoever has looked at the figures.)\n"
INTRODUCTION = f"""# Toy tables: paths exercised, not a reproduction

Every row of Tables IV, VII, VIII, X, XI and XII through the commands that reproduce the paper's, on a drawn city and
models that start from random weights: `python -m benchmarks.paper toy --out FOLDER`. The figures tell that each row
trains and is evaluated, and which differ; they say nothing of photographs or pre-trained weights.

* DINOv2-B is `{BACKBONES[BASE]}`, DINOv2-L is `{BACKBONES[LARGE]}` (24 blocks of width 64, so that each placement of
  Table VII is another model); both are frozen at random, not pre-trained.
* GSV-Cities is two of the toy's cities ({", ".join(CITIES[GSV])}), the unified data set all four
  ({", ".join(CITIES[UNIFIED])}); Pitts30k-test and MSLS-val are its drawn sets. MSLS-val also chooses the best
  epoch, as in the paper. Average is over the two.
* Images of {SIZE[0]}x{SIZE[1]}, {PLACES} places a batch, {EPOCHS} epochs ({RERANK_EPOCHS} for a second branch), Adam
  at 4e-3 halved every 3.
* A published file is the toy model that was trained in its place.
* Order: of the rows, by the mean R@1 of the two sets, here and in the paper (there on the real sets).
"""


class ToyResult(NamedTuple):
    paper: Table
    toy: Table
    rows: Sequence[Measured]
    seeds: Sequence[int]


def write_page(path: Path, results: Sequence[ToyResult], *, seconds: float) -> None:
    """Writes the page whole; what stands under its last heading, where there is one already, stays."""
    kept = path.read_text().partition(WORDS)[2].strip() if path.is_file() else ""
    machine, software = hardware(torch.device("cpu")), versions()
    lines = [INTRODUCTION, f"{seconds / 60:.0f} minutes of commands on {machine['cores']} cores ({machine['cpu']}), "
             f"torch {software['torch']}.", ""]
    for result in results:
        lines += [toy_markdown(result), ""]
    with temporary_path(path) as temporary:
        temporary.write_text("\n".join([*lines, WORDS, "", kept or TO_WRITE.strip()]) + "\n")


def toy_markdown(result: ToyResult) -> str:
    """One table, a line a row."""
    seeds = "seed" if len(result.seeds) == 1 else "mean +- standard deviation over seeds"
    names = [f"{result.toy.prefix}{column.of} {column.measure}" for column in result.toy.columns]
    lines = [f"## Table {result.toy.number}: {result.paper.title}", "",
             f"Toy city; {seeds} {', '.join(map(str, result.seeds))}.", "",
             f"| row | {' | '.join(names)} | order here | order in the paper |",
             "|---|" + "---:|" * (len(names) + 2)]
    here, there = orders(result)
    for row in result.rows:
        cells = [measured_text(row, column) for column in result.toy.columns]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {here.get(row.name, '-')} | {there[row.name]} |")
    below = {"Not measured": absences(result.toy, result.rows), "Failed": failures(result.toy, result.rows)}
    for heading, text in below.items():
        lines += ["", *(f"* {heading}: {line}" for line in text)] if text else []
    return "\n".join(lines)


def orders(result: ToyResult) -> tuple[dict[str, int], dict[str, int]]:
    """Each row's place, 1 the best and equal ones alike, here (rows with all figures) and in the paper."""
    columns = [column for column in result.toy.columns if column.measure == "R@1" and column.of != AVERAGE]

    def paper(row: Row) -> float:
        figures = dict(zip(result.paper.columns, row.paper, strict=True))
        return statistics.mean(figures[column] for column in columns)

    here = {row.name: statistics.mean(row.mean(column) for column in columns) for row in result.rows
            if all(column in row.values for column in columns)}
    return _places(here), _places({row.name: paper(row) for row in result.paper.rows})


def _places(scores: dict[str, float]) -> dict[str, int]:
    # Rounded: equal recalls may differ in their last bit.
    rounded = {name: round(score, 6) for name, score in scores.items()}
    return {name: 1 + sum(other > score for other in rounded.values()) for name, score in rounded.items()}
