"""Time of searching, re-ranking and recall, for one query and for a whole set, against plain_search.py and faiss.

Random codes and random float descriptors of unit length, seeded: what is timed does not depend on what they show.
"""

import functools
from collections.abc import Callable

import faiss
import numpy as np
import torch

from utils.evaluation.metrics import recall_at_k
from utils.search import STORES, StoredRows, rerank_l2, search_hamming, search_l2, store_rows

from .measure import alternate
from .plain_search import plain_index, plain_recalls, plain_rerank
from .report import MIB, Report

BITS = 512
DEPTH = 100
VALUES = (1, 5, 10, 20, 100)
EXTRACTION_MS = 5.0  # of one image on a GPU; on two threads of a processor, 280
SHARE = 0.1  # of it that searching one query may take
TIMES_PLAIN_BATCHED = 6.0
SINGLE = 100  # one-query calls in a sample,
SAMPLES = 4  # and samples a repeat: short ones, so that what else the machine does spoils few of them
L2_SINGLE = 5
L2_QUERIES = 500


def rows(report: Report, *, device: torch.device | None = None, images: int = 10_000, queries: int = 6816,
         repeats: int = 5) -> None:
    """Adds the rows of searching `images` by `queries`, one at a time and together; ours on `device`."""
    rng = np.random.default_rng(0)
    codes, query_codes = (rng.integers(0, 256, (n, BITS // 8), dtype=np.uint8) for n in (images, queries))
    _copy_rate(report, repeats)
    for dim in (512, 2048, 4096):
        floats, query_floats = (_unit(rng, n, dim) for n in (images, queries))
        if dim > 512:
            _one_query(report, codes, query_codes, floats, query_floats, device, repeats)
        if dim == 4096:
            _stores(report, codes, query_codes, floats, query_floats, device, repeats)
            _batched(report, codes, query_codes, floats, query_floats, device, repeats)
        _flat_l2(report, floats, query_floats, device, repeats)


def _unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    rows = rng.standard_normal((n, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _copy_rate(report: Report, repeats: int) -> None:
    source, target = np.ones(32 * MIB, np.float32), np.empty(32 * MIB, np.float32)
    seconds = report.keep("search", alternate({"copy": lambda: np.copyto(target, source)}, repeats=repeats))
    report.add("copy of 128 MiB, one thread", "", f"{2 * source.nbytes / seconds['copy'] / 1e9:.1f} GB/s",
               "calibration", None)


def _each(call: Callable[[slice], object], times: int) -> Callable[[], None]:
    def run() -> None:
        for i in range(times):
            call(slice(i, i + 1))
    return run


def _milliseconds(report: Report, name: str, calls: dict[str, Callable[[slice], object]], times: int,
                  repeats: int) -> dict[str, float]:
    """Of one query, the mean over `times` queries; the median of these."""
    samples = alternate({kind: _each(call, times) for kind, call in calls.items()}, repeats=SAMPLES * repeats)
    return report.keep(name, {kind: [1000 * s / times for s in values] for kind, values in samples.items()})


def _one_query(report: Report, codes: np.ndarray, query_codes: np.ndarray, floats: np.ndarray, queries: np.ndarray,
               device: torch.device | None, repeats: int) -> None:
    n, dim = floats.shape
    index, stored = plain_index(codes), StoredRows(floats)
    depth = min(DEPTH, n)

    def plain(i: slice) -> None:
        plain_rerank(floats, queries[i], index.search(query_codes[i], depth)[1])

    def ours(i: slice) -> None:
        rerank_l2(stored, queries[i], search_hamming(codes, query_codes[i], depth, device=device)[1], depth,
                  device=device)

    ms = _milliseconds(report, f"one query, {dim}-d", {
        "plain": plain, "ours": ours, "Hamming alone, ours":
        lambda i: search_hamming(codes, query_codes[i], depth, device=device)}, min(SINGLE, len(queries)), repeats)
    report.add(f"one query, {n} images, Hamming + re-rank {dim}-d", f"<= {100 * SHARE:.0f} % of {EXTRACTION_MS:g} ms",
               f"{ms['ours']:.3f} ms", f"Hamming {ms['Hamming alone, ours']:.3f} ms; plain {ms['plain']:.3f} ms",
               ms["ours"] <= SHARE * EXTRACTION_MS)


def _batched(report: Report, codes: np.ndarray, query_codes: np.ndarray, floats: np.ndarray, queries: np.ndarray,
             device: torch.device | None, repeats: int) -> None:
    n, m, dim = len(floats), *queries.shape
    index, stored = plain_index(codes), StoredRows(floats)
    flat = faiss.IndexFlatL2(dim)
    flat.add(floats)
    # Nine queries in ten have five positives among their candidates, the tenth has none there.
    rng = np.random.default_rng(1)
    first = search_hamming(codes, query_codes, DEPTH)[1]
    positives = [np.sort(rng.choice(row, min(5, len(row)), replace=False)) if i % 10 else np.array([n])
                 for i, row in enumerate(first)]
    found = {}

    def plain() -> None:
        predictions = plain_rerank(floats, queries, index.search(query_codes, min(DEPTH, n))[1])
        found["plain"] = plain_recalls(predictions, positives, VALUES)

    def ours() -> None:
        first = search_hamming(codes, query_codes, DEPTH, device=device)[1]
        predictions, _ = rerank_l2(stored, queries, first, DEPTH, device=device)
        found["ours"] = list(recall_at_k(predictions, positives, VALUES).values())

    seconds = report.keep(f"{m} queries, {dim}-d", alternate(
        {"plain": plain, "ours": ours, "flat L2": lambda: flat.search(queries, min(DEPTH, n))}, repeats=repeats))
    parts = report.keep(f"{m} queries, {dim}-d, parts of ours", alternate({
        "search": lambda: search_hamming(codes, query_codes, DEPTH, device=device),
        "re-rank": lambda: rerank_l2(stored, queries, first, DEPTH, device=device),
        "recall": lambda: recall_at_k(first, positives, VALUES)}, repeats=repeats))
    name = f"{m} x {n}, search + re-rank {dim}-d + recall"
    times = seconds["plain"] / seconds["ours"]
    report.add(name, f">= {TIMES_PLAIN_BATCHED:g}x plain", f"{times:.1f}x",
               f"{seconds['ours']:.3f} s ({' + '.join(f'{value:.3f}' for value in parts.values())}); "
               f"plain {seconds['plain']:.2f} s", times >= TIMES_PLAIN_BATCHED)
    times = seconds["flat L2"] / seconds["ours"]
    report.add(f"{name}, against flat L2", "> 1x", f"{times:.1f}x", f"flat L2 {seconds['flat L2']:.2f} s", times > 1)
    most = max(abs(a - b) for a, b in zip(found["plain"], found["ours"], strict=True))
    report.add(f"{name}, recalls", "the same", f"{most:.4f} apart", f"R@1 {found['ours'][0]:.2f}", most < 1e-9)


def _stores(report: Report, codes: np.ndarray, query_codes: np.ndarray, floats: np.ndarray, queries: np.ndarray,
            device: torch.device | None, repeats: int) -> None:
    first = search_hamming(codes, query_codes, DEPTH)[1]
    stored = {kind: store_rows(floats, kind) for kind in STORES}

    def rerank(kind: str, i: slice) -> None:
        rerank_l2(stored[kind], queries[i], first[i], DEPTH, device=device)

    single = _milliseconds(report, "re-rank, one query", {kind: functools.partial(rerank, kind) for kind in STORES},
                           min(SINGLE, len(queries)), repeats)
    together = report.keep("re-rank, batched", alternate(
        {kind: functools.partial(rerank, kind, slice(None)) for kind in STORES}, repeats=repeats))
    for kind, held in stored.items():
        report.add(f"re-rank {DEPTH}, {held.dim}-d, {kind}", "reported", f"{single[kind]:.3f} ms",
                   f"{held.bytes_per_row} bytes an image; {1000 * together[kind] / len(queries):.3f} ms of "
                   f"{len(queries)} queries together", None)


def _flat_l2(report: Report, floats: np.ndarray, queries: np.ndarray, device: torch.device | None,
             repeats: int) -> None:
    n, dim = floats.shape
    index, k = faiss.IndexFlatL2(dim), min(DEPTH, n)
    index.add(floats)
    single = _milliseconds(report, f"flat L2, one query, {dim}-d", {
        "faiss": lambda i: index.search(queries[i], k),
        "ours": lambda i: search_l2(floats, queries[i], k, device=device)}, min(L2_SINGLE, len(queries)), repeats)
    batch = queries[:L2_QUERIES]
    together = report.keep(f"flat L2, {len(batch)} queries, {dim}-d", alternate({
        "faiss": lambda: index.search(batch, k), "ours": lambda: search_l2(floats, batch, k, device=device)},
        repeats=min(3, repeats)))
    report.add(f"flat L2, {n} images, {dim}-d, one query", "reported", f"{single['ours']:.2f} ms",
               f"faiss's index {single['faiss']:.2f} ms", None)
    each = {kind: 1000 * value / len(batch) for kind, value in together.items()}
    report.add(f"flat L2, {n} images, {dim}-d, of {len(batch)} queries", "reported", f"{each['ours']:.3f} ms",
               f"faiss's index {each['faiss']:.3f} ms", None)
