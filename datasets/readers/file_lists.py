"""Benchmark sets as .npy lists of images and right answers, the way GSV-Cities, MixVPR and OpenVPRLab ship them."""

import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import is_regular
from ..listing import Listing, and_more, display_name
from .npy_files import read_npy

DATABASE, QUERIES, USED = "dbImages", "qImages", "qIdx"
LISTS = f"*_{DATABASE}.npy, *_{QUERIES}.npy, optionally *_{USED}.npy, and *_gt.npy, *_pIdx.npy or *ground_truth*.npy"


def read_file_lists(folder_of_lists: Path | str, images_root: Path | str, *, name: str) -> Listing:
    """A set of which .npy files list the images and, for each query, the database images that show its place.

    <set>_dbImages.npy, <set>_qImages.npy   paths below `images_root`
    <set>_qIdx.npy        which query images are used, in which order; without this file all of them
    <set>_gt*.npy, <set>_pIdx.npy or *ground_truth*.npy   a row for each used query: its right database ids; or pairs of
                          a query's number and its ids, whose numbers are those of qIdx (else 0 to the last row)

    Upper and lower case count alike.  Of several sets in one folder `name` is taken; a single one may be called
    otherwise.  `name` is the listing's too, behind toy_city/ for drawn images.

    Raises FileNotFoundError for a missing folder, list or image, ValueError for lists of which there are several,
    that do not hold what they should, or do not fit each other.
    """
    folder, root = Path(folder_of_lists), Path(images_root)
    for place, what in ((folder, f"the lists: {LISTS}"), (root, "the images that the lists name")):
        if not place.is_dir():
            raise FileNotFoundError(f"{place}: no such folder; expected {what}")
    files = _find_lists(folder, name)
    database, queries = (_read_names(files[kind]) for kind in (DATABASE, QUERIES))
    used = _read_used(files[USED], files[QUERIES], len(queries)) if USED in files else np.arange(len(queries))
    positives = _read_positives(files["truth"], used, len(database), files.get(USED, files[QUERIES]))
    warnings = []
    if len(used) < len(queries):
        warnings.append(f"{files[USED]}: {len(used)} of {len(queries)} listed queries are used")
    n_twice = len(database) - len(set(database))
    if n_twice:
        first = next(name for name, times in Counter(database).items() if times > 1)
        warnings.append(f"{files[DATABASE]}: {n_twice} of {len(database)} paths repeat another one, first {first}")
    return Listing(
        name=display_name(name, root), folder=root,
        database_paths=_find_images(root, database, files[DATABASE]),
        query_paths=_find_images(root, [queries[i] for i in used], files[QUERIES]),
        positives=positives, rule="listed", warnings=tuple(warnings))


def _find_lists(folder: Path, name: str) -> dict[str, Path]:
    """DATABASE, QUERIES, perhaps USED, and "truth" -> file."""
    present = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".npy")
    there = f".npy files there: {', '.join(path.name for path in present[:20]) or 'none'}"
    sets = {path.stem[:-len(DATABASE)] for path in present if path.stem.lower().endswith(DATABASE.lower())}
    others = tuple(prefix.lower() for prefix in sets if prefix)
    if len(sets) > 1:
        sets = {prefix for prefix in sets if prefix.lower() in (f"{name}_".lower(), name.lower())} or sets
    if len(sets) != 1:
        error = ValueError if sets else FileNotFoundError
        raise error(f"{folder}: {len(sets)} lists *_{DATABASE}.npy; expected one, or one called {name}_{DATABASE}.npy, "
                    f"among {LISTS}; {there}")
    prefix = sets.pop().lower()
    own = {path: path.stem.lower().removeprefix(prefix) for path in present if path.stem.lower().startswith(prefix)}
    candidates = {kind: [path for path, rest in own.items() if rest == kind.lower()]
                  for kind in (DATABASE, QUERIES, USED)}
    said = [path for path in present if "groundtruth" in path.stem.lower().replace("_", "")]
    candidates["truth"] = [path for path, rest in own.items() if rest in ("gt", "pidx") or rest.startswith("gt_")
                           or path in said] or [path for path in said if not path.stem.lower().startswith(others)]
    for kind, paths in candidates.items():
        if len(paths) > 1 or not paths and kind != USED:
            wanted = "list of right answers" if kind == "truth" else f"{prefix}{kind}.npy"
            error = ValueError if paths else FileNotFoundError
            raise error(f"{folder}: {len(paths) or 'no'} {wanted}; expected one set's {LISTS}; {there}")
    return {kind: paths[0] for kind, paths in candidates.items() if paths}


