"""Which database images are right answers to a query, by each of the rules that the benchmarks use.

All functions return one array for each query: the ascending int64 ids of its right answers, empty where there is none.
"""

import math

import numpy as np
from sklearn.neighbors import NearestNeighbors


def within_metres(
    database_utm: np.ndarray, query_utm: np.ndarray, m: float, *,
    database_groups: np.ndarray | None = None, query_groups: np.ndarray | None = None,
) -> list[np.ndarray]:
    """At most `m` metres apart, in the plane.

    database_utm (n, 2), query_utm (q, 2)   float64, east and north in metres
    database_groups (n,), query_groups (q,) what metres compare inside of, a UTM zone or a city: images of different
                                            groups are never right answers; both or neither
    """
    if not 0 <= m < math.inf:
        raise ValueError(f"positives threshold {m} m: expected a finite distance of at least 0")
    for side, utm in (("database", database_utm), ("query", query_utm)):
        if not np.isfinite(utm).all():
            bad = np.flatnonzero(~np.isfinite(utm).all(axis=1))
            raise ValueError(f"{side} image {bad[0]}: coordinates {utm[bad[0]].tolist()}{_others(bad)}; "
                             "expected finite metres east and north of every image")
    if (database_groups is None) != (query_groups is None):
        raise ValueError("groups of one side alone; expected groups of database and queries, or of neither")
    if database_groups is None:
        return _in_one_plane(database_utm, query_utm, m)
    positives = [np.zeros(0, dtype=np.int64)] * len(query_utm)
    for group in np.unique(query_groups):
        queries, ids = np.flatnonzero(query_groups == group), np.flatnonzero(database_groups == group)
        for query, found in zip(queries, _in_one_plane(database_utm[ids], query_utm[queries], m), strict=True):
            positives[query] = ids[found]
    return positives


def _others(bad: np.ndarray) -> str:
    return f" (and {len(bad) - 1} more like it)" if len(bad) > 1 else ""


def _in_one_plane(database_utm: np.ndarray, query_utm: np.ndarray, m: float) -> list[np.ndarray]:
    if not len(database_utm) or not len(query_utm):
        return [np.zeros(0, dtype=np.int64)] * len(query_utm)
    # The tree computes distances from coordinate differences.  scikit-learn's brute force, its own choice for
    # small sets, expands the square, whose rounding loses pairs at exactly the threshold.
    tree = NearestNeighbors(radius=m, algorithm="kd_tree").fit(database_utm)
    neighbours = tree.radius_neighbors(query_utm, return_distance=False)
    return [np.sort(ids).astype(np.int64) for ids in neighbours]


def within_metres_and_degrees(
    database_utm: np.ndarray, query_utm: np.ndarray, m: float,
    database_headings: np.ndarray, query_headings: np.ndarray, degrees: float, *,
    database_groups: np.ndarray | None = None, query_groups: np.ndarray | None = None,
) -> list[np.ndarray]:
    """At most `m` metres apart, and facing directions at most `degrees` apart; the first five as in `within_metres`.

    Headings (n,) and (q,) are in degrees, in any range: 350 and 30 are 40 apart, and so are -10 and 390.
    A heading that is not finite is an error, though its image could be called no right answer: it would turn right
    answers into failures without a word.
    """
    if not 0 <= degrees < math.inf:
        raise ValueError(f"positives threshold {degrees} degrees: expected a finite angle of at least 0")
    for side, headings, utm in (("database", database_headings, database_utm), ("query", query_headings, query_utm)):
        if len(headings) != len(utm):
            raise ValueError(f"{len(headings)} {side} headings for {len(utm)} images; expected one for each")
        bad = np.flatnonzero(~np.isfinite(headings))
        if len(bad):
            raise ValueError(f"{side} image {bad[0]}: heading {headings[bad[0]]}{_others(bad)}; "
                             "expected degrees for every image, or the rule without headings")
    near = within_metres(database_utm, query_utm, m, database_groups=database_groups, query_groups=query_groups)
    return [ids[_angle(database_headings[ids], heading) <= degrees]
            for ids, heading in zip(near, query_headings, strict=True)]


def _angle(first: np.ndarray, second: float) -> np.ndarray:
    """Between two directions: 0 to 180 degrees."""
    turned = np.abs(first - second) % 360
    return np.minimum(turned, 360 - turned)


def within_frames(n_database: int, n_queries: int, frames: int, *, step: int = 1) -> list[np.ndarray]:
    """At most `frames` frames apart: query i shows what database image `step` * i shows.

    A query whose frame lies beyond the database's last has the right answers that are left, perhaps none.
    """
    if frames < 0 or step < 1:
        raise ValueError(f"+-{frames} frames in steps of {step}: expected at least 0 frames and a step of at least 1")
    shown = step * np.arange(n_queries, dtype=np.int64)
    first = np.clip(shown - frames, 0, n_database)
    lengths = np.clip(shown + frames + 1, 0, n_database) - first
    ends = np.cumsum(lengths)
    ids = np.arange(lengths.sum(), dtype=np.int64) + np.repeat(first - (ends - lengths), lengths)
    return np.split(ids, ends[:-1]) if n_queries else []
