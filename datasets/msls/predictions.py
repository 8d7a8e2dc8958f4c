"""Prediction files for the MSLS challenge: text that `np.loadtxt(..., dtype=str, ndmin=2)` reads, usually zipped.

A row a query: its key, then at least 20 keys of database images, best first, separated by spaces.  A key is the name of
an image without folder and .jpg.  `#` begins a comment.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..files import temporary_path

LEAST = 20  # recalls are officially counted at 1, 5, 10 and 20
_NO_KEY = re.compile(r"[^!-~]|[#,/\\]|\.jpg$|^$", re.IGNORECASE)  # "!" to "~" is ASCII that can be seen


class Predictions(NamedTuple):
    """A checked file: rows of the queries asked for, predictions in each, and rows of other queries."""

    queries: int
    per_query: int
    ignored: int


def write_predictions(path: Path | str, query_keys: Sequence[str], predicted_keys: Sequence[Sequence[str]]) -> Path:
    """Write one prediction row for each query into <name>.csv in the archive `path`, <name>.zip, and return `path`.

    The same predictions give the same bytes.  Raises ValueError for rows that the format forbids, and writes nothing.
    """
    path = Path(path)
    rows = [[query, *keys] for query, keys in zip(query_keys, predicted_keys, strict=True)]
    _check_rows(((f"predictions, row {row}", keys) for row, keys in enumerate(rows, 1)), set(query_keys), None)
    text = "".join(" ".join(keys) + "\n" for keys in rows)
    text = f"# query key, then {len(rows[0]) - 1} database keys, best first\n{text}"
    with temporary_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        # Without a date of its own an entry takes the time of writing.
        entry = zipfile.ZipInfo(path.with_suffix(".csv").name, date_time=(1980, 1, 1, 0, 0, 0))
        archive.writestr(entry, text, compress_type=zipfile.ZIP_DEFLATED)
    return path


def check_predictions(path: Path | str, query_keys: Collection[str], database_keys: Collection[str]) -> Predictions:
    """Read a prediction file, text or a zip that holds one .csv, and check it against the rules of the challenge.

    Rows of queries that are not asked for are officially ignored: they need the common length and no repeated
    prediction, but their predictions need not be among the `database_keys`.
    Raises FileNotFoundError, and ValueError with the row (comments and blank lines not counted) and the line.
    """
    path = Path(path)
    # Split as np.loadtxt does: str.splitlines would also split at form feeds.
    text = io.StringIO(_text(path), newline=None)
    lines = ((number, line.split("#", 1)[0].split()) for number, line in enumerate(text, 1))
    rows = ((f"{path}, row {row} (line {line})", keys)
            for row, (line, keys) in enumerate(((line, keys) for line, keys in lines if keys), 1))
    return _check_rows(rows, set(query_keys), set(database_keys), name=str(path))


def _check_rows(rows: Iterable[tuple[str, list[str]]], queries: set[str], database: set[str] | None,
                *, name: str = "predictions") -> Predictions:
    seen: dict[str, str] = {}
    length = ignored = 0
    for place, keys in rows:
        bad = next((key for key in keys if _NO_KEY.search(key)), None)
        if bad is not None:
            raise ValueError(f"{place}: {bad!r} is no key; expected an image's name without folder and .jpg, in "
                             "ASCII without space, comma and #")
        query, predicted = keys[0], keys[1:]
        length = length or len(keys)
        if len(predicted) < LEAST:
            raise ValueError(f"{place}: {len(predicted)} predictions for {query}, expected at least {LEAST}")
        if len(keys) != length:
            raise ValueError(f"{place}: {len(predicted)} predictions for {query}, expected {length - 1} as in row 1")
        if len(set(predicted)) < len(predicted):
            twice = next(key for rank, key in enumerate(predicted) if key in predicted[:rank])
            raise ValueError(f"{place}: {twice} predicted twice for {query}; expected each key once a row")
        if query not in queries:
            ignored += 1
            continue
        if query in seen:
            raise ValueError(f"{place}: query {query} again, first in {seen[query]}; expected one row a query")
        unknown = next((key for key in predicted if key not in database), None) if database is not None else None
        if unknown is not None:
            raise ValueError(f"{place}: {unknown}, predicted for {query}, is no key of a database image")
        seen[query] = place
    missing = sorted(queries - seen.keys())
    if missing or not queries:
        raise ValueError(f"{name}: no row for {len(missing)} of {len(queries)} queries"
                         + (f", {missing[0]} the first; expected one for each" if missing else "; expected some"))
    return Predictions(len(seen), length - 1, ignored)


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected predictions as text or in a .zip")
    try:
        if path.suffix != ".zip":
            return path.read_text(encoding="utf-8")
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1 or not names[0].endswith(".csv"):
                raise ValueError(f"holds {', '.join(names[:5]) or 'nothing'}; expected one .csv")
            return archive.read(names[0]).decode("utf-8")
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
