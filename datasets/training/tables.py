"""Tables of the GSV-Cities layout, a row an image, whose values compose the file's name; the names of the cities."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..readers.tables import read_rows

COLUMNS = ("place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid")
EXPECTED = f"columns {','.join(COLUMNS)}: integers, but decimal lat and lon, text city_id and panoid"

# GSV-Cities (Ali-bey et al., 2022): Google Street View places of 23 cities.
GSV_CITIES = (
    "Bangkok", "BuenosAires", "LosAngeles", "MexicoCity", "OSL", "Rome", "Barcelona", "Chicago", "Madrid",
    "Miami", "Phoenix", "TRT", "Boston", "Lisbon", "Medellin", "Minneapolis", "PRG", "WashingtonDC",
    "Brussels", "London", "Melbourne", "Osaka", "PRS",
)

# The unified data set cuts MSLS and Pitts30k into groups of places that do not touch, 18 a city, and calls
# each group a "city" <name><group>.  Lower-case names tell the MSLS cities from those of GSV-Cities.
MSLS_CITIES = (
    "Trondheim", "Amsterdam", "Helsinki", "Tokyo", "Toronto", "Saopaulo", "Moscow", "Zurich", "Paris",
    "Budapest", "Austin", "Berlin", "Ottawa", "Goa", "Amman", "Nairobi", "Manila", "bangkok", "boston",
    "london", "melbourne", "phoenix",
)
_N_GROUPS = 18
_EMPTY_GROUPS = {"Amman17", "Nairobi17"}

UNIFIED_CITIES = ("SFXL", *GSV_CITIES, *(
    city for group in range(_N_GROUPS) for name in (*MSLS_CITIES, "Pitts30k")
    if (city := f"{name}{group}") not in _EMPTY_GROUPS))

# Short names of GSV-Cities and of MSLS, in lower case.
_SHORT = {"osl": "oslo", "prg": "prague", "prs": "paris", "trt": "toronto", "cph": "copenhagen", "sf": "sanfrancisco"}

VALIDATION_CITIES = ("copenhagen", "sanfrancisco")  # MSLS-val's, as `whole_city` names them

TRAINING_SETS = {"gsv_cities": GSV_CITIES, "unified_dataset": UNIFIED_CITIES}


def whole_city(name: str) -> str:
    """One name for all that is of one city, groups and both data sets: Bangkok and bangkok3, PRS and Paris0."""
    name = name.rstrip("0123456789").lower()
    return _SHORT.get(name, name)


def read_city(table: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read one city's CSV, row by row: place ids (n,) int64, image paths below Images/ (n,) bytes, UTF-8, and
    latitudes and longitudes (n, 2) float64 in degrees.

    The file name holds the CSV's own place id in 7 digits: ids are per city and carry no offset, so a city
    may have 100000 places and more.  Raises ValueError with the file and line.
    """
    def parse(row: dict[str, str]) -> tuple[int, str, tuple[float, float]]:
        return *place_and_path(row), (float(row["lat"]), float(row["lon"]))

    rows = [parsed for _, parsed in read_rows(table, COLUMNS, parse, expected=EXPECTED)]
    if not rows:
        raise ValueError(f"{table}: no image listed below the header; leave that city out or fix the file")
    place_ids, paths, degrees = zip(*rows, strict=True)
    return np.array(place_ids, dtype=np.int64), np.array([path.encode() for path in paths]), np.array(degrees)


def place_and_path(row: Mapping[str, object]) -> tuple[int, str]:
    """Place id and <city_id>/<file name> of one row's values; lat and lon stand as Python prints the float."""
    city, panorama = row["city_id"], row["panoid"]
    place, date = int(row["place_id"]), f"{int(row['year']):04d}_{int(row['month']):02d}_{int(row['northdeg']):03d}"
    lat, lon = float(row["lat"]), float(row["lon"])
    if not 0 <= place < 10**7:
        raise ValueError(f"place_id {place}, not from 0 to 9999999")
    if not (city and panorama and math.isfinite(lat + lon)):
        raise ValueError(f"city_id {city!r}, lat {row['lat']!r}, lon {row['lon']!r}, panoid {panorama!r} unusable")
    if "/" in city + panorama or city in (".", ".."):
        raise ValueError(f"city_id {city!r}, panoid {panorama!r}: a path; images lie in Images/<city_id> (which may be "
                         "a link)")
    return place, f"{city}/{city}_{place:07d}_{date}_{lat}_{lon}_{panorama}.jpg"
