"""Packing, searches and re-ranking against naive loops and the published code's values."""

import sys

import faiss
import numpy as np
import pytest
import torch
from paths import DATA

from utils.search import (
    StoredRows,
    exact,
    merge_ranked,
    pack_codes,
    rerank_hamming,
    rerank_l2,
    search_hamming,
    search_l2,
    store_rows,
)


@pytest.fixture(scope="module", autouse=True)
def three_threads():
    """As most machines have several, whatever the tests were started with."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(DATA / "golden_retrieval_small.npz"))


def naive_nearest(distances, k: int) -> list[list[int]]:
    """Of a table of distances, for each row the columns of the k smallest, equal ones by column."""
    return [sorted(range(len(row)), key=lambda j: (row[j], j))[:k] for row in np.asarray(distances).tolist()]


def naive_hamming(a: np.ndarray, b: np.ndarray) -> list[list[int]]:
    return [[sum((int(x) ^ int(y)).bit_count() for x, y in zip(p, q, strict=True)) for q in b] for p in a]


def naive_squared_l2(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a.astype(np.float64)[:, None] - b.astype(np.float64)[None]) ** 2).sum(-1)


# --- packing ---------------------------------------------------------------------------------------------------


def test_packing_matches_a_naive_loop_for_arrays_and_tensors():
    values = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    values[0, :3] = 0.0, -0.0, -1e-30
    expected = [
        [sum(2 ** (7 - bit) for bit in range(8) if row[8 * byte + bit] >= 0) for byte in range(3)] for row in values
    ]
    for given in (values, torch.from_numpy(values), torch.from_numpy(values).double()):
        packed = pack_codes(given)
        assert packed.dtype == np.uint8 and packed.tolist() == expected
    signs = np.where(values >= 0, 1, -1)
    assert pack_codes(signs.astype(np.int8)).tolist() == expected


def test_golden_packing(golden):
    arrays = golden
    assert np.array_equal(pack_codes(arrays["q_hash"]), arrays["q_codes"])


# --- Hamming search --------------------------------------------------------------------------------------------


def test_golden_hamming_search(golden):
    arrays = golden
    distances, ids = search_hamming(arrays["db_codes"], arrays["q_codes"], 100)
    assert distances.dtype == np.int32 and ids.dtype == np.int64
    assert np.array_equal(distances, arrays["hamming_distances"])
    assert np.array_equal(ids, arrays["hamming_ids"])


@pytest.mark.parametrize("n_bytes", [1, 2, 64])
@pytest.mark.parametrize("n_queries", [1, 30])
@pytest.mark.parametrize("k", [1, 7, 100, 250])
def test_hamming_ties_follow_the_database_order(n_bytes, n_queries, k):
    """With one byte, nearly every distance is shared by dozens of rows, and rank k falls among equal ones."""
    rng = np.random.default_rng(k)
    database = rng.integers(0, 256, (250, n_bytes), dtype=np.uint8)
    queries = rng.integers(0, 256, (n_queries, n_bytes), dtype=np.uint8)
    table = naive_hamming(queries, database)
    distances, ids = search_hamming(database, queries, k)
    assert ids.tolist() == naive_nearest(table, k)
    assert np.array_equal(distances, np.take_along_axis(np.array(table), ids, axis=1))


@pytest.mark.parametrize(("n", "n_bytes", "n_queries"), [(200_000, 2, 1), (200_000, 2, 5), (1000, 64, 200)])
def test_hamming_ties_in_a_large_database(n, n_bytes, n_queries):
    """Threads share the database's rows, or the queries; only the order (distance, row) is checked, by numpy."""
    rng = np.random.default_rng(0)
    database = rng.integers(0, 256, (n, n_bytes), dtype=np.uint8)
    table = np.unpackbits(database[:n_queries, None] ^ database[None], axis=2).sum(2)
    distances, ids = search_hamming(database, database[:n_queries], 100)
    assert np.array_equal(ids, np.argsort(table, axis=1, kind="stable")[:, :100])
    assert np.array_equal(distances, np.take_along_axis(table, ids, axis=1))


