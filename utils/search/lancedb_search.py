"""Searching an index that was exported to LanceDB, in the same two stages and with the same order of equal distances.

LanceDB is imported when something is opened; a program that imports this project's `datasets` imports lancedb before
that. The table `images` holds a row for each image, in order of id:

    id                  row of the index, int64
    name                text; bytes that are no UTF-8 as \\xNN
    code                bits / 8 of uint8, searched by Hamming distance
    float, scale        the float descriptor as the index stores it; scale for int8 only
    utm_east, utm_north metres, null where unknown
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import ModelIdentity, StoredRows, rerank_l2

TABLE, COMPLETE = "images", "complete"
ABOUT = b"selavprpp"  # in the schema's metadata: which part of which index


class Candidates(NamedTuple):
    """The first stage's best of one table, in its order, with the second stage's distances; c = depth or fewer.

    ids (m, c) int64; bits (m, c) int32, Hamming, ascending; distances (m, c) float32, L2; names (m, c) str;
    coordinates (m, c, 2) float64, NaN where unknown.
    """

    ids: np.ndarray
    bits: np.ndarray
    distances: np.ndarray
    names: np.ndarray
    coordinates: np.ndarray


class FoundImages(NamedTuple):
    """The k best of each query, by L2 distance: parts (m, k) int64, the number of the table that holds it, else as in
    `Candidates`."""

    parts: np.ndarray
    ids: np.ndarray
    distances: np.ndarray
    names: np.ndarray
    coordinates: np.ndarray


class Exported:
    """Complete exports, the parts of one index or of several, searched as one database.

    model   the ModelIdentity whose descriptors these are
    """

    def __init__(self, *targets: str, model: ModelIdentity | None = None):
        """Opens exports at these addresses. ValueError where one is not complete, or of another model."""
        if not targets:
            raise ValueError("no target given; expected at least one address of an export")
        self._tables = [_open(target) for target in targets]
        abouts = [about for table in self._tables if (about := about_of(table))]  # each has one, says `_open`
        self.model = model or ModelIdentity(**abouts[0]["model"])
        for target, about in zip(targets, abouts, strict=True):
            there = ModelIdentity(**about["model"])
            if there.fingerprint != self.model.fingerprint or about["row"] != abouts[0]["row"]:
                raise ValueError(f"{target} is an export of {there}, {about['row']}; expected {self.model}, "
                                 f"{abouts[0]['row']}")
        self._code_bytes = abouts[0]["row"]["code_bytes"]

    def __len__(self) -> int:
        return sum(table.count_rows() for table in self._tables)

    def search(self, codes: np.ndarray, floats: np.ndarray, *, k: int = 10, depth: int = 100,
               where: str | None = None) -> FoundImages:
        """The k best of each query by L2, among the `depth` nearest codes of all parts together.

        Args:
            codes: (m, bytes) uint8 from `pack_codes`. floats: (m, D) float32.
            where: a condition in SQL, e.g. "utm_east between 4e5 and 5e5", that images have to meet.
        Equal Hamming distances go by part and id, equal L2 distances keep that order, as in `TwoStageIndex.search`.
        Fewer come back where there are fewer. Raises ValueError for shapes and types that do not fit.
        """
        return merged(self.candidates(codes, floats, depth=depth, where=where), k=k, depth=depth)

    def candidates(self, codes: np.ndarray, floats: np.ndarray, *, depth: int = 100,
                   where: str | None = None) -> list[Candidates]:
        """Both stages' distances for each part. Where a machine searches its own part, `merged` joins what they found.

        Arguments as for `search`.
        """
        if codes.dtype != np.uint8 or codes.shape != (len(floats), self._code_bytes) or not len(codes) or depth < 1:
            raise ValueError(f"codes are {codes.dtype} {codes.shape}, depth is {depth}; expected uint8 "
                             f"({len(floats)}, {self._code_bytes}), at least one query, and a depth of at least 1")
        parts = []
        for table in self._tables:
            queries = [_candidates(table, *query, depth, where) for query in zip(codes, floats, strict=True)]
            parts.append(Candidates(*map(np.stack, zip(*queries, strict=True))))
        return parts


def merged(parts: Sequence[Candidates], *, k: int = 10, depth: int = 100) -> FoundImages:
    """What a search of all parts as one finds: their `depth` best by Hamming distance, and of these the k best by L2.

    parts  of the same queries, in the order in which equal distances shall be kept; each to that depth
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    joined = Candidates(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))
    numbers = np.repeat(np.arange(len(parts)), [part.ids.shape[1] for part in parts])
    first = np.argsort(joined.bits, axis=1, kind="stable")[:, :depth]
    by_l2 = np.argsort(np.take_along_axis(joined.distances, first, axis=1), axis=1, kind="stable")[:, :k]
    chosen = np.take_along_axis(first, by_l2, axis=1)
    queries = np.arange(len(chosen))[:, None]
    return FoundImages(numbers[chosen], *(array[queries, chosen] for name, array in joined._asdict().items()
                                            if name != "bits"))


