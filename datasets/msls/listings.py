"""Mapillary Street-Level Sequences: validation set in its two versions, and test set (Warburg et al., CVPR 2020)."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..listing import Listing
from ..positives import within_degrees, within_metres
from .frames import SIDES, Frames, from_names, from_tables, images_by_key, joined, read_city

VAL_CITIES = ("cph", "sf")
TEST_CITIES = ("miami", "athens", "buenosaires", "stockholm", "bengaluru", "kampala")
ROOTS = ("msls", "mapillary_sls", ".")  # of the raw tree, in a datasets folder
THRESHOLD_M, THRESHOLD_DEGREES = 25.0, 40.0
KEYS_FILE = "val_740_keys.txt"

# (queries, database images).  For the queries of 11k sources disagree: 11,084 (SuperVLAD) and 11,120 (the downloader
# of the renamed layout, before filtering).  Those of test are the published list of the frames that count; the paper's
# 27,092 and 38,770 are all frames.
COUNTS: dict[str, tuple[int | None, int]] = {
    "740": (740, 18_871), "740_40deg": (740, 18_871), "11k": (None, 18_871), "test": (1_135, 36_565)}


class Subset(NamedTuple):
    """Which rows of a larger listing's descriptors are those of a smaller listing, in the smaller one's order."""

    query_rows: np.ndarray
    database_rows: np.ndarray


def msls_val(datasets_folder: Path | str, *, version: str) -> Listing:
    """MSLS-val: version "740", "740_40deg" or "11k".

    740        the official rule: frames of the subtask `all` without panoramas, and of these queries only those with
               a database image within 25 m (inclusive) in their own city.  Both cities are searched.
    740_40deg  the same queries; a right answer's heading is also within 40 degrees, wrapped at 360 (inclusive).
    11k        all frames but panoramas.
    Queries that are kept and have no right answer count as missed.

    Raw tree: <root>/train_val/{cph,sf}/{query,database}/{postprocessed,raw,subtask_index}.csv and images/<key>.jpg,
    <root> being `datasets_folder`, or msls or mapillary_sls in it.
    Renamed layout: <datasets_folder>/msls/images/val/{queries,database}/@<east>@<north>@<zone>@<letter>@<lat>@<lon>@
    <key>@<tile>@<heading>@...  Where a raw tree with fewer images lies beside it, its tables describe them.
    Otherwise their names do, whose metres are made of latitude and longitude and rounded to centimetres, and
    msls/val_740_keys.txt, one key a line, tells the 740, unless there are only 740.

    Raises FileNotFoundError for what is absent, ValueError for what cannot be read.
    """
    folder = Path(datasets_folder)
    renamed = folder / "msls" / "images" / "val"
    cities, warnings = _cities(folder, "train_val", VAL_CITIES)
    if not cities and not renamed.is_dir():
        raise FileNotFoundError(
            f"{folder}: no MSLS-val; expected {ROOTS[0]} or {ROOTS[1]}/train_val/{{{','.join(VAL_CITIES)}}} as "
            "downloaded from Mapillary, or msls/images/val/{queries,database} with renamed images")
    strict, by_rule = version == "740_40deg", version != "11k"
    if cities:
        # Who renames by moving the images leaves folders with panoramas behind.
        beside = sum(len(images_by_key(city / "database" / "images")) for city in cities)
        in_renamed = beside < len(images_by_key(renamed / "database"))
        home = renamed if in_renamed else cities[0].parent
        queries, database = (from_tables(cities, side, home if in_renamed else None, warnings, subtask=by_rule,
                                         headings=strict) for side in SIDES)
    else:
        home = renamed
        queries, database = (from_names(renamed, side, headings=strict) for side in SIDES)
        if by_rule:
            queries = _the_740(queries, folder, warnings)
    near = _right_answers(queries, database)
    if by_rule and cities:
        queries, near = _with_answer(queries, near)
    if strict:
        headings = (np.array([frame.heading for frame in side]) for side in (database, queries))
        near = within_degrees(near, *headings, THRESHOLD_DEGREES)
    return _listing(version, home, queries, database, near, warnings + _counted(version, queries, database))


def msls_test(datasets_folder: Path | str) -> Listing:
    """MSLS test ("MSLS challenge"): six cities' frames of the subtask `all`, the only ones that are officially scored.

    <root>/test/<city>/{query,database}/subtask_index.csv and images/<key>.jpg, <root> as for `msls_val`.  With the
    released ground truth, postprocessed.csv (east and north) in both folders of every city, what is right and which
    queries are kept follows the 740's rule; otherwise `positives` is None.  A raw.csv, where there is one, tells the
    panoramas, which are left out.

    Raises FileNotFoundError for what is absent, ValueError for what cannot be read.
    """
    folder = Path(datasets_folder)
    cities, warnings = _cities(folder, "test", TEST_CITIES)
    if not cities:
        raise FileNotFoundError(f"{folder}: no MSLS test; expected {ROOTS[0]} or {ROOTS[1]}/test/"
                                f"{{{','.join(TEST_CITIES)}}} as downloaded from Mapillary")
    unlabelled = [city.name for city in cities
                  if not all((city / side / "postprocessed.csv").is_file() for side in SIDES)]
    queries, database = (joined([
        read_city(city, side, warnings, positions=not unlabelled, panoramas=(city / side / "raw.csv").is_file(),
                  subtask=True) for city in cities]) for side in SIDES)
    warnings += _counted("test", queries, database)
    if unlabelled:
        near = None
        warnings.append(f"no ground truth: postprocessed.csv missing for {', '.join(unlabelled)}")
    else:
        queries, near = _with_answer(queries, _right_answers(queries, database))
        warnings.append(f"ground truth: postprocessed.csv of {', '.join(city.name for city in cities)}")
    return _listing("test", cities[0].parent, queries, database, near, warnings)


def subset_of(whole: Listing, part: Listing) -> Subset:
    """Where the images of `part` (the 740) stand in `whole` (the 11k), so that both are scored by one extraction.

    With descriptors of `whole`, those of `part` are queries[query_rows] and database[database_rows], int64, and
    `part.positives` counts in them.  Raises KeyError with the path of an image that `whole` lacks.
    """
    rows = []
    for mine, all_of in ((part.query_paths, whole.query_paths), (part.database_paths, whole.database_paths)):
        row_of = {path: row for row, path in enumerate(all_of)}
        rows.append(np.array([row_of[path] for path in mine], dtype=np.int64))
    return Subset(*rows)


def detect_msls_version(listing: Listing) -> str:
    """Which MSLS-val a folder called msls holds: "740", "11k" (11,000 to 11,200 queries) or "other".

    Both have 18,871 database images, and each of the 740 queries has a right answer.
    """
    if listing.n_database != COUNTS["11k"][1]:
        return "other"
    if listing.n_queries == COUNTS["740"][0] and not listing.n_unanswerable:
        return "740"
    return "11k" if 11000 <= listing.n_queries <= 11200 else "other"


def _cities(folder: Path, split: str, names: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Folders of the cities that are there, all of one raw tree, and what to say about the others."""
    for root in ROOTS:
        found = [folder / root / split / name for name in names if (folder / root / split / name).is_dir()]
        if found:
            missing = ", ".join(name for name in names if found[0].with_name(name) not in found)
            return found, [f"{found[0].parent}: no {missing}: figures of a part of the set"] if missing else []
    return [], []