def test_as_deep_as_the_database():
    """Lists of rows by distance, of which even one query's are large."""
    rng = np.random.default_rng(0)
    database = rng.integers(0, 256, (9000, 64), dtype=np.uint8)
    queries = rng.integers(0, 256, (3, 64), dtype=np.uint8)
    table = np.unpackbits(queries[:, None] ^ database[None], axis=2).sum(2)
    distances, ids = search_hamming(database, queries, 9000)
    assert np.array_equal(ids, np.argsort(table, axis=1, kind="stable"))
    assert np.array_equal(distances, np.sort(table, axis=1))


# --- L2 search -------------------------------------------------------------------------------------------------


def test_golden_l2_search(golden):
    """The rows kept hold all 100 nearest of query 0; of the other queries, the nearest among those rows."""
    arrays = golden
    rows = arrays["float_rows"]
    distances, ids = search_l2(arrays["db_float"], arrays["q_float"], len(rows))
    assert distances.dtype == np.float32 and ids.dtype == np.int64
    checked = 0
    for query, expected in enumerate(arrays["l2_ids"]):
        present = np.isin(expected, rows)
        n = present.sum()
        checked += n
        assert np.array_equal(rows[ids[query, :n]], expected[present])
        assert np.allclose(distances[query, :n], arrays["l2_distances"][query, present], rtol=0, atol=1e-6)
    assert np.isin(arrays["l2_ids"][0], rows).all() and checked > 500


@pytest.mark.parametrize("n_queries", [1, 19, 40])  # faiss turns to matrix products at 20 queries
@pytest.mark.parametrize("k", [1, 7, 100, 300])  # and to another way of selecting at k = 100
def test_l2_ties_follow_the_database_order(n_queries, k):
    """Small whole numbers, so that distances are exact and most are equal."""
    rng = np.random.default_rng(k)
    database = rng.integers(0, 2, (300, 6)).astype(np.float32)
    queries = rng.integers(0, 2, (n_queries, 6)).astype(np.float32)
    table = naive_squared_l2(queries, database)
    distances, ids = search_l2(database, queries, k)
    assert ids.tolist() == naive_nearest(table, k)
    assert np.array_equal(distances, np.take_along_axis(table, ids, axis=1))


def test_duplicate_descriptors_follow_the_database_order():
    rng = np.random.default_rng(0)
    different = rng.standard_normal((40, 96)).astype(np.float32)
    copies = rng.integers(0, 40, 1000)
    queries = rng.standard_normal((30, 96)).astype(np.float32)
    table = naive_squared_l2(queries, different)[:, copies]
    _, ids = search_l2(different[copies], queries, 130)
    assert ids.tolist() == naive_nearest(table, 130)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("n_queries", [3, 25])
@pytest.mark.parametrize("some", [False, True])
def test_l2_search_in_blocks_of_a_memory_map(kind, n_queries, some, tmp_path, monkeypatch):
    """Blocks and slices of 32 rows, by several threads; equal rows lie in different blocks."""
    monkeypatch.setattr(exact, "BLOCK_BYTES", 32 * 6 * 4)
    monkeypatch.setattr(exact, "SLICE_BYTES", 32 * 6 * 4)
    rng = np.random.default_rng(0)
    database = 127 * rng.integers(0, 2, (300, 6)).astype(np.float32)  # exact in int8 too, whose scale is 1 then
    database[:, 0] = 127
    stored = store_rows(database, kind)
    stored.values.tofile(tmp_path / "rows")
    values = np.memmap(tmp_path / "rows", stored.values.dtype, mode="r", shape=database.shape)
    mapped = StoredRows(values, stored.scales)
    queries = 127 * rng.integers(0, 2, (n_queries, 6)).astype(np.float32)
    table = naive_squared_l2(queries, database)
    rows = np.flatnonzero(rng.random(300) < 0.6) if some else np.arange(300)
    distances, ids = search_l2(mapped, queries, 40, rows=rows if some else None)
    assert ids.tolist() == rows[naive_nearest(table[:, rows], 40)].tolist()
    assert np.array_equal(distances, np.take_along_axis(table, ids, axis=1))
    reranked, away = rerank_l2(mapped, queries, ids[:, ::-1], 40)
    assert np.array_equal(away, np.sqrt(np.take_along_axis(table, reranked, axis=1)).astype(np.float32))


