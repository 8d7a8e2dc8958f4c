"""Where images were taken: what their names, their EXIF data or a table say of it, brought into one plane."""

import csv
import math
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .geo import to_utm, zone_numbers

DEGREES, METRES = ("lat", "lon"), ("utm_east", "utm_north")
HEADER = "path,lat,lon[,heading] or path,utm_east,utm_north[,heading]"
NAME = "@<utm_east>@<utm_north>@[<zone>@<letter>@...]"
_HEADING = "heading"
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.ASCII | re.IGNORECASE)
_GPS = 0x8825  # EXIF: where the block of GPS tags is found; in it 1, 3: N/S, E/W; 2, 4: latitude, longitude
# Degrees from a zone's central meridian, 3 beyond its edge: there a metre is drawn up to 0.5 % too long.  Around
# Svalbard, where zones are wider and the meridians closer, less.
_REACH, _POLAR_REACH, _POLAR = 6.0, 12.0, 72.0
_SOUTH = 10_000_000  # metres that UTM adds to a north below the equator


class Degrees(NamedTuple):
    """Latitude and longitude in degrees (WGS 84), north and east positive."""

    lat: float
    lon: float


class Metres(NamedTuple):
    """East and north in metres; UTM zone and latitude band where they are known."""

    east: float
    north: float
    zone: int | None = None
    letter: str | None = None


Point = Degrees | Metres


class Row(NamedTuple):
    """One image's line of a table."""

    line: int
    path: str
    point: Point


def number(text: str) -> float:
    """NaN where the text is no plain finite number; Python itself would also take "1_000" and "nan"."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else math.nan


def from_name(name: str) -> Metres | None:
    """A file name's coordinates (NAME; the fields behind the first two are optional), None where it has none."""
    fields = name.rpartition(".")[0].split("@")
    if len(fields) < 3 or fields[0]:
        return None
    east, north = number(fields[1]), number(fields[2])
    if math.isnan(east) or math.isnan(north):
        return None
    zone, letter = (*fields[3:5], "", "")[:2]
    if not (zone.isascii() and zone.isdigit() and 1 <= int(zone) <= 60):
        return Metres(east, north)
    return Metres(east, north, int(zone), letter.upper() if re.fullmatch("[C-HJ-NP-Xc-hj-np-x]", letter) else None)


def from_exif(path: Path) -> Degrees | None:
    """An image's EXIF GPS position, None where it has none; the image is opened, but a JPEG is not decoded.

    A latitude or longitude without its N/S or E/W, one that is no number (0/0), and 0, 0 count as none: the last two
    are what cameras without a fix write.  Raises ValueError for a file that is no image, and for impossible degrees.
    """
    try:
        with Image.open(path) as image:
            tags = image.getexif().get_ifd(_GPS)
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({error}); replace the file") from error
    lat, lon = _signed(tags.get(2), tags.get(1), "NS"), _signed(tags.get(4), tags.get(3), "EW")
    if math.isnan(lat) or math.isnan(lon) or lat == lon == 0:
        return None
    return checked(lat, lon, f"{path}: EXIF GPS")


def _signed(angle: object, reference: object, directions: str) -> float:
    """Degrees, minutes and seconds, of which the last may be absent, as degrees; NaN where they say nothing."""
    reference = reference.decode("latin-1") if isinstance(reference, bytes) else str(reference)
    reference = reference.strip(" \0").upper()
    parts = angle if isinstance(angle, tuple) else (angle,)
    try:
        values = [float(part) for part in parts]
    except (TypeError, ValueError, ZeroDivisionError):
        return math.nan
    if reference not in tuple(directions) or not 1 <= len(parts) <= 3 or min(values) < 0:
        return math.nan
    degrees = sum(value / 60**power for power, value in enumerate(values))
    return -degrees if reference == directions[1] else degrees


def checked(lat: float, lon: float, where: str) -> Degrees:
    """Raises ValueError, which begins with `where`, for degrees that are none, or beyond the ends of UTM."""
    if not (-90 <= lat <= 90 and -180 <= lon <= 180):
        raise ValueError(f"{where}: latitude {lat:.10g}, longitude {lon:.10g} out of range; expected degrees, "
                         "-90 to 90 and -180 to 180")
    if not -80 <= lat <= 84:
        raise ValueError(f"{where}: latitude {lat:.10g}, where there is no UTM; expected -80 to 84 degrees, or metres "
                         f"in a table with the columns path,{','.join(METRES)}")
    return Degrees(lat, lon)


