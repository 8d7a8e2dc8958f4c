"""An evaluation: descriptors are extracted, a script's `retrieve` searches them, recall@k is counted."""

import contextlib
import dataclasses
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from datasets import BenchmarkDataset, Listing, subset_of
from model import SelaVPRpp

from ..distributed import broadcast
from ..ranks import is_first
from ..run import DESCRIPTORS
from ..search import Searchable
from .codes import summarised_codes
from .extraction import Extractor, extract
from .metrics import recall_at_k

log = logging.getLogger("selavprpp")
KEPT_PREDICTIONS = 100  # at most, for each query, in predictions.npz


class ExtractedSet(NamedTuple):
    """What is searched: the database, and the queries' codes (m, bits / 8) uint8 and float descriptors (m, D) float32,
    None for a branch that is not there; and the device to search on, None for the processor."""

    database: Searchable
    codes: np.ndarray | None
    floats: np.ndarray | None
    device: torch.device | None = None


Stage = tuple[np.ndarray, np.ndarray]  # database ids (m, k) int64, best first, and their distances
# Called with an extracted set and how many to find of each query, it yields one stage, or up to two more, each of which
# re-ranks the one before.
Retrieve = Callable[[ExtractedSet, int], Iterator[Stage]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a search found: ids (queries, k) int64 of both stages, best first, their distances, and the time.

    protocol                 how it searched, in words; first_protocol: the first of two stages
    first, first_distances   by Hamming distance in bits, unless first_protocol says otherwise (None: there is one
                             stage, the final one)
    final, final_distances   L2 distances of the re-ranked part, or what `distance` says; squared L2 or bits where there
                             is one stage
    latency_ms               per query, of a search for all queries at once; "shortlist" between two others
    bytes_read_per_query     of codes and descriptors, by a search for one query; None: not told
    parts                    of listings of some of these images, from the same descriptors
    extraction               what extracting cost, and what it rounded (extraction.py); None: not done here
    codes                    what the binary codes are like (codes.py); None: there are none
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
    codes: dict[str, np.ndarray] | None = None
    first_protocol: str = "Hamming"
    reranked_by: str = "L2"
    bytes_read_per_query: int | None = None

    def final_recalls(self, recall_values: Sequence[int]) -> dict[int, float]:
        """Recall@k of the final stage in percent."""
        return recall_at_k(self.final, self.listing.positives, recall_values)

    @property
    def distance(self) -> str:
        """What the final stage's distances are."""
        if self.first is not None:
            return self.reranked_by
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How to extract, and what to count.

    precision, store, compiled   as in extraction.extract
    device     where to search; None: on the processor
    index      descriptors stay in this folder, and what lies there already is used
    resumable  of an interrupted evaluation they stay where they are, and the log says how to resume
    """

    recall_values: Sequence[int] = (1, 5, 10, 20, 100)
    batch_size: int = 16
    num_workers: int = 0
    precision: str = "fp32"
    store: str = "fp32"
    compiled: bool = False
    device: torch.device | None = None
    index: Path | None = None
    resumable: bool = False


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Called with a model and a set it extracts descriptors, searches them by `retrieve` and logs the recalls.

    retrieve    the search of an evaluation script
    protocol    what it does, in words: for the log and results.json; first_protocol, reranked_by: of two stages
    branches    that it needs
    folder      descriptors lie in it until they are searched; None: in the system's for temporary files
    bytes_read  how many bytes of a database a search for one query reads; None: that is not told
    """

    retrieve: Retrieve
    protocol: str
    branches: tuple[str, ...]
    options: EvaluationOptions
    folder: Path | None = None
    first_protocol: str = "Hamming"
    reranked_by: str = "L2"
    bytes_read: Callable[[Searchable], int] | None = None

    def __call__(self, model: SelaVPRpp | Extractor, dataset: BenchmarkDataset) -> Evaluation:
        """Of several processes all extract, the first searches, and all get what it found."""
        with self._folder() as folder:
            database, queries, cost = extract(
                model, dataset, folder, branches=self.branches, batch_size=self.options.batch_size,
                num_workers=self.options.num_workers, precision=self.options.precision, store=self.options.store,
                compiled=self.options.compiled)
            evaluation = None
            if is_first():
                found = ExtractedSet(database, *queries.rows(range(len(queries))), self.options.device)
                parts = tuple(self._part(found, dataset.listing, part) for part in dataset.parts)
                codes = None if found.codes is None else summarised_codes(database, found.codes, dataset.listing)
                evaluation = dataclasses.replace(self._search(found, dataset.listing), parts=parts, extraction=cost,
                                                 codes=codes)
            evaluation = broadcast(evaluation)
        _log(evaluation)
        return evaluation

    def _search(self, found: ExtractedSet, listing: Listing) -> Evaluation:
        evaluation = search(self.retrieve, found, listing, protocol=self.protocol,
                            recall_values=self.options.recall_values)
        return dataclasses.replace(evaluation, first_protocol=self.first_protocol, reranked_by=self.reranked_by,
                                   bytes_read_per_query=self.bytes_read and self.bytes_read(found.database))

    def _part(self, found: ExtractedSet, whole: Listing, part: Listing) -> Evaluation:
        """Of a listing whose images are among those of `whole`: nothing is extracted again."""
        rows = subset_of(whole, part)
        queries = (None if values is None else values[rows.query_rows] for values in (found.codes, found.floats))
        some = ExtractedSet(found.database.restricted_to(rows.database_rows), *queries, found.device)
        evaluation = self._search(some, part)
        row_of_id = np.full(1 + rows.database_rows.max(), -1)
        row_of_id[rows.database_rows] = np.arange(len(rows.database_rows))
        first = None if evaluation.first is None else row_of_id[evaluation.first]
        return dataclasses.replace(evaluation, first=first, final=row_of_id[evaluation.final])

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """The folder for descriptors, which is deleted afterwards unless it is to stay."""
        if self.options.index is not None:
            yield self.options.index
            return
        folder = broadcast(Path(tempfile.mkdtemp(prefix=DESCRIPTORS, dir=self.folder)) if is_first() else None)
        keep = False
        try:
            yield folder
        except BaseException:
            keep = self.options.resumable and folder.is_dir() and any(folder.iterdir())
            if keep:
                log.info("the descriptors so far stay; the same command with --index %s resumes", folder)
            raise
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)