@pytest.mark.parametrize("n_queries", [1, 3])
def test_l2_search_of_a_large_database(n_queries):
    """Several slices of rows as they are, by threads, for one query."""
    rng = np.random.default_rng(0)
    database = rng.integers(0, 4, (700_000, 8)).astype(np.float32)
    queries = rng.integers(0, 4, (n_queries, 8)).astype(np.float32)
    distances, ids = search_l2(database, queries, 20)
    for query, found, away in zip(queries, ids, distances, strict=True):
        squared = ((database - query) ** 2).sum(1)
        nearest = np.argsort(squared, kind="stable")[:20]
        assert np.array_equal(found, nearest) and np.array_equal(away, squared[nearest])


def test_one_bad_row_of_the_database_is_told():
    database = np.random.default_rng(0).standard_normal((3000, 8)).astype(np.float32)
    for bad in (np.nan, np.inf):
        spoilt = database.copy()
        spoilt[2000, 3] = bad
        for n_queries in (1, 30):
            with pytest.raises(ValueError, match="NaN or infinity"):
                search_l2(spoilt, database[:n_queries], 2)
            candidates = np.tile([1999, 2000, 2001], (n_queries, 1))
            with pytest.raises(ValueError, match="NaN or infinity"):
                rerank_l2(spoilt, database[:n_queries], candidates, 3)
            rerank_l2(spoilt, database[:n_queries], candidates[:, ::2], 2)  # which does not read that row


def test_merging_searches_of_parts():
    """Parts in any order, one of them with fewer rows than k."""
    rng = np.random.default_rng(0)
    table = rng.integers(0, 5, (7, 90)).astype(np.int32)
    parts = []
    for ids in (np.arange(60, 90), np.arange(5), np.arange(5, 60)):
        best = ids[np.array(naive_nearest(table[:, ids], 12))]
        parts.append((np.take_along_axis(table, best, axis=1), best))
    distances, ids = merge_ranked(parts, 12)
    assert ids.tolist() == naive_nearest(table, 12)
    assert np.array_equal(distances, np.take_along_axis(table, ids, axis=1)) and distances.dtype == np.int32


# --- re-ranking ------------------------------------------------------------------------------------------------


def test_golden_reranking(golden):
    """The golden Hamming candidates in, the golden order out: whole for query 0, else for the rows kept."""
    arrays = golden
    rows, checked = arrays["float_rows"], 0
    for query, candidates in enumerate(arrays["hamming_ids"]):
        local = np.searchsorted(rows, candidates[np.isin(candidates, rows)])[None]
        ids, distances = rerank_l2(arrays["db_float"], arrays["q_float"][query : query + 1], local, 100)
        present = np.isin(arrays["reranked_ids"][query], rows)
        assert np.array_equal(rows[ids[0]], arrays["reranked_ids"][query, present])
        assert np.allclose(distances[0], arrays["reranked_distances"][query, present], rtol=0, atol=1e-6)
        checked += present.sum()
    assert np.isin(arrays["hamming_ids"][0], rows).all() and checked > 500


@pytest.mark.parametrize("depth", [1, 8, 29, 30, 100])
@pytest.mark.parametrize("block_bytes", [1, 200, 2**27])
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_reranking_matches_a_naive_loop(depth, block_bytes, kind, monkeypatch):
    """In blocks of one query, of a few and of all; candidates beyond the depth stay where they are."""
    monkeypatch.setattr(exact, "BLOCK_BYTES", block_bytes * depth)
    monkeypatch.setattr(exact, "NEAR_BYTES", block_bytes)
    rng = np.random.default_rng(depth)
    stored = store_rows(rng.standard_normal((50, 16)).astype(np.float32), kind)
    database = stored.read(slice(None))
    queries = rng.standard_normal((11, 16)).astype(np.float32)
    candidates = np.stack([rng.permutation(50)[:30] for _ in queries])
    given = candidates.copy()
    ids, distances = rerank_l2(stored, queries, candidates, depth)
    assert np.array_equal(candidates, given)
    assert ids.shape == (11, 30) and ids.dtype == np.int64
    assert distances.shape == (11, min(depth, 30)) and distances.dtype == np.float32
    for query, listed in enumerate(given.tolist()):
        away = [float(np.sqrt(((database[j].astype(float) - queries[query]) ** 2).sum())) for j in listed]
        order = sorted(range(min(depth, 30)), key=lambda rank: away[rank])
        assert ids[query].tolist() == [listed[rank] for rank in order] + listed[depth:]
        assert distances[query] == pytest.approx([away[rank] for rank in order], abs=1e-5)


