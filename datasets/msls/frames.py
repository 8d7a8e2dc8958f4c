"""Frames of MSLS, and which of them are right answers."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..positives import within_metres, within_metres_and_degrees

THRESHOLD_M = 25.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """Queries or database images.

    keys      Mapillary's names of the frames, each once
    paths     their image files
    groups    (n,) text, a city or a UTM zone: metres compare inside one only
    utm       (n, 2) float64, east and north in metres; NaN where no table tells
    headings  (n,) float64 in degrees, in no fixed range; NaN where they were not asked for or a name has none
    left_out  what was left out, in words, and how often
    remarks   what else a reader of the figures must hear
    """

    keys: list[str]
    paths: list[Path]
    groups: np.ndarray
    utm: np.ndarray
    headings: np.ndarray
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def take(self, rows: Iterable[int]) -> "Frames":
        rows = np.asarray(rows, dtype=np.int64)
        return dataclasses.replace(
            self, keys=[self.keys[row] for row in rows], paths=[self.paths[row] for row in rows],
            groups=self.groups[rows], utm=self.utm[rows], headings=self.headings[rows])  # fmt: skip

    def in_order_of_paths(self) -> "Frames":
        names = [path.as_posix() for path in self.paths]
        return self.take(sorted(range(len(names)), key=names.__getitem__))


def joined(parts: Sequence[Frames]) -> Frames:
    """Raises ValueError for a key that comes twice."""
    left_out, places = collections.Counter(), {}
    for part in parts:
        left_out.update(part.left_out)
        for key, group in zip(part.keys, part.groups, strict=True):
            if key in places:
                raise ValueError(f"key {key!r} in the tables of {places[key]} and of {group}; expected each key once")
            places[key] = group
    return Frames(
        keys=[key for part in parts for key in part.keys], paths=[path for part in parts for path in part.paths],
        groups=np.concatenate([part.groups for part in parts]), utm=np.concatenate([part.utm for part in parts]),
        headings=np.concatenate([part.headings for part in parts]), left_out=left_out,
        remarks=tuple(remark for part in parts for remark in part.remarks))  # fmt: skip


def right_answers(queries: Frames, database: Frames, *, degrees: float | None = None) -> list[np.ndarray]:
    """For each query the ascending int64 ids of the right answers: in its group, within 25 m and so many degrees."""
    groups = {"database_groups": database.groups, "query_groups": queries.groups}
    if degrees is None:
        return within_metres(database.utm, queries.utm, THRESHOLD_M, **groups)
    return within_metres_and_degrees(database.utm, queries.utm, THRESHOLD_M, database.headings, queries.headings,
                                     degrees, **groups)  # fmt: skip


def with_answer(queries: Frames, near: list[np.ndarray]) -> tuple[Frames, list[np.ndarray]]:
    """Queries with a right answer alone, and their answers; the others are counted."""
    rows = [row for row, ids in enumerate(near) if len(ids)]
    left_out = {**queries.left_out, "without a database image within 25 m": len(near) - len(rows)}
    return dataclasses.replace(queries.take(rows), left_out=left_out), [near[row] for row in rows]


def said_left_out(queries: Frames, database: Frames) -> list[str]:
    """What was left out and what else the frames' readers remarked, a line each."""
    said = []
    for side, frames in (("queries", queries), ("database images", database)):
        reasons = [f"{count} {reason}" for reason, count in frames.left_out.items() if count]
        if reasons:
            said.append(f"left out by the rule, of {side}: {', '.join(reasons)}")
        said += frames.remarks
    return said
