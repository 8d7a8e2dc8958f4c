"""Triplets of a query, its positive and its negatives, chosen by the descriptors that a model gives them now."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from .listing import TripletListing

# Where a query's negatives come from, and which queries are drawn.
MININGS = {
    "partial": "the nearest among one pool of random database images a round",
    "full": "the nearest among random database images of the query's own, and those it had last",
    "random": "random database images",
    "msls_weighted": "as partial; queries by night and to the side are drawn more often",
}
AT_ONCE = 1 << 14  # images that are described by one call

Describe = Callable[[np.ndarray], np.ndarray]


class TripletMiner:
    """Mines the triplets of SelaVPR's training, round by round, so that descriptors are never older than a round.

    mining              one of MININGS
    negs_num_per_query  k, negatives in a triplet
    neg_samples_num     database images drawn as candidates: a round, or for "full" a query; all where there are fewer
    cache_refresh_rate  queries drawn in a round; all where there are fewer
    queries_per_epoch   an epoch has `n_rounds` rounds, this by cache_refresh_rate, rounded up
    seed, set_epoch     random numbers of a round are those of (seed, epoch, round) alone: an interrupted training
                        meets the same draws again.  "full" also needs what was chosen before: `state_dict`
    memory_bytes        the round's descriptors lie in memory up to that many bytes, above it in a temporary file

    A round holds the global descriptors of its queries, their positives and their candidates, float32: 1024 values take
    4096 bytes an image.  With "full" these are nearly all database images (4.1 GB for a million).

    Raises ValueError for a bad argument, a query with fewer than k database images outside its zone, and for
    "msls_weighted" without notes in the file names.
    """

    def __init__(self, images: TripletListing, *, mining: str = "partial", negs_num_per_query: int = 2,
                 neg_samples_num: int = 1000, cache_refresh_rate: int = 1000, queries_per_epoch: int = 5000,
                 seed: int = 0, memory_bytes: int = 4 << 30) -> None:
        if mining not in MININGS:
            raise ValueError(f"mining {mining!r}: expected one of {', '.join(MININGS)}")
        for what, value, least in (("negs_num_per_query", negs_num_per_query, 1),
                                   ("neg_samples_num", neg_samples_num, negs_num_per_query),
                                   ("cache_refresh_rate", cache_refresh_rate, 1),
                                   ("queries_per_epoch", queries_per_epoch, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{what} {value}: expected at least {least}")
        assert images.listing.positives is not None
        self.images, self.mining, self.seed, self.memory_bytes = images, mining, seed, memory_bytes
        self.negs_num_per_query = negs_num_per_query
        self.n_database, self.n_queries = images.listing.n_database, images.listing.n_queries
        self.neg_samples_num = min(neg_samples_num, self.n_database)
        self.cache_refresh_rate = min(cache_refresh_rate, self.n_queries)
        self.n_rounds = -(-queries_per_epoch // cache_refresh_rate)
        self.epoch = 0
        self._positives = images.listing.positives
        self._weights = _weights(images.listing.query_paths) if mining == "msls_weighted" else None
        # "full": the negatives that each query had last, -1 where it had none.
        n_remembered = self.n_queries if mining == "full" else 0
        self._chosen = np.full((n_remembered, negs_num_per_query), -1, dtype=np.int64)
        for query, zone in enumerate(images.zones):
            if self.n_database - len(zone) < negs_num_per_query:
                self._refuse(query, self.n_database - len(zone), self.n_database, "lower it or add database images")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) whose rounds are mined."""
        self.epoch = epoch

    def mine(self, describe: Describe, *, round_number: int = 0, rng: np.random.RandomState | None = None
             ) -> np.ndarray:
        """One round's triplets, (queries, 2 + k) int64 in the order drawn: id of the query among the listing's queries,
        then database ids of the positive nearest to it and of its negatives, nearest first (for "random": as drawn).

        describe  (n,) int64 ids, database images first and queries behind them, as in a BenchmarkDataset of the listing
                  -> (n, D) float32 descriptors; L2 tells what is near.  Called for at most AT_ONCE images at a time;
                  the model's mode, its images and the loader are the caller's
        rng       draws instead of (seed, epoch, round): the published code has one stream for all its rounds

        Raises ValueError for descriptors that do not fit, and where too few of the images drawn are negatives.
        """
        from scipy.spatial.distance import cdist  # here, as --help need not wait for it; it computes in float64

        if not 0 <= round_number < self.n_rounds:
            raise ValueError(f"round {round_number} of an epoch of {self.n_rounds}: expected 0 to {self.n_rounds - 1}")
        if rng is None:
            key = np.random.SeedSequence(self.seed, spawn_key=(self.epoch, round_number))
            rng = np.random.RandomState(np.random.MT19937(key))
        queries, candidates = self._draw(rng)
        positives = [self._positives[query] for query in queries]
        searched = candidates if self.mining != "random" else []
        database = np.unique(np.concatenate([*positives, *searched]))
        triplets = np.empty((len(queries), 2 + self.negs_num_per_query), dtype=np.int64)
        with self._described(describe, np.concatenate([database, self.n_database + queries])) as rows:
            def nearest(query: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
                apart = cdist(query[None], rows[np.searchsorted(database, ids)], "sqeuclidean")[0]
                return ids[np.argsort(apart, kind="stable")[:count]]  # equal ones in the order given

            of_queries = np.array(rows[len(database):])
            for triplet, query, descriptor, near, far in zip(triplets, queries, of_queries, positives, candidates,
                                                             strict=True):
                negatives = nearest(descriptor, far, self.negs_num_per_query) if searched else far
                triplet[:] = query, *nearest(descriptor, near, 1), *negatives
        if self.mining == "full":
            self._chosen[queries] = triplets[:, 2:]
        return triplets

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What later rounds need beside (seed, epoch, round): for "full" the negatives that each query had last,
        (queries, k) int64, -1 for none; otherwise (0, k)."""
        return {"chosen": torch.from_numpy(self._chosen.copy())}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Raises ValueError for a state of other queries, or of another mining."""
        found = state.get("chosen")
        if not isinstance(found, torch.Tensor) or found.dtype != torch.int64 or found.layout != torch.strided:
            raise ValueError(f"negatives chosen before: a {type(found).__name__}; expected a tensor of int64 ids")
        chosen = found.numpy()
        inside = (chosen >= -1) & (chosen < self.n_database)
        if chosen.shape != self._chosen.shape or not inside.all():
            raise ValueError(f"negatives chosen before: shape {chosen.shape}; expected {self._chosen.shape}, ids of "
                             f"{self.n_database:,} database images: the same data, mining and negs_num_per_query")
        self._chosen = chosen.astype(np.int64)  # a copy

    def _draw(self, rng: np.random.RandomState) -> tuple[np.ndarray, list[np.ndarray]]:
        """A round's queries and the candidates of each for its negatives, drawn in the published order: first all
        queries, then the pool, or query by query."""
        queries = rng.choice(self.n_queries, self.cache_refresh_rate, replace=False, p=self._weights)
        pool = None
        if self.mining in ("partial", "msls_weighted"):
            pool = rng.choice(self.n_database, self.neg_samples_num, replace=False)
        candidates = []
        for query in queries:
            zone, drawn = self.images.zones[query], pool
            if self.mining == "full":
                drawn = rng.choice(self.n_database, self.neg_samples_num, replace=False)
                drawn = np.union1d(self._chosen[query][self._chosen[query] >= 0], drawn)
            elif self.mining == "random":
                count = min(self.negs_num_per_query + len(zone), self.n_database)
                drawn = rng.choice(self.n_database, count, replace=False)
            assert drawn is not None
            far = drawn[np.isin(drawn, zone, assume_unique=True, invert=True)]
            if len(far) < self.negs_num_per_query:
                self._refuse(query, len(far), len(drawn), f"raise neg_samples_num ({self.neg_samples_num})")
            candidates.append(far[:self.negs_num_per_query] if self.mining == "random" else far)
        return queries, candidates

    @contextlib.contextmanager
    def _described(self, describe: Describe, ids: np.ndarray) -> Iterator[np.ndarray]:
        """The descriptors of these ids, (n, D) float32, in memory or in a file that is gone behind the block."""
        with contextlib.ExitStack() as stack:
            rows: np.ndarray | None = None
            for start in range(0, len(ids), AT_ONCE):
                part = ids[start:start + AT_ONCE]
                found = np.asarray(describe(part))
                dim = rows.shape[1] if rows is not None else found.shape[-1]
                if found.shape != (len(part), dim) or found.dtype != np.float32:
                    raise ValueError(f"descriptors of shape {found.shape}, {found.dtype}, for {len(part)} images; "
                                     f"expected ({len(part)}, {dim}), float32")
                if not np.isfinite(found).all():
                    raise ValueError("descriptors that are not finite; lower the learning rate, or resume an earlier "
                                     "checkpoint")
                if rows is None:
                    rows = self._room(stack, (len(ids), dim))
                rows[start:start + AT_ONCE] = found
            assert rows is not None  # there is a query, or the listing would not be there
            yield rows

    def _room(self, stack: contextlib.ExitStack, shape: tuple[int, int]) -> np.ndarray:
        if 4 * shape[0] * shape[1] <= self.memory_bytes:
            return np.empty(shape, dtype=np.float32)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="descriptors-"))
        return np.memmap(Path(folder) / "rows", dtype=np.float32, mode="w+", shape=shape)

    def _refuse(self, query: int, count: int, among: int, advice: str) -> None:
        raise ValueError(
            f"{self.images.listing.query_paths[query]}: {count} of {among} database images lie beyond "
            f"{self.images.zone_m:g} m of it; expected at least negs_num_per_query = {self.negs_num_per_query}; "
            f"{advice}")


def _weights(paths: Sequence[Path]) -> np.ndarray:
    """Probabilities of queries, float64: 1, and n / n_night more by night, n / n_sideways to the side, scaled to sum 1.

    The note, second of the fields from the end between the "@" of a name, says so: night_sideways, day_forward.
    """
    notes = [path.name.split("@")[-2].split("_") if path.name.count("@") > 1 else [] for path in paths]
    bad = next((path for path, note in zip(paths, notes, strict=True) if len(note) < 2), None)
    if bad is not None:
        raise ValueError(f"{bad}: no <day or night>_<direction> in front of the last @; mining 'msls_weighted' needs "
                         "the file names of MSLS; expected another mining, or these names")
    weights = np.ones(len(paths))
    for place, what in enumerate(("night", "sideways")):
        rows = np.array([note[place] == what for note in notes])
        if not rows.any():
            raise ValueError(f"none of {len(paths):,} queries is noted as {what}; mining 'msls_weighted' expects some "
                             "by night and some to the side; take another mining")
        weights[rows] += len(paths) / rows.sum()
    return weights / weights.sum()
