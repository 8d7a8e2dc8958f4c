"""The pictures of a report: which queries are shown with theirs, and small copies of these within a budget of bytes."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.transforms import read_image

from ..ranks import progress
from ..sheets import spread
from .runs import HURT, KINDS, RESCUED, UNANSWERABLE, WRONG, EvaluatedRun

SIDES = 176, 132  # pixels at most, of a small copy
QUALITY = 60
TOP = 5  # answers of a query that are shown
MOST = 400  # queries with pictures: more would take minutes to read


class Thumbnails:
    """Small copies of image files as data URLs, each once; `unread` tells which files could not be read, and why."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.unread: dict[Path, str] = {}
        self._number: dict[Path, int] = {}

    @property
    def bytes(self) -> int:
        return sum(map(len, self.urls))

    def number(self, path: Path) -> int | None:
        """Where in `urls` the copy of this file is; None: it cannot be read."""
        if path in self.unread:
            return None
        if path not in self._number:
            try:
                image = read_image(path)
            except (ValueError, OSError) as error:
                self.unread[path] = str(error)
                return None
            image.thumbnail(SIDES, Image.Resampling.BICUBIC)
            written = io.BytesIO()
            image.save(written, "jpeg", quality=QUALITY, optimize=True)
            self._number[path] = len(self.urls)
            self.urls.append(f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}")
        return self._number[path]


def pictured(run: EvaluatedRun, thumbnails: Thumbnails, *, budget: int, most: int = MOST) -> dict[int, list]:
    """Of some queries, by their number, what to show: [number of the query's picture, then of each of the first TOP
    answers (name, right: True, False or None where that is not known, metres or None, number of the picture)].

    They are taken in turns from each kind, evenly over the set, until the pictures take `budget` bytes more than they
    did, or there are `most`.
    """
    shown: dict[int, list] = {}
    if run.images is None:
        return shown
    ids, metres, limit = run.arrays["final_ids"][:, :TOP], run.metres(TOP), thumbnails.bytes + budget
    correct, names = run.arrays.get("final_correct"), run.arrays["database_names"]
    for query in progress(in_turns(run, most), "pictures"):
        if thumbnails.bytes >= limit:
            break
        answers = []
        for rank, image in enumerate(ids[query].tolist()):
            away = np.nan if metres is None else metres[query, rank]
            answers.append([str(names[image]), None if correct is None else bool(correct[query, rank]),
                            None if np.isnan(away) else round(float(away), 1),
                            thumbnails.number(run.images / str(names[image]))])
        shown[query] = [thumbnails.number(run.images / str(run.arrays["query_names"][query])), answers]
    return shown


def in_turns(run: EvaluatedRun, most: int) -> list[int]:
    """`most` queries, or all: one of each kind after the other, evenly spread within each."""
    rest, kinds = np.ones(run.n_queries, bool), []
    for kind in (RESCUED, HURT, UNANSWERABLE, WRONG):  # rare ones first: a query is of several kinds
        of_kind = rest & run.kinds.get(kind, np.zeros(run.n_queries, bool))
        rest &= ~of_kind
        kinds.append(spread(np.flatnonzero(of_kind), most))
    kinds.append(spread(np.flatnonzero(rest), most))
    turns = [(turn, kind, query) for kind, queries in enumerate(kinds)
             for turn, query in enumerate(_halving(queries))]
    return [query for _, _, query in sorted(turns)[:most]]


def _halving(queries: Sequence[int]) -> list[int]:
    """The same in an order in which every beginning is spread over the whole: first, middle, quarters, ..."""
    order = sorted(range(len(queries)), key=lambda place: int(f"{place:020b}"[::-1], 2))
    return [queries[place] for place in order]


def bits_of(run: EvaluatedRun) -> list[int]:
    """Of each query its kinds as a number: bit i is set for KINDS[i]."""
    numbers = np.zeros(run.n_queries, np.int64)
    for i, kind in enumerate(KINDS):
        numbers |= run.kinds.get(kind, np.zeros(run.n_queries, bool)).astype(np.int64) << i
    return numbers.tolist()
