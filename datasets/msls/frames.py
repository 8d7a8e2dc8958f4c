"""Frames of MSLS, and which of them are right answers."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..positives import within_metres

THRESHOLD_M = 25.0


class Frame(NamedTuple):
    """One image of Mapillary's."""

    key: str
    path: Path
    group: str  # a city or a UTM zone: metres compare inside one only
    utm: tuple[float, float]  # east and north in metres; NaN where no table tells
    heading: float  # degrees, in no fixed range; NaN where it was not asked for or the name has none


@dataclasses.dataclass(frozen=True)
class Frames:
    """Queries or database images."""

    frames: Sequence[Frame]
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)  # in words, and how often
    remarks: tuple[str, ...] = ()  # what else a reader of the figures must hear

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def utm(self) -> np.ndarray:
        """(n, 2) float64."""
        return np.array([frame.utm for frame in self.frames]).reshape(-1, 2)


def joined(parts: Sequence[Frames]) -> Frames:
    """Sorted by path.  Raises ValueError for a key that comes twice."""
    frames = sorted((frame for part in parts for frame in part.frames), key=lambda frame: frame.path.as_posix())
    places: dict[str, str] = {}
    for key, _, group, *_ in frames:
        if key in places:
            raise ValueError(f"key {key!r} in the tables of {places[key]} and of {group}; expected each key once")
        places[key] = group
    return Frames(frames, sum((part.left_out for part in parts), Counter()),
                  tuple(remark for part in parts for remark in part.remarks))


def right_answers(queries: Frames, database: Frames) -> list[np.ndarray]:
    """For each query the ascending int64 ids of the right answers: in its group, within 25 m."""
    groups = tuple(np.array([frame.group for frame in side.frames]) for side in (database, queries))
    return within_metres(database.utm, queries.utm, THRESHOLD_M, groups=groups)


def with_answer(queries: Frames, near: list[np.ndarray]) -> tuple[Frames, list[np.ndarray]]:
    """Queries with a right answer alone, and their answers; the others are counted."""
    kept = [(frame, ids) for frame, ids in zip(queries.frames, near, strict=True) if len(ids)]
    left_out = queries.left_out + Counter({"without a database image within 25 m": len(near) - len(kept)})
    return Frames([frame for frame, _ in kept], left_out, queries.remarks), [ids for _, ids in kept]


def said_left_out(queries: Frames, database: Frames) -> list[str]:
    """What was left out and what else the frames' readers remarked, a line each."""
    said = []
    for side, frames in (("queries", queries), ("database images", database)):
        reasons = [f"{count} {reason}" for reason, count in frames.left_out.items() if count]
        if reasons:
            said.append(f"left out by the rule, of {side}: {', '.join(reasons)}")
        said += frames.remarks
    return said