def test_reranking_keeps_the_order_of_equal_distances():
    """Rows 0 to 299 are one image, nearer than rows 300 to 399, another."""
    database = np.repeat(np.float32([[1, 0], [0, 1]]), [300, 100], axis=0)
    candidates = np.stack([np.random.default_rng(seed).permutation(400) for seed in range(6)])
    queries = np.tile(np.float32([[0.8, 0.6]]), (6, 1))
    ids, _ = rerank_l2(database, queries, candidates, 400)
    expected = [sorted(row, key=lambda row_id: row_id >= 300) for row in candidates.tolist()]
    assert ids.tolist() == expected
    assert rerank_l2(database, queries[:1], candidates[:1], 400)[0].tolist() == expected[:1]


@pytest.mark.parametrize("depth", [1, 8, 30, 100])
@pytest.mark.parametrize("n_bytes", [1, 3, 64])
@pytest.mark.parametrize("near_bytes", [1, 2**24])
def test_reranking_by_codes_matches_a_naive_loop(depth, n_bytes, near_bytes, monkeypatch):
    """Equal distances by row, in whatever order the candidates are."""
    monkeypatch.setattr(exact, "NEAR_BYTES", near_bytes)
    rng = np.random.default_rng(depth)
    database, queries = (rng.integers(0, 256, (n, n_bytes), dtype=np.uint8) for n in (50, 11))
    candidates = np.stack([rng.permutation(50)[:30] for _ in queries])
    given = candidates.copy()
    ids, distances = rerank_hamming(database, queries, candidates, depth)
    assert np.array_equal(candidates, given)
    assert (ids.dtype, distances.dtype, distances.shape) == (np.int64, np.int32, (11, min(depth, 30)))
    table = naive_hamming(queries, database)
    for query, listed in enumerate(given.tolist()):
        head = sorted(listed[:depth], key=lambda row: (table[query][row], row))
        assert ids[query].tolist() == head + listed[depth:]
        assert distances[query].tolist() == [table[query][row] for row in head]


def test_a_database_smaller_than_k_gives_all_of_it_and_never_minus_one():
    rng = np.random.default_rng(0)
    database = rng.standard_normal((5, 16)).astype(np.float32)
    queries = rng.standard_normal((3, 16)).astype(np.float32)
    _, l2_ids = search_l2(database, queries, 100)
    hamming, ids = search_hamming(pack_codes(database), pack_codes(queries), 100)
    assert hamming.max() <= 16
    reranked, distances = rerank_l2(database, queries, ids, 100)
    assert distances.shape == (3, 5)
    for found in (l2_ids, ids, reranked):
        assert np.array_equal(np.sort(found, axis=1), np.tile(np.arange(5), (3, 1)))
    assert np.array_equal(reranked, l2_ids)


def test_no_queries_find_nothing():
    floats, codes = np.ones((9, 16), np.float32), np.ones((9, 2), np.uint8)
    for k in (1, 4, 50):
        for distances, ids in (search_hamming(codes, codes[:0], k), search_l2(floats, floats[:0], k)):
            assert distances.shape == ids.shape == (0, min(k, 9)) and ids.dtype == np.int64
        ids, distances = rerank_l2(floats, floats[:0], np.empty((0, 7), np.int64), k)
        assert (ids.shape, distances.shape) == ((0, 7), (0, min(k, 7)))
        ids, distances = rerank_hamming(codes, codes[:0], np.empty((0, 7), np.int64), k)
        assert (ids.shape, distances.shape) == ((0, 7), (0, min(k, 7)))
    ids, distances = rerank_l2(floats, floats, np.empty((9, 0), np.int64), 3)
    assert ids.shape == distances.shape == (9, 0)


