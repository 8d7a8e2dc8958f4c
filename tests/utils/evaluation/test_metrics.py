"""Recall@k against naive loops and the published code's values."""

import json
import pickle

import numpy as np
import pytest
from paths import DATA

from utils.evaluation.metrics import correctness, recall_at_k


@pytest.mark.parametrize("kind, stage", [("hashing", "hamming"), ("rerank", "reranked"), ("float", "l2")])
def test_golden_recalls(kind, stage):
    arrays, expected = (np.load(DATA / "golden_retrieval_small.npz"),
                        json.loads((DATA / "golden_retrieval_small.json").read_text()))
    positives = np.split(arrays["positives_flat"], np.cumsum(arrays["positives_count"])[:-1])
    recalls = recall_at_k(arrays[f"{stage}_ids"], positives, expected["recall_values"])
    assert list(recalls) == expected["recall_values"]
    assert list(recalls.values()) == expected["recalls"][kind]


@pytest.mark.parametrize("scale", [1, 2**18, 2**31])  # a database of 40 rows, ten million, more than int32 holds
@pytest.mark.parametrize("seed", range(5))
def test_recall_matches_a_naive_loop(seed, scale):
    rng = np.random.default_rng(seed)
    predictions = np.stack([scale * rng.permutation(40)[:12] for _ in range(37)])
    positives = [scale * rng.permutation(60)[: rng.integers(0, 4)] for _ in range(37)]  # some absent from predictions
    assert any(len(p) == 0 for p in positives)
    right = correctness(predictions, positives)
    assert right.dtype == bool
    assert right.tolist() == [
        [j in p.tolist() for j in row] for row, p in zip(predictions.tolist(), positives, strict=True)
    ]
    values = [1, 2, 5, 12, 20]
    answerable = [i for i in range(37) if len(positives[i])]
    for only, counted in ((False, range(37)), (True, answerable)):
        expected = {
            n: 100 * sum(bool(set(predictions[i, :n]) & set(positives[i])) for i in counted) / len(counted)
            for n in values
        }
        assert recall_at_k(predictions, positives, values, answerable_only=only) == pytest.approx(expected)


def test_recall_values_keep_their_order_and_plain_types():
    recalls = recall_at_k(np.array([[3, 1], [2, 0]], np.int32), [np.array([1]), np.array([2])], [2, 1])
    assert json.dumps(recalls) == '{"2": 100.0, "1": 50.0}'


def test_recall_without_any_positive():
    nothing = [np.empty(0, np.int64)] * 3
    predictions = np.arange(6).reshape(3, 2)
    assert recall_at_k(predictions, nothing, [1, 5]) == {1: 0.0, 5: 0.0}
    assert recall_at_k(predictions, nothing, [1, 5], answerable_only=True) is None


def test_errors_name_what_was_given_and_expected():
    some = np.zeros((4, 3), np.int64)
    cases = [
        (r"\(4, 3\) and positives are of 2 queries", lambda: recall_at_k(some, [some[0]] * 2, [1])),
        (r"expected \(queries, k >= 1\)", lambda: recall_at_k(some[:, :0], [some[0]] * 4, [1])),
        (r"predictions hold -1", lambda: recall_at_k(some - 1, [some[0]] * 4, [1])),
        (r"recall values are \[0, 5\]", lambda: recall_at_k(some, [some[0]] * 4, [0, 5])),
        (r"recall values are \[\]", lambda: recall_at_k(some, [some[0]] * 4, [])),
        (r"there are no queries", lambda: recall_at_k(some[:0], [], [1])),
    ]
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_predictions_that_another_process_sent():
    """Unpickled arrays of some size lie in bytes, of which scipy cannot make its index arrays."""
    predictions = pickle.loads(pickle.dumps(np.arange(12_000).reshape(120, 100)))
    assert correctness(predictions, [np.array([100 * row + 99]) for row in range(120)]).sum() == 120
