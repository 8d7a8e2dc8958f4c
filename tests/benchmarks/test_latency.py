"""SelaVPR's matches in the published order against naive loops, and their times."""

import json

import numpy as np
import pytest
import torch
from scripts import one_thread

from benchmarks import local_matching
from benchmarks.local_matching import TOGETHER, published_counts, random_features, shifted_features
from benchmarks.paper import latency
from benchmarks.paper.latency import rerank_matches
from utils.search.local import mutual_counts


def features(*shape, seed):
    made = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return made / np.linalg.norm(made, axis=-1, keepdims=True)


def loops(query, candidate):
    def nearest(one, others):
        return max(range(len(others)), key=lambda i: float(one @ others[i]))

    return sum(nearest(candidate[nearest(feature, candidate)], query) == i for i, feature in enumerate(query))


@pytest.mark.parametrize(("n", "m", "dim"), [(1, 1, 2), (9, 9, 3), (16, 9, 4), (5, 25, 2), (36, 36, 8)])
def test_the_published_order_counts_as_loops_do(n, m, dim):
    query, candidates = features(n, dim, seed=0), features(TOGETHER + 2, m, dim, seed=1)
    assert published_counts(query, candidates).tolist() == [loops(query, candidate) for candidate in candidates]


@pytest.mark.parametrize("counts", [published_counts, mutual_counts])
def test_candidates_are_sorted_by_matches_and_equal_ones_stay(counts):
    query = features(16, 8, seed=0)
    candidates = np.stack([features(16, 8, seed=1), np.tile(query[:4], (4, 1)), query, np.tile(query[4:8], (4, 1)),
                           features(16, 8, seed=2)])
    matches = [loops(query, candidate) for candidate in candidates]
    assert matches[1] == matches[3] == 4 and max(matches) == matches[2] == 16
    expected = sorted(range(5), key=lambda i: -matches[i])
    assert rerank_matches(query, candidates, counts=counts).tolist() == expected


def test_selavpr_is_timed_in_both_ways_and_threads_are_as_before():
    threads = torch.get_num_threads()
    found = latency.measure(100, 2, 1, local_side=3)
    assert torch.get_num_threads() == threads
    assert set(found["methods"]["SelaVPR"]) == set(found["published_matching_ms"]) == {"one", "batched"}
    assert min(found["published_matching_ms"].values()) > 0
    for ms in found["methods"]["SelaVPR"].values():
        assert min(ms["initial"], ms["rerank"]) > 0 and ms["total"] == pytest.approx(ms["initial"] + ms["rerank"])


def test_features_to_be_matched_are_of_unit_length_and_farther_ones_match_less():
    for made in (random_features, shifted_features):
        query, candidates = made(9, 4)
        assert query.shape == (81, 128) and candidates.shape == (4, 81, 128)
        assert np.allclose(np.linalg.norm(candidates, axis=-1), 1, atol=1e-6)
    counts = mutual_counts(query, candidates).tolist()
    assert counts == sorted(counts, reverse=True) and counts[0] > 60


@pytest.mark.slow
def test_matching_is_measured(tmp_path):
    with one_thread():
        local_matching.main(["--side", "5", "--repeats", "1", "--out", str(tmp_path)])
    (stored,) = json.loads((tmp_path / "local_matching.json").read_text()).values()
    met = {row["what"]: row["met"] for row in stored["rows"]}
    assert met["random: counts that fp32 changes"] and met["shifted: counts that fp32 changes"]
    assert "its peak of memory" in met and "| goal |" in (tmp_path / "local_matching.md").read_text()
