"""Recall@k, the only place where it is computed."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array


def correctness(predictions: np.ndarray, positives: Sequence[np.ndarray]) -> np.ndarray:
    """Which predictions are right: bool (m, k).

    Args: predictions (m, k), database indices, best first; positives, for each of the m queries the database
    indices that count as right (none: an empty array). Raises ValueError where the lengths differ, k is 0 or
    an index is negative.
    """
    if predictions.ndim != 2 or predictions.shape[1] == 0 or len(predictions) != len(positives):
        raise ValueError(f"predictions have shape {predictions.shape} and positives are of {len(positives)} queries; "
                         "expected (queries, k >= 1) and one list per query")
    if predictions.min(initial=0) < 0:
        raise ValueError(f"predictions hold {predictions.min()}; expected database indices, 0 or more")
    counts = [len(ids) for ids in positives]
    right = np.concatenate([np.empty(0, np.int64), *positives]).astype(np.int64)
    width = 1 + max(predictions.max(initial=0), right.max(initial=0))
    table = csr_array((np.ones(len(right), bool), right, np.cumsum([0, *counts])), shape=(len(positives), width))
    # A copy: what another process sent lies in bytes, on which scipy fails.
    return table[np.arange(len(positives))[:, None], predictions.copy()].toarray()


def recall_at_k(predictions: np.ndarray, positives: Sequence[np.ndarray], recall_values: Sequence[int], *,
                answerable_only: bool = False) -> dict[int, float] | None:
    """Percentage of queries with a right image among their first N predictions, for N in recall_values.

    As the field does, all queries count, those without positives as missed; `answerable_only` leaves these
    out, and gives None where no query is left. An N beyond the k predictions counts those k: search at least
    max(recall_values) deep, which ends at the size of the database.

    Args: predictions and positives as in `correctness`. Raises ValueError for values below 1, or no query.
    """
    if min(recall_values, default=0) < 1:
        raise ValueError(f"recall values are {list(recall_values)}; expected one or more ranks >= 1")
    correct = correctness(predictions, positives)
    if len(correct) == 0:
        raise ValueError("there are no queries; expected at least one to compute a recall")
    if answerable_only:
        correct = correct[[len(ids) > 0 for ids in positives]]
        if len(correct) == 0:
            return None
    found = np.logical_or.accumulate(correct, axis=1)  # (m, k): right at this rank or before
    ranks = np.minimum(recall_values, correct.shape[1]) - 1
    percent = 100 * found[:, ranks].mean(axis=0)
    return {int(n): float(value) for n, value in zip(recall_values, percent, strict=True)}


def recall_interval(found: int, n_queries: int) -> tuple[float, float]:
    """95 % interval in percent of a recall, `found` of so many queries, by Wilson's score, which also holds near 0 and
    100."""
    from scipy.stats import binomtest

    interval = binomtest(found, n_queries).proportion_ci(0.95, method="wilson")
    return 100 * interval.low, 100 * interval.high


def recall_curve(correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of which predictions are right, (m, K) bool, best first: recall@1..K in percent, and its intervals (K, 2)."""
    found = np.logical_or.accumulate(correct, axis=1).sum(axis=0)
    return 100 * found / len(correct), np.array([recall_interval(count, len(correct)) for count in found.tolist()])
