"""Where images were taken: what their names, their EXIF data or a table say of it, brought into one plane."""

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import utm
from PIL import Image

from ..files import IMAGE_FORMATS, is_regular
from .image_names import BANDS, number, parse_name
from .tables import read_rows

EARTH_M = 6_378_137  # radius of the globe in metres
DEGREES, METRES = ("lat", "lon"), ("utm_east", "utm_north")
HEADER = "path,lat,lon[,heading] or path,utm_east,utm_north[,heading]"
NAME = "@<utm_east>@<utm_north>@[<zone>@<letter>@...]"
SOUTH = 10_000_000  # metres that UTM adds to a north below the equator

zone_numbers = np.vectorize(utm.latlon_to_zone_number, otypes=[np.int64])  # (lat, lon) -> zones, each (n,)
zone_letters = np.vectorize(utm.latitude_to_zone_letter, otypes=[str])  # lat -> letters of the bands, each (n,)
_GPS = 0x8825  # EXIF: where the block of GPS tags is found; in it 1, 3: N/S, E/W; 2, 4: latitude, longitude
# Degrees from a zone's central meridian, 3 beyond its edge: there a metre is drawn up to 0.5 % too long.  Around
# Svalbard, where zones are wider and the meridians closer, less.
_REACH, _POLAR_REACH, _POLAR = 6.0, 12.0, 72.0


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


class UnreadableImageError(ValueError):
    """A file that is no image, or a damaged one."""


def from_name(name: str) -> Metres | None:
    """A file name's coordinates (NAME; the fields behind the first two are optional), None where it has none."""
    fields = parse_name(name)
    if not name.startswith("@") or not np.isfinite(fields.metres).all():
        return None
    return Metres(*fields.metres, *((fields.zone_number, fields.band or None) if fields.zone_number else ()))


def from_exif(path: Path) -> Degrees | None:
    """An image's EXIF GPS position, None where it has none; the image is opened, but a JPEG is not decoded.

    A latitude or longitude without its N/S or E/W, one that is no number (0/0), and 0, 0 count as none: the last two
    are what cameras without a fix write.  Raises ValueError for a file that is no image, and for impossible degrees.
    """
    is_regular(path)  # or it might never end
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            tags = image.getexif().get_ifd(_GPS)
    except (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, SyntaxError, TypeError,
            ValueError, struct.error, Image.DecompressionBombError) as error:  # damaged EXIF data raise any of them
        raise UnreadableImageError(f"{path}: not a readable image ({error}); replace the file") from error
    lat, lon = _signed(tags.get(2), tags.get(1), "NS"), _signed(tags.get(4), tags.get(3), "EW")
    if math.isnan(lat) or math.isnan(lon) or lat == lon == 0:
        return None
    return checked(lat, lon, f"{path}: EXIF GPS: ")


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


def checked(lat: float, lon: float, where: str = "") -> Degrees:
    """Raises ValueError, which begins with `where`, for degrees that are none, or beyond the ends of UTM."""
    if not (-90 <= lat <= 90 and -180 <= lon <= 180):
        raise ValueError(f"{where}latitude {lat:.10g}, longitude {lon:.10g} out of range, -90 to 90 and -180 to 180")
    if not -80 <= lat <= 84:
        raise ValueError(f"{where}latitude {lat:.10g}, where there is no UTM; expected -80 to 84 degrees, or metres "
                         f"in a table with the columns path,{','.join(METRES)}")
    return Degrees(lat, lon)


def read_table(path: Path) -> tuple[list[tuple[int, tuple[str, Point]]], list[str]]:
    """Line, path and coordinates of each row of a CSV with a header (HEADER), and the columns that are not read.

    Columns may come in any order.  A heading may be empty, else it must be a number; nothing here uses it.
    Raises FileNotFoundError, and ValueError with the number of its line for a table that lacks columns or has both
    kinds of coordinates, a row without a path, and coordinates that are no numbers or out of range; what `read_rows`
    raises; and for a table without rows.
    """
    unread: list[str] = []
    kinds: list[tuple[str, str]] = []  # of coordinates among the columns, as the first row tells

    def parse(row: dict[str, str]) -> tuple[str, Point]:
        if not kinds:
            kinds[:] = [kind for kind in (DEGREES, METRES) if row.keys() >= {*kind}]
            if len(kinds) != 1:
                raise ValueError(f"{'both kinds' if kinds else 'neither kind'} of coordinates among {','.join(row)}")
            unread[:] = [name for name in row if name not in ("", "path", "heading", *kinds[0])]
        east, north = kinds[0]
        x, y, heading = number(row[east]), number(row[north]), row.get("heading", "").strip()
        if math.isnan(x + y) or heading and math.isnan(number(heading)):
            name = next(name for name in (east, north, "heading") if math.isnan(number(row[name])))
            raise ValueError(f"{name} is {row[name]!r}, no number")
        image = row["path"].strip()
        if not image:
            raise ValueError("no path")
        return image, checked(x, y) if kinds[0] == DEGREES else Metres(x, y)

    rows = list(read_rows(path, ("path",), parse, expected=f"columns {HEADER}"))
    if not rows:
        raise ValueError(f"{path}: no row; expected columns {HEADER}, and a row for each image")
    return rows, unread