def _the_740(queries: Frames, folder: Path, warnings: list[str]) -> Frames:
    """Those that the list of keys names; names of images do not tell the subtask."""
    keys_file, n = folder / "msls" / KEYS_FILE, len(queries)
    if not keys_file.is_file():
        if n == COUNTS["740"][0]:
            warnings.append(f"the {n} queries are taken for the official ones by their number")
            return queries
        raise FileNotFoundError(
            f"{keys_file}: no such file, and {n} queries do not tell the official 740; expected one key a line (they "
            f"are published at github.com/Lu-Feng/MSLS-val), or the tables of the Mapillary download in {ROOTS[1]}")
    known, lines = {frame.key for frame in queries}, {}
    for line, key in enumerate(map(str.strip, keys_file.read_text(encoding="utf-8-sig").splitlines()), 1):
        if key and (key in lines or key not in known):
            problem = f"again, first in line {lines[key]}" if key in lines else "of no image"
            raise ValueError(f"{keys_file}, line {line}: key {key!r} {problem}; expected one key a line, each once")
        lines[key] = line
    kept = [frame for frame in queries if frame.key in lines]
    if not kept:
        raise ValueError(f"{keys_file}: no key in it; expected one a line")
    return Frames(kept, Counter({f"not in {KEYS_FILE}": n - len(kept)}))


def _right_answers(queries: Frames, database: Frames) -> list[np.ndarray]:
    """For each query the ascending int64 ids of the right answers: in its group, within 25 m."""
    groups = tuple(np.array([frame.group for frame in side]) for side in (database, queries))
    return within_metres(database.utm, queries.utm, THRESHOLD_M, groups=groups)


def _with_answer(queries: Frames, near: list[np.ndarray]) -> tuple[Frames, list[np.ndarray]]:
    """Queries with a right answer alone, and their answers; the others are counted."""
    kept = [(frame, ids) for frame, ids in zip(queries, near, strict=True) if len(ids)]
    left_out = queries.left_out + Counter({"without a database image within 25 m": len(near) - len(kept)})
    return Frames([frame for frame, _ in kept], left_out), [ids for _, ids in kept]


def _counted(version: str, queries: Frames, database: Frames) -> list[str]:
    counts = zip(("queries", "database images"), (queries, database), COUNTS[version], strict=True)
    return [f"{len(frames):,} {what}: not verified, sources say 11,084 or 11,120" if expected is None else
            f"{len(frames):,} {what}, expected {expected:,}: not comparable with published figures"
            for what, frames, expected in counts if len(frames) != expected]


def _listing(version: str, folder: Path, queries: Frames, database: Frames, near: list[np.ndarray] | None,
             warnings: list[str]) -> Listing:
    """Warns of what was left out of each side, too."""
    name, split = ("msls_test", "test") if version == "test" else (f"msls_val_{version}", "val")
    for side, frames in (("queries", queries), ("database images", database)):
        reasons = ", ".join(f"{count} {reason}" for reason, count in frames.left_out.items() if count)
        if not frames:
            raise ValueError(f"{folder}: no {side} of {name} are left ({reasons or 'none was there'}); expected at "
                             "least one")
        if reasons:
            warnings.append(f"left out by the rule, of {side}: {reasons}")
    missed = sum(not len(ids) for ids in near or ())
    if missed:
        warnings.append(f"{missed} of {len(queries)} queries have no right answer and count as missed")
    return Listing(
        name=name, split=split, folder=folder, threshold_m=THRESHOLD_M,
        rule="within 25 m and 40 degrees" if version == "740_40deg" else "within 25 m", positives=near,
        query_paths=[frame.path for frame in queries], database_paths=[frame.path for frame in database],
        query_utm=None if near is None else queries.utm, database_utm=None if near is None else database.utm,
        warnings=tuple(warnings))
