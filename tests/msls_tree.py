"""A miniature of MSLS in both layouts, small enough to work out by hand what counts as right.

Both cities have the same metres, in two zones: a reader that forgets the city finds right answers in the other one.
"""

import csv
import functools
import io
from pathlib import Path
from typing import NamedTuple

import utm
from images import image

ZONES = {"cph": 33, "sf": 10}
EAST, NORTH, LETTER = 346000.0, 6171000.0, "U"  # of the point that offsets count from


class Frame(NamedTuple):
    """`east`, `north`: offsets in metres; `heading` in degrees; `flagged`: in the subtask `all`."""

    key: str
    east: float
    north: float
    heading: float = 0
    pano: bool = False
    flagged: bool = True


FRAMES = {
    "cph": {
        "database": [
            Frame("A", 0, 0, 10),
            Frame("B-25m", 25, 0, 100),
            Frame("C", 25.25, 0, 10),
            Frame("pano", 1, 0, 10, pano=True),
            Frame("unflagged", 2, 0, 10, flagged=False),
            Frame("-W", 1000, 0, 359),
            Frame("X", 1010, 0, 39),
            Frame("Y_", 1005, 0, 40),
        ],
        "query": [
            Frame("q350", 0, 0, 350),
            Frame("q-1", 1000, 0, -1),
            Frame("q180", 10, 0, 180),
            Frame("qpano", 0, 0, 10, pano=True),
            Frame("q_unflagged", 0, 0, 10, flagged=False),
            Frame("qfar", 5000, 0),
        ],
    },
    "sf": {
        "database": [
            Frame("sA", 0, 0, 90),
            Frame("sB-25m", 15, 20, 120),
            Frame("sC", 15, 20.25, 90),
            Frame("s_unflagged", 3000, 0, 90, flagged=False),
        ],
        "query": [Frame("s100", 0, 0, 100), Frame("s_alone", 3000, 10, 100)],
    },
}
TEST_CITIES = ("miami", "athens", "buenosaires", "stockholm", "bengaluru", "kampala")


def latlon(frame: Frame, zone: int) -> tuple[float, float]:
    return utm.to_latlon(EAST + frame.east, NORTH + frame.north, zone, LETTER)


def tables(frames: list[Frame], zone: int) -> dict[str, list[dict[str, object]]]:
    """Rows of the four tables of one folder, columns in the official order."""
    found = {name: [] for name in ("raw", "postprocessed", "subtask_index", "seq_info")}
    for number, frame in enumerate(frames):
        lat, lon = latlon(frame, zone)
        found["raw"].append({"": number, "key": frame.key, "lon": lon, "lat": lat, "ca": float(frame.heading),
                             "captured_at": "2019-05-04", "pano": frame.pano})
        found["postprocessed"].append({"": number, "key": frame.key, "easting": EAST + frame.east,
                                       "northing": NORTH + frame.north, "unique_cluster": number, "night": False,
                                       "control_panel": False, "view_direction": "Forward"})
        others = dict.fromkeys(("s2w", "w2s", "o2n", "n2o", "d2n", "n2d"), not frame.flagged)
        found["subtask_index"].append({"": number, "key": frame.key, "all": frame.flagged, **others})
        found["seq_info"].append({"": number, "key": frame.key, "sequence_key": "sequence", "frame_number": number})
    return found


def as_csv(rows: list[dict[str, object]], *, newline: str = "\n") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator=newline)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_city(city: Path, frames: dict[str, list[Frame]], zone: int, *, only: tuple[str, ...] = (),
               images: bool = True) -> None:  # fmt: skip
    """<city>/{query,database} as downloaded; `only`: the names of tables to write, all by default."""
    for side, of_side in frames.items():
        folder = city / side
        (folder / "images").mkdir(parents=True)
        for name, rows in tables(of_side, zone).items():
            if not only or name in only:
                (folder / f"{name}.csv").write_text(as_csv(rows), newline="")
        for frame in of_side if images else ():
            _save(frame, folder / "images" / f"{frame.key}.jpg", shot=side == "query")


def write_raw(root: Path, **options) -> Path:
    """<root>/train_val/{cph,sf}."""
    for city, frames in FRAMES.items():
        write_city(root / "train_val" / city, frames, ZONES[city], **options)
    return root


def renamed(frame: Frame, zone: int, *, heading: bool = True) -> str:
    lat, lon = latlon(frame, zone)
    return (f"@{EAST + frame.east:010.2f}@{NORTH + frame.north:010.2f}@{zone}@{LETTER}@{lat:09.5f}@{lon:010.5f}"
            f"@{frame.key}@@{frame.heading if heading else ''}@@@@201905@day_Forward@.jpg")


def write_renamed(folder: Path, *, heading: bool = True) -> Path:
    """<folder>/msls/images/val without panoramas, as VPR-datasets-downloader leaves it."""
    for city, frames in FRAMES.items():
        for side, name in (("query", "queries"), ("database", "database")):
            target = folder / "msls" / "images" / "val" / name
            target.mkdir(parents=True, exist_ok=True)
            for frame in frames[side]:
                if not frame.pano:
                    _save(frame, target / renamed(frame, ZONES[city], heading=heading), shot=side == "query")
    return folder / "msls"


def write_test(root: Path, **options) -> Path:
    """<root>/test with two queries and three database images a city; by metres, `<city>-q` has one right answer."""
    for zone, city in enumerate(TEST_CITIES, 20):
        database = [Frame(f"{city}-d", 0, 0), Frame(f"{city}-e", 500, 0), Frame(f"{city}-f", 1, 0, flagged=False)]
        queries = [Frame(f"{city}-q", 3, 4), Frame(f"{city}-lost", 9000, 0)]
        write_city(root / "test" / city, {"database": database, "query": queries}, zone, **options)
    return root


def _save(frame: Frame, path: Path, *, shot: bool) -> None:
    path.write_bytes(_jpeg(int(frame.east) // 50, int(shot)))


@functools.cache
def _jpeg(place: int, shot: int) -> bytes:
    file = io.BytesIO()
    image(place, shot).save(file, "JPEG")
    return file.getvalue()
