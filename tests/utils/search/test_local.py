"""Mutual nearest neighbours and the re-ranking by them, against naive loops and the published code's values."""

import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from paths import DATA
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from utils.search import local, search_l2
from utils.search.local import mutual_counts, rerank_local

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")]
DEVICES = [None, pytest.param(torch.device("cuda"), marks=GPU)]


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(DATA / "golden_local_matching.npz"))


@pytest.fixture(params=[1, 3], ids=["1 thread", "3 threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


def features(*shape: int, seed: int = 0, levels: int | None = None) -> np.ndarray:
    """Of unit length; or small whole numbers, of that many levels, whose products are exact and often equal."""
    rng = np.random.default_rng(seed)
    if levels:
        return rng.integers(0, levels, shape).astype(np.float32)
    made = rng.standard_normal(shape).astype(np.float32)
    return made / np.linalg.norm(made, axis=-1, keepdims=True)


def loops(query: np.ndarray, candidate: np.ndarray) -> int:
    """Pairs (j, i) where i is the first best of j and j the first best of i."""
    def first_best(one, others):
        products = [float(np.dot(one.astype(np.float64), other)) for other in others]
        return products.index(max(products))

    return sum(first_best(candidate[first_best(feature, candidate)], query) == j for j, feature in enumerate(query))


def flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(*features.shape[:-3], -1, features.shape[-1])


# --- counts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("levels", [None, 2, 3])
@pytest.mark.parametrize(("n", "p", "p2", "dim"),
                         [(1, 1, 1, 2), (4, 9, 9, 3), (5, 16, 9, 4), (2, 5, 25, 2), (7, 30, 31, 5)])
def test_counts_are_those_of_loops_in_blocks_of_any_size(n, p, p2, dim, levels, threads, device):
    for seed in range(4):
        query = features(p, dim, seed=seed, levels=levels)
        candidates = features(n, p2, dim, seed=99 + seed, levels=levels)
        expected = [loops(query, candidate) for candidate in candidates]
        for rows in (1, 2, 7, p2, 1000):
            counts = mutual_counts(query, candidates, block_bytes=4 * p * rows + 3, device=device)
            assert counts.dtype == np.int64 and counts.tolist() == expected
        assert mutual_counts(query, candidates, device=device).tolist() == expected


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [3, 7, 30])
def test_both_ways_to_find_mutual_ones_agree(rows, seed, monkeypatch):
    """That of GPUs, tried on the processor."""
    query, candidates = features(20, 3, seed=seed, levels=3), features(6, 30, 3, seed=50 + seed, levels=3)
    here = mutual_counts(query, candidates, block_bytes=80 * rows)
    monkeypatch.setattr(local, "_meet_on_cpu", local._meet)
    assert np.array_equal(mutual_counts(query, candidates, block_bytes=80 * rows), here)


def test_an_image_matches_itself_everywhere_and_one_feature_once():
    query = features(25, 16)
    shuffled = np.random.default_rng(1).permutation(query)
    assert mutual_counts(query, np.stack([query, shuffled, query[3:4].repeat(25, 0)])).tolist() == [25, 25, 1]
    assert mutual_counts(query, np.zeros((0, 25, 16), np.float32)).tolist() == []
    assert mutual_counts(np.zeros_like(query), query[None]).tolist() == [1]  # all are equal: the first of each


@pytest.mark.parametrize("name", ["random", "roll"])
def test_golden_counts(golden, name):
    query, candidate = (flat(golden[f"match.small.{name}.{side}"]) for side in ("query", "candidate"))
    assert mutual_counts(query, candidate[None]).tolist() == [golden[f"match.small.{name}.score"]]
    assert golden[f"match.small.{name}.score"] == golden[f"match.small.{name}.pairs"].shape[1]


@pytest.mark.parametrize("name", ["one_match", "ties_same_vector", "two"])
def test_golden_lone_pairs_count_one(golden, name):
    """Where the published code gives 0."""
    query, candidate = (flat(golden[f"match.deg.{name}.{side}"]) for side in ("query", "candidate"))
    expected = golden[f"match.deg.{name}.pairs"].shape[1]
    assert mutual_counts(query, candidate[None]).tolist() == [expected]
    assert golden[f"match.deg.{name}.score"] == (expected if expected > 1 else 0)


def made_up_map(tag: str, base: np.ndarray | None = None, mix: float = 0.0, roll: tuple[int, int] = (0, 0)):
    """(61, 61, 128), as the recorded dense scores' maps were made."""
    made = np.random.default_rng(zlib.crc32(f"local:{tag}".encode())).standard_normal((61, 61, 128))
    if base is not None:
        made = (1 - mix) * made / np.sqrt(128) + mix * np.roll(base.astype(np.float64), roll, (0, 1))
    return (made / np.linalg.norm(made, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.slow
def test_golden_dense_maps(golden):
    """The recorded scores are the published code's, in fp32 too: of 3721 features it may decide 2 otherwise."""
    query = made_up_map("Q")
    candidates = {"mix0.4": made_up_map("C1", query, 0.4), "mix0.3_roll5_9": made_up_map("C2", query, 0.3, (5, 9)),
                  "mix0.25": made_up_map("C3", query, 0.25), "same": query, "rolled": np.roll(query, (5, 9), (0, 1))}
    assert np.allclose(query[:2, :3, :16], golden["match.dense.query_slice"], atol=1e-7)
    assert np.allclose(candidates["mix0.4"][:2, :3, :16], golden["match.dense.mix0.4_slice"], atol=1e-7)
    stacked = flat(np.stack([*candidates.values()]))
    expected = [golden[f"match.dense.{name}.score"] for name in candidates]
    exact = mutual_counts(flat(query), stacked)
    assert np.abs(exact - expected).max() <= 2
    for rounded in (mutual_counts(flat(query), stacked, precision="bf16"),
                    mutual_counts(flat(query), stacked.astype(np.float16))):
        assert np.abs(rounded - expected).max() < 20 and rounded[0] > rounded[1] > rounded[2]


def test_bf16_counts_features_that_are_rounded_before_and_leaves_the_precision_as_it_was():
    query, candidates = features(90, 64, seed=1), features(5, 70, 64, seed=2)
    rounded, rounded_candidates = (torch.from_numpy(array).bfloat16().float().numpy() for array in (query, candidates))
    before = torch.get_float32_matmul_precision()
    found = mutual_counts(query, candidates, precision="bf16")
    assert found.tolist() == [loops(rounded, candidate) for candidate in rounded_candidates]
    assert torch.get_float32_matmul_precision() == before
    torch.set_float32_matmul_precision("medium")
    try:
        assert mutual_counts(query, candidates).tolist() == [loops(query, candidate) for candidate in candidates]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_float16_and_read_only_memory_are_taken():
    query, candidates = features(40, 8), features(3, 50, 8, seed=1).astype(np.float16)
    candidates.flags.writeable = False
    assert mutual_counts(query, candidates).tolist() == mutual_counts(query, candidates.astype(np.float32)).tolist()


# --- memory ----------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation returns."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.found = max([self.found, *(leaf.nbytes for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))])
        return out


@pytest.mark.slow
@pytest.mark.parametrize("given", [100_000, 1_000_000, None])
def test_similarities_take_no_more_than_they_may(given):
    query, candidates = features(2000, 4), features(3, 1500, 4, seed=1)  # 12 MB of similarities each
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with Largest() as of_torch:
        mutual_counts(query, candidates, block_bytes=given)
    tracemalloc.start()
    mutual_counts(query, candidates, block_bytes=given)
    of_numpy = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    torch.set_num_threads(before)
    may = given or local.CACHE_BYTES
    assert 0.8 * may < of_torch.found <= may
    assert of_numpy < 0.6 * may + 300_000  # numpy's: columns of a block, where the rows' largest lie


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_values_that_have_no_rank_are_refused(side, value, threads, device):
    given = [features(30, 4), features(4, 30, 4, seed=1)]
    given[side][-1, ..., 2] = value
    with pytest.raises(ValueError, match="NaN or infinity") as caught:
        mutual_counts(*given, block_bytes=7 * 120, device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("query", "candidates", "options", "message"), [
    (features(9, 4)[None], features(2, 9, 4), {}, r"query: .* \(1, 9, 4\); expected float32 or float16 \(P, D\)"),
    (features(9, 4), features(9, 4), {}, r"candidates: .* \(9, 4\); expected float32 or float16 \(n, P', D\)"),
    (features(9, 4).astype(np.float64), features(2, 9, 4), {}, "query: .*float64"),
    (features(9, 4), features(2, 9, 5), {}, "width 4 in the query, 5 in the candidates"),
    (features(0, 4), features(2, 9, 4), {}, "at least one of each image"),
    (features(9, 4), features(2, 0, 4), {}, "at least one of each image"),
    (features(9, 4), features(2, 9, 4), {"block_bytes": 35}, "block_bytes is 35; expected at least 36"),
    (features(9, 4), features(2, 9, 4), {"precision": "int8"}, "precision is 'int8'; expected one of fp32, bf16"),
])
def test_what_does_not_fit_is_named(query, candidates, options, message):
    with pytest.raises(ValueError, match=message):
        mutual_counts(query, candidates, **options)


# --- re-ranking ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["distinct", "tied"])
def test_golden_reranking(golden, name):
    database = golden["rerank.database"][[9, 1, 9, 8, 1, 9, 8, 3]] if name == "tied" else golden["rerank.database"]
    candidates, scores = golden[f"rerank.{name}.candidates"], golden[f"rerank.{name}.scores"]
    ids, found = rerank_local(golden["rerank.queries"], candidates, database.__getitem__, depth=100)
    order = np.argsort(-scores, axis=1, kind="stable")  # equal scores stay in the order of the first stage
    assert np.array_equal(found, np.take_along_axis(scores, order, axis=1)) and found.dtype == np.int64
    assert np.array_equal(ids, np.take_along_axis(candidates, order, axis=1)) and ids.dtype == np.int64
    if name == "distinct":
        assert np.array_equal(ids, golden["rerank.distinct.order"])


@pytest.fixture(scope="module")
def small_set():
    """Maps of 3 queries and 9 images, candidates of each and their squared distances."""
    queries, database = features(3, 4, 5, 8), features(9, 4, 5, 8, seed=1)
    for image in range(9):  # the first rows of a map are the query's, so that counts differ
        database[image, :image % 4] = queries[image % 3, :image % 4]
    distances, candidates = search_l2(features(9, 16, seed=2), features(3, 16, seed=3), 9)
    return queries, database, candidates, distances


@pytest.mark.parametrize("depth", [1, 4, 9, 100])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_reranking_is_that_of_loops(small_set, depth, weight, monkeypatch):
    queries, database, candidates, distances = small_set
    monkeypatch.setattr(local, "TOGETHER", 2)
    asked = []

    def features_of(ids):
        asked.append(ids.tolist())
        return database[ids]

    ids, scores = rerank_local(queries, candidates, features_of, depth=depth, distances=distances, weight=weight)
    assert ids.shape == candidates.shape and scores.shape == (3, min(depth, 9))
    for i, row in enumerate(candidates.tolist()):
        counts = [loops(flat(queries[i]), flat(database[image])) for image in row]
        fused = [(1 - weight) * count / 20 + weight * (1 - float(distance) / 2) if weight else count
                 for count, distance in zip(counts, distances[i], strict=True)]
        order = sorted(range(min(depth, 9)), key=lambda j: -round(fused[j], 6))  # noqa: B023
        assert ids[i].tolist() == [row[j] for j in order] + row[depth:]
        assert np.allclose(scores[i], [fused[j] for j in order], atol=1e-6)
    assert max(map(len, asked)) <= 2
    assert [image for ids in asked for image in ids] == candidates[:, :depth].ravel().tolist()


def test_a_weight_of_one_keeps_the_first_stage(small_set):
    queries, database, candidates, distances = small_set
    ids, _ = rerank_local(queries, candidates, database.__getitem__, depth=9, distances=distances, weight=1.0)
    assert np.array_equal(ids, candidates)


def test_what_cannot_be_reranked_is_named(small_set):
    queries, database, candidates, distances = small_set

    def rerank(candidates=candidates, **options):
        return rerank_local(queries, candidates, database.__getitem__, **{"depth": 5, **options})

    none = candidates.copy()
    none[1, 8] = -1  # what faiss puts where there are fewer images
    for message, call in {
        "candidates hold -1": lambda: rerank(none),
        r"float64 \(3, 9\); expected integers": lambda: rerank(candidates.astype(float)),
        r"expected integers \(3, k\)": lambda: rerank(candidates[:2]),
        "depth is 0": lambda: rerank(depth=0),
        "weight is 1.5; expected 0 to 1": lambda: rerank(weight=1.5, distances=distances),
        "weight is nan": lambda: rerank(weight=float("nan"), distances=distances),
        r"distances are None; expected \(3, 9\)": lambda: rerank(weight=0.5),
        r"distances are \(3, 4\)": lambda: rerank(weight=0.5, distances=distances[:, :4]),
        "NaN or infinity": lambda: rerank(weight=0.5, distances=np.full_like(distances, np.nan)),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
