"""Which database images are right answers to a query, by each of the rules that the benchmarks use.

All functions return one array for each query: the ascending int64 ids of its right answers, empty where there is none.
"""

import math

import numpy as np

from .listing import and_more


def within_metres(database_utm: np.ndarray, query_utm: np.ndarray, m: float, *,
                  groups: tuple[np.ndarray, np.ndarray] | None = None) -> list[np.ndarray]:
    """At most `m` metres apart.

    database_utm (n, d), query_utm (q, d)   float64, metres: east and north, or any other axes
    groups (n,), (q,)   what metres compare inside of, a UTM zone or a city: images of different groups are never right
                        answers
    Raises ValueError for metres that are not finite.
    """
    from sklearn.neighbors import NearestNeighbors  # here, as it takes a second, for which --help need not wait

    if not 0 <= m < math.inf:
        raise ValueError(f"positives threshold {m} m: expected a finite distance of at least 0")
    if not len(database_utm) or not len(query_utm):
        return [np.zeros(0, dtype=np.int64)] * len(query_utm)
    # The tree computes distances from coordinate differences.  scikit-learn's brute force, its own choice for
    # small sets, expands the square, whose rounding loses pairs at exactly the threshold.
    tree = NearestNeighbors(radius=m, algorithm="kd_tree").fit(database_utm)
    near = [np.sort(ids).astype(np.int64) for ids in tree.radius_neighbors(query_utm, return_distance=False)]
    if groups is None:
        return near
    return [ids[groups[0][ids] == group] for ids, group in zip(near, groups[1], strict=True)]


def within_degrees(near: list[np.ndarray], database_headings: np.ndarray, query_headings: np.ndarray,
                   degrees: float) -> list[np.ndarray]:
    """Of the ids `near` each query those that face directions at most `degrees` apart.

    Headings (n,) and (q,) are in degrees, in any range: 350 and 30 are 40 apart, and so are -10 and 390.
    A heading that is not finite is an error, though its image could be called no right answer: it would turn right
    answers into failures without a word.
    """
    for side, headings in (("database", database_headings), ("query", query_headings)):
        bad = np.flatnonzero(~np.isfinite(headings))
        if len(bad):
            raise ValueError(f"{side} image {bad[0]}: heading {headings[bad[0]]}{and_more(len(bad))}; "
                             "expected degrees for every image, or the rule without headings")
    turned = (np.abs(database_headings[ids] - heading) % 360 for ids, heading in zip(near, query_headings, strict=True))
    return [ids[np.minimum(angle, 360 - angle) <= degrees] for ids, angle in zip(near, turned, strict=True)]


def within_frames(n_database: int, n_queries: int, frames: int) -> list[np.ndarray]:
    """At most `frames` frames apart: query i shows what database image i shows.

    A query whose frame lies beyond the database's last has the right answers that are left, perhaps none.
    """
    return [np.arange(max(query - frames, 0), min(query + frames + 1, n_database), dtype=np.int64)
            for query in range(n_queries)]
