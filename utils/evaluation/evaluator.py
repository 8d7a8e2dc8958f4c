"""Describing a benchmark set and searching it: the one evaluation behind all six scripts."""

import contextlib
import dataclasses
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from datasets import BenchmarkDataset, Listing, subset_of
from model import SelaVPRpp

from ..distributed import broadcast
from ..modes import MODES, protocol
from ..ranks import is_first
from ..search import Searchable
from .extraction import extract
from .metrics import recall_at_k

log = logging.getLogger("selavprpp")
KEPT_PREDICTIONS = 100  # at most, for each query, in predictions.npz


@dataclasses.dataclass(frozen=True)
class Described:
    """What is searched: the database, and the queries' codes (m, bits / 8) uint8 and floats (m, D) float32."""

    database: Searchable
    codes: np.ndarray | None
    floating: np.ndarray | None

    def of_part(self, whole: Listing, part: Listing) -> tuple["Described", np.ndarray]:
        """The descriptors of `part`, whose images are among those of `whole`, and the rows that its database has in
        that of `whole`."""
        subset = subset_of(whole, part)
        queries = (None if rows is None else rows[subset.query_rows] for rows in (self.codes, self.floating))
        return Described(self.database.restricted_to(subset.database_rows), *queries), subset.database_rows


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a search found: ids (queries, k) int64 of both stages, best first, their distances, and the time.

    first, first_distances   Hamming distances in bits (None: there is one stage, the final one)
    final, final_distances   L2 distances of the re-ranked part; squared L2 or bits where there is one stage
    latency_ms               per query, of a search for all queries at once
    parts                    of listings of some of these images, from the same descriptors
    extraction               what describing cost, and what it rounded (utils/extraction.py); None: not done here
    """

    listing: Listing
    protocol: str
    recall_values: tuple[int, ...]
    first: np.ndarray | None
    first_distances: np.ndarray | None
    final: np.ndarray
    final_distances: np.ndarray
    latency_ms: dict[str, float | None]
    bytes_per_image: dict[str, int | None]
    parts: tuple["Evaluation", ...] = ()
    extraction: dict | None = None

    def final_recalls(self, recall_values: Sequence[int]) -> dict[int, float]:
        """Recall@k of the final stage in percent."""
        return recall_at_k(self.final, self.listing.positives, recall_values)

    @property
    def distance(self) -> str:
        """What the final stage's distances are."""
        if self.first is not None:
            return "L2"
        return "Hamming distance in bits" if np.issubdtype(self.final_distances.dtype, np.integer) else "squared L2"

    def score(self) -> tuple[float, float]:
        """What chooses the best epoch: R@1 + R@5 of the final stage; where that is equal, of the first stage.

        The second decides on sets of hardly more than `rerank_num` images, where re-ranking sees them all and the
        final stage says nothing of the binary codes. It is 0 without a first stage.
        """
        stages = (self.final, self.first)
        return tuple(0.0 if ids is None else sum(recall_at_k(ids, self.listing.positives, (1, 5)).values())
                     for ids in stages)

    def recalls(self, *, answerable_only: bool = False) -> dict[str, dict[str, float] | None]:
        """Recall@k of both stages in percent, as in results.json: k is text, a stage that is not there None."""
        stages = {}
        for stage, ids in (("first_stage", self.first), ("final", self.final)):
            recalls = None if ids is None or self.listing.positives is None else recall_at_k(
                ids, self.listing.positives, self.recall_values, answerable_only=answerable_only)
            stages[stage] = recalls and {str(k): value for k, value in recalls.items()}
        return stages


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """How to evaluate: called with a model and a set it describes the images, searches and logs the recalls.

    mode       "float": flat L2; "hashing": Hamming; "rerank": Hamming, then L2 of the first `rerank_num`
    precision, store, compiled   as in utils.evaluation.extraction.extract
    folder     descriptors lie in it until they are searched; None: in the system's for temporary files
    device     where to search; None: on the processor
    index      they stay in this folder, and what lies there already is used
    resumable  of an interrupted evaluation they stay where they are, and the log says how to go on
    """

    mode: str
    recall_values: Sequence[int]
    batch_size: int
    num_workers: int
    rerank_num: int | None = None
    precision: str = "fp32"
    store: str = "fp32"
    compiled: bool = False
    folder: Path | None = None
    device: torch.device | None = None
    index: Path | None = None
    resumable: bool = False

    def __call__(self, model: SelaVPRpp, dataset: BenchmarkDataset) -> Evaluation:
        with self.described(model, dataset) as (described, cost):
            evaluation = broadcast(self._search(described, dataset, cost) if is_first() else None)
        for one in (evaluation, *evaluation.parts):
            for stage, recalls in one.recalls().items():
                if recalls is not None:
                    log.info("%s (%s), %s: %s", one.listing.label, one.listing.rule,
                             one.protocol if stage == "final" else protocol("hashing"),
                             ", ".join(f"R@{k}: {value:.1f}" for k, value in recalls.items()))
        log.info("searched: %s",
                 ", ".join(f"{name} {ms:.3f} ms a query" for name, ms in evaluation.latency_ms.items() if ms))
        return evaluation

    @contextlib.contextmanager
    def described(self, model: SelaVPRpp, dataset: BenchmarkDataset) -> Iterator[tuple[Described | None, dict]]:
        """The set's descriptors, to be searched inside the context (of several processes, by the first), and their cost
        as in results.json."""
        with self._folder() as folder:
            database, queries, cost = extract(
                model, dataset, folder, branches=MODES[self.mode], batch_size=self.batch_size,
                num_workers=self.num_workers, precision=self.precision, store=self.store, compiled=self.compiled)
            yield Described(database, *queries.rows(range(len(queries)))) if is_first() else None, cost

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """The folder for descriptors, which is deleted afterwards unless it is to stay."""
        if self.index is not None:
            yield self.index
            return
        made = Path(tempfile.mkdtemp(prefix="index-", dir=self.folder)) if is_first() else None
        folder = broadcast(made)
        keep = False
        try:
            yield folder
        except BaseException:
            keep = self.resumable and folder.is_dir() and any(folder.iterdir())
            if keep:
                log.info("the descriptors so far stay; the same command with --index %s goes on", folder)
            raise
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)

    def _search(self, described: Described, dataset: BenchmarkDataset, cost: dict) -> Evaluation:
        options = {"mode": self.mode, "recall_values": self.recall_values, "rerank_num": self.rerank_num,
                   "device": self.device}
        parts = []
        for part in dataset.parts:
            some, rows = described.of_part(dataset.listing, part)
            parts.append(search(some, part, rows=rows, **options))
        return dataclasses.replace(search(described, dataset.listing, **options), parts=tuple(parts), extraction=cost)


