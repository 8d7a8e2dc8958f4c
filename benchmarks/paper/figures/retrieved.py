"""Figures 5 and 8: what runs found. Figure 5: several runs beside each other; Figure 8: where one fails."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets import Listing
from datasets.transforms import read_image
from utils.sheets import PLAIN, RIGHT, WRONG, Cell, into, sheet, spread

from .caption import write_figure
from .runs import Found, Run, found_by, images_of, read_runs, said_of

CELL = 144, 108  # pixels


def draw_retrieved(*, runs: Sequence[str], out: Path, datasets_folder: Path | None, stage: str, queries: Sequence[str],
                   rows: int, top: int) -> Path:
    """Figure 5. A row for each query: the query, and the first `top` images that each run found.

    queries  parts of names, of which each fits one query; without them `rows` queries, spread over those that some runs
             have right at rank 1 and others not; then, where these are fewer, over those that differ among the first
             `top`, then over the others
    """
    read = read_runs(runs)
    listing = images_of(read[0], datasets_folder)
    found = [found_by(run, listing, stage) for run in read]
    top = min([top, *(one.ids.shape[1] for one in found)])
    first = np.stack([one.correct[:, 0] for one in found])
    any_of_top = np.stack([one.correct[:, :top].any(axis=1) for one in found])
    differ, differ_later = _differ(first), _differ(any_of_top)
    kinds = differ, differ_later & ~differ, ~differ_later & ~differ
    chosen = _by_name(queries, listing) if queries else _choose(kinds, rows)
    rule = "queries by name" if queries else (
        f"of {listing.n_queries} queries, first those that some runs have right at rank 1 and others not "
        f"({differ.sum()} are)")
    lines = [[_query(listing, query), *(cell for one in found for cell in _found(listing, query, one, top))]
             for query in chosen]
    headings = {0: "query"} | {1 + i * top: f"{run.name}: R@1 {run.recall(1, stage):.1f}"
                               for i, run in enumerate(read)}
    said = [f"{listing.label}, the first {top} of each run ({stage}): right ({listing.rule}) in green, wrong in red"]
    return _write("5", lines, headings, out, read, listing, chosen, [*said, rule])


def draw_failures(*, run: str, out: Path, datasets_folder: Path | None, stage: str, rows: int, top: int) -> Path:
    """Figure 8. The queries whose first right answer has the highest rank, those without one among the kept predictions
    before all others: the query, the first `top` images found, and the nearest right answer.

    Of equally bad ones as many as there is room for, evenly spread. Queries without a right answer in the database
    are left out: no search would find one.
    """
    read = read_runs([run])
    listing = images_of(read[0], datasets_folder)
    found = found_by(read[0], listing, stage)
    assert listing.positives is not None  # predictions say what is right
    depth, top = found.ids.shape[1], min(top, found.ids.shape[1])
    answerable = np.array([len(ids) > 0 for ids in listing.positives])
    rank = np.where(answerable, found.rank(), 0)
    chosen = _choose([rank == value for value in np.unique(rank)[::-1] if value > 1], rows)
    if not chosen:
        raise ValueError(f"{read[0].folder}: every query with a right answer has one at rank 1; there is no failure to "
                         "draw")
    lines = []
    for query in chosen:
        nearest = _nearest_positive(listing, query)
        text = f"first right at {rank[query]}" if rank[query] <= depth else f"none among {depth}"
        lines.append([_query(listing, query, text), *_found(listing, query, found, top),
                      _image(listing, query, nearest, RIGHT)])
    wrong = int((rank > 1).sum())
    said = [f"{listing.label}, the first {top} images found ({stage}): right ({listing.rule}) in green, wrong in red",
            f"R@1 {read[0].recall(1, stage):.1f}: {wrong} of {listing.n_queries} queries have right images, but not at "
            "rank 1; drawn are those whose first right one comes last"]
    if not answerable.all():
        said.append(f"left out: {(~answerable).sum()} queries without a right answer in the database")
    return _write("8", lines, {0: "query", 1: f"{read[0].name}: found", 1 + top: "nearest right answer"}, out, read,
                  listing, chosen, said)


def _write(number: str, lines: Sequence[Sequence[Cell]], headings: dict[int, str], out: Path, runs: Sequence[Run],
           listing: Listing, chosen: Sequence[int], said: Sequence[str]) -> Path:
    title = f"Figure {number}: {'what runs retrieve' if number == '5' else 'failure cases'}"
    warnings, names = said_of(runs), listing.names("query")
    image = sheet(lines, headings, title=[title, said[0]], notes=[*said[1:], *warnings])
    models = [f"{run.name}: {run.results['model']['backbone']}, {run.results['protocol']}; {run.folder}"
              for run in runs]
    drawn = [*said, *models, *(f"row {i}: {names[query]}" for i, query in enumerate(chosen, start=1))]
    return write_figure(image, out, title=title, drawn=drawn, warnings=warnings)


def _differ(right: np.ndarray) -> np.ndarray:
    """(runs, m) bool -> (m,): whether some are right and others wrong."""
    return right.any(axis=0) & ~right.all(axis=0)


def _choose(kinds: Sequence[np.ndarray], count: int) -> list[int]:
    """`count` queries: as many of the first kind (m,) bool as there are, then of the next, each evenly spread."""
    chosen: list[int] = []
    for kind in kinds:
        chosen += spread(np.flatnonzero(kind), count - len(chosen))
    return chosen


def _by_name(parts: Sequence[str], listing: Listing) -> list[int]:
    names, chosen = listing.names("query"), []
    for part in parts:
        fitting = [i for i, name in enumerate(names) if part in name]
        if len(fitting) != 1:
            raise ValueError(f"--queries {part!r}: part of {len(fitting)} of {len(names)} queries' names, such as "
                             f"{names[fitting[0] if fitting else 0]!r}; expected part of one")
        chosen += fitting
    return chosen


def _query(listing: Listing, query: int, text: str = "") -> Cell:
    return Cell(into(CELL, read_image(listing.query_paths[query])), PLAIN, text)


def _found(listing: Listing, query: int, found: Found, top: int) -> list[Cell]:
    return [_image(listing, query, image, RIGHT if right else WRONG)
            for image, right in zip(found.ids[query, :top], found.correct[query, :top], strict=True)]


def _image(listing: Listing, query: int, image: int, frame: tuple[int, int, int]) -> Cell:
    """With how far it is from the query, where that is known."""
    away = _metres(listing, query)[image]
    return Cell(into(CELL, read_image(listing.database_paths[image])), frame, "" if np.isnan(away) else f"{away:.0f} m")


def _metres(listing: Listing, query: int) -> np.ndarray:
    """(n,) of every database image from the query, NaN where coordinates are not known."""
    if listing.database_utm is None or listing.query_utm is None:
        return np.full(listing.n_database, np.nan)
    return np.hypot(*(listing.database_utm - listing.query_utm[query]).T)


def _nearest_positive(listing: Listing, query: int) -> int:
    """In metres; without coordinates the middle one, which within frames is the query's own."""
    assert listing.positives is not None
    positives = listing.positives[query]
    away = _metres(listing, query)[positives]
    return int(positives[len(positives) // 2 if np.isnan(away).any() else away.argmin()])