def in_one_plane(points: Sequence[Point], names: Sequence[str]) -> np.ndarray:
    """As `plane_and_zone`, without the zone."""
    return plane_and_zone(points, names)[0]


def plane_and_zone(points: Sequence[Point], names: Sequence[str]) -> tuple[np.ndarray, int]:
    """(n, 2) float64, east and north in metres of one UTM zone, and the zone, negative where norths are counted as in
    the southern hemisphere, 0 where it is not known.  `names` are the images', for errors.

    Metres are taken as they are.  Degrees are drawn in the zone of the metres where there are both, else in the
    commonest of their own zones that has all of them in it or at most 3 degrees beyond.  North is counted as UTM does
    in the southern hemisphere where all images lie there, else from the equator, so that it does not jump.

    Raises ValueError, which names two images and their zones, where no zone holds all of them, as metres of several
    zones cannot be compared; and for metres without zone and letter beside degrees.
    """
    plane = np.array([point[:2] for point in points], np.float64).reshape(-1, 2)  # degrees are replaced below
    metres = [i for i, point in enumerate(points) if isinstance(point, Metres)]
    degrees = [i for i, point in enumerate(points) if isinstance(point, Degrees)]
    _refuse_several_zones([(points[i], names[i]) for i in metres])
    if not degrees:
        known = [point for point in points if point.zone is not None and point.letter is not None]
        return plane, 0 if not known else -known[0].zone if known[0].letter < "N" else known[0].zone
    lat, lon = plane[degrees].T
    lon = (lon + 180) % 360 - 180  # 180 is -180
    zones = zone_numbers(lat, lon)
    southern = bool((lat < 0).all())
    if metres:
        vague = next((i for i in metres if points[i].zone is None or points[i].letter is None), None)
        if vague is not None:
            raise ValueError(f"{names[vague]} has metres without a UTM zone and letter, {names[degrees[0]]} degrees; "
                             f"expected zones in the names ({NAME}), or a table with one kind of coordinates")
        reference = metres[0]
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
                         "too far apart; expected one zone and at most 3 degrees beyond it: make it two sets")
    east, north, _ = to_utm(lat, lon, np.full(len(degrees), zone))
    plane[degrees] = np.stack([east, north + SOUTH * southern], axis=1)
    return plane, -int(zone) if southern else int(zone)


def in_plane_of(zone: int, points: Sequence[Point], names: Sequence[str], whose: str) -> np.ndarray:
    """As `in_one_plane`, in a zone as `plane_and_zone` gives it, which `whose` has.  Raises ValueError as that does,
    and for degrees where the zone is 0."""
    if zone:
        reference = Metres(0.0, 0.0, abs(zone), "N" if zone > 0 else BANDS[BANDS.index("N") - 1])
        return in_one_plane([reference, *points], [whose, *names])[1:]
    degrees = next((name for point, name in zip(points, names, strict=True) if isinstance(point, Degrees)), None)
    if degrees is not None:
        raise ValueError(f"{degrees} has degrees, and the UTM zone of {whose} is not known; expected metres in the "
                         f"same plane, in the name ({NAME}) or a table")
    return in_one_plane(points, names)


def to_degrees(east: float, north: float, zone: int) -> Degrees:
    """Of metres in a zone, as `plane_and_zone` gives them."""
    lat, lon = utm.to_latlon(east, north, abs(zone), northern=zone > 0, strict=False)
    return Degrees(float(lat), float(lon))


def _refuse_several_zones(named: Sequence[tuple[Metres, str]]) -> None:
    """Bands of one hemisphere fit together; both N and S are the two hemispheres, or bands 2700 km apart."""
    zones, halves = {}, {}  # the first image of each, in words
    for point, name in named:
        words = f"{point.zone}{point.letter or ''} ({name})"
        if point.zone is not None:
            zones.setdefault(point.zone, words)
        if (letter := point.letter) is not None:
            halves.setdefault("south" if letter < "N" else letter if letter in "NS" else "north", words)
    if len(zones) > 1 or "south" in halves and len(halves) > 1 or {"N", "S"} <= halves.keys():
        first, second, *_ = (zones if len(zones) > 1 else halves).values()
        raise ValueError(f"UTM zones {first} and {second}: their metres do not compare; make it two sets of one zone "
                         "each")


def to_utm(lat: np.ndarray, lon: np.ndarray,
           zones: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) degrees -> east, north in metres and zone, the point's own or the one asked for.

    North is counted from the equator, negative in the south.
    """
    zones = zone_numbers(lat, lon) if zones is None else zones
    east, north = np.empty(len(lat)), np.empty(len(lat))
    for zone in np.unique(zones):
        rows = zones == zone
        east[rows], north[rows], *_ = utm.from_latlon(lat[rows], lon[rows], force_zone_number=int(zone),
                                                      force_northern=True)
    return east, north, zones


def unit_vectors(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """(n,) degrees -> (n, 3) directions from the centre of a globe."""
    lat, lon = np.radians([lat, lon])
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
