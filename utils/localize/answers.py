"""What a map answers: where each query was taken, by the image that it finds, and how sure that is."""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.readers.coordinates import from_name, to_degrees
from datasets.transforms import read_image

from ..confidence import DEPTH, Confidence, Signals, signals_from
from ..errors import named
from ..files import temporary_path
from ..search import TwoStageIndex
from ..sheets import Cell, into, sheet
from .maps import Described, Eye, zone_of

log = logging.getLogger("selavprpp")
RERANKED = 100  # candidates, where a map has both descriptors
SHOWN = 5  # answers beside a query
ROWS = 20  # queries on a sheet, at most
CELL = 200, 150  # pixels of a sheet's images
FITTED = "confidence"  # its place among an index's notes


class Search(NamedTuple):
    """What a map finds for m queries: ids (m, k) of its images, and what a confidence looks at."""

    ids: np.ndarray
    signals: Signals


class ByCodes(NamedTuple):
    """How codes are searched, as a confidence keeps it: by their first `bits` (None: all), then, of so many nearest,
    by whole ones (shortlist; 0: none)."""

    bits: int | None = None
    shortlist: int = 0


def search(index: TwoStageIndex, queries: Described, by: ByCodes) -> Search:
    """In two stages where the map has codes and floats, else by the one that it has; distances are L2 or bits."""
    depth, first, bits = max(SHOWN, DEPTH), None, None
    if queries.codes is None:
        distances, ids = index.search_floats(queries.floats, depth)
        distances = np.sqrt(np.maximum(distances, 0))
    elif queries.floats is None:
        distances, ids = index.search_codes(queries.codes, max(depth, by.shortlist), bits=by.bits)
        if by.shortlist:
            ids, distances = index.rerank_codes(queries.codes, ids, by.shortlist)
    else:
        ids, distances, first, bits = index.search(queries.codes, queries.floats, k=RERANKED, depth=RERANKED,
                                                   **by._asdict())
    head = ids[:, :depth]
    places = np.stack([index.coordinates(row) for row in head])
    return Search(head, signals_from(head, distances[:, :depth], positions=places, first_ids=first, bits=bits))


def fitted_for(index: TwoStageIndex, eye: Eye, by: ByCodes) -> Confidence | None:
    """The confidence that was fitted on this map; None where there is none, or for queries of another model or another
    search.

    What its reader must know goes to the log. Raises ValueError for a damaged one.
    """
    if FITTED not in index.notes:
        log.warning("no confidence: none was fitted for %s; fit one by --fit_confidence", index.folder)
        return None
    found = Confidence.from_dict(index.notes[FITTED])
    told = found.fitted_on
    if told.get("model") != eye.extractor.identity.fingerprint:
        log.warning("no confidence: that of %s was fitted on another model; fit it again", index.folder)
        return None
    if told.get("by_codes", ByCodes()._asdict()) != by._asdict():
        log.warning("no confidence: that of %s was fitted with another --code_bits; give the same, or fit it again",
                    index.folder)
        return None
    if told.get("generation") != index.generation:
        log.warning("the confidence of %s was fitted when it held %s images; some were added or removed, so "
                    "that it holds %d: fit it again", index.folder, told.get("images"), len(index))
    return found


def answers(index: TwoStageIndex, names: Sequence[str], found: Search, confidence: Confidence | None
            ) -> Iterator[dict]:
    """For each query, of what JSON can hold, {"query", "answers": the SHOWN nearest, each {"database", "distance",
    "east", "north", "zone", "lat", "lon"}, and those of the nearest again; "hamming": its distance in bits;
    "confidence": the probability that it is right; "unlike": whether the query is unlike those that it was fitted on;
    "sure": whether it reaches the threshold and the query is not unlike}. What is not known is null."""
    probability = unlike = certain = None
    if confidence is not None:
        probability, unlike, certain = (told(found.signals) for told in (
            confidence.predict, confidence.unlike, confidence.sure))
    places, distances, ranks, bits = (found.signals.positions, found.signals.distances, found.signals.ranks,
                                      found.signals.bits)
    for query, name in enumerate(names):
        shown = found.ids[query, :SHOWN]
        near = [{"database": image, "distance": _plain(distance), **_place(place, image, zone_of(index))}
                for image, distance, place in zip(index.names(shown), distances[query], places[query], strict=False)]
        p = None if probability is None or math.isnan(probability[query]) else float(probability[query])
        sure = None if p is None or certain is None else bool(certain[query])
        yield {"query": name, **near[0], "hamming": None if bits is None else int(bits[query, ranks[query]]),
               "confidence": p, "sure": sure, "unlike": None if unlike is None else bool(unlike[query]),
               "answers": near}