def _read_names(path: Path) -> list[str]:
    """Paths relative to the images' folder, "/" between folders, without "./"."""
    names = read_npy(path)
    if isinstance(names, np.ndarray):
        names = (np.char.decode(names, "utf-8", "surrogateescape") if names.dtype.kind == "S" else names).tolist()
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{path}: expected a one-dimensional array of paths as text, at least one")
    names = [posixpath.normpath(name) for name in names]
    for i, name in enumerate(names):
        if name.startswith(("/", "../")) or name in (".", ".."):
            raise ValueError(f"{path}, row {i}: {name} lies outside of the images' folder; expected a path below it")
    return names


def _read_used(path: Path, queries: Path, n_queries: int) -> np.ndarray:
    """(q,) int64: numbers of query images."""
    used = read_npy(path)
    if not isinstance(used, np.ndarray):  # an object array
        used = np.array(used) if all(type(i) is int for i in used) else np.empty(0)
    if used.ndim != 1 or used.dtype.kind not in "iu" or not len(used):
        raise ValueError(f"{path}: expected a one-dimensional array of whole numbers, at least one")
    bad = np.flatnonzero((used < 0) | (used >= n_queries))
    if len(bad):
        raise ValueError(f"{path}, row {bad[0]}: {used[bad[0]]}; {queries.name} has the rows 0 to {n_queries - 1}")
    n_twice = len(used) - len(np.unique(used))
    if n_twice:
        raise ValueError(f"{path}: {n_twice} numbers repeat another one; expected each query once")
    return used.astype(np.int64)


def _read_positives(path: Path, used: np.ndarray, n_database: int, counted: Path) -> list[np.ndarray]:
    """For each used query the ascending int64 ids of its right answers, each once."""
    rows = read_npy(path)
    if isinstance(rows, np.ndarray) and rows.ndim in (1, 2):
        rows = rows.tolist()
    if not isinstance(rows, list) or len(rows) != len(used):
        found = f"{len(rows)} rows" if isinstance(rows, list) else "no rows"
        raise ValueError(f"{path}: {found}; expected one for each of the {len(used)} queries of {counted.name}")
    if all(isinstance(row, list) and len(row) == 2 and type(row[0]) is int for row in rows):
        rows = _as_pairs(rows, used, path)
    positives = []
    for i, row in enumerate(rows):
        row = row.ravel().tolist() if isinstance(row, np.ndarray) else row if isinstance(row, list) else [row]
        if not all(type(i) is int for i in row):
            raise ValueError(f"{path}, row {i}: {str(row)[:80]}; expected database ids, whole numbers")
        ids = sorted(set(row))
        if ids and not 0 <= ids[0] <= ids[-1] < n_database:
            outside = ids[0] if ids[0] < 0 else ids[-1]
            raise ValueError(f"{path}, row {i}: database id {outside}; expected 0 to {n_database - 1}, as "
                             f"{n_database} images are listed")
        positives.append(np.array(ids, np.int64))
    return positives


def _as_pairs(rows: list[list], used: np.ndarray, path: Path) -> list:
    """Ids in the order of the used queries, of rows with two entries: two ids, or a query's number and its ids."""
    first = [row[0] for row in rows]
    numbers = next((numbers for numbers in (used.tolist(), list(range(len(rows)))) if set(first) == set(numbers)), None)
    if all(type(row[1]) is int for row in rows):
        if numbers is None:
            return rows
        raise ValueError(f"{path}: rows like {rows[0]}, two ids or a query's number and its one id; expected rows that "
                         "tell: a query's number and a list of ids, in an object array")
    if numbers is not None:
        numbered = dict(rows)
        return [numbered[i] for i in numbers]
    twice = [number for number, n in Counter(first).items() if n > 1]
    found = f"repeat {twice[:5]}" if twice else f"begin with {sorted(first)[:5]}"
    raise ValueError(f"{path}: the queries' numbers {found}; expected that of each used query once")


def _find_images(root: Path, names: Sequence[str], listed: Path) -> list[Path]:
    # As text, which takes a third of the time.
    missing = [root / name for name in names if not os.path.isfile(f"{root}/{name}")]  # noqa: PTH113
    if missing:
        is_regular(missing[0])  # which says so of a FIFO
        raise FileNotFoundError(f"{missing[0]}: not there{and_more(len(missing))}; listed in {listed}, below {root}")
    return [root / name for name in names]
