"""Re-ranking by local features: how many of two images' features are each other's nearest, as SelaVPR counts them.

A candidate's score is its number of mutual nearest neighbours: features of the query and of the candidate, one of each,
between which the inner product is the largest of all that either has with the other image; of equal ones the first
counts. A single such pair counts 1, as any other (the published code gives 0).

The similarities of two images with 61 x 61 features are 55 MB, of a hundred candidates 5.5 GB. Here they are made some
rows at a time, few enough to stay in a cache, and both maxima are taken before the next ones overwrite them.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .stores import NOT_FINITE

CACHE_BYTES = 4 * 2**20  # of similarities at a time, for each thread: half and twice as many take as long
GPU_BYTES = 256 * 2**20  # likewise on a GPU, where a whole candidate at once needs the fewest calls
TOGETHER = 32  # candidates whose features are in memory at a time
# What torch.set_float32_matmul_precision is told: rounding to bfloat16 is allowed, or it is not.
PRECISIONS = {"fp32": "highest", "bf16": "medium"}

FeaturesOf = Callable[[np.ndarray], np.ndarray]  # ids (k,) int64 -> their features (k, ..., D), float32 or float16


class Maps(Protocol):
    """Local features of several images, an array (m, ..., D) or a `LocalFeatures`: read one image at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, image: int, /) -> np.ndarray: ...


