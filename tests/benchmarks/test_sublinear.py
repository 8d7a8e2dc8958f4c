"""The inverted file over codes, against exhaustive search."""

import faiss
import numpy as np
import pytest

from benchmarks.sublinear import build, choose_probes, search
from utils.evaluation.metrics import correctness, recall_at_k
from utils.search import search_hamming


@pytest.fixture(scope="module")
def city() -> tuple[np.ndarray, np.ndarray]:
    """4,000 codes of 64 bits around 80 others, and 40 queries near some: short codes, so that distances often tie."""
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 256, (80, 8), np.uint8)

    def near(n, flips):
        return centres[rng.integers(80, size=n)] ^ np.packbits(rng.random((n, 64)) < flips, axis=1)

    return near(4000, 0.15), near(40, 0.1)


@pytest.fixture(scope="module")
def index(city):
    return build(city[0])


def test_with_all_lists_it_is_the_exhaustive_search_ties_included(city, index):
    codes, queries = city
    assert index.nlist == 63 and index.ntotal == 4000
    for k in (1, 7, 50, 4000, 5000):
        expected = search_hamming(codes, queries, k)
        found = search(index, queries, k, probes=index.nlist)
        for mine, exact in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine, exact)
            assert mine.dtype == exact.dtype


def test_equal_distances_beyond_the_spare_ranks_still_go_by_index():
    """One bit set in each code: all are one bit from the query, and their lists are probed in another order."""
    bits = np.eye(64, dtype=np.uint8)[np.random.default_rng(1).permutation(640) % 64]
    index = build(np.packbits(bits, axis=1), lists=16)
    distances, ids = search(index, np.zeros((1, 8), np.uint8), 10, probes=16)
    np.testing.assert_array_equal(ids[0], np.arange(10))
    np.testing.assert_array_equal(distances[0], np.ones(10))


def test_distances_are_those_of_the_ids_and_more_probes_find_more(city, index):
    codes, queries = city
    exact_ids = search_hamming(codes, queries, 50)[1]
    shares = []
    for probes in (1, 4, 16, 63):
        distances, ids = search(index, queries, 50, probes=probes)
        differing = np.unpackbits(codes[ids] ^ queries[:, None], axis=2).sum(axis=2)
        np.testing.assert_array_equal(distances, differing)
        order = np.lexsort((ids, distances), axis=1)
        np.testing.assert_array_equal(order, np.broadcast_to(np.arange(50), order.shape))
        shares.append(correctness(ids, list(exact_ids)).mean())
    assert shares == sorted(shares) and 0.2 < shares[0] < 0.95 and shares[-1] == 1


def test_a_query_whose_lists_hold_too_few_gets_more_of_them_alone(city, index):
    queries = city[1]
    distances, ids = search(index, queries, 300, probes=1)
    assert ids.min() >= 0 and distances.max() <= 64
    assert all(len(set(row)) == 300 for row in ids)
    one_by_one = np.concatenate([search(index, queries[i:i + 1], 300, probes=1)[1] for i in range(len(queries))])
    np.testing.assert_array_equal(ids, one_by_one)


def test_the_chosen_probes_are_the_fewest_that_reach_the_goal(city, index):
    codes, queries = city
    exact_ids = search_hamming(codes, queries, 50)[1]

    def overlap(probes):
        return correctness(search(index, queries, 50, probes=probes)[1], list(exact_ids)).mean()

    for goal in (0.5, 0.95):
        probes = choose_probes(index, queries, exact_ids, goal=goal)
        assert overlap(probes) >= goal
        assert probes <= 1.13 * min(p for p in range(1, index.nlist + 1) if overlap(p) >= goal) + 1
    assert choose_probes(index, queries, exact_ids, goal=1.0) <= index.nlist


def test_with_positives_the_goal_is_a_share_of_the_exact_recall(city, index):
    codes, queries = city
    exact_ids = search_hamming(codes, queries, 50)[1]
    # Of three queries in four the right image is the exact search's last; the others have none to be found.
    nowhere = np.array([len(codes)])
    positives = [exact_ids[i, -1:] if i % 4 else nowhere for i in range(len(queries))]

    def recall(probes):
        return recall_at_k(search(index, queries, 50, probes=probes)[1], positives, (50,))[50]

    probes = choose_probes(index, queries, exact_ids, goal=0.9, positives=positives)
    assert recall(index.nlist) == 75 and recall(1) < 0.9 * 75 <= recall(probes)
    assert probes <= 1.13 * min(p for p in range(1, index.nlist + 1) if recall(p) >= 0.9 * 75) + 1


def test_a_mapped_file_answers_as_the_index_that_was_written(city, index, tmp_path):
    queries = city[1]
    index.nprobe = 5
    search(index, queries, 3, probes=2)  # which does not change the default
    faiss.write_index_binary(index, str(tmp_path / "codes.ivf"))
    opened = faiss.read_index_binary(str(tmp_path / "codes.ivf"), faiss.IO_FLAG_MMAP_IFC)
    assert (opened.nprobe, opened.nlist, opened.ntotal) == (5, 63, 4000)
    for mine, saved in zip(search(opened, queries, 20), search(index, queries, 20, probes=5), strict=True):
        np.testing.assert_array_equal(mine, saved)


def test_a_memory_map_builds_the_same_index_as_an_array(city, tmp_path):
    codes, queries = city
    codes.tofile(tmp_path / "codes")
    mapped = np.memmap(tmp_path / "codes", np.uint8, "r", shape=codes.shape)
    np.testing.assert_array_equal(search(build(mapped, lists=20), queries, 9, probes=2)[1],
                                  search(build(codes, lists=20), queries, 9, probes=2)[1])
