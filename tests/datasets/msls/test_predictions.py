"""Prediction files: read back by NumPy as officially, and every rule broken once."""

import io
import zipfile

import numpy as np
import pytest

from datasets.msls.predictions import Predictions, check_predictions, write_predictions

pytestmark = pytest.mark.filterwarnings("ignore:Input line")  # NumPy says so of comments

QUERIES = ["-q_1", "q2", "q3"]
DATABASE = [f"d{i:02d}-_" for i in range(30)]
PREDICTED = [DATABASE[shift:shift + 21] for shift in (0, 5, 9)]


def lines(queries=QUERIES, predicted=PREDICTED):
    return [" ".join([query, *keys]) for query, keys in zip(queries, predicted, strict=True)]


def check(path):
    return check_predictions(path, QUERIES, DATABASE)


def test_what_is_written_is_what_the_official_reader_wants(tmp_path):
    path = write_predictions(tmp_path / "predictions.zip", QUERIES, PREDICTED)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.zip"]  # nothing temporary is left
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["predictions.csv"]
        assert archive.testzip() is None
        text = archive.read("predictions.csv")
    assert text.startswith(b"# ")
    rows = np.loadtxt(io.StringIO(text.decode()), dtype=str, ndmin=2)
    assert rows.tolist() == [[query, *keys] for query, keys in zip(QUERIES, PREDICTED, strict=True)]
    assert check(path) == Predictions(queries=3, per_query=21, ignored=0)


def test_one_query_is_enough(tmp_path):
    path = write_predictions(tmp_path / "one.zip", np.array(["q2"]), np.array([DATABASE[:20]]))
    assert check_predictions(path, ["q2"], DATABASE) == Predictions(1, 20, 0)


def test_the_same_predictions_give_the_same_bytes(tmp_path, monkeypatch):
    first = write_predictions(tmp_path / "a.zip", QUERIES, PREDICTED).read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert write_predictions(tmp_path / "a.zip", QUERIES, PREDICTED).read_bytes() == first


@pytest.mark.parametrize(("queries", "predicted", "said"), [
    (QUERIES, PREDICTED[:2], "argument 2 is shorter"),
    ([], [], "no row for 0 of 0 queries; expected some"),
    (["q1", "q2", "q1"], PREDICTED, "row 3: query q1 again, first in predictions, row 1; expected one row a query"),
    (QUERIES, [keys[:19] for keys in PREDICTED], "row 1: 19 predictions for -q_1, expected at least 20"),
    (QUERIES, [*PREDICTED[:2], DATABASE], "row 3: 30 predictions for q3, expected 21 as in row 1"),
    (QUERIES, [PREDICTED[0], [*DATABASE[:20], "d03-_"], PREDICTED[2]], "row 2: d03-_ predicted twice for q2"),
    (["q1", "q2.jpg", "q3"], PREDICTED, "row 2: 'q2.jpg' is no key"),
    (["q1", "q2.JPG", "q3"], PREDICTED, "row 2: 'q2.JPG' is no key"),
    (["q1", "q2", ""], PREDICTED, "row 3: '' is no key"),
    *(([f"q{sign}1", "q2", "q3"], PREDICTED, "row 1: .* is no key") for sign in (" ", "#", ",", "/", "\\", "\n", "é")),
])
def test_nothing_is_written_that_breaks_a_rule(tmp_path, queries, predicted, said):
    path = tmp_path / "predictions.zip"
    path.write_text("what was there before")
    with pytest.raises(ValueError, match=said) as error:
        write_predictions(path, queries, predicted)
    assert "\n" not in str(error.value)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["what was there before"]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="b.zip: no such file; expected predictions"):
        check(tmp_path / "b.zip")


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="disk full"):
        write_predictions(tmp_path / "a.zip", QUERIES, PREDICTED)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [
    "# header\n" + "\n".join(lines()),
    "\r\n".join(["# header", *lines(), ""]),
    "\n\n".join(lines()) + "\n\n",
    "\n".join(lines()).replace(" ", "\t") + "\n# the end",
    "\n".join(f"  {line}   # best first" for line in lines()),
])
def test_files_that_the_official_reader_takes_are_right(tmp_path, text):
    path = tmp_path / "predictions.csv"
    path.write_text(text, newline="")
    assert np.loadtxt(path, dtype=str, ndmin=2).tolist() == [line.split() for line in lines()]
    assert check(path) == Predictions(3, 21, 0)


