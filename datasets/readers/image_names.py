"""Names that tell where an image was taken, in the form of gmberton/VPR-datasets-downloader."""

import math
import os
from collections import namedtuple

FORM = ("@<utm_east>@<utm_north>@<zone>@<letter>@<lat>@<lon>@<key>@<tile>@<heading>@<pitch>@<roll>@<height>@<yyyymm>"
        "@<note>@.jpg")
BANDS = "CDEFGHJKLMNPQRSTUVWX"  # letters of latitude, from N on north of the equator
FIELDS = ("east", "north", "zone", "letter", "lat", "lon", "key", "tile", "heading", "pitch", "roll", "height", "date",
          "note")


class ImageName(namedtuple("ImageName", FIELDS, defaults=[""] * len(FIELDS))):
    """What stands between the "@" of a name, as text; "" for what it lacks.  `str` composes the name."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"@{'@'.join(map(str, self))}@.jpg"

    @property
    def metres(self) -> tuple[float, float]:
        """East and north, NaN where they are no numbers."""
        return number(self.east), number(self.north)

    @property
    def zone_number(self) -> int:
        """1 to 60, 0 where the name states none."""
        return int(self.zone) if self.zone.isascii() and self.zone.isdigit() and 1 <= int(self.zone) <= 60 else 0

    @property
    def band(self) -> str:
        """The upper-case letter of latitude, "" where the name states none."""
        return self.letter.upper() if len(self.letter) == 1 and self.letter.upper() in BANDS else ""

    @property
    def signed_zone(self) -> int:
        """The zone's number, negative south of the equator, where northings start anew; 0 where there is none."""
        return -self.zone_number if "C" <= self.band < "N" else self.zone_number


def parse_name(path: str | bytes) -> ImageName:
    """The fields of a file's name; folders may have "@" too."""
    name = os.fsdecode(path).rpartition("/")[2]
    return ImageName(*(name.rpartition(".")[0] or name).split("@")[1:len(FIELDS) + 1])


def number(text: str) -> float:
    """NaN where the text is no plain finite number; Python itself would also take "1_000" and "nan"."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) and text.isascii() and "_" not in text else math.nan


def zone_name(signed_zone: int) -> str:
    return f"{abs(signed_zone)}{'N' if signed_zone > 0 else 'S'}"
