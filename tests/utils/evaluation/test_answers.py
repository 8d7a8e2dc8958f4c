"""answers.csv and answers.json of a hand-made search."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from datasets.listing import Listing
from utils.evaluation.answers import write_answers

IDS = np.array([[2, 0, 1], [1, 2, 0]])
BITS = np.array([[3, 5, 500], [0, 7, 7]], np.int32)


def listing(**changed):
    """Database at 0, 30 and 40 m east of 548000; queries at 27 m, 4 m to the north, and at 30 m."""
    folder = Path("/sets/street")
    known = {
        "name": "street", "folder": folder, "rule": "within 25 m", "threshold_m": 25.0,
        "database_paths": [folder / "db" / name for name in ("a.jpg", "b, old.jpg", "c\u00e9.jpg")],
        "query_paths": [folder / "q" / "0.jpg", Path("/else/1.jpg")],
        "database_utm": np.array([[548000, 5e6], [548030, 5e6], [548040, 5e6]]),
        "query_utm": np.array([[548027.125, 5e6 + 4], [548030, 5e6]]),
        "positives": [np.array([1, 2]), np.array([], np.int64)]}
    return Listing(**{**known, **changed})


def written(folder, *arguments, **options):
    """Rows of the CSV, header first, and the JSON's content."""
    paths = write_answers(folder, *arguments, **{"k": 3, "kind": "bits", **options})
    assert paths == (folder / "answers.csv", folder / "answers.json")
    assert sorted(path.name for path in folder.iterdir()) == ["answers.csv", "answers.json"]
    with paths[0].open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file)), json.loads(paths[1].read_text())


def test_what_is_known_is_written(tmp_path):
    rows, tree = written(tmp_path, listing(), IDS, BITS, k=2)
    east, north = "548027.12", "5000004.00"  # 548027.125, its half to the even
    assert rows == [
        ["query", "rank", "database", "distance", "query_east", "query_north", "database_east", "database_north",
         "metres", "answer"],
        ["q/0.jpg", "1", "db/c\u00e9.jpg", "3", east, north, "548040.00", "5000000.00", "13.48", "right"],
        ["q/0.jpg", "2", "db/a.jpg", "5", east, north, "548000.00", "5000000.00", "27.42", "wrong"],
        ["/else/1.jpg", "1", "db/b, old.jpg", "0", "548030.00", "5000000.00", "548030.00", "5000000.00", "0.00",
         "wrong"],
        ["/else/1.jpg", "2", "db/c\u00e9.jpg", "7", "548030.00", "5000000.00", "548040.00", "5000000.00", "10.00",
         "wrong"],
    ]
    assert list(tree) == ["dataset", "rule", "distance", "k", "queries"]
    assert (tree["dataset"], tree["rule"], tree["distance"], tree["k"]) == ("street", "within 25 m", "bits", 2)
    first, second = tree["queries"]
    assert first == {
        "query": "q/0.jpg", "east": 548027.12, "north": 5000004, "positives": 2, "answers": [
            {"rank": 1, "database": "db/c\u00e9.jpg", "distance": 3, "east": 548040, "north": 5e6, "metres": 13.48,
             "right": True},
            {"rank": 2, "database": "db/a.jpg", "distance": 5, "east": 548000, "north": 5e6, "metres": 27.42,
             "right": False}]}  # fmt: skip
    assert second["positives"] == 0 and [answer["right"] for answer in second["answers"]] == [False, False]


@pytest.mark.parametrize("k, expected", [(1, 1), (3, 3), (100, 3)])
def test_at_most_what_is_there(tmp_path, k, expected):
    rows, tree = written(tmp_path, listing(), IDS, BITS, k=k)
    assert len(rows) == 1 + 2 * expected and tree["k"] == expected
    assert [[answer["rank"] for answer in query["answers"]] for query in tree["queries"]] == 2 * [
        list(range(1, expected + 1))]


def test_without_labels_and_coordinates(tmp_path):
    rows, tree = written(tmp_path, listing(positives=None, database_utm=None, query_utm=None), IDS, BITS)
    assert rows[1] == ["q/0.jpg", "1", "db/c\u00e9.jpg", "3", "", "", "", "", "", "unlabelled"]
    query = tree["queries"][0]
    assert (query["east"], query["positives"], query["answers"][0]["right"]) == (None, None, None)
    assert query["answers"][0]["metres"] is None


def test_where_a_query_may_be(tmp_path):
    """What unlabelled queries are for: places of the database images that were found."""
    rows, tree = written(tmp_path, listing(positives=None, query_utm=None), IDS, BITS, k=1)
    assert rows[1][4:] == ["", "", "548040.00", "5000000.00", "", "unlabelled"]
    assert tree["queries"][0]["answers"][0]["east"] == 548040


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_distances_are_plain_numbers(tmp_path, kind):
    distances = np.array([[0.1, 1e-7, 16777216], [0, 2, 0.25]], kind)
    rows, tree = written(tmp_path, listing(), IDS, distances)
    expected = ["0.1", "0.0000001", "16777216", "0", "2", "0.25"]
    assert [row[3] for row in rows[1:]] == expected
    found = [answer["distance"] for query in tree["queries"] for answer in query["answers"]]
    assert found == [0.1, 1e-7, 16777216, 0, 2, 0.25]
    text = (tmp_path / "answers.csv").read_text()
    assert not re.search(r"\de-?\d|nan|float", text)


def test_ranks_behind_the_re_ranked_ones_have_no_distance(tmp_path):
    rows, tree = written(tmp_path, listing(), IDS, BITS[:, :1])
    assert [row[3] for row in rows[1:4]] == ["3", "", ""]
    assert [answer["distance"] for answer in tree["queries"][1]["answers"]] == [0, None, None]


def test_names_that_are_no_utf_8(tmp_path):
    name = b"caf\xe9.jpg".decode(errors="surrogateescape")
    paths = [Path("/sets/street/db") / name] * 3
    write_answers(tmp_path, listing(database_paths=paths), IDS, BITS, k=1, kind="bits")
    assert b"db/caf\xe9.jpg,3," in (tmp_path / "answers.csv").read_bytes()
    tree = json.loads((tmp_path / "answers.json").read_text())
    assert tree["queries"][0]["answers"][0]["database"] == f"db/{name}"


def test_what_fails_halfway_leaves_what_was_there(tmp_path):
    written(tmp_path, listing(), IDS, BITS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(IndexError):
        write_answers(tmp_path, listing(query_utm=np.zeros((1, 2))), IDS, BITS, k=3, kind="bits")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
