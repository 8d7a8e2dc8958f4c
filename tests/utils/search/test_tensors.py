"""The searches in tensor operations, on the processor and, where there is one, a GPU, against naive loops and faiss."""

import numpy as np
import pytest
import torch

from utils.search import Searchable, rerank_l2, search_hamming, search_l2, store_rows, tensors

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")]
DEVICES = [torch.device("cpu"), pytest.param(torch.device("cuda"), marks=GPU)]


def naive_nearest(distances, k: int) -> list[list[int]]:
    """Of a table of distances, for each row the columns of the k smallest, equal ones by column."""
    return [sorted(range(len(row)), key=lambda j: (row[j], j))[:k] for row in np.asarray(distances).tolist()]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(tensors, "BLOCK_ROWS", 64)
    monkeypatch.setattr(tensors, "TABLE", 64 * 9)
    monkeypatch.setattr(tensors, "GATHERED_BYTES", 2000)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [1, 90, 250])
@pytest.mark.parametrize("n_bytes", [1, 64, 300])
def test_hamming_search(device, k, n_bytes, small_blocks):
    rng = np.random.default_rng(k)
    database = rng.integers(0, 256, (250, n_bytes), dtype=np.uint8)
    queries = rng.integers(0, 256, (20, n_bytes), dtype=np.uint8)
    database[7], database[8] = queries[0], 255 - queries[0]  # the ends of the range
    table = np.unpackbits(queries[:, None] ^ database[None], axis=2).sum(2)
    distances, ids = tensors.search_hamming(database, queries, k, device)
    assert distances.dtype == np.int32 and ids.dtype == np.int64
    assert ids.tolist() == naive_nearest(table, k)
    assert np.array_equal(distances, np.take_along_axis(table, ids, axis=1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [1, 90, 250])
def test_l2_search_and_distances(device, k, small_blocks):
    rng = np.random.default_rng(k)
    database = rng.integers(0, 2, (250, 6)).astype(np.float32)
    queries = rng.integers(0, 2, (20, 6)).astype(np.float32)
    table = ((queries[:, None] - database[None]) ** 2).sum(2)
    distances, ids = tensors.search_l2(database, queries, k, device)
    assert distances.dtype == np.float32 and ids.dtype == np.int64
    assert ids.tolist() == naive_nearest(table, k)
    assert np.array_equal(distances, np.take_along_axis(table, ids, axis=1))
    assert np.array_equal(tensors.squared_l2(database, queries, ids[:, ::-1].copy(), device), distances[:, ::-1])
    database[3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        tensors.search_l2(database, queries, 250, device)


@pytest.mark.parametrize("device", DEVICES)
def test_no_queries_find_nothing(device):
    codes, floats = np.ones((9, 2), np.uint8), np.ones((9, 16), np.float32)
    for search, rows in ((tensors.search_hamming, codes), (tensors.search_l2, floats)):
        assert [part.shape for part in search(rows, rows[:0], 4, device)] == [(0, 4), (0, 4)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("store", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("k", [1, 100, 3000])
def test_a_gpu_finds_what_the_processor_finds(k, store):
    """Many equal distances, exact on both, through every function that takes a device."""
    rng, device = np.random.default_rng(k), torch.device("cuda")
    database, queries = (127 * rng.integers(0, 2, (n, 10)).astype(np.float32) for n in (4000, 40))
    codes, query_codes = (rng.integers(0, 256, (n, 3), dtype=np.uint8) for n in (4000, 40))
    database = store_rows(database, store)
    first = search_hamming(codes, query_codes, k)
    index = Searchable(codes, database, np.flatnonzero(rng.random(4000) < 0.9))
    for mine, other in (
        (search_hamming(codes, query_codes, k, device=device), first),
        (search_l2(database, queries, k, device=device), search_l2(database, queries, k)),
        (rerank_l2(database, queries, first[1], 50, device=device), rerank_l2(database, queries, first[1], 50)),
        (index.search(query_codes, queries, device=device), index.search(query_codes, queries)),
        (index.search_floats(queries, k, device=device), index.search_floats(queries, k)),
    ):
        assert all(np.array_equal(*pair) for pair in zip(mine, other, strict=True))
