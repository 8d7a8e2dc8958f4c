"""Images of one's own: any two folders, any names, with coordinates from wherever there are some, or with none."""

import contextlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ..commands import progress
from ..listing import Listing, display_name
from ..positives import within_metres
from .coordinates import (
    HEADER,
    NAME,
    Metres,
    Point,
    UnreadableImageError,
    from_exif,
    from_name,
    plane_and_zone,
    read_table,
)
from .folders import common_folder
from .image_files import list_images

FORMATS = ".jpg, .jpeg, .png"
_ODD = re.compile(r"\\|//|/\.|^\.|/$|^$")  # in a path that may be spelt in other ways
_COMMON = ("images", "train", "val", "test")  # folders of every set
_NOT_READ = (".heic", ".heif", ".avif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".dng")


class Pictures(NamedTuple):
    """Images of one's own: paths, where each was taken as far as it is known, and what their reader should know."""

    paths: list[Path]
    points: list[Point | None]
    warnings: list[str]


class _Side:
    """Database or queries: a folder, its images' sorted paths in it, with "/", and where each was taken.

    images  of the folder; None: all in it and below
    """

    def __init__(self, name: str, folder: Path | str, images: Sequence[str] | None = None):
        self.name = name
        self.folder = Path(folder).absolute()
        if ".." in self.folder.parts:
            self.folder = self.folder.resolve()
        self.real_folder = self.folder.resolve()
        self.images = [os.fsdecode(path) for path in list_images(self.folder)] if images is None else [*images]
        self.paths = [self.folder / image for image in self.images]
        self.points: list[Point | None] = [None] * len(self.images)
        self.warnings: list[str] = []
        if images is not None:
            return
        # Images of other formats are counted, so that nobody misses them without a word.
        counts = Counter(extension for _, _, files in os.walk(self.folder, followlinks=True) for file in files
                         if not file.startswith(".") and (extension := file[file.rfind("."):].lower()) in _NOT_READ)
        other = ", ".join(f"{n} {extension}" for extension, n in sorted(counts.items()))
        if not self.images:
            found = f"; there are {other}" if other else ""
            raise FileNotFoundError(f"{folder}: no image in it or below{found}; expected {FORMATS}")
        self.warnings = [f"{folder}: {other} left out: only {FORMATS} are read"] if other else []


def own_images(database_folder: Path | str, queries_folder: Path | str, *, coordinates: Path | None = None,
               threshold_m: float = 25.0, labels: bool = True) -> Listing:
    """Two folders with images of any names, searched recursively; right answers lie within `threshold_m` metres.

    coordinates   a CSV with a row for every image (coordinates.HEADER), its path relative to the image's folder,
                  with that folder's name in front or not.  Without it an image's coordinates are those of its name
                  (coordinates.NAME), or else of its EXIF GPS: only then is it opened.
    labels        False: there are no right answers, and no coordinates are needed.  Those of the CSV or the names are
                  taken all the same, for answers to show, for a side that has them all.

    Degrees become metres of one UTM zone (coordinates.in_one_plane).  Two rows for one image, a row that fits two
    images and an image without a row are errors; rows without an image are counted in the warnings, and so are
    images of formats that are not read, queries that are in the database too, and coordinates from several sources.

    Raises FileNotFoundError for a missing folder or table, and a folder without images, ValueError for coordinates.
    """
    database, queries = sides = (_Side("database", database_folder), _Side("query", queries_folder))
    warnings = [*database.warnings, *queries.warnings]
    n_both = len(set.intersection(*({f"{side.real_folder}/{image}" for image in side.images} for side in sides)))
    if n_both:
        warnings.append(f"{n_both} of {len(queries.images)} queries are in the database too and find themselves")
    if coordinates is not None:
        warnings += _from_table(Path(coordinates), sides)
    else:
        warnings += _from_images(sides, opened=labels)
    positives = None
    if labels:
        _refuse_missing(sides, coordinates)
        utm, zone = _project(sides)
        positives = within_metres(*utm, threshold_m)
        if isinstance(database.points[0], Metres) and (np.abs(np.concatenate(utm)) <= (180, 90)).all():
            warnings.append("all coordinates lie within 180 east and 90 north: degrees, where metres are expected?")
        if not any(len(ids) for ids in positives):
            from sklearn.neighbors import NearestNeighbors  # as in positives.py

            nearest, _ = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(utm[0]).kneighbors(utm[1])
            warnings.append(f"no query has a database image within {threshold_m:g} m; the nearest is "
                            f"{nearest.min():.1f} m away")
    else:
        for side in sides:
            missing = side.points.count(None)
            if 0 < missing < len(side.points):
                warnings.append(f"no coordinates of {side.name} images in the answers: {missing} of "
                                f"{len(side.points)} have none, first {side.paths[side.points.index(None)]}")
        try:
            utm, zone = _project(sides)
        except ValueError as error:  # nothing depends on them
            utm, zone = [None, None], 0
            warnings.append(f"no coordinates in the answers: {error}")
    return Listing(
        name=display_name(_name(database.folder, queries.folder), database.folder, queries.folder),
        folder=common_folder(database.folder, queries.folder), database_paths=database.paths, query_paths=queries.paths,
        database_utm=utm[0], query_utm=utm[1], utm_zone=zone, positives=positives,
        rule=f"within {threshold_m:g} m" if labels else "no labels", threshold_m=threshold_m if labels else None,
        warnings=tuple(warnings))


def own_pictures(given: Sequence[Path | str], *, coordinates: Path | None = None, located: bool = True) -> Pictures:
    """Images, and all images in folders and below, in this order, each once.

    coordinates   as `own_images` has them, but an image may have none
    located       False: nothing is asked for coordinates
    Raises FileNotFoundError for what is not there and for a folder without images, ValueError for coordinates.
    """
    sides: list[_Side] = []
    for path in map(Path, given):
        if path.is_dir():
            sides.append(_Side("given", path))
        elif path.exists() or path.is_symlink():
            sides.append(_Side("given", path.parent, [path.name]))
        else:
            raise FileNotFoundError(f"{path}: no such image or folder; expected {FORMATS}, or a folder of them")
    warnings = [warning for side in sides for warning in side.warnings]
    if located and coordinates is not None:
        warnings += _from_table(Path(coordinates), sides)
    elif located:
        warnings += _from_images(sides, opened=True, broken=True)
    points = {path: point for side in sides for path, point in zip(side.paths, side.points, strict=True)}
    return Pictures([*points], [*points.values()], warnings)


def _from_table(table: Path, sides: Sequence[_Side]) -> list[str]:
    """Fills the points that the table has; what must be said of it."""
    rows, unread = read_table(table)
    places = defaultdict(list)  # a path -> the image's side and number; two for an image on both sides
    for side in sides:
        for i, image in enumerate(side.images):
            places[_spelt(f"{side.real_folder}/{image}")].append((side, i))
    lines: dict[str, int] = {}
    extra = []
    for line, (given, point) in rows:
        name = _spelt(given)
        found = {path for side in sides for short in (name, name.removeprefix(_spelt(side.folder.name) + "/"))
                 if (path := _spelt(f"{side.real_folder}/{short}")) in places}
        if len(found) > 1:
            raise ValueError(f"{table}, line {line}: {given} may be {' or '.join(sorted(found))}; expected the "
                             "folder's name in front of the path")
        if not found:
            extra.append(f"first line {line}, {given}")
            continue
        path = found.pop()
        if path in lines:
            raise ValueError(f"{table}, lines {lines[path]} and {line}: both are of {path}; expected one row")
        lines[path] = line
        for side, i in places[path]:
            side.points[i] = point
    where = "the two folders" if len(sides) == 2 else "what was given"
    said = [f"{table}: columns not read: {', '.join(unread)}"] if unread else []
    if extra:
        said.append(f"{table}: {len(extra)} of {len(rows)} rows are of no image in {where}, {extra[0]}")
    return said


def _spelt(path: str) -> str:
    """One spelling of a path: "./a/b", "a\\b", and letters with accents, which macOS takes apart."""
    if path.isascii() and not _ODD.search(path):
        return path  # of a million nearly all, and a tenth of the time
    return str(PurePosixPath(unicodedata.normalize("NFC", path).replace("\\", "/")))


def _from_images(sides: Sequence[_Side], *, opened: bool, broken: bool = False) -> list[str]:
    """Fills the points that names tell and, where images may be `opened`, EXIF data; what must be said of it. Whoever
    takes images to be `broken` will meet them again."""
    for side in sides:
        side.points = [from_name(path.name) for path in side.paths]
    unnamed = [(side, i) for side in sides for i, point in enumerate(side.points) if point is None]
    n_named = sum(len(side.points) for side in sides) - len(unnamed)
    for side, i in progress(unnamed if opened else (), "reading EXIF GPS"):
        with contextlib.suppress(*(UnreadableImageError,) if broken else ()):
            side.points[i] = from_exif(side.paths[i])
    n_exif = sum(side.points[i] is not None for side, i in unnamed)
    said = f"coordinates of {n_named} images are from their names, of {n_exif} from EXIF GPS"
    return [said] if n_named and n_exif else []


def _refuse_missing(sides: Sequence[_Side], table: Path | None) -> None:
    missing = [(side, i) for side in sides for i, point in enumerate(side.points) if point is None]
    if not missing:
        return
    side, i = missing[0]
    n_images = sum(len(side.images) for side in sides)
    count = f" (and for {len(missing) - 1} more of {n_images} images)" if len(missing) > 1 else ""
    if table is not None:
        raise ValueError(f"{table}: no row for {side.paths[i]}{count}; expected one with the path {side.images[i]} or "
                         f"{side.folder.name}/{side.images[i]}, or --no_labels")
    raise ValueError(f"no coordinates for {side.paths[i]}{count}; expected a CSV (--coordinates, columns {HEADER}), "
                     f"EXIF GPS in the image, or a name like {NAME}.jpg; without right answers: --no_labels")


def _project(sides: Sequence[_Side]) -> tuple[list[np.ndarray | None], int]:
    """East and north of each side in one plane, None for a side that does not have all its points; and its zone."""
    whole = [side for side in sides if None not in side.points]
    plane, zone = plane_and_zone([point for side in whole for point in side.points],
                         [str(path) for side in whole for path in side.paths])
    parts = iter(np.split(plane, np.cumsum([len(side.points) for side in whole])[:-1]))
    return [next(parts) if side in whole else None for side in sides], zone


def _name(database: Path, queries: Path) -> str:
    """The folder that holds both, or both names; parents in front where it says nothing: city/images/test."""
    folder = database.parent
    if folder != queries.parent or database == queries or not folder.name:
        return f"{database.name}+{queries.name}"
    n_parts = next((n for n, part in enumerate(reversed(folder.parts), 1) if part not in _COMMON), 1)
    return "/".join(folder.parts[-n_parts:])
