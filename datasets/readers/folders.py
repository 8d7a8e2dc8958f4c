"""Benchmark sets in folders: database and queries, in names with UTM coordinates or in frames of the same route."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import utm

from ..listing import Listing, and_more, display_name
from ..positives import within_frames, within_metres
from .coordinates import EARTH_M, unit_vectors
from .image_files import some_images
from .image_names import parse_name, zone_name

NAME = "@<utm_east>@<utm_north>@*.{jpg,jpeg,png}"
LAYOUT = f"<datasets_folder>/<name>/images/<split>/{{database,queries}}/**/{NAME}"


def read_folder(datasets_folder: Path | str, name: str, *, split: str, threshold_m: float = 25.0) -> Listing:
    """A set in the benchmark layout: <datasets_folder>/<name>/images/<split>/{database,queries}; as `read_by_metres`.

    It is called `display_name`.  Nothing is written there.
    """
    folder = Path(datasets_folder) / name / "images" / split
    return read_by_metres(folder / "database", folder / "queries", name=display_name(name, datasets_folder),
                          split=split, threshold_m=threshold_m)


def read_by_metres(database_folder: Path, query_folder: Path, *, name: str, split: str, threshold_m: float,
                   layout: str = LAYOUT) -> Listing:
    """Right answers lie within `threshold_m` metres, inclusive, by the coordinates in the file names.

    Both folders are searched recursively for images (.jpg, .jpeg, .png in any case) named
    @<utm_east>@<utm_north>@... in metres, zone and letter behind them or not.  `layout` is what errors say
    was expected.  Images of two zones are no right answers to each other; two zones that come so near are an error.

    Raises FileNotFoundError for a missing or empty folder, ValueError for a folder that cannot be listed, a file name
    without coordinates, and mixed zones.
    """
    database, queries = find_images(database_folder, layout=layout), find_images(query_folder, layout=layout)
    paths, n = [*database, *queries], len(database)
    metres, zones = coordinates(paths)
    bad = np.flatnonzero(np.isnan(metres).any(axis=1))
    if len(bad):
        raise ValueError(f"{paths[bad[0]]}: no UTM coordinates in the file name{and_more(len(bad))}; expected "
                         f"{NAME} in metres, e.g. @0548546.00@4180340.00@.jpg")
    groups, warnings = None, ()
    counts = Counter(zones.tolist())
    if len(counts.keys() - {0}) > 1:
        _refuse_neighbours(paths, metres, zones, n, threshold_m)
        groups = zones[:n], zones[n:]
        (*_, (rarest, _)), said = counts.most_common(), [f"{counts[zone]:,} in {zone_name(zone)}" for zone in counts]
        warnings = (f"images of several UTM zones, none a right answer in another: {', '.join(said)}; the first in "
                    f"{zone_name(rarest)} is {paths[int(np.argmax(zones == rarest))].name}",)
    return Listing(
        name=name, split=split, folder=common_folder(database_folder, query_folder), database_paths=database,
        query_paths=queries, database_utm=metres[:n], query_utm=metres[n:], rule=f"within {threshold_m:g} m",
        threshold_m=threshold_m, positives=within_metres(metres[:n], metres[n:], threshold_m, groups=groups),
        warnings=warnings)


def read_by_frames(database_folder: Path, query_folder: Path, *, name: str, split: str, frames: int,
                   same_m: float | None = None, layout: str = LAYOUT) -> Listing:
    """Right answers are at most `frames` frames apart; an image's frame is its place in the order of the names.

    Numbers in names count as numbers: frame10 follows frame9.  Coordinates in the names are not needed.  Where every
    name has them and `same_m` is given, right answers within `same_m` metres should be the same; if not, a warning
    tells for how many queries.
    Raises what `read_by_metres` does but for coordinates and zones, and ValueError for folders of different sizes:
    behind a missing frame all others would be taken for their neighbours.
    """
    database, queries = (sorted(find_images(folder, layout=layout), key=_numbers)
                         for folder in (database_folder, query_folder))
    if len(database) != len(queries):
        raise ValueError(f"{database_folder}: {len(database):,} images, and {len(queries):,} in {query_folder}; "
                         "frames are matched by their order, expected the same number in both")
    positives = within_frames(len(database), len(queries), frames)
    warnings: tuple[str, ...] = ()
    database_utm, query_utm = coordinates(database)[0], coordinates(queries)[0]
    if np.isnan(database_utm).any() or np.isnan(query_utm).any():
        database_utm = query_utm = None
    elif same_m is not None:
        by_metres = within_metres(database_utm, query_utm, same_m)
        differing = sum(not np.array_equal(*pair) for pair in zip(positives, by_metres, strict=True))
        if differing:
            warnings = (f"+-{frames} frames by the order of the names and {same_m:g} m by the coordinates in them "
                        f"give different right answers for {differing:,} of {len(queries):,} queries; "
                        "frames are used",)
    return Listing(
        name=name, split=split, folder=common_folder(database_folder, query_folder), database_paths=database,
        query_paths=queries, database_utm=database_utm, query_utm=query_utm, rule=f"+-{frames} frames",
        positives=positives, warnings=warnings)


def find_images(folder: Path, *, layout: str = LAYOUT) -> list[Path]:
    """Images at any depth, sorted by the path inside `folder`.  Links are followed: large sets are often linked."""
    return [folder / os.fsdecode(name) for name in some_images(folder, layout)]


def common_folder(first: Path, second: Path) -> Path:
    return Path(os.path.commonpath([first, second]))


def _numbers(path: Path) -> tuple:
    parts = re.split(r"(\d+)", path.as_posix())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.as_posix()


def coordinates(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) float64 UTM east and north of file names, NaN where one has none; (n,) int64 signed zones, 0 for none."""
    names = [parse_name(path.name) for path in paths]
    return np.array([name.metres for name in names]), np.array([name.signed_zone for name in names], dtype=np.int64)


def _refuse_neighbours(paths: Sequence[Path], metres: np.ndarray, zones: np.ndarray, n: int, m: float) -> None:
    """Raises ValueError where a query, behind the first `n`, lies near a database image of another zone, or no zone is
    known: metres of two zones do not compare, and right answers would be lost.  In sets of several cities they are far
    apart.
    """
    if 0 in zones:
        others = ", ".join(zone_name(zone) for zone in sorted(set(zones) - {0}))
        raise ValueError(f"{paths[np.flatnonzero(zones == 0)[0]]}: no UTM zone in the file name, while others state "
                         f"{others}; expected @<utm_east>@<utm_north>@<zone>@<letter>@... in such a set")
    globe = np.zeros((len(paths), 3))  # metres
    for zone in np.unique(zones):
        rows = zones == zone
        degrees = utm.to_latlon(*metres[rows].T, abs(int(zone)), northern=bool(zone > 0), strict=False)
        globe[rows] = EARTH_M * unit_vectors(*degrees)
    # A globe for the ellipsoid and the scale of UTM are less than 1 % off: the rest is certainly farther than m.
    for query, ids in enumerate(within_metres(globe[:n], globe[n:], 1.01 * m), n):
        across = ids[zones[ids] != zones[query]]
        if len(across):
            raise ValueError(
                f"{paths[query]}: UTM zone {zone_name(zones[query])}, within {m:g} m of {paths[across[0]]} in zone "
                f"{zone_name(zones[across[0]])}, whose metres do not compare; expected one zone")