def search(retrieve: Retrieve, found: ExtractedSet, listing: Listing, *, protocol: str,
           recall_values: Sequence[int]) -> Evaluation:
    """Runs `retrieve` on all queries at once and times its stages."""
    stages, seconds = [], []
    started = time.perf_counter()
    for stage in retrieve(found, max(*recall_values, KEPT_PREDICTIONS)):
        seconds.append(time.perf_counter() - started)
        stages.append(stage)
        started = time.perf_counter()
    ms = [1000 * taken / listing.n_queries for taken in seconds]
    first = stages[0] if len(stages) > 1 else (None, None)
    return Evaluation(listing, protocol, tuple(recall_values), *first, *stages[-1],
                      {"search": ms[0], **({"shortlist": ms[1]} if len(ms) > 2 else {}),
                       "rerank": ms[-1] if len(ms) > 1 else None}, found.database.bytes_per_image)


def hamming(code_bits: int | None = None) -> str:
    """A search by codes, or by their first bits, in words."""
    return "Hamming" if code_bits is None else f"Hamming of {code_bits} bits"


def bytes_read(database: Searchable, *, code_bits: int | None = None, shortlist: int = 0, rerank_num: int = 0) -> int:
    """By a search of codes for one query: the first `code_bits` (None: all) of every image's code, the whole codes of
    the best `shortlist`, the float descriptors of the best `rerank_num`."""
    n, held = len(database), {name: size or 0 for name, size in database.bytes_per_image.items()}
    first = held["binary"] if code_bits is None else code_bits // 8
    return n * first + min(shortlist, n) * held["binary"] + min(rerank_num, n) * held["float"]


def _log(evaluation: Evaluation) -> None:
    for one in (evaluation, *evaluation.parts):
        for stage, recalls in one.recalls().items():
            if recalls is not None:
                log.info("%s (%s), %s: %s", one.listing.label, one.listing.rule,
                         one.protocol if stage == "final" else one.first_protocol,
                         ", ".join(f"R@{k}: {value:.1f}" for k, value in recalls.items()))
    log.info("searched: %s",
             ", ".join(f"{name} {ms:.3f} ms a query" for name, ms in evaluation.latency_ms.items() if ms))
    if evaluation.bytes_read_per_query is not None:
        log.info("read: %s bytes a query, of codes and descriptors", f"{evaluation.bytes_read_per_query:,}")
