"""Time of searching, re-ranking and recall, for one query and for a whole set, against a plain path and faiss.

Random codes and random float descriptors of unit length, seeded: what is timed does not depend on what they show. The
plain path is in the published order, a query at a time: faiss's flat binary index as it comes; re-ranking of its
candidates in numpy, a row of predictions at a time; recall by a Python loop.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import faiss
import numpy as np
import torch

from utils.evaluation.metrics import recall_at_k
from utils.search import STORES, StoredRows, rerank_l2, search_hamming, search_l2, store_rows

from .report import Report, unit_rows

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
GPU_TIMES = 10  # the processor's speed, among 10^6 codes and more

Call = Callable[[slice], object]  # with the queries meant


def rows(report: Report, *, device: torch.device | None = None, images: int = 10_000, queries: int = 6816,
         repeats: int = 5) -> None:
    """Adds the rows of searching `images` by `queries`, one at a time and together; ours on `device`."""
    rng = np.random.default_rng(0)
    codes, query_codes = (rng.integers(0, 256, (n, BITS // 8), dtype=np.uint8) for n in (images, queries))
    for dim in (512, 2048, 4096):
        timed = Timed(report, device, repeats, codes, query_codes, *(unit_rows(rng, n, dim) for n in (images, queries)))
        if dim > 512:
            timed.one_query()
        if dim == 4096:
            timed.stores()
            timed.batched()
        timed.flat_l2()


def beside_the_processor(report: Report, device: torch.device, *, images: int, queries: int, sample: int = 256) -> None:
    """Adds the rows of Hamming search among many codes and of re-ranking on a device, and of the processor, which does
    `sample` of the queries; by Hamming both must find the same, equal distances included, by L2 but for rounding."""
    rng = np.random.default_rng(0)
    codes, query_codes = (rng.integers(0, 256, (n, BITS // 8), dtype=np.uint8) for n in (images, queries))
    some, times = slice(0, min(sample, queries)), GPU_TIMES if device.type == "cuda" else None

    def rows_of(what: str, search: Callable[[slice, torch.device | None], np.ndarray], *, exact: bool) -> np.ndarray:
        every = slice(0, queries)
        here = report.per_query(f"{what} on {device.type}", {"": lambda of: search(of, device)}, [every], repeats=3)[""]
        there = report.per_query(f"{what} on the processor", {"": lambda of: search(of, None)}, [some], repeats=3)[""]
        found = search(every, device)
        goal = {"goal": f">= {times}", "met": there / here >= times} if times else {}
        report.add(f"{what}, {queries} queries: over the processor", f"{there / here:.1f}",
                   f"{here:.4f} ms a query, processor {there:.4f}", **goal)
        apart = int((found[some] != search(some, None)).sum())
        report.add(f"{what}: ids that differ", f"{apart}", f"of {found[some].size}",
                   **({"goal": "0", "met": not apart} if exact else {}))
        return found

    first = rows_of(f"Hamming among {images:,} codes",
                    lambda of, device: search_hamming(codes, query_codes[of], DEPTH, device=device)[1],
                    exact=True)
    floats, float_queries = (unit_rows(rng, n, 2048) for n in (min(images, 100_000), queries))
    first %= len(floats)
    rows_of(f"re-ranking {DEPTH} of {len(floats):,} floats of 2048-d",
            lambda of, device: rerank_l2(floats, float_queries[of], first[of], DEPTH, device=device)[0], exact=False)


@dataclasses.dataclass
class Timed:
    """A database, codes (n, 64) and floats (n, dim), and its queries."""

    report: Report
    device: torch.device | None
    repeats: int
    codes: np.ndarray
    query_codes: np.ndarray
    floats: np.ndarray
    queries: np.ndarray

    def __post_init__(self):
        (self.n, self.dim), self.depth = self.floats.shape, min(DEPTH, len(self.floats))
        self.index, self.flat = faiss.IndexBinaryFlat(BITS), faiss.IndexFlatL2(self.dim)
        self.index.add(self.codes)
        self.flat.add(self.floats)

    def hamming(self, of: slice) -> np.ndarray:
        return search_hamming(self.codes, self.query_codes[of], self.depth, device=self.device)[1]

    def reranked(self, database: np.ndarray | StoredRows, candidates: np.ndarray, of: slice) -> np.ndarray:
        return rerank_l2(database, self.queries[of], candidates, self.depth, device=self.device)[0]

    def plain(self, of: slice) -> np.ndarray:
        return plain_rerank(self.floats, self.queries[of], self.index.search(self.query_codes[of], self.depth)[1])

    def ours(self, of: slice) -> np.ndarray:
        return self.reranked(self.floats, self.hamming(of), of)

    def alone(self, name: str, calls: dict[str, Call], times: int) -> dict[str, float]:
        """Milliseconds of one query, the mean over `times` queries; the median of these."""
        one_by_one = [slice(i, i + 1) for i in range(min(times, len(self.queries)))]
        return self.report.per_query(name, calls, one_by_one, repeats=SAMPLES * self.repeats)

    def both(self, name: str, calls: dict[str, Call], *, single: int, together: int, repeats: int
             ) -> tuple[dict[str, float], dict[str, float]]:
        """Milliseconds a query: of `single` queries as `alone` takes them, and of `together` at once."""
        return self.alone(f"{name}, one query", calls, single), self.report.per_query(
            f"{name}, {together} queries", calls, [slice(0, together)], repeats=repeats)

    def one_query(self) -> None:
        ms = self.alone(f"one query, {self.dim}-d",
                        {"plain": self.plain, "ours": self.ours, "Hamming alone, ours": self.hamming}, SINGLE)
        self.report.add(f"one query, {self.n} images, Hamming + re-rank {self.dim}-d", f"{ms['ours']:.3f} ms",
                        f"Hamming {ms['Hamming alone, ours']:.3f} ms; plain {ms['plain']:.3f} ms",
                        goal=f"<= {100 * SHARE:.0f} % of {EXTRACTION_MS:g} ms",
                        met=ms["ours"] <= SHARE * EXTRACTION_MS)

    def batched(self) -> None:
        report, every = self.report, slice(None)
        # Nine queries in ten have five positives among their candidates, the tenth has none there.
        rng = np.random.default_rng(1)
        first = self.hamming(every)
        positives = [np.sort(rng.choice(row, min(5, len(row)), replace=False)) if i % 10 else np.array([self.n])
                     for i, row in enumerate(first)]
        paths = {"plain": lambda: plain_recalls(self.plain(every), positives, VALUES),
                 "ours": lambda: list(recall_at_k(self.ours(every), positives, VALUES).values()),
                 "flat L2": lambda: self.flat.search(self.queries, self.depth)}
        name = f"{len(self.queries)} queries, {self.dim}-d"
        seconds = report.medians(name, paths, repeats=self.repeats)
        parts = report.medians(f"{name}, parts of ours", {
            "search": partial(self.hamming, every),
            "re-rank": partial(self.reranked, self.floats, first, every),
            "recall": lambda: recall_at_k(first, positives, VALUES)}, repeats=self.repeats)
        name = f"{len(self.queries)} x {self.n}, search + re-rank {self.dim}-d + recall"
        times = seconds["plain"] / seconds["ours"]
        report.add(name, f"{times:.1f}x", f"{seconds['ours']:.3f} s "
                   f"({' + '.join(f'{value:.3f}' for value in parts.values())}); plain {seconds['plain']:.2f} s",
                   goal=f">= {TIMES_PLAIN_BATCHED:g}x plain", met=times >= TIMES_PLAIN_BATCHED)
        times = seconds["flat L2"] / seconds["ours"]
        report.add(f"{name}, against flat L2", f"{times:.1f}x", f"flat L2 {seconds['flat L2']:.2f} s", goal="> 1x",
                   met=times > 1)
        plain, ours = paths["plain"](), paths["ours"]()
        most = max(abs(a - b) for a, b in zip(plain, ours, strict=True))
        report.add(f"{name}, recalls", f"{most:.4f} apart", f"R@1 {ours[0]:.2f}", goal="the same", met=most < 1e-9)

    def stores(self) -> None:
        stored, first = {kind: store_rows(self.floats, kind) for kind in STORES}, self.hamming(slice(None))
        calls = {kind: lambda of, held=held: self.reranked(held, first[of], of) for kind, held in stored.items()}
        n = len(self.queries)
        single, together = self.both("re-rank", calls, single=SINGLE, together=n, repeats=self.repeats)
        for kind, held in stored.items():
            self.report.add(f"re-rank {DEPTH}, {self.dim}-d, {kind}", f"{single[kind]:.3f} ms",
                            f"{held.bytes_per_row} bytes an image; {together[kind]:.3f} ms of {n} queries together")

    def flat_l2(self) -> None:
        calls = {"faiss": lambda of: self.flat.search(self.queries[of], self.depth),
                 "ours": lambda of: search_l2(self.floats, self.queries[of], self.depth, device=self.device)}
        name, n = f"flat L2, {self.n} images, {self.dim}-d", len(self.queries[:L2_QUERIES])
        single, together = self.both(name, calls, single=L2_SINGLE, together=n, repeats=min(3, self.repeats))
        self.report.add(f"{name}, one query", f"{single['ours']:.2f} ms", f"faiss's index {single['faiss']:.2f} ms")
        self.report.add(f"{name}, of {n} queries", f"{together['ours']:.3f} ms",
                        f"faiss's index {together['faiss']:.3f} ms")


def plain_rerank(database: np.ndarray, queries: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Predictions (m, k) of queries (m, D), each row sorted by L2 to the rows of database (n, D) float32."""
    reranked = np.empty_like(predictions)
    for i, candidates in enumerate(predictions):
        distances = np.linalg.norm(database[candidates] - queries[i], axis=1)
        reranked[i] = candidates[np.argsort(distances)]
    return reranked


def plain_recalls(predictions: np.ndarray, positives: Sequence[np.ndarray], values: Sequence[int]) -> list[float]:
    """Percentage of queries with a positive among their first n predictions, for the ascending n in values."""
    found = np.zeros(len(values))
    for row, right in zip(predictions, positives, strict=True):
        for i, n in enumerate(values):
            if np.isin(row[:n], right).any():
                found[i:] += 1
                break
    return (100 * found / len(predictions)).tolist()