def search(described: Described, listing: Listing, *, mode: str, recall_values: Sequence[int],
           rerank_num: int | None = None, rows: np.ndarray | None = None,
           device: torch.device | None = None) -> Evaluation:
    """Flat L2 ("float"), Hamming ("hashing"), or Hamming and then L2 of the first `rerank_num` ("rerank").

    rows    those of the index that the listing's database has, in its order; None: all
    device  searches there; None: on the processor
    """
    depth = max([*recall_values, rerank_num or 1, KEPT_PREDICTIONS])
    database = described.database
    started = time.perf_counter()
    if mode == "float":
        distances, ids = database.search_floats(described.floating, depth, device=device)
    else:
        distances, ids = database.search_codes(described.codes, depth, device=device)
    searched = time.perf_counter()
    first = first_distances = rerank_ms = None
    if mode == "rerank":
        first, first_distances = ids, distances
        ids, distances = database.rerank(described.floating, first, rerank_num, device=device)
        rerank_ms = 1000 * (time.perf_counter() - searched) / listing.n_queries
    if rows is not None:
        of_row = np.full(1 + rows.max(), -1)
        of_row[rows] = np.arange(len(rows))
        ids, first = of_row[ids], None if first is None else of_row[first]
    latency = {"search": 1000 * (searched - started) / listing.n_queries, "rerank": rerank_ms}
    return Evaluation(listing, protocol(mode, rerank_num), tuple(recall_values), first, first_distances, ids, distances,
                      latency, database.bytes_per_image)