def read_table(path: Path) -> tuple[list[Row], list[str]]:
    """Rows of a CSV with a header (HEADER) in UTF-8, and the names of columns that are not read.

    Columns may come in any order.  A heading may be empty, else it must be a number; nothing here uses it.
    Raises FileNotFoundError, and ValueError for a header that lacks columns, has both kinds of coordinates or one
    column twice, and, with the number of its line, for a row that is too long or short, without a path, with
    coordinates that are no numbers or out of range.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # as spreadsheets write it
            reader = csv.reader(file, strict=True)
            columns = [name.strip().lower() for name in next(reader, [])]
            kind = _checked_columns(columns, path)
            rows = list(_rows(reader, columns, kind, path))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected a CSV with the columns {HEADER}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not readable ({error}); expected a CSV in UTF-8 with the columns {HEADER}") from None
    return rows, [name for name in columns if name not in ("path", *kind, _HEADING)]


def _checked_columns(columns: Sequence[str], path: Path) -> tuple[str, str]:
    kinds = [kind for kind in (DEGREES, METRES) if set(kind) <= set(columns)]
    if "path" not in columns or len(kinds) != 1 or len(set(columns)) < len(columns):
        raise ValueError(f"{path}: the first line is {','.join(columns)[:200]!r}; expected the columns {HEADER}, "
                         "each once")
    return kinds[0]


def _rows(reader: Iterator[list[str]], columns: list[str], kind: tuple[str, str], path: Path) -> Iterator[Row]:
    for fields in reader:
        if not fields:
            continue  # an empty line, often the last
        where = f"{path}, line {reader.line_num}"
        if len(fields) != len(columns):
            raise ValueError(f"{where}: {len(fields)} fields; expected {len(columns)}: {','.join(columns)}")
        row = dict(zip(columns, fields, strict=True))
        values = [number(row[name]) for name in kind]
        heading = row.get(_HEADING, "").strip()
        for name, value in (*zip(kind, values, strict=True), (_HEADING, number(heading or "0"))):
            if math.isnan(value):
                raise ValueError(f"{where}: {name} is {row[name]!r}; expected a number")
        if not row["path"].strip():
            raise ValueError(f"{where}: no path; expected an image's")
        yield Row(reader.line_num, row["path"].strip(), checked(*values, where) if kind == DEGREES else Metres(*values))


def in_one_plane(points: Sequence[Point], names: Sequence[str]) -> np.ndarray:
    """(n, 2) float64, east and north in metres of one UTM zone.  `names` are the images', for errors.

    Metres are taken as they are.  Degrees are drawn in the zone of the metres where there are both, else in the
    commonest of their own zones that has all of them in it or at most 3 degrees beyond.  North is counted as UTM does
    in the southern hemisphere where all images lie there, else from the equator, so that it does not jump.

    Raises ValueError, which names two images and their zones, where no zone holds all of them, as metres of several
    zones cannot be compared; and for metres without zone and letter beside degrees.
    """
    plane = np.empty((len(points), 2))
    metres = [i for i, point in enumerate(points) if isinstance(point, Metres)]
    degrees = [i for i, point in enumerate(points) if isinstance(point, Degrees)]
    _refuse_several_zones([points[i] for i in metres], [names[i] for i in metres])
    for i in metres:
        plane[i] = points[i][:2]
    if not degrees:
        return plane
    lat, lon = np.array([points[i] for i in degrees]).T
    lon = (lon + 180) % 360 - 180  # 180 is -180
    zones = zone_numbers(lat, lon)
    southern = bool((lat < 0).all())
    if metres:
        reference = metres[0]
        _refuse_vague(points, names, metres, degrees[0])
        candidates, letter = [points[reference].zone], points[reference].letter
        southern = letter < "N" or (letter == "S" and southern)  # which some write for the hemisphere, not the band
    else:
        found, counts = np.unique(zones, return_counts=True)
        candidates = found[np.argsort(-counts, kind="stable")].tolist()
        reference = degrees[int(np.argmax(zones == candidates[0]))]
    reach = np.where(np.abs(lat) < _POLAR, _REACH, _POLAR_REACH)
    beyond = {zone: np.abs((lon - (6 * zone - 183) + 180) % 360 - 180) - reach for zone in candidates}
    zone = next((zone for zone in candidates if beyond[zone].max() <= 1e-9), None)
    if zone is None:
        far = int(beyond[candidates[0]].argmax())
        raise ValueError(f"UTM zones {candidates[0]} ({names[reference]}) and {zones[far]} ({names[degrees[far]]}) are "
                         "too far apart for metres that can be compared; expected one zone and at most 3 degrees "
                         "beyond it: make it two sets")
    east, north, _ = to_utm(lat, lon, np.full(len(degrees), zone))
    plane[degrees] = np.stack([east, north + _SOUTH * southern], axis=1)
    return plane


def _refuse_several_zones(points: Sequence[Metres], names: Sequence[str]) -> None:
    zones: dict[object, int] = {}
    halves: dict[object, int] = {}
    for i, (_, _, zone, letter) in enumerate(points):
        if zone is not None:
            zones.setdefault(zone, i)
        if letter is not None:
            halves.setdefault("south" if letter < "N" else letter if letter in "NS" else "north", i)
    # Bands of one hemisphere fit together; both N and S are the two hemispheres, or bands 2700 km apart.
    if len(zones) < 2 and not ("south" in halves and len(halves) > 1 or {"N", "S"} <= set(halves)):
        return
    first, second = list((zones if len(zones) > 1 else halves).values())[:2]
    raise ValueError(f"UTM zones {_zone(points[first])} ({names[first]}) and {_zone(points[second])} "
                     f"({names[second]}): their metres cannot be compared; expected one zone: make it two sets")


def _zone(point: Metres) -> str:
    return f"{point.zone}{point.letter or ''}"


def _refuse_vague(points: Sequence[Point], names: Sequence[str], metres: Sequence[int], other: int) -> None:
    for i in metres:
        if points[i].zone is None or points[i].letter is None:
            raise ValueError(f"{names[i]} has metres without a UTM zone and letter, {names[other]} degrees; expected "
                             f"zones in the names ({NAME}), or a table with one kind of coordinates for all images")
