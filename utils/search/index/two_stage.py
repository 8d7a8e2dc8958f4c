"""An index that is built, changed, saved, opened and verified; search.py has its searches."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from ..stores import StoredRows
from .files import (
    ModelIdentity,
    RowShape,
    check_contents,
    check_sizes,
    delete_unnamed,
    describe_files,
    files_of,
    first_manifest,
    new_folder,
    new_name,
    read_manifest,
    write_manifest,
)
from .search import Searchable
from .segments import Segment, check_rows, in_blocks, part_of, write_segment


class TwoStageIndex(Searchable):
    """Codes, float descriptors, names and coordinates of images in a folder; the format is in files.py.

    Everything is read by memory map: the codes of every page are touched by each search and so lie in RAM, once for all
    processes that have the index open; of float descriptors only what re-ranking touches. Ids are row numbers in order
    of addition and never change within a folder. `add` and `remove` are seen by this object at once, by others once
    `save` has committed them. One process at a time may change an index; any number may read it.

    model   the ModelIdentity whose descriptors these are.  source  a dictionary of the one who built it
    """

    def __init__(self, folder: Path, manifest: dict):
        shape = RowShape(**manifest["row"])
        starts = np.cumsum([0, *(segment["n"] for segment in manifest["segments"])]).tolist()
        segments = [Segment(folder, described, shape, start)
                    for described, start in zip(manifest["segments"], starts, strict=False)]
        super().__init__(shape, segments, starts[-1])
        self.folder, self._manifest, self._changed = folder, manifest, False
        self.model, self.source = ModelIdentity(**manifest["model"]), manifest["source"]
        self._removed = np.zeros(0, np.int64)
        if manifest["removed"]:
            self._remove(np.fromfile(folder / manifest["removed"]["name"], "<i8"))

    @classmethod
    def open(cls, folder: str | Path, *, model: ModelIdentity | None = None) -> "TwoStageIndex":
        """Opens an index; checks the manifest and the size of each file, but reads none (`verify` does).

        model  the one whose queries will be searched: an index of another is refused
        Raises FileNotFoundError where there is no index or a file of it is missing, and ValueError for a damaged
        manifest, a torn file, an unfinished extraction and an index of another model.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        while True:
            try:
                check_sizes(files_of(folder, manifest))
                index = cls(folder, manifest)
                break
            except FileNotFoundError:
                # Between reading the manifest and opening its files another process may have committed a newer one.
                before, manifest = manifest, read_manifest(folder)
                if manifest == before:
                    raise
        if model is not None and model.fingerprint != index.model.fingerprint:
            raise ValueError(f"{folder} is an index of {index.model}; the queries are from {model}; "
                             "expected one model: describe the images again with it, or load the other")
        return index

    @classmethod
    def build(cls, folder: str | Path, *, model: ModelIdentity, names: Iterable[str], codes: np.ndarray | None = None,
              floats: np.ndarray | StoredRows | None = None, coordinates: np.ndarray | None = None,
              store: str = "fp32", source: dict | None = None) -> "TwoStageIndex":
        """Writes an index of n images and opens it.

        Args:
            names: n of them, one by one; coordinates: (n, 2) float64, NaN where unknown.
            codes: (n, bytes) uint8 from `pack_codes`.
            floats: (n, D) float32, which are held as `store` says ("fp32", "fp16", "int8"), or rows held so already.
            source: what the caller wants to find again, of what JSON can hold.
        Raises ValueError where these do not fit, and where the folder holds an index already.
        """
        float_dim = floats.dim if isinstance(floats, StoredRows) else _width(floats)
        shape = RowShape(_width(codes), float_dim, store).check()
        folder = new_folder(folder)
        segment = _write(folder, shape, codes, floats, names, coordinates)
        write_manifest(folder, first_manifest(model, shape, segment, source or {}))
        return cls.open(folder)

    def add(self, *, names: Iterable[str], codes: np.ndarray | None = None,
            floats: np.ndarray | StoredRows | None = None, coordinates: np.ndarray | None = None) -> range:
        """Writes more images, as `build` does, and returns their ids; they stay only if `save` is called."""
        described = _write(self.folder, self.shape, codes, floats, names, coordinates)
        segment = Segment(self.folder, described, self.shape, self._n)
        self._manifest = {**self._manifest, "segments": [*self._manifest["segments"], described]}
        self._n += segment.n
        self._set([*self._segments, segment])
        self._changed = True
        return range(segment.start, self._n)

    def remove(self, images: Sequence[int] | Sequence[str]) -> None:
        """Removes images by id, or all that have one of these names; they stay removed only if `save` is called.

        Raises ValueError for ids and names that are not there, or no longer.
        """
        if len(images) and isinstance(images[0], str):
            ids = self._ids_of(set(images))
        else:
            ids = np.unique(self._checked(images))
            gone = np.intersect1d(ids, self._removed)
            if len(gone):
                raise ValueError(f"row {gone[0]} is removed already; expected ids of images that can be found")
        if len(ids):
            self._remove(np.union1d(self._removed, ids))
            self._changed = True

    def _remove(self, removed: np.ndarray) -> None:
        bounds = np.searchsorted(removed, [*self._starts, self._n])
        self._removed = removed
        self._set([segment.searching(removed=removed[low:high] - segment.start) for segment, low, high
                   in zip(self._segments, bounds, bounds[1:], strict=False)])

    def _ids_of(self, names: set[str]) -> np.ndarray:
        ids, found = [], set()
        for block in self.live_ids():
            for row, name in zip(block, self.names(block), strict=True):
                if name in names:
                    ids.append(row)
                    found.add(name)
        if found != names:
            raise ValueError(f"no image is named {min(names - found)!r}; expected names of this index")
        return np.array(ids, np.int64)

    def live_ids(self) -> Iterator[np.ndarray]:
        """Ids of the images that can be found, in blocks of a segment each."""
        for segment in self._searched:
            for block in in_blocks(len(segment), self.shape.bytes_of()):
                yield segment.start + segment.rows(np.arange(block.start, block.stop))

    def restricted_to(self, rows: Sequence[int]) -> Searchable:
        """A view that searches only these rows, in ascending order, and no removed ones; ids stay those of the whole.

        It copies their codes at the first search; of float descriptors only blocks, while `search_floats` reads them.
        """
        rows = np.setdiff1d(self._checked(rows), self._removed)
        bounds = np.searchsorted(rows, [*self._starts, self._n])
        segments = [segment.searching(kept=rows[low:high] - segment.start)
                    for segment, low, high in zip(self._segments, bounds, bounds[1:], strict=False)]
        return Searchable(self.shape, segments, self._n)

    def save(self, folder: str | Path | None = None) -> None:
        """Commits what was added and removed; or, with another folder, writes a copy without the removed rows there.

        The copy's ids are counted anew, in the same order; this object stays with its folder. Raises ValueError where
        another process has changed the index since it was opened, and where the other folder holds an index already.
        """
        if folder is not None and Path(folder).resolve() != self.folder.resolve():
            self._copy_to(folder)
            return
        if not self._changed:
            return
        now = read_manifest(self.folder)["generation"]
        if now != self._manifest["generation"]:
            raise ValueError(f"{self.folder} was changed by another process (generation {now}, "
                             f"{self._manifest['generation']} when it was opened); open it again and repeat the change")
        manifest = {**self._manifest, "generation": now + 1, "removed": self._write_removed()}
        write_manifest(self.folder, manifest)
        self._manifest, self._changed = manifest, False
        delete_unnamed(self.folder, manifest)

    def _write_removed(self) -> dict | None:
        if not len(self._removed):
            return None
        path = self.folder / new_name("removed")
        self._removed.astype("<i8").tofile(path)
        described, = describe_files([path])
        return {"name": path.name, "file": described}

    def _copy_to(self, folder: str | Path) -> None:
        if not len(self):
            raise ValueError("all images are removed; expected at least one to copy")
        folder = new_folder(folder)
        coordinates = map(self.coordinates, self.live_ids()) if any(s.has_coordinates for s in self._segments) else None
        segment = write_segment(folder, self.shape, len(self), map(self._stored, self.live_ids()),
                                chain.from_iterable(map(self.names, self.live_ids())), coordinates)
        manifest = first_manifest(self.model, self.shape, segment, self.source)
        write_manifest(folder, {**manifest, "generation": self._manifest["generation"] + self._changed})

    def _stored(self, ids: np.ndarray) -> tuple[np.ndarray | None, StoredRows | None]:
        (segment, _), = self._by_segment(ids)
        return part_of(segment.codes, ids - segment.start), part_of(segment.floats, ids - segment.start)

    def verify(self) -> None:
        """Reads every file of the index as it was saved last; ValueError names one whose content has changed since."""
        check_contents(files_of(self.folder, read_manifest(self.folder)))

    @property
    def generation(self) -> int:
        """1 as built; one more with each change that was saved."""
        return self._manifest["generation"]

    @property
    def bytes_on_disk(self) -> int:
        return sum(described["size"] for described in files_of(self.folder, self._manifest).values())


def _write(folder: Path, shape: RowShape, codes: np.ndarray | None, floats: np.ndarray | StoredRows | None,
           names: Iterable[str], coordinates: np.ndarray | None) -> dict:
    n = check_rows(shape, codes, floats)
    blocks = ((part_of(codes, rows), part_of(floats, rows)) for rows in in_blocks(n, shape.bytes_of()))
    return write_segment(folder, shape, n, blocks, names, None if coordinates is None else [np.asarray(coordinates)])


def _width(rows: np.ndarray | None) -> int | None:
    if rows is None:
        return None
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"descriptors have shape {rows.shape}; expected (images, width)")
    return rows.shape[1]