def _plain(distance: np.number) -> int | float:
    return int(distance) if distance.dtype.kind in "iu" else float(str(distance))


def _place(metres: np.ndarray, name: str, zone: int) -> dict:
    """An image's name may tell the zone of its metres where the map does not."""
    if np.isnan(metres).any():
        return dict.fromkeys(("east", "north", "zone", "lat", "lon"))
    own = from_name(name.rpartition("/")[2])
    if own is not None and own.zone and own.letter:
        zone = -own.zone if own.letter < "N" else own.zone
    place = {"east": round(float(metres[0]), 2), "north": round(float(metres[1]), 2), "zone": None, "lat": None,
             "lon": None}
    if zone:
        lat, lon = to_degrees(*metres.tolist(), zone)
        place |= {"zone": f"{abs(zone)}{'N' if zone > 0 else 'S'}", "lat": round(lat, 7), "lon": round(lon, 7)}
    return place


def in_words(answer: dict) -> str:
    """An answer for people: two lines."""
    where = "at a place that the map does not tell"
    if answer["east"] is not None:
        where = f"{answer['east']:.2f} east {answer['north']:.2f} north"
        if answer["zone"] is not None:
            where += f" in UTM zone {answer['zone']}, latitude {answer['lat']:.6f} longitude {answer['lon']:.6f}"
    sure = ""
    if answer["confidence"] is not None:
        unlike = " but unlike what it was fitted on" if answer["unlike"] else ""
        unsure = ": I do not know" if answer["sure"] is False else ""
        sure = f", confidence {answer['confidence']:.2f}{unlike}{unsure}"
    return f"{answer['query']}: {where}\n    like {answer['database']}, distance {answer['distance']:.4g}{sure}"


def panel(answered: Sequence[tuple[Path, dict]], home: Path | None) -> Image.Image:
    """A sheet of at most ROWS queries, each beside the images that the map found, which lie below `home`."""
    columns = max(len(answer["answers"]) for _, answer in answered)
    rows, absent = [], 0
    for path, answer in answered[:ROWS]:
        cells = [Cell(into(CELL, read_image(path)), text=_beside(answer))]
        for found in answer["answers"]:
            image = _image_of(found["database"], home)
            absent += image is None
            cells.append(Cell(image or Image.new("RGB", CELL, "lightgrey"), text=f"{found['distance']:.4g}"))
        rows.append(cells)
    notes = [f"{len(answered) - ROWS} more queries are not shown"] if len(answered) > ROWS else []
    if absent:
        notes.append(f"{absent} images of the map are not where it was built from: grey")
    return sheet(rows, {0: "query", 1: f"the map's {columns} nearest, and their distances"}, notes=notes)


def _beside(answer: dict) -> str:
    if answer["confidence"] is None:
        return "no confidence"
    return f"confidence {answer['confidence']:.2f}" + (": not known" if answer["sure"] is False else "")


def _image_of(name: str, home: Path | None) -> Image.Image | None:
    try:
        return into(CELL, read_image((home or Path()) / name))
    except (OSError, ValueError):
        return None


def write_panels(answered: Sequence[tuple[Path, dict]], home: Path | None, to: Path) -> list[Path]:
    """JPEGs: one of all queries where `to` ends in .jpg or .jpeg, else one a query in that folder, by its name."""
    if to.suffix.lower() in (".jpg", ".jpeg"):
        sheets = {to: answered}
    else:
        sheets = {to / f"{number:04d}-{path.stem}.jpg": [(path, answer)] for number, (path, answer) in
                  enumerate(answered, 1)}
    for path, some in sheets.items():
        with named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary_path(path) as temporary:
                panel(some, home).save(temporary, "JPEG", quality=90)
    return [*sheets]


def ask(index: TwoStageIndex, eye: Eye, paths: Sequence[Path], unreadable: dict[Path, str], by: ByCodes
        ) -> Iterator[tuple[list[Path], Search]]:
    """Searches the map for images, batch by batch; those that cannot be read go to `unreadable`, with the reason."""
    for some in eye.described(paths, unreadable, what="localising"):
        yield [paths[number] for number in some.numbers], search(index, some, by)