def test_inputs_that_are_not_contiguous():
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((60, 32)).astype(np.float32)
    database, queries = wide[:50, ::2], wide[50:, ::2]
    expected = naive_nearest(naive_squared_l2(queries, database), 9)
    _, ids = search_l2(database, queries, 9)
    assert ids.tolist() == expected
    reranked, _ = rerank_l2(database, queries, np.tile(np.arange(50), (10, 1)), 50)
    assert reranked[:, :9].tolist() == expected
    codes = pack_codes(wide)[:, ::2]
    _, ids = search_hamming(codes[:50], codes[50:], 9)
    assert ids.tolist() == naive_nearest(naive_hamming(codes[50:], codes[:50]), 9)


# --- errors ----------------------------------------------------------------------------------------------------


def test_errors_name_what_was_given_and_expected():
    floats, codes = np.zeros((4, 16), np.float32), np.zeros((4, 2), np.uint8)
    some = np.zeros((4, 3), np.int64)
    cases = [
        (r"\(4, 12\); expected \(n, bits\), bits a multiple of 8", lambda: pack_codes(floats[:, :12])),
        (r"codes are uint8, which holds no -1", lambda: pack_codes(np.zeros((4, 16), np.uint8))),
        (r"codes hold NaN", lambda: pack_codes(floats * np.nan)),
        (r"database is float64 .*expected float32", lambda: search_l2(floats.astype(float), floats, 1)),
        (r"queries is float32 \(16,\)", lambda: search_l2(floats, floats[0], 1)),
        (r"width 16, queries 8", lambda: search_l2(floats, floats[:, :8], 1)),
        (r"NaN or infinity", lambda: search_l2(floats + np.float32("inf"), floats, 1)),
        (r"database holds no rows", lambda: search_l2(floats[:0], floats, 1)),
        (r"rows are none", lambda: search_l2(floats, floats, 1, rows=np.empty(0, np.int64))),
        (r"k is 0; expected at least 1", lambda: search_hamming(codes, codes, 0)),
        (r"queries is float32 .*expected uint8", lambda: search_hamming(codes, floats, 1)),
        (r"width 2, queries 1", lambda: search_hamming(codes, codes[:, :1], 1)),
        (r"depth is 0", lambda: rerank_l2(floats, floats, some, 0)),
        (r"from -1 to -1; expected indices of the 4", lambda: rerank_l2(floats, floats, some - 1, 3)),
        (r"from 4 to 4", lambda: rerank_l2(floats, floats, some + 4, 3)),
        (r"\(3, 3\); expected integers \(4, k\)", lambda: rerank_l2(floats, floats, some[:3], 3)),
        (r"candidates are float64", lambda: rerank_l2(floats, floats, some.astype(float), 3)),
        (r"NaN or infinity", lambda: rerank_l2(floats, floats * np.float32("nan"), some, 3)),
        (r"depth is 0", lambda: rerank_hamming(codes, codes, some, 0)),
        (r"width 2, queries 1", lambda: rerank_hamming(codes, codes[:, :1], some, 3)),
        (r"from -1 to -1; expected indices of the 4", lambda: rerank_hamming(codes, codes, some - 1, 3)),
    ]
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()


# --- how far it is ---------------------------------------------------------------------------------------------

def test_long_searches_show_how_far_they_are_and_find_the_same(monkeypatch, capsys):
    rng = np.random.default_rng(0)
    codes, floats = rng.integers(0, 256, (50, 8), dtype=np.uint8), rng.standard_normal((50, 16)).astype(np.float32)
    candidates = np.tile(np.arange(50), (40, 1))

    def searches():
        found = search_hamming(codes, codes[:40], 5), search_l2(floats, floats[:40], 5), rerank_l2(
            floats, floats[:40], candidates, 50)
        return [array.tolist() for pair in found for array in pair], capsys.readouterr().err

    whole, said = searches()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert (searches(), said) == ((whole, ""), "")  # each in one step
    for name in ("COUNTER_BYTES", "BLOCK_BYTES", "NEAR_BYTES"):
        monkeypatch.setattr(exact, name, 1024)
    monkeypatch.setattr(exact, "SHORT_S", 0)
    parted, said = searches()
    assert parted == whole
    assert said.count("searching: ") == 2 and said.count("re-ranking: ") == 1