def mutual_counts(query: np.ndarray, candidates: np.ndarray, *, block_bytes: int | None = None,
                  precision: str = "fp32", device: torch.device | None = None) -> np.ndarray:
    """How many local features of the query and of each candidate are each other's nearest by inner product.

    Args:
        query: (P, D), candidates: (n, P', D), of unit length, float32 or float16; any P and P' >= 1.
        block_bytes: the most that similarities take, for each of torch's threads, which share out the candidates; at
            least 4 * P. A copy of some of their columns comes to less. None: CACHE_BYTES, on a GPU GPU_BYTES.
        precision: "bf16" rounds the features to bfloat16 and sums their products in fp32: quicker where the processor
            has instructions for it, and for features that differ by less than the rounding another count.
        device: None or a processor; or CUDA.

    Returns counts (n,) int64, 1 to min(P, P'). Raises ValueError for shapes, dtypes or options that do not fit, and for
    NaN or infinity. While it runs, torch's precision of float32 products is this function's, in other threads too.
    """
    _check(query, candidates, precision)
    device = device or torch.device("cpu")
    gpu = device.type == "cuda"
    block_bytes = (GPU_BYTES if gpu else CACHE_BYTES) if block_bytes is None else block_bytes
    rows = min(block_bytes // (4 * len(query)), candidates.shape[1])
    if not rows:
        raise ValueError(f"block_bytes is {block_bytes}; expected at least {4 * len(query)}, the similarities of one "
                         f"feature with the query's {len(query)}")
    if not len(candidates):
        return np.zeros(0, np.int64)
    columns = _tensor(query, precision, device).T.contiguous()

    def counts(some: range) -> np.ndarray:
        block = torch.empty(rows, len(query), device=device)  # once: new memory takes as long as a product
        found = [_count(columns, _tensor(candidates[i], precision, device), block) for i in some]
        return torch.stack(found).cpu().numpy()

    with _precision(precision):
        found = counts(range(len(candidates))) if gpu else _in_threads(counts, len(candidates))
    if (found < 0).any():
        raise ValueError(NOT_FINITE)
    return found


def rerank_local(query_features: Maps, candidates: np.ndarray, features_of: FeaturesOf, *, depth: int,
                 distances: np.ndarray | None = None, weight: float = 0.0, precision: str = "fp32",
                 device: torch.device | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sort the first `depth` candidates of each query by their mutual neighbours; those beyond keep their order.

    Args:
        query_features: local features of m queries, (P, D) or (rows, columns, D) each.
        candidates: (m, k) integer database ids, best first, e.g. from `search_l2`.
        features_of: given ids (at most TOGETHER), their features, (P', D) or (rows, columns, D) each: `read` of
            `LocalFeatures` or of `Recomputed`.
        depth: how many to re-rank, >= 1; all k of them where there are fewer.
        distances: (m, k) squared L2 between the global descriptors, of unit length, as `search_l2` gives them; needed
            with a weight.
        weight: 0 to 1. The score is (1 - weight) * count / P + weight * cosine, P the query's number of features,
            cosine that of the global descriptors, 1 - distance / 2. By 0 it is the count itself.
        precision, device: as for `mutual_counts`.

    Returns ids (m, k) int64, and the scores (m, min(depth, k)) of the re-ranked part, highest first, int64 counts or,
    with a weight, float32; equal scores keep the order of the candidates. Raises ValueError for shapes, dtypes, depths,
    weights or ids that do not fit (a -1, faiss's "none", would stand for the last image), for NaN or infinity.
    """
    if candidates.ndim != 2 or len(candidates) != len(query_features) or candidates.dtype.kind not in "iu":
        raise ValueError(f"candidates are {candidates.dtype} {candidates.shape}; expected integers "
                         f"({len(query_features)}, k), one row per query")
    if candidates.size and candidates.min() < 0:
        raise ValueError(f"candidates hold {candidates.min()}; expected ids of database images, from 0 on")
    if depth < 1:
        raise ValueError(f"depth is {depth}; expected at least 1")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}; expected 0 to 1")
    if weight and (distances is None or distances.shape != candidates.shape):
        raise ValueError(f"distances are {None if distances is None else distances.shape}; "
                         f"expected {candidates.shape}, to be fused by a weight")
    ids = candidates.astype(np.int64)
    head = ids[:, :depth]  # a view: what is sorted there is sorted in ids
    scores = np.empty(head.shape, np.float32 if weight else np.int64)
    for i, wanted in enumerate(head):
        query = _flat(query_features[i])
        for start in range(0, len(wanted), TOGETHER):
            some = slice(start, start + TOGETHER)
            read = features_of(wanted[some])
            scores[i, some] = mutual_counts(query, read.reshape(len(read), -1, read.shape[-1]), precision=precision,
                                            device=device)
        if weight and distances is not None:
            scores[i] = (1 - weight) * scores[i] / len(query) + weight * (1 - distances[i, :depth] / 2)
    if not np.isfinite(scores).all():
        raise ValueError(NOT_FINITE)
    order = np.argsort(-scores, axis=1, kind="stable")
    ids[:, :depth] = np.take_along_axis(head, order, axis=1)
    return ids, np.take_along_axis(scores, order, axis=1)


def _count(query: Tensor, candidate: Tensor, block: Tensor) -> Tensor:
    """The count () int64 of a query, transposed (D, P), and a candidate (P', D); -1 where features are not finite.

    block  (rows, P) takes the similarities, some of the candidate's features at a time
    """
    meet = _meet if query.is_cuda else _meet_on_cpu
    best = torch.full(query.shape[1:], -torch.inf, device=query.device)
    mutual = torch.zeros(query.shape[1:], dtype=torch.bool, device=query.device)
    for start in range(0, len(candidate), len(block)):
        some = candidate[start:start + len(block)]
        values, met = meet(torch.mm(some, query, out=block[:len(some)]), best)
        # Greater, not equal: the first feature stays.
        mutual = torch.where(values > best, met, mutual)
        best = torch.maximum(best, values)
    return torch.where(best.isfinite().all(), mutual.sum(), -1)


def _meet(similarity: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """Of similarities (rows, P): each column's largest, and whether its place is also that of its row's largest.

    best  (P,): of columns that do not exceed it, whether they meet a row is not asked for
    """
    values, row = similarity.max(dim=0)
    return values, similarity.argmax(dim=1)[row] == torch.arange(len(row), device=row.device)


def _meet_on_cpu(similarity: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """Likewise. numpy finds each row's largest in a tenth of torch's time, and each column's in a small part of the
    time that its place takes; so places are looked for in the few columns whose largest is also a row's.
    """
    table, met = similarity.numpy(), np.zeros(len(best), bool)
    column, values = table.argmax(axis=1), table.max(axis=0)
    own = table[np.arange(len(table)), column]
    rows = np.flatnonzero((own == values[column]) & (own > best.numpy()[column]))
    columns = column[rows]
    met[columns[table[:, columns].argmax(axis=0) == rows]] = True
    return torch.from_numpy(values), torch.from_numpy(met)


def _in_threads(counts: Callable[[range], np.ndarray], n: int) -> np.ndarray:
    """`counts` of n candidates, shared out among as many threads as torch may use, in each of which it uses one.

    Its own would share the products alone, and wait for each other after each.
    """
    threads = torch.get_num_threads()
    if min(threads, n) < 2:
        return counts(range(n))
    bounds = [n * i // min(threads, n) for i in range(min(threads, n) + 1)]
    try:
        with ThreadPoolExecutor(len(bounds) - 1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return np.concatenate([*pool.map(counts, itertools.starmap(range, itertools.pairwise(bounds)))])
    finally:
        torch.set_num_threads(threads)  # what threads yet to come start with is common to all


@contextlib.contextmanager
def _precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRECISIONS[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _tensor(features: np.ndarray, precision: str, device: torch.device) -> Tensor:
    """On the device as float32; for bf16 rounded beforehand, so that it is the same with every processor."""
    # torch warns of memory that it may not write to.
    tensor = torch.from_numpy(features if features.flags.writeable else features.copy()).to(device)
    return (tensor.bfloat16() if precision == "bf16" else tensor).float()


def _flat(features: np.ndarray) -> np.ndarray:
    """A map (rows, columns, D), or features (P, D), as (P, D)."""
    return features.reshape(-1, features.shape[-1])


def _check(query: np.ndarray, candidates: np.ndarray, precision: str) -> None:
    for name, features, shape in (("query", query, "(P, D)"), ("candidates", candidates, "(n, P', D)")):
        if features.ndim != shape.count(",") + 1 or features.dtype not in (np.float32, np.float16):
            raise ValueError(f"{name}: local features are {features.dtype} {features.shape}; "
                             f"expected float32 or float16 {shape}")
        if not min(features.shape[-2:]):
            raise ValueError(f"{name}: local features have shape {features.shape}; expected at least one of each image")
    if query.shape[-1] != candidates.shape[-1]:
        raise ValueError(f"local features have width {query.shape[-1]} in the query, {candidates.shape[-1]} in the "
                         "candidates; expected features of one model")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
