"""The searches of an index: by codes, by float descriptors, and in two stages; in memory or by memory map."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from ..exact import rerank_hamming, rerank_l2, search_hamming, search_l2
from ..stores import StoredRows, store_rows
from .disk import Ids, Rows, RowShape

T = TypeVar("T", np.ndarray, StoredRows)
Reading = Callable[[str, slice | np.ndarray], None]


class Found(NamedTuple):
    """What a search in two stages found, best first; ids are rows of the index, int64.

    ids              (m, k)               re-ranked by L2; behind the first `depth` in order of Hamming distance
    distances        (m, min(depth, k))   L2, float32, ascending
    first_ids        (m, max(k, depth, shortlist))   by Hamming distance, equal ones by row
    first_distances  (m, max(k, depth))   bits, int32, ascending; (m, shortlist), of whole codes, where there is one
    """

    ids: np.ndarray
    distances: np.ndarray
    first_ids: np.ndarray
    first_distances: np.ndarray


class Searchable:
    """Codes (n, bytes) uint8 and float descriptors (n, D), as float32 or stored rows, of n images; one may be missing.

    live     ascending numbers of the rows that can be found; None: all. Their codes are copied at the first search, as
             are prefixes of codes at the first search by these
    reading  called before rows are read, with "codes" or "floats" and their numbers
    """

    def __init__(self, codes: np.ndarray | None, floats: np.ndarray | StoredRows | None,
                 live: np.ndarray | None = None, *, reading: Reading | None = None):
        self.codes, self.floats = codes, StoredRows(floats) if isinstance(floats, np.ndarray) else floats
        lengths = {len(rows) for rows in (codes, floats) if rows is not None}
        if len(lengths) != 1:
            raise ValueError(f"codes and float descriptors are of {' and '.join(map(str, lengths)) or 'no'} images; "
                             "expected codes, floats or both, one each an image")
        if codes is not None and (codes.ndim != 2 or codes.dtype != np.uint8):
            raise ValueError(f"codes are {codes.dtype} {codes.shape}; expected uint8 (images, bytes) from pack_codes")
        self._n, self.live = lengths.pop(), live
        self._searched: dict[int, np.ndarray] = {}  # codes, or their first bytes, of the rows that can be found
        self._reading = reading

    def __len__(self) -> int:
        """How many images can be found."""
        return self._n if self.live is None else len(self.live)

    @property
    def shape(self) -> RowShape:
        """What an image's row holds."""
        store = "fp32" if self.floats is None else self.floats.kind
        return RowShape(None if self.codes is None else self.codes.shape[1],
                        None if self.floats is None else self.floats.dim, store)

    @property
    def bytes_per_image(self) -> dict[str, int | None]:
        """Of a code ("binary") and of a float descriptor as it is stored ("float"); None for a missing branch."""
        return {"binary": self.shape.code_bytes, "float": None if self.floats is None else self.floats.bytes_per_row}

    def search(self, codes: np.ndarray, floats: np.ndarray, *, k: int = 10, depth: int = 100, bits: int | None = None,
               shortlist: int = 0, device: torch.device | None = None) -> Found:
        """The max(k, depth) nearest codes of each query, the first `depth` of them sorted by L2.

        Args: codes (m, bytes) uint8 from `pack_codes`; floats (m, D) float32; device: None for the processor.
            bits: of the codes, that are compared, None: all; shortlist: so many nearest by these are sorted by whole
            codes, 0: none.
        Fewer come back where the index holds fewer. Raises ValueError for shapes and types that do not fit.
        """
        if k < 1:
            raise ValueError(f"k is {k}; expected at least 1")
        first_distances, first_ids = self.search_codes(codes, max(k, depth, shortlist), bits=bits, device=device)
        if shortlist:
            first_ids, first_distances = self.rerank_codes(codes, first_ids, shortlist)
        ids, distances = self.rerank(floats, first_ids, depth, device=device)
        return Found(ids[:, :k], distances[:, :k], first_ids, first_distances)

    def search_codes(self, codes: np.ndarray, k: int, *, bits: int | None = None, device: torch.device | None = None
                     ) -> tuple[np.ndarray, np.ndarray]:
        """Hamming distances (m, k) int32, ascending, and ids (m, k) int64 of the nearest codes, exhaustively.

        bits  compares so many first bits of the codes, a multiple of 8; None: all. A copy of these is kept, so that no
              search reads more. Raises ValueError for another number.
        """
        held = self._held(self.codes, "codes")
        self.about_to_read("codes", slice(None))
        whole = held.shape[1]
        if bits is not None and (bits % 8 or not 8 <= bits <= 8 * whole):
            raise ValueError(f"bits is {bits}; expected a multiple of 8, at most the code's {8 * whole}")
        width = whole if bits is None else bits // 8
        if width not in self._searched:
            found = held[:, :width]
            self._searched[width] = np.ascontiguousarray(found if self.live is None else found[self.live])
        if codes.ndim == 2 and codes.shape[1] == whole:
            codes = codes[:, :width]
        distances, places = search_hamming(self._searched[width], codes, k, device=device)
        return distances, places if self.live is None else self.live[places]

    def rerank_codes(self, codes: np.ndarray, candidates: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Of ids (m, k) the first `depth` by Hamming distance to whole codes (m, bytes), the others behind.

        Returns ids (m, k) int64 and distances (m, min(depth, k)) int32; equal ones by row.
        """
        held = self._held(self.codes, "codes")
        self.about_to_read("codes", self.checked(candidates[:, :depth].ravel()))
        return rerank_hamming(held, codes, candidates, depth)

    def search_floats(self, floats: np.ndarray, k: int, *, device: torch.device | None = None
                      ) -> tuple[np.ndarray, np.ndarray]:
        """Squared L2 distances (m, k) float32, ascending, and ids (m, k) int64, exhaustively."""
        held = self._held(self.floats, "float descriptors")
        self.about_to_read("floats", slice(None) if self.live is None else self.live)
        return search_l2(held, floats, k, rows=self.live, device=device)

    def rerank(self, floats: np.ndarray, candidates: np.ndarray, depth: int, *, device: torch.device | None = None
               ) -> tuple[np.ndarray, np.ndarray]:
        """The second stage alone: of ids (m, k) the first `depth` by L2 distance to floats (m, D), the others behind.

        Returns ids (m, k) int64 and distances (m, min(depth, k)) float32; equal ones keep the order of the candidates.
        """
        held = self._held(self.floats, "float descriptors")
        self.about_to_read("floats", self.checked(candidates[:, :depth].ravel()))
        return rerank_l2(held, floats, candidates, depth, device=device)

    def rows(self, ids: Ids) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Codes (n, bytes) uint8 and float descriptors (n, D) float32 of rows (n,); None for a missing branch."""
        wanted = self.checked(ids)
        self.about_to_read("codes", wanted)
        self.about_to_read("floats", wanted)
        return (None if self.codes is None else self.codes[wanted],
                None if self.floats is None else self.floats.read(wanted))

    def restricted_to(self, rows: Ids) -> "Searchable":
        """What searches only these rows, in ascending order, and no removed ones; ids stay those of the whole."""
        live = np.unique(self.checked(rows))
        return Searchable(self.codes, self.floats, live if self.live is None else np.intersect1d(live, self.live),
                          reading=self.about_to_read)

    def packed(self, some: slice, shape: RowShape) -> Rows:
        """What an index of this shape holds of some of the images that can be found; float32 becomes what it stores.

        Raises ValueError where these are of another shape, and for NaN and infinity.
        """
        if self.shape not in (shape, shape._replace(store="fp32")):
            raise ValueError(f"{self.shape} was given; this index holds {shape}")
        rows = some if self.live is None else self.live[some]
        self.about_to_read("codes", rows)
        self.about_to_read("floats", rows)
        floats = None if self.floats is None else self.floats[rows]
        if floats is not None and floats.kind == "fp32":
            floats = store_rows(floats.values, shape.store)
        parts = {"codes": None if self.codes is None else self.codes[rows]}
        parts |= {} if floats is None else {"floats": floats.values, "scales": floats.scales}
        return {name: part for name, part in parts.items() if part is not None}

    def about_to_read(self, name: str, rows: slice | np.ndarray) -> None:
        """As `reading`, which does nothing of rows in memory."""
        if self._reading is not None:
            self._reading(name, rows)

    def checked(self, ids: Ids) -> np.ndarray:
        """Row numbers (n,) as int64. Raises ValueError where they are none of this index."""
        rows = np.asarray(ids) if len(ids) else np.zeros(0, np.int64)
        if rows.dtype.kind not in "iu" or rows.ndim != 1:
            raise ValueError(f"ids are {rows.dtype} {rows.shape}; expected integers (n,)")
        if len(rows) and not 0 <= rows.min() <= rows.max() < self._n:
            raise ValueError(f"ids range from {rows.min()} to {rows.max()}; expected row numbers below {self._n}")
        return rows.astype(np.int64, copy=False)

    def _held(self, rows: T | None, what: str) -> T:
        if rows is None:
            raise ValueError(f"this index holds no {what}; search what it holds")
        if not len(self):
            raise ValueError("the index holds no images, or all are removed; expected at least one to search")
        return rows
