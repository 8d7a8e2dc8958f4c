"""A first stage that reads only a part of the codes: faiss's inverted file over Hamming distance.

It answers as `search_hamming` does, but misses neighbours in lists that it does not probe; `choose_probes` measures how
many to probe. docs/benchmarks/scale.md compares it with graphs and hash tables, which lost.
"""

import bisect
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np

from utils.evaluation.metrics import correctness, recall_at_k
from utils.files import temporary_path
from utils.search import merge_ranked

_SAMPLE = 40  # codes a list to train on, and rounds of k-means: 64 and 10 took three times as long and found 0.1 % more
_ROUNDS = 4
_BLOCK = 2**18  # codes added at a time: those given may be a memory map larger than RAM
_SPARE = 28  # ranks searched beyond the k wanted: most often all codes that are as far as rank k


class BinaryIVF:
    """Database codes in lists, each around one of `lists` centres; a search reads those of the nearest centres.

    It holds a copy of the codes and 8 bytes an image, in RAM after `build`, by memory map after `open`.

    probes  how many lists a search reads where it is not told otherwise
    """

    def __init__(self, index: faiss.IndexBinaryIVF):
        self._index, self.probes = index, index.nprobe

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def lists(self) -> int:
        return self._index.nlist

    @classmethod
    def build(cls, codes: np.ndarray, *, lists: int | None = None, seed: int = 0) -> "BinaryIVF":
        """Of database codes (n, bytes) uint8, an array or a memory map. The centres come from a sample of them.

        lists  None: the square root of n
        Raises ValueError for codes of another shape or type, and where lists is not between 1 and n.
        """
        if codes.ndim != 2 or codes.dtype != np.uint8 or not codes.size:
            raise ValueError(f"codes are {codes.dtype} {codes.shape}; expected uint8 (n >= 1, bytes)")
        n = len(codes)
        lists = round(n ** 0.5) if lists is None else lists
        if not 1 <= lists <= n:
            raise ValueError(f"lists is {lists}; expected between 1 and the number of codes, {n}")
        bits = 8 * codes.shape[1]
        index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(bits), bits, lists)
        index.cp.niter, index.cp.seed, index.cp.min_points_per_centroid = _ROUNDS, seed, 1
        sample = np.random.default_rng(seed).choice(n, min(n, _SAMPLE * lists), replace=False)
        index.train(np.ascontiguousarray(codes[np.sort(sample)]))
        for start in range(0, n, _BLOCK):
            index.add(np.ascontiguousarray(codes[start:start + _BLOCK]))
        index.nprobe = min(lists, 64)  # twice what 99 % of the exact search's recall@100 took at a million codes
        return cls(index)

    def search(self, codes: np.ndarray, k: int, *, probes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Nearest database codes of each query (m, bytes) uint8 among the `probes` lists whose centres are nearest.

        Returns Hamming distances in bits (m, k') int32, ascending, and database indices (m, k') int64, k' = min(k, n),
        equal distances by index: where all lists are probed, what `search_hamming` returns. For a query whose lists
        hold fewer than k' more are probed. Raises ValueError for shapes, types and numbers that do not fit.
        """
        probes = self.probes if probes is None else probes
        if codes.ndim != 2 or codes.dtype != np.uint8 or codes.shape[1] != self._index.code_size:
            raise ValueError(f"codes are {codes.dtype} {codes.shape}; expected uint8 (rows, {self._index.code_size})")
        if min(k, probes) < 1:
            raise ValueError(f"k is {k} and probes {probes}; expected at least 1")
        k = min(k, len(self))
        return self._search(np.ascontiguousarray(codes), k, probes, k + _SPARE)

    def _search(self, codes: np.ndarray, k: int, probes: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
        depth = min(depth, len(self))
        self._index.nprobe = min(probes, self.lists)
        distances, ids = merge_ranked([self._index.search(codes, depth)], depth)
        short = ids[:, k - 1] < 0
        # Of several codes at the last distance found, faiss keeps any: look deeper where rank k has that distance.
        tied = ~short & (distances[:, k - 1] == distances[:, -1]) & (depth < len(self))
        distances, ids = distances[:, :k], ids[:, :k]
        for rows, more in ((short, (2 * probes, depth)), (tied, (probes, 2 * depth))):
            if rows.any():
                distances[rows], ids[rows] = self._search(codes[rows], k, *more)
        return distances, ids

    def choose_probes(self, codes: np.ndarray, exact_ids: np.ndarray, *, goal: float = 0.99,
                      positives: Sequence[np.ndarray] | None = None) -> int:
        """The fewest probes, within an eighth, by which these sample queries (m, bytes) are answered well enough.

        exact_ids  (m, k) of `search_hamming`
        goal       share of these ids that must be found; with positives, share of the recall@k of exact_ids
        positives  for each query the database indices that are right
        Raises ValueError for a goal outside (0, 1] and for shapes that do not fit.
        """
        if not 0 < goal <= 1:
            raise ValueError(f"goal is {goal}; expected above 0 and at most 1")
        k = exact_ids.shape[1]

        def good(probes: int) -> bool:
            _, ids = self.search(codes, k, probes=probes)
            if positives is None:
                return correctness(ids, list(exact_ids)).mean() >= goal
            found, exact = (recall_at_k(each, positives, (k,))[k] for each in (ids, exact_ids))
            return found >= goal * exact

        steps = np.unique(np.geomspace(1, self.lists, 1 + 6 * self.lists.bit_length()).round().astype(int)).tolist()
        return steps[bisect.bisect_left(steps[:-1], True, key=good)]

    def save(self, path: str | Path) -> None:
        """Writes one file, with `probes`: 72 bytes an image for codes of 512 bits."""
        self._index.nprobe = self.probes
        with temporary_path(path) as temporary:
            faiss.write_index_binary(self._index, str(temporary))

    @classmethod
    def open(cls, path: str | Path) -> "BinaryIVF":
        """Opens what `save` wrote; the lists stay on disk by memory map, and processes share their pages.

        Raises FileNotFoundError where there is no file, ValueError where it is another or is cut short.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} is no file; expected one that BinaryIVF.save wrote")
        try:
            index = faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"{path} cannot be read as an index of codes; build it again") from error
        if not isinstance(index, faiss.IndexBinaryIVF):
            raise ValueError(f"{path} holds a {type(index).__name__}; expected one that BinaryIVF.save wrote")
        return cls(index)
