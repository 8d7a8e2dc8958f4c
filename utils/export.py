"""Copies an index into LanceDB, for databases past one machine; `utils.search.lancedb_search` searches the copy.

    python -m utils.export INDEX TARGET                 everything into one table
    python -m utils.export INDEX TARGET --part 2/16     the third of 16 parts, one for each machine

TARGET is what `lancedb.connect` takes: a folder, or an object store's address such as s3://bucket/city. LanceDB is no
requirement of this project (docs/benchmarks/engines.md says why it was chosen).
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from .errors import Parser
from .ranks import progress
from .run import exit_with
from .search import STORES, TwoStageIndex, store_rows
from .search.lancedb_search import (
    ABOUT,
    COMPLETE,
    TABLE,
    about_of,
    content_of,
    load_lancedb,
    name_of,
    open_table,
    reaching,
)

BLOCK_BYTES = 32 * 2**20  # of float32 descriptors in hand at a time
COMMIT_BLOCKS = 64  # of which a killed export writes those again that were not committed
_SAMPLED = 64  # rows whose content tells two indexes of one model apart


def export(index: TwoStageIndex, target: str, *, part: tuple[int, int] = (0, 1)) -> int:
    """Writes part i of n, (i, n), of an index to `target`, in blocks; returns how many rows it wrote.

    Rows are committed some GiB at a time, and a last commit marks the table as complete: without that mark nothing here
    reads it. Called again after a kill, it resumes behind the last commit. Raises ValueError where the target holds
    anything else, where the index lacks a branch, and where lancedb is not installed, cannot reach the target, or
    mistakes this project's `datasets` for another package: the process must not have imported that.
    """
    lancedb = load_lancedb(writing=True)
    number, parts = part
    if not 0 <= number < parts:
        raise ValueError(f"part is {number}/{parts}; expected 0/{parts} to {parts - 1}/{parts}")
    if not (index.shape.code_bytes and index.shape.float_dim):
        raise ValueError("the index holds one branch alone; expected codes and float descriptors")
    start, stop = (len(index) * edge // parts for edge in (number, number + 1))
    if start == stop:
        raise ValueError(f"part {number}/{parts} of {len(index)} images is empty; expected fewer parts")
    about = {"model": index.model._asdict(), "row": index.shape._asdict(), "generation": index.generation,
             "images": len(index), "part": [number, parts], "sample": _sample(index)}
    schema = _schema(index, about)
    with reaching(target):
        database = lancedb.connect(target)
        table = open_table(database)
        if table is None:
            table = database.create_table(TABLE, schema=schema)
        if about_of(table) != about:
            raise ValueError(f"{target} holds an export of something else ({content_of(table)}); expected an empty "
                             f"target or an unfinished export of {name_of(about)}")
        if COMPLETE in table.tags.list():
            raise ValueError(f"{target} holds this export already, complete; delete it to write it again")
        done = table.count_rows()
        blocks = _ids(index, start + done, stop)
        with progress([], "exporting", total=stop - start, initial=done, unit=" images") as bar:
            for first in blocks:
                commit = chain([first], islice(blocks, COMMIT_BLOCKS - 1))
                table.add(_reader(index, schema, commit, bar.update))
        if table.count_rows() != stop - start:
            raise ValueError(f"{target} holds {table.count_rows()} rows, expected {stop - start}: another process "
                             "wrote to it at the same time; delete it and export again")
        table.tags.create(COMPLETE, table.version)
    return stop - start - done


def _sample(index: TwoStageIndex) -> str:
    """A fingerprint of some rows, spread over the index."""
    ids = np.linspace(0, len(index) - 1, _SAMPLED).astype(np.int64)
    codes, floats = index.rows(ids)
    names = "\0".join(index.names(ids)).encode("utf-8", "surrogateescape")
    return hashlib.sha256(codes.tobytes() + floats.tobytes() + names).hexdigest()


def _ids(index: TwoStageIndex, start: int, stop: int) -> Iterator[np.ndarray]:
    """Ids of the start-th to stop-th image that can be found, some at a time."""
    rows = max(1, BLOCK_BYTES // (4 * index.shape.float_dim))
    for first in range(start, stop, rows):
        last = min(first + rows, stop)
        yield np.arange(first, last) if index.live is None else index.live[first:last]


def _schema(index: TwoStageIndex, about: dict) -> Any:
    import pyarrow as pa

    fields = [("id", pa.int64()), ("name", pa.string()), ("code", pa.list_(pa.uint8(), index.shape.code_bytes)),
              ("float", pa.list_(pa.from_numpy_dtype(STORES[index.shape.store]), index.shape.float_dim)),
              *([("scale", pa.float32())] if index.shape.store == "int8" else []),
              ("utm_east", pa.float64()), ("utm_north", pa.float64())]
    return pa.schema(fields, metadata={ABOUT: json.dumps(about)})


def _reader(index: TwoStageIndex, schema: Any, blocks: Iterator[np.ndarray], wrote: Callable[[int], object]) -> Any:
    import pyarrow as pa

    def batches():
        for ids in blocks:
            codes, floats = index.rows(ids)
            stored = store_rows(floats, index.shape.store)
            names = [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                     for name in index.names(ids)]
            metres = [pa.array(column, from_pandas=True) for column in index.coordinates(ids).T]
            scales = [] if stored.scales is None else [pa.array(stored.scales)]
            lists = [pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
                     for rows in (codes, stored.values)]
            yield pa.RecordBatch.from_arrays([pa.array(ids), pa.array(names), *lists, *scales, *metres], schema=schema)
            wrote(len(ids))

    return pa.RecordBatchReader.from_batches(schema, batches())


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.export", description="Copies an index into LanceDB.")
    parser.add_argument("index", help="folder of a TwoStageIndex")
    parser.add_argument("target", help="a folder, or an object store's address")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="one of N equal parts, from 0; default: all")
    given = parser.parse_args(argv)
    if not re.fullmatch(r"\d+/[1-9]\d*", given.part):
        raise ValueError(f"--part is {given.part}; expected I/N, e.g. 0/16")
    started = time.perf_counter()
    number, parts = map(int, given.part.split("/"))
    wrote = export(TwoStageIndex.open(given.index), given.target, part=(number, parts))
    seconds = time.perf_counter() - started
    print(f"{given.target}: complete; {wrote} images written in {seconds:.1f} s, {wrote / seconds:.0f} a second")


if __name__ == "__main__":
    exit_with(main)