def _candidates(table: Any, code: np.ndarray, query: np.ndarray, depth: int, where: str | None) -> Candidates:
    """Of one query: arrays (c,), coordinates (c, 2)."""
    nearest = table.search(code, vector_column_name="code").distance_type("hamming").limit(depth)
    if where is not None:
        nearest = nearest.where(where, prefilter=True)
    columns = [name for name in table.schema.names if name != "code"]
    rows = nearest.select([*columns, "_distance"]).to_arrow().sort_by([("_distance", "ascending"), ("id", "ascending")])
    ids, bits, names = rows["id"].to_numpy(), rows["_distance"].to_numpy().astype(np.int32), rows["name"].to_pylist()
    metres = np.stack([rows[name].to_numpy() for name in ("utm_east", "utm_north")], axis=1)
    distances = np.empty(len(ids), np.float32)
    if len(ids):
        values = rows["float"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
        stored = StoredRows(values, rows["scale"].to_numpy() if "scale" in columns else None)
        places, ranked = rerank_l2(stored, query[None], np.arange(len(ids))[None], depth)
        distances[places[0]] = ranked[0]
    return Candidates(ids, bits, distances, np.array(names, object), metres)


def _open(target: str) -> Any:
    lancedb = load_lancedb()
    with reaching(target):
        table = open_table(lancedb.connect(target))
        if table is None:
            raise FileNotFoundError(f"{target} holds no export; write one: python -m utils.export INDEX {target}")
        if about_of(table) is None or COMPLETE not in table.tags.list():
            raise ValueError(f"{target} is not complete: {content_of(table)}; run the export again, it resumes")
        table.checkout(COMPLETE)
    return table


def open_table(database: Any) -> Any | None:
    """The table of a connection's database; None where there is none."""
    try:
        return database.open_table(TABLE)
    except ValueError as error:
        if "was not found" not in str(error):
            raise
        return None


def about_of(table: Any) -> dict | None:
    """What an export says of itself, all of which this project's exports say; else None."""
    try:
        about = json.loads(table.schema.metadata[ABOUT])
        name_of(about)
        sound = isinstance(about["row"]["code_bytes"], int)
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return about if sound else None


def content_of(table: Any) -> str:
    about = about_of(table)
    return f"{table.count_rows()} rows of {name_of(about) if about else 'a table that was not written here'}"


def name_of(about: dict) -> str:
    number, parts = about["part"]
    return (f"part {number}/{parts} of {about['images']} images of {ModelIdentity(**about['model'])}, "
            f"generation {about['generation']}")


@contextlib.contextmanager
def reaching(target: str) -> Iterator[None]:
    """Turns what LanceDB says of a store that it cannot read or write into one line."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (RuntimeError, OSError) as error:
        raise ValueError(f"cannot use {target}: {str(error).splitlines()[0]}") from error


def load_lancedb(*, writing: bool = False) -> Any:
    """The optional package. ValueError where it is not installed, or where this project's `datasets` is in its way.

    LanceDB takes a loaded module of that name for Hugging Face's and imports classes from it: when it is itself
    imported, and whenever rows are added; opening and searching do not ask.
    """
    ours = "datasets" in sys.modules and not hasattr(sys.modules["datasets"], "DatasetDict")
    if ours and (writing or "lancedb" not in sys.modules):
        raise ValueError("LanceDB takes this project's package datasets, which this program has imported, for another: "
                         "export with python -m utils.export; to search, import lancedb first")
    try:
        import lancedb
    except ModuleNotFoundError:
        raise ValueError("this needs the package lancedb, which is optional: pip install 'lancedb==0.40.*'") from None
    return lancedb
