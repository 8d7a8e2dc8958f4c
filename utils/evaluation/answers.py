"""What was found for each query, for people and for other programs: answers.csv and answers.json."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.listing import Listing

from ..errors import named
from ..files import temporary_path

COLUMNS = ("query", "rank", "database", "distance", "query_east", "query_north", "database_east", "database_north",
           "metres", "answer")
ANSWER = {True: "right", False: "wrong", None: "unlabelled"}


def write_answers(folder: Path, listing: Listing, ids: np.ndarray, distances: np.ndarray, *, k: int,
                  kind: str) -> tuple[Path, Path]:
    """Writes the first `k` database images of each query, and returns the paths of answers.csv and answers.json.

    ids        (queries, depth) integers, best first; of `k` ranks no more than these are written
    distances  (queries, at most depth): what the search compared; re-ranking gives none behind the re-ranked ones
    kind       what the distances are, in words: "L2", "Hamming distance in bits"

    answers.csv has COLUMNS and a row for each query and rank: names as Listing.names gives them, east and north in
    metres, how many metres both images are apart, and a word of ANSWER; what is not known is empty.
    answers.json says the same, {dataset, rule, distance: kind, k, queries: [{query, east, north, positives: how many
    right answers there are, answers: [{rank, database, distance, east, north, metres, right: true or false}]}]}, a line
    for each query; what is not known is null.
    """
    k = min(k, ids.shape[1])
    head = {"dataset": listing.name, "rule": listing.rule, "distance": kind, "k": k}
    tables = [Path(folder) / f"answers.{extension}" for extension in ("csv", "json")]
    # File names need not be UTF-8: their bytes are written as they are.
    with (named(f"{tables[0]} and .json"), temporary_path(tables[0]) as first, temporary_path(tables[1]) as second,
          first.open("w", newline="", encoding="utf-8", errors="surrogateescape") as table,
          second.open("w", encoding="utf-8") as tree):
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(COLUMNS)
        tree.write(json.dumps(head)[:-1] + ', "queries": [')
        for i, query in enumerate(_queries(listing, ids[:, :k], distances[:, :k])):
            rows.writerows(_rows(query))
            tree.write(("," if i else "") + "\n" + json.dumps(query))
        tree.write("\n]}\n")
    return tables[0], tables[1]


def _queries(listing: Listing, ids: np.ndarray, distances: np.ndarray) -> Iterator[dict]:
    """Each query as in answers.json."""
    query_names, names = listing.names("query"), listing.names("database")
    query_places, places = (np.full((n, 2), np.nan) if utm is None else utm for n, utm in (
        (listing.n_queries, listing.query_utm), (listing.n_database, listing.database_utm)))
    for query, found in enumerate(ids):
        positives = None if listing.positives is None else listing.positives[query]
        answers = []
        for rank, image in enumerate(found.tolist()):
            answers.append({
                "rank": rank + 1, "database": names[image],
                "distance": _plain(distances[query, rank]) if rank < distances.shape[1] else None,
                "east": _metres(places[image, 0]), "north": _metres(places[image, 1]),
                "metres": _metres(np.hypot(*(places[image] - query_places[query]))),
                "right": None if positives is None else image in positives})
        yield {"query": query_names[query],
               "east": _metres(query_places[query, 0]), "north": _metres(query_places[query, 1]),
               "positives": None if positives is None else len(positives), "answers": answers}


def _metres(value: float) -> float | None:
    """To the centimetre, which is more than any GPS knows."""
    return None if np.isnan(value) else round(float(value), 2)


def _plain(distance: np.number) -> int | float:
    """As few digits as tell a float32 from its neighbours: 0.1, which float() would make 0.10000000149011612."""
    return int(distance) if distance.dtype.kind in "iu" else float(str(distance))


def _rows(query: dict) -> Iterator[list]:
    for found in query["answers"]:
        metres = [query["east"], query["north"], found["east"], found["north"], found["metres"]]
        distance = found["distance"]
        yield [query["query"], found["rank"], found["database"],
               distance if isinstance(distance, int | None) else np.format_float_positional(distance, trim="-"),
               *("" if value is None else f"{value:.2f}" for value in metres), ANSWER[found["right"]]]
