"""A first stage that reads only a part of the codes: faiss's inverted file over Hamming distance.

It answers as `search_hamming` does, but misses neighbours in lists that it does not probe; `choose_probes` measures how
many to probe. docs/benchmarks/scale.md compares it with graphs and hash tables, which lost.
"""

import bisect
from collections.abc import Sequence

import faiss
import numpy as np

from utils.evaluation.metrics import correctness, recall_at_k
from utils.search import merge_ranked

_SAMPLE = 40  # codes a list to train on, and rounds of k-means: 64 and 10 took three times as long and found 0.1 % more
_ROUNDS = 4
_SPARE = 28  # ranks searched beyond the k wanted: most often all codes that are as far as rank k


def build(codes: np.ndarray, *, lists: int | None = None) -> faiss.IndexBinaryIVF:
    """Of database codes (n, bytes) uint8, an array or a memory map, in `lists` lists (None: the square root of n), each
    around a centre that comes from a sample of them. It holds a copy of the codes and 8 bytes an image."""
    n, bits = len(codes), 8 * codes.shape[1]
    lists = lists or round(n ** 0.5)
    index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(bits), bits, lists)
    index.cp.niter, index.cp.seed, index.cp.min_points_per_centroid = _ROUNDS, 0, 1
    sample = np.random.default_rng(0).choice(n, min(n, _SAMPLE * lists), replace=False)
    index.train(codes[np.sort(sample)])
    index.add(codes)
    index.nprobe = min(lists, 64)  # twice what 99 % of the exact search's recall@100 took at a million codes
    return index


def search(index: faiss.IndexBinaryIVF, codes: np.ndarray, k: int, *, probes: int | None = None, spare: int = _SPARE
           ) -> tuple[np.ndarray, np.ndarray]:
    """Nearest database codes of each query (m, bytes) uint8 among the `probes` lists whose centres are nearest.

    Returns Hamming distances in bits (m, k') int32, ascending, and database indices (m, k') int64, k' = min(k, n),
    equal distances by index: where all lists are probed, what `search_hamming` returns. For a query whose lists
    hold fewer than k' more are probed. probes: None: the index's `nprobe`.
    """
    n, probes = index.ntotal, probes or index.nprobe
    k, depth = min(k, n), min(k + spare, n)
    options = faiss.SearchParametersIVF(nprobe=min(probes, index.nlist))
    distances, ids = merge_ranked([index.search(codes, depth, params=options)], depth)
    short = ids[:, k - 1] < 0
    # Of several codes at the last distance found, faiss keeps any: look deeper where rank k has that distance.
    tied = ~short & (distances[:, k - 1] == distances[:, -1]) & (depth < n)
    distances, ids = distances[:, :k], ids[:, :k]
    for rows, more in ((short, {"probes": 2 * probes, "spare": spare}), (tied, {"probes": probes, "spare": 2 * depth})):
        if rows.any():
            distances[rows], ids[rows] = search(index, codes[rows], k, **more)
    return distances, ids


def choose_probes(index: faiss.IndexBinaryIVF, codes: np.ndarray, exact_ids: np.ndarray, *, goal: float,
                  positives: Sequence[np.ndarray] | None = None) -> int:
    """The fewest probes, within an eighth, by which these sample queries (m, bytes) are answered well enough.

    exact_ids  (m, k) of `search_hamming`
    goal       share of these ids that must be found; with positives, share of the recall@k of exact_ids
    positives  for each query the database indices that are right
    """
    k = exact_ids.shape[1]

    def good(probes: int) -> bool:
        ids = search(index, codes, k, probes=probes)[1]
        if positives is None:
            return correctness(ids, list(exact_ids)).mean() >= goal
        found, exact = (recall_at_k(each, positives, (k,))[k] for each in (ids, exact_ids))
        return found >= goal * exact

    steps = np.unique(np.geomspace(1, index.nlist, 1 + 6 * index.nlist.bit_length()).round().astype(int)).tolist()
    return steps[bisect.bisect_left(steps[:-1], True, key=good)]
