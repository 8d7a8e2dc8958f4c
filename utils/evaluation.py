"""Describing a benchmark set and searching it: the one evaluation behind all six scripts."""

import dataclasses
import logging
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader

from datasets import BenchmarkDataset, Listing, subset_of
from model import SelaVPRpp

from .distributed import broadcast, collect, is_first, own_share
from .metrics import recall_at_k
from .modes import MODES, protocol
from .retrieval import pack_codes, rerank_l2, search_hamming, search_l2
from .run import progress

log = logging.getLogger("selavprpp")
KEPT_PREDICTIONS = 100  # at most, for each query, in predictions.npz


class Described:
    """A set's descriptors, database first, then queries: packed codes (n, bits / 8) uint8, float (n, D) float32."""

    def __init__(self, codes: np.ndarray | None, floating: np.ndarray | None, n_database: int):
        self.codes, self.floating, self.n_database = codes, floating, n_database

    def database(self, kind: str) -> np.ndarray:
        return getattr(self, kind)[:self.n_database]

    def queries(self, kind: str) -> np.ndarray:
        return getattr(self, kind)[self.n_database:]

    def of_part(self, whole: Listing, part: Listing) -> "Described":
        """The descriptors of `part`, whose pictures are among those of `whole`."""
        subset = subset_of(whole, part)
        rows = np.concatenate([subset.database_rows, self.n_database + subset.query_rows])
        return Described(*(None if kind is None else kind[rows] for kind in (self.codes, self.floating)),
                         part.n_database)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a search found: ids (queries, k) int64 of both stages, best first, their distances, and the time.

    first, first_distances   Hamming distances in bits (None: there is one stage, the final one)
    final, final_distances   L2 distances of the re-ranked part; squared L2 or bits where there is one stage
    latency_ms               per query, of a search for all queries at once
    parts                    of listings of some of these pictures, from the same descriptors
    """

    listing: Listing
    protocol: str
    recall_values: tuple[int, ...]
    first: np.ndarray | None
    first_distances: np.ndarray | None
    final: np.ndarray
    final_distances: np.ndarray
    latency_ms: dict[str, float | None]
    bytes_per_picture: dict[str, int | None]
    parts: tuple["Evaluation", ...] = ()

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

        The second decides on sets of hardly more than `rerank_num` pictures, where re-ranking sees them all and the
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
    """How to evaluate: called with a model and a set it describes the pictures, searches and logs the recalls.

    mode  "float": flat L2; "hashing": Hamming; "rerank": Hamming, then L2 of the first `rerank_num`
    """

    mode: str
    recall_values: Sequence[int]
    batch_size: int
    num_workers: int
    rerank_num: int | None = None

    def __call__(self, model: SelaVPRpp, dataset: BenchmarkDataset) -> Evaluation:
        started = time.perf_counter()
        described = describe(model, dataset, branches=MODES[self.mode], batch_size=self.batch_size,
                             num_workers=self.num_workers)
        seconds = time.perf_counter() - started
        evaluation = broadcast(self._search(described, dataset) if is_first() else None)
        for one in (evaluation, *evaluation.parts):
            for stage, recalls in one.recalls().items():
                if recalls is not None:
                    log.info("%s (%s), %s: %s", one.listing.label, one.listing.rule,
                             one.protocol if stage == "final" else protocol("hashing"),
                             ", ".join(f"R@{k}: {value:.1f}" for k, value in recalls.items()))
        latency = ", ".join(f"{name} {ms:.3f} ms a query" for name, ms in evaluation.latency_ms.items() if ms)
        log.info("described %.1f pictures/s; %s", len(dataset) / seconds, latency)
        return evaluation

    def _search(self, described: Described, dataset: BenchmarkDataset) -> Evaluation:
        options = {"mode": self.mode, "recall_values": self.recall_values, "rerank_num": self.rerank_num}
        parts = tuple(search(described.of_part(dataset.listing, part), part, **options) for part in dataset.parts)
        return dataclasses.replace(search(described, dataset.listing, **options), parts=parts)


@torch.no_grad()
def describe(model: SelaVPRpp, dataset: BenchmarkDataset, *, branches: Sequence[str], batch_size: int,
             num_workers: int) -> Described:
    """Runs the model, in fp32, over a set's pictures with one pass of the backbone for all branches.

    Queries that vary in size go one a batch, all other pictures `batch_size`.  Each process describes its share; the
    first returns the rows of all, the others have only their own.
    """
    device = next(model.parameters()).device
    model.eval()
    stackable = dataset.n_database if dataset.queries_vary else len(dataset)
    loader = DataLoader(dataset, batch_sampler=_batches(own_share(len(dataset)), stackable, batch_size),
                        num_workers=num_workers, pin_memory=device.type == "cuda")
    codes = floating = None
    for images, ids in progress(loader, f"describing {dataset.listing.label}"):
        out = model(images.to(device, non_blocking=True), branches=branches)
        if out.binary is not None:
            packed = pack_codes(out.binary.cpu().numpy())
            codes = np.empty((len(dataset), packed.shape[1]), np.uint8) if codes is None else codes
            codes[ids] = packed
        if out.floating is not None:
            rows = out.floating.cpu().numpy()
            floating = np.empty((len(dataset), rows.shape[1]), np.float32) if floating is None else floating
            floating[ids] = rows
    collect(codes)
    collect(floating)
    return Described(codes, floating, dataset.n_database)


def _batches(ids: range, stackable: int, batch_size: int) -> list[range]:
    """Pictures `ids` in batches: below `stackable` they have one size, from there on each is a batch of its own."""
    middle = min(max(ids.start, stackable), ids.stop)
    return [*(range(start, min(start + batch_size, middle)) for start in range(ids.start, middle, batch_size)),
            *(range(query, query + 1) for query in range(middle, ids.stop))]


def search(described: Described, listing: Listing, *, mode: str, recall_values: Sequence[int],
           rerank_num: int | None = None) -> Evaluation:
    """Flat L2 ("float"), Hamming ("hashing"), or Hamming and then L2 of the first `rerank_num` ("rerank")."""
    depth = max([*recall_values, rerank_num or 1, KEPT_PREDICTIONS])
    started = time.perf_counter()
    if mode == "float":
        distances, ids = search_l2(described.database("floating"), described.queries("floating"), depth)
    else:
        distances, ids = search_hamming(described.database("codes"), described.queries("codes"), depth)
    searched = time.perf_counter()
    first = first_distances = rerank_ms = None
    if mode == "rerank":
        first, first_distances = ids, distances
        ids, distances = rerank_l2(described.database("floating"), described.queries("floating"), first, rerank_num)
        rerank_ms = 1000 * (time.perf_counter() - searched) / listing.n_queries
    bytes_per_picture = {name: None if rows is None else rows.shape[1] * rows.itemsize
                         for name, rows in (("binary", described.codes), ("float", described.floating))}
    latency = {"search": 1000 * (searched - started) / listing.n_queries, "rerank": rerank_ms}
    return Evaluation(listing, protocol(mode, rerank_num), tuple(recall_values), first, first_distances, ids, distances,
                      latency, bytes_per_picture)
