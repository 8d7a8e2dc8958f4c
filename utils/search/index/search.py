"""Searching the segments of an index as one database: by codes, by float descriptors, and in two stages."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..exact import merge_ranked
from .files import RowShape
from .segments import Segment

_PAIR_BYTES = 4 * 2**20  # of queries' descriptors, repeated for each candidate, where there are several segments


class Found(NamedTuple):
    """What a search in two stages found, best first; ids are rows of the index, int64.

    ids              (m, k)               re-ranked by L2; behind the first `depth` in order of Hamming distance
    distances        (m, min(depth, k))   L2, float32, ascending
    first_ids        (m, max(k, depth))   by Hamming distance, equal ones by row
    first_distances  (m, max(k, depth))   bits, int32, ascending
    """

    ids: np.ndarray
    distances: np.ndarray
    first_ids: np.ndarray
    first_distances: np.ndarray


class Searchable:
    """Segments of an index, searched as one database. Ids are row numbers of the whole index."""

    def __init__(self, shape: RowShape, segments: Sequence[Segment], n: int):
        self.shape = shape
        self._n = n
        self._set(segments)

    def _set(self, segments: Sequence[Segment]) -> None:
        self._segments = list(segments)
        self._searched = [segment for segment in segments if len(segment)]
        self._starts = np.array([segment.start for segment in segments], np.int64)

    def __len__(self) -> int:
        """How many images can be found."""
        return sum(map(len, self._segments))

    @property
    def bytes_per_image(self) -> dict[str, int | None]:
        """Of a code ("binary") and of a float descriptor as it is stored ("float"); None for a missing branch."""
        return {"binary": self.shape.bytes_of("codes") or None,
                "float": self.shape.bytes_of("values", "scales") or None}

    def search(self, codes: np.ndarray, floats: np.ndarray, *, k: int = 10, depth: int = 100,
               device: torch.device | None = None) -> Found:
        """The max(k, depth) nearest codes of each query, the first `depth` of them sorted by L2.

        Args: codes (m, bytes) uint8 from `pack_codes`; floats (m, D) float32; device: None for the processor.
        Fewer come back where the index holds fewer. Raises ValueError for shapes and types that do not fit.
        """
        if k < 1:
            raise ValueError(f"k is {k}; expected at least 1")
        first_distances, first_ids = self.search_codes(codes, max(k, depth), device=device)
        ids, distances = self.rerank(floats, first_ids, depth, device=device)
        return Found(ids[:, :k], distances[:, :k], first_ids, first_distances)

    def search_codes(self, codes: np.ndarray, k: int, *, device: torch.device | None = None
                     ) -> tuple[np.ndarray, np.ndarray]:
        """Hamming distances (m, k) int32, ascending, and ids (m, k) int64 of the nearest codes, exhaustively."""
        if not self.shape.code_bytes:
            raise ValueError("this index holds no codes; search its float descriptors")
        return self._merged([segment.search_codes(codes, k, device) for segment in self._searched], k)

    def search_floats(self, floats: np.ndarray, k: int, *, device: torch.device | None = None
                      ) -> tuple[np.ndarray, np.ndarray]:
        """Squared L2 distances (m, k) float32, ascending, and ids (m, k) int64, exhaustively."""
        self._needs_floats()
        return self._merged([segment.search_floats(floats, k, device) for segment in self._searched], k)

    def _merged(self, parts: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
        if not parts:
            raise ValueError("the index holds no images, or all are removed; expected at least one to search")
        return parts[0] if len(parts) == 1 else merge_ranked(parts, k)

    def _needs_floats(self) -> None:
        if not self.shape.float_dim:
            raise ValueError("this index holds no float descriptors; search its codes")

    def rerank(self, floats: np.ndarray, candidates: np.ndarray, depth: int, *, device: torch.device | None = None
               ) -> tuple[np.ndarray, np.ndarray]:
        """The second stage alone: of ids (m, k) the first `depth` by L2 distance to floats (m, D), the others behind.

        Returns ids (m, k) int64 and distances (m, min(depth, k)) float32; equal ones keep the order of the candidates.
        """
        self._needs_floats()
        if len(self._searched) == 1:
            segment, = self._searched
            if not segment.start:
                return segment.rerank(floats, candidates, depth, device)
            ids, distances = segment.rerank(floats, candidates - segment.start, depth, device)
            return ids + segment.start, distances
        if depth < 1:
            raise ValueError(f"depth is {depth}; expected at least 1")
        ids = self._checked(candidates.ravel()).reshape(candidates.shape).copy()
        head = ids[:, :depth]  # a view: what is sorted there is sorted in ids
        distances = np.empty(head.shape, np.float32)
        step = max(1, _PAIR_BYTES // (4 * self.shape.float_dim * head.shape[1]))
        for start in range(0, len(ids), step):
            block = slice(start, start + step)
            own, of_own = head[block].ravel(), distances[block].reshape(-1)
            for segment, where in self._by_segment(own):
                # Each pair as a query with one candidate: a query has more in one segment than in another.
                pairs = floats[start + where // head.shape[1]]
                _, found = segment.rerank(pairs, own[where, None] - segment.start, 1, device)
                of_own[where] = found[:, 0]
        order = np.argsort(distances, axis=1, kind="stable")
        ids[:, :depth] = np.take_along_axis(head, order, axis=1)
        return ids, np.take_along_axis(distances, order, axis=1)

    def rows(self, ids: Sequence[int]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Codes (n, bytes) uint8 and float descriptors (n, D) float32 of rows (n,); None for a missing branch."""
        ids = self._checked(ids)
        codes, floats = (None if width is None else np.empty((len(ids), width), dtype) for width, dtype in
                         ((self.shape.code_bytes, np.uint8), (self.shape.float_dim, np.float32)))
        for segment, where in self._by_segment(ids):
            if codes is not None:
                codes[where] = segment.codes[ids[where] - segment.start]
            if floats is not None:
                floats[where] = segment.floats.read(ids[where] - segment.start)
        return codes, floats

    def _by_segment(self, ids: np.ndarray) -> Iterator[tuple[Segment, np.ndarray]]:
        numbers = np.searchsorted(self._starts, ids, side="right") - 1
        for number in np.unique(numbers):
            yield self._segments[number], np.flatnonzero(numbers == number)

    def _checked(self, ids: Iterable[int]) -> np.ndarray:
        ids = np.asarray(ids)
        if not ids.size:
            return np.zeros(0, np.int64)
        if ids.dtype.kind not in "iu" or ids.ndim != 1:
            raise ValueError(f"ids are {ids.dtype} {ids.shape}; expected integers (n,)")
        if not 0 <= ids.min() <= ids.max() < self._n:
            raise ValueError(f"ids range from {ids.min()} to {ids.max()}; expected row numbers below {self._n}")
        return ids.astype(np.int64, copy=False)

    def names(self, ids: Sequence[int]) -> list[str]:
        """Names of rows (n,), as they were given; only these are decoded."""
        ids = self._checked(ids)
        found = np.empty(len(ids), object)
        for segment, where in self._by_segment(ids):
            found[where] = segment.names(ids[where] - segment.start)
        return found.tolist()

    def coordinates(self, ids: Sequence[int]) -> np.ndarray:
        """Coordinates (n, 2) float64 of rows (n,), NaN where unknown."""
        ids = self._checked(ids)
        found = np.empty((len(ids), 2))
        for segment, where in self._by_segment(ids):
            found[where] = segment.coordinates(ids[where] - segment.start)
        return found