def test_rows_of_other_queries_are_ignored_but_for_their_form(tmp_path):
    path = tmp_path / "predictions.csv"
    other = " ".join(["other", *(f"elsewhere{i}" for i in range(21))])
    path.write_text("\n".join([other, *lines(), other]))
    assert check(path) == Predictions(3, 21, 2)
    path.write_text("\n".join([*lines(), other.rsplit(" ", 1)[0]]))
    with pytest.raises(ValueError, match=r"row 4 \(line 4\): 20 predictions for other, expected 21 as in row 1"):
        check(path)
    path.write_text("\n".join([*lines(), other.replace("elsewhere20", "elsewhere0")]))
    with pytest.raises(ValueError, match=r"row 4 \(line 4\): elsewhere0 predicted twice for other"):
        check(path)


FIRST, SECOND, THIRD = lines()


@pytest.mark.parametrize(("rows", "said"), [
    (["# header", FIRST, "", SECOND, THIRD + " d00-_"],
     "row 3 (line 5): 22 predictions for q3, expected 21 as in row 1"),
    (["# header", FIRST, SECOND], ": no row for 1 of 3 queries, q3 the first; expected one for each"),
    (["# header"], ": no row for 3 of 3 queries, -q_1 the first; expected one for each"),
    ([FIRST, SECOND, SECOND, THIRD], "row 3 (line 3): query q2 again, first in "),
    ([FIRST, SECOND.replace("d06", "d07"), THIRD], "row 2 (line 2): d07-_ predicted twice for q2; expected each key"),
    ([FIRST, SECOND.replace("d06", "d66"), THIRD], "row 2 (line 2): d66-_, predicted for q2, is no key of a database"),
    (["q2"], "row 1 (line 1): 0 predictions for q2, expected at least 20"),
    ([FIRST, SECOND.rsplit(" ", 2)[0], THIRD], "row 2 (line 2): 19 predictions for q2, expected at least 20"),
    ([FIRST.replace(" ", ","), SECOND, THIRD], "row 1 (line 1): '-q_1,d00-_"),
    ([FIRST.replace(" d00-_", " cph/d00-_"), SECOND, THIRD], "row 1 (line 1): 'cph/d00-_' is no key; expected"),
    ([FIRST.replace("_ ", "_.jpg "), SECOND, THIRD], "row 1 (line 1): 'd00-_.jpg' is no key; expected"),
    (["\ufeff" + FIRST, SECOND, THIRD], "row 1 (line 1): '\\ufeff-q_1' is no key; expected"),
])
@pytest.mark.parametrize("suffix", [".csv", ".zip"])
def test_a_broken_rule_is_one_line_with_its_row(tmp_path, rows, said, suffix):
    path = tmp_path / f"predictions{suffix}"
    text = "\n".join(rows)
    if suffix == ".csv":
        path.write_text(text, encoding="utf-8")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("predictions.csv", text)
    with pytest.raises(ValueError) as error:
        check(path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_form_feeds_do_not_end_a_row(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("\n".join([FIRST.replace(" ", "\x0c", 1), SECOND, THIRD]))
    assert np.loadtxt(path, dtype=str, ndmin=2).shape == (3, 22)
    assert check(path).queries == 3


def test_broken_archives_are_errors(tmp_path):
    path = tmp_path / "a.zip"
    path.write_text("no archive")
    with pytest.raises(ValueError, match=r"a.zip: File is not a zip file"):
        check(path)
    for names, said in (([], "holds nothing; expected one .csv"), (["a.txt"], "holds a.txt; expected one .csv"),
                        (["a.csv", "b.csv"], "holds a.csv, b.csv; expected one .csv")):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "\n".join(lines()))
        with pytest.raises(ValueError, match=said):
            check(path)


def test_a_damaged_archive_is_an_error_or_harmless(tmp_path):
    path = tmp_path / "a.zip"
    whole = write_predictions(path, QUERIES, PREDICTED).read_bytes()
    errors = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1:])
        try:
            assert check(path) == Predictions(3, 21, 0)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            errors += 1
    assert errors > len(whole) / 2
