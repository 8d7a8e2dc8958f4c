"""The paper's rows on the toy city: what stands for its backbones, data sets and published files, and their page."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from utils.files import temporary_path
from utils.run import hardware, versions

from ..report import table as markdown_table
from ..report import words_under
from .measure import Measured
from .plan import AVERAGE, Settings, Training
from .report import measured_text, missing, said_once
from .tables import BASE, GSV, LARGE, TABLES, UNIFIED, Row, Table

BACKBONES = {BASE: "dinov2-tiny", LARGE: "dinov2-narrow"}  # narrow has the 24 blocks of large: placements differ
CITIES = {GSV: ("Boston", "Lisbon"), UNIFIED: ("Boston", "Lisbon", "Osaka", "PRS")}
TEST_SETS = ("Pitts30k-test", "MSLS-val")
SIZE = ("112", "112")
EPOCHS, RERANK_EPOCHS, PLACES = 5, 3, 20
MACHINE = {"--infer_batch_size": "64", "--num_workers": "1", "--device": "cpu"}
CITY = "toy_city"
WORDS = "## What agrees, and what does not"
TO_WRITE = "(To be written by a person who has looked at the figures.)"
INTRODUCTION = f"""# Toy tables: paths exercised, not a reproduction

Every row of Tables IV, VII, VIII, X, XI and XII through the commands that reproduce the paper's, on a drawn city and
models that start from random weights: `python -m benchmarks.paper toy --out FOLDER`. The figures show that each row can
be trained and evaluated, and which rows differ. They say nothing about photographs or pre-trained weights.

* DINOv2-B is `{BACKBONES[BASE]}`, DINOv2-L is `{BACKBONES[LARGE]}` (24 blocks of width 64, so that each placement of
  Table VII is another model); both are frozen at random, not pre-trained.
* GSV-Cities is two of the toy's cities ({", ".join(CITIES[GSV])}), the unified data set all four
  ({", ".join(CITIES[UNIFIED])}); Pitts30k-test and MSLS-val are its drawn sets. MSLS-val also chooses the best
  epoch, as in the paper. Average is over the two.
* Images of {SIZE[0]}x{SIZE[1]}, {PLACES} places a batch, {EPOCHS} epochs ({RERANK_EPOCHS} for a second branch), Adam
  at 4e-3 halved every 3.
* A published file is the toy model that was trained in its place.
* The order of the rows is that of the mean R@1 over the two sets, here and in the paper (there on the real sets).
"""


def stand_in(model: Training) -> Training:
    """The training that stands for one of the paper's, or for a published file."""
    return dataclasses.replace(
        model, published=False, backbone=BACKBONES[model.backbone], dataset=GSV, cities=CITIES[model.dataset],
        places=PLACES, validation=("msls",), epochs=RERANK_EPOCHS if model.script == "train_rerank.py" else EPOCHS,
        start=model.start and stand_in(model.start))


def toy_settings(out: Path, machine: tuple[str, ...] = ()) -> Settings:
    """Small models on seeded random weights, which learn in minutes; they follow the demo's settings."""
    return Settings(out=out / "toy", datasets_folder=out / CITY, machine=machine, lr="0.004", random_weights=True,
                    image_options=("--resize", *SIZE), training_image_options=("--train_resize", *SIZE))


def toy_table(table: Table) -> Table:
    """The columns that the toy city has, and its models, without the paper's figures, which are of other images.

    ValueError for a table without them.
    """
    if not table.toy_seeds:
        raise ValueError(f"Table {table.number} has no toy: it is not of trained models, or another has its rows")
    columns = tuple(column for column in table.columns if column.of in (*TEST_SETS, AVERAGE))
    rows = tuple(Row(row.name, (None,) * len(columns), dataclasses.replace(row.how, model=stand_in(row.how.model)))
                 for row in table.rows)
    note = "Drawn images and small models that start from random weights: paths exercised, not a reproduction."
    return dataclasses.replace(table, title=f"{table.title} (toy city)", columns=columns, rows=rows, prefix="toy ",
                               seeds=table.toy_seeds, notes=(note,))


def write_page(path: Path, results: Iterable[tuple[Table, Sequence[Measured]]], *, seconds: float) -> None:
    """Writes the page whole; what stands under its last heading, where there is one already, stays."""
    kept = words_under(path, WORDS)
    machine, software = hardware(torch.device("cpu")), versions()
    lines = [INTRODUCTION, f"{seconds / 60:.0f} minutes of commands on {machine['cores']} cores ({machine['cpu']}), "
             f"torch {software['torch']}.", ""]
    for toy, rows in results:
        lines += [*toy_lines(toy, rows), ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_path(path) as temporary:
        temporary.write_text("\n".join([*lines, WORDS, "", kept or TO_WRITE]) + "\n")


def toy_lines(toy: Table, rows: Sequence[Measured]) -> list[str]:
    """One table, a line a row, with each row's place here (of those with all figures) and in the paper."""
    paper = TABLES[toy.number]
    columns = [column for column in toy.columns if column.measure == "R@1" and column.of != AVERAGE]
    here = places({row.name: statistics.mean(map(row.mean, columns)) for row in rows
                   if all(column in row.values for column in columns)})
    printed = {row.name: [row.paper[paper.columns.index(column)] for column in columns] for row in paper.rows}
    there = places({name: statistics.mean(figures) for name, figures in printed.items() if None not in figures})
    seeds = "seed" if len(toy.seeds) == 1 else "mean +- standard deviation over seeds"
    names = [f"{toy.prefix}{column.of} {column.measure}" for column in toy.columns]
    figures = [[row.name, *(measured_text(row, column) for column in toy.columns), here.get(row.name, "-"),
                there.get(row.name, "-")] for row in rows]
    head = ("row", *names, "order here", "order in the paper")
    lines = [f"## Table {toy.number}: {paper.title}", "", f"Toy city; {seeds} {', '.join(map(str, toy.seeds))}.", "",
             markdown_table(head, figures, figures=len(names) + 2).strip()]
    for heading, text in missing(toy, rows).items():
        lines += ["", *(f"* {heading}: {line}" for line in text)] if text else []
    said = said_once({row.name: row.remarks for row in rows if row.remarks})
    return [*lines, "", *(f"* {line}" for line in [*said, *paper.notes])]


def places(scores: dict[str, float]) -> dict[str, int]:
    """1 for the best; equal ones have one place."""
    rounded = {name: round(score, 6) for name, score in scores.items()}  # equal recalls may differ in their last bit
    ordered = sorted(rounded.values(), reverse=True)
    return {name: 1 + ordered.index(score) for name, score in rounded.items()}
