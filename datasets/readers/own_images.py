"""Images of one's own: any two folders, any names, with coordinates from wherever there are some, or with none."""

import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from sklearn.neighbors import NearestNeighbors
from tqdm import tqdm

from ..listing import Listing
from ..positives import within_metres
from .coordinates import HEADER, NAME, Metres, Point, from_exif, from_name, in_one_plane, read_table
from .folders import is_toy
from .scan import list_images

FORMATS = ".jpg, .jpeg, .png"
_COMMON = ("images", "train", "val", "test")  # folders of every set
_NOT_READ = (".heic", ".heif", ".avif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".dng")


class _Side:
    """Database or queries: a folder and its images' paths in it, with "/", sorted."""

    def __init__(self, name: str, folder: Path | str):
        self.name = name
        self.folder = Path(folder).absolute()
        if ".." in self.folder.parts:
            self.folder = self.folder.resolve()
        self.real_folder = self.folder.resolve()
        self.images = [os.fsdecode(path) for path in list_images(self.folder)]
        other = _other_images(self.folder)
        if not self.images:
            found = f"; there are {other}" if other else ""
            raise FileNotFoundError(f"{folder}: no image in it or below{found}; expected {FORMATS}")
        self.warnings = [f"{folder}: {other} left out: only {FORMATS} are read"] if other else []

    def path(self, i: int) -> Path:
        return self.folder / self.images[i]

    def paths(self) -> list[Path]:
        return [self.folder / image for image in self.images]


def own_images(
    database_folder: Path | str, queries_folder: Path | str, *, coordinates: Path | None = None,
    threshold_m: float = 25.0, labels: bool = True,
) -> Listing:  # fmt: skip
    """Two folders with images of any names, searched recursively; right answers lie within `threshold_m` metres.

    coordinates   a CSV with a row for every image (coordinates.HEADER), its path relative to the image's folder,
                  with that folder's name in front or not.  Without it an image's coordinates are those of its name
                  (coordinates.NAME), or else of its EXIF GPS: only then is it opened.
    labels        False: there are no right answers, and no coordinates are needed.  Those of the CSV or the names are
                  taken all the same, for answers to show, for a side that has them all.

    Degrees become metres of one UTM zone (coordinates.in_one_plane).  Two rows for one image, a row that fits two
    images and an image without a row are errors; rows without an image are counted in the warnings, and so are
    images of formats that are not read, queries that are in the database too, and coordinates from several sources.

    Raises FileNotFoundError for a missing folder or table, and a folder without images, ValueError for what is wrong
    with the coordinates.
    """
    sides = (_Side("database", database_folder), _Side("query", queries_folder))
    warnings = [warning for side in sides for warning in side.warnings]
    warnings += _twice(sides)
    if coordinates is not None:
        points, said = _from_table(Path(coordinates), sides)
    else:
        points, said = _from_images(sides, opened=labels)
    warnings += said
    utm: list[np.ndarray | None] = [None, None]
    positives = None
    if labels:
        _refuse_missing(points, sides, coordinates)
        utm = _project(points, sides)
        positives = within_metres(utm[0], utm[1], threshold_m)
        warnings += _implausible(points, utm, positives, threshold_m)
    else:
        known = [_complete(side_points, side, warnings) for side_points, side in zip(points, sides, strict=True)]
        try:
            utm = _project(known, sides)
        except ValueError as error:  # nothing depends on them
            warnings.append(f"no coordinates in the answers: {error}")
    common = _common_folder(*(side.folder for side in sides))
    return Listing(
        name=_display_name(*(side.folder for side in sides)), folder=common,
        database_paths=sides[0].paths(), query_paths=sides[1].paths(), database_utm=utm[0], query_utm=utm[1],
        positives=positives, rule=f"within {threshold_m:g} m" if labels else "no labels",
        threshold_m=threshold_m if labels else None, warnings=tuple(warnings))  # fmt: skip


def _other_images(folder: Path) -> str:
    """What images there are of formats that are not read, in words; empty where there are none."""
    counts = Counter(extension for _, _, files in os.walk(folder, followlinks=True) for file in files
                     if not file.startswith(".") and (extension := file[file.rfind("."):].lower()) in _NOT_READ)
    return ", ".join(f"{n} {extension}" for extension, n in sorted(counts.items()))


def _twice(sides: Sequence[_Side]) -> list[str]:
    database, queries = ({f"{side.real_folder}/{image}" for image in side.images} for side in sides)
    both = len(database & queries)
    return [f"{both} of {len(queries)} queries are in the database too, where they find themselves"] if both else []


def _from_table(table: Path, sides: Sequence[_Side]) -> tuple[list[list[Point | None]], list[str]]:
    rows, unread = read_table(table)
    points: list[list[Point | None]] = [[None] * len(side.images) for side in sides]
    places: dict[str, list[tuple[int, int]]] = {}  # two for an image on both sides
    for k, side in enumerate(sides):
        for i, image in enumerate(side.images):
            places.setdefault(_key(f"{side.real_folder}/{image}"), []).append((k, i))
    lines: dict[str, int] = {}
    extra = []
    for row in rows:
        key = _key(row.path)
        found = {path for side in sides for name in (key, key.removeprefix(_key(side.folder.name) + "/"))
                 if (path := _key(f"{side.real_folder}/{name}")) in places}
        if len(found) > 1:
            raise ValueError(f"{table}, line {row.line}: {row.path} may be {' or '.join(sorted(found))}; expected the "
                             "folder's name in front of the path")
        for path in found:
            if path in lines:
                raise ValueError(f"{table}, lines {lines[path]} and {row.line}: both are of {path}; expected one row "
                                 "for an image")
            lines[path] = row.line
            for k, i in places[path]:
                points[k][i] = row.point
        if not found:
            extra.append(row)
    said = [f"{table}: columns not read: {', '.join(unread)}"] if unread else []
    if extra:
        said.append(f"{table}: {len(extra)} of {len(rows)} rows are of no image in the two folders, first line "
                    f"{extra[0].line}, {extra[0].path}")
    return points, said


def _key(path: str) -> str:
    """One spelling of a path: "./a/b", "a\\b", and letters with accents, which macOS takes apart."""
    return str(PurePosixPath(unicodedata.normalize("NFC", path).replace("\\", "/")))


def _from_images(sides: Sequence[_Side], *, opened: bool) -> tuple[list[list[Point | None]], list[str]]:
    points: list[list[Point | None]] = [[from_name(image.rpartition("/")[2]) for image in side.images]
                                        for side in sides]
    unnamed = [(k, i) for k, side_points in enumerate(points) for i, point in enumerate(side_points) if point is None]
    n_named = sum(map(len, points)) - len(unnamed)
    if not opened:
        return points, []
    for k, i in tqdm(unnamed, "reading EXIF GPS", leave=False, disable=not sys.stderr.isatty()):
        points[k][i] = from_exif(sides[k].path(i))
    n_exif = sum(points[k][i] is not None for k, i in unnamed)
    return points, [f"coordinates of {n_named} images are from their names, of {n_exif} from EXIF GPS"] * bool(
        n_named and n_exif)


def _refuse_missing(points: Sequence[Sequence[Point | None]], sides: Sequence[_Side], table: Path | None) -> None:
    missing = [(side, i) for side_points, side in zip(points, sides, strict=True)
               for i, point in enumerate(side_points) if point is None]
    if not missing:
        return
    side, i = missing[0]
    count = f" (and for {len(missing) - 1} more of {sum(map(len, points))} images)" if len(missing) > 1 else ""
    if table is not None:
        name = side.images[i]
        raise ValueError(f"{table}: no row for {side.path(i)}{count}; expected one with the path {name} or "
                         f"{side.folder.name}/{name}, or --no_labels")
    raise ValueError(f"no coordinates for {side.path(i)}{count}; expected a CSV (--coordinates, columns {HEADER}), "
                     f"EXIF GPS in the image, or a name like {NAME}.jpg; without right answers: --no_labels")


def _complete(points: list[Point | None], side: _Side, warnings: list[str]) -> list[Point]:
    """All of a side's coordinates, or none."""
    n_known = sum(point is not None for point in points)
    if n_known < len(points):
        if n_known:
            warnings.append(f"no coordinates of {side.name} images in the answers: {len(points) - n_known} of "
                            f"{len(points)} have none, first {side.path(points.index(None))}")
        return []
    return points


def _project(points: Sequence[list[Point]], sides: Sequence[_Side]) -> list[np.ndarray | None]:
    """East and north of each side in one plane, None for a side without points."""
    names = [str(side.path(i)) for side, own in zip(sides, points, strict=True) for i in range(len(own))]
    plane = in_one_plane([*points[0], *points[1]], names)
    parts = plane[:len(points[0])], plane[len(points[0]):]
    return [part if len(part) else None for part in parts]


def _implausible(points: Sequence[list[Point]], utm: Sequence[np.ndarray], positives: Sequence[np.ndarray],
                 threshold_m: float) -> list[str]:
    """Signs that the coordinates are not what they are taken for."""
    said = []
    everything = np.concatenate(utm)
    if isinstance(points[0][0], Metres) and (np.abs(everything) <= (180, 90)).all():
        said.append("all coordinates lie within 180 east and 90 north: degrees, where metres are expected?")
    if not any(len(ids) for ids in positives):
        nearest, _ = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(utm[0]).kneighbors(utm[1])
        said.append(f"no query has a database image within {threshold_m:g} m; the nearest is {nearest.min():.1f} m "
                    "away")
    return said


def _common_folder(first: Path, second: Path) -> Path:
    try:
        return Path(os.path.commonpath([first, second]))
    except ValueError:  # two drives
        return first


def _display_name(database: Path, queries: Path) -> str:
    """The folder that holds both, or both names; parents in front where it says nothing: city/images/test."""
    folder = database.parent
    if folder != queries.parent or database == queries or not folder.name:
        name = f"{database.name}+{queries.name}"
    else:
        n_parts = next((n for n, part in enumerate(reversed(folder.parts), 1) if part not in _COMMON), 1)
        name = "/".join(folder.parts[-n_parts:])
    drawn = any(is_toy(folder) for side in (database, queries) for folder in (side, *side.parents))
    return f"toy_city/{name}" if drawn else name
