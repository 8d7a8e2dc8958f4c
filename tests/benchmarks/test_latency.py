"""SelaVPR's matches against naive loops."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.paper import latency
from benchmarks.paper.latency import mutual_matches, rerank_matches


def features(n, dim, seed):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def loops(query, candidate):
    def nearest(one, others):
        return max(range(len(others)), key=lambda i: float(one @ others[i]))

    return sum(nearest(candidate[nearest(feature, candidate)], query) == i for i, feature in enumerate(query))


@pytest.mark.parametrize(("n", "m", "dim"), [(1, 1, 2), (9, 9, 3), (16, 9, 4), (5, 25, 2), (36, 36, 8)])
def test_matches_are_those_of_loops(n, m, dim):
    for seed in range(5):
        query, candidate = features(n, dim, seed), features(m, dim, 100 + seed)
        assert mutual_matches(query, candidate) == loops(query, candidate) > 0


def test_an_image_matches_itself_everywhere_and_one_feature_once():
    query = features(25, 16, 0)
    assert mutual_matches(query, query[torch.randperm(25)]) == 25
    assert mutual_matches(query, query[3:4].expand(25, -1)) == 1


def test_candidates_are_sorted_by_matches_and_equal_ones_stay():
    query = features(16, 8, 0)
    candidates = [features(16, 8, 1), query[:4].repeat(4, 1), query, query[4:8].repeat(4, 1), features(16, 8, 2)]
    matches = [loops(query, candidate) for candidate in candidates]
    assert matches[1] == matches[3] == 4 and max(matches) == matches[2] == 16
    expected = sorted(range(5), key=lambda i: -matches[i])
    assert rerank_matches(query, candidates).tolist() == expected


def test_selavpr_is_timed_in_both_ways_and_threads_are_as_before():
    threads = torch.get_num_threads()
    found = latency.measure(100, 2, 1, local_side=3)["methods"]["SelaVPR"]
    assert set(found) == {"one", "batched"} and torch.get_num_threads() == threads
    for ms in found.values():
        assert min(ms["initial"], ms["rerank"]) > 0 and ms["total"] == pytest.approx(ms["initial"] + ms["rerank"])
