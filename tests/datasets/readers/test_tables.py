"""The reader of CSV tables with a header."""

import os

import pytest

from datasets.readers.tables import read_rows


def read(path, content, columns=("a", "b"), parse=dict):
    path.write_bytes(content)
    return list(read_rows(path, columns, parse, expected="columns a,b"))


@pytest.mark.parametrize("content", [
    b"a,b,c\n1,x,3\n2,y,4\n", b"c,b,a\n3,x,1\n4,y,2", b"\xef\xbb\xbfa,b,c\r\n1,x,3\r\n2,y,4\r\n",
    b" A , B,C\n1,x,3\n2,y,4\n", b'"a","b",c\n1,"x",3\n2,y,4\n',
])
def test_spellings_of_one_table(tmp_path, content):
    rows = [{"a": "1", "b": "x", "c": "3"}, {"a": "2", "b": "y", "c": "4"}]
    assert read(tmp_path / "t.csv", content) == list(enumerate(rows, 2))


def test_blank_lines_and_columns_without_a_name_are_passed_over(tmp_path):
    rows = read(tmp_path / "t.csv", b",a,b,\n\n0,1,x,\n\n1,2,y,\n\n")
    assert [(line, row["a"], row["b"]) for line, row in rows] == [(3, "1", "x"), (5, "2", "y")]


@pytest.mark.parametrize("content, said", [
    (b"", "line 1: no column a, b; found none"), (b"a,c\n", "line 1: no column b; found a, c"),
    (b"a,b,a\n", "line 1: column a twice"), (b"a,b,c,C\n", "line 1: column c twice"),
    (b"a,b\n1,2\n1\n", "line 3: 1 fields under a header of 2"), (b"a,b\n1,2,3\n", "line 2: 3 fields"),
    (b'a,b\n"1,2\n', "line 2: unexpected end of data"), (b'a,b\n"1"x,2\n', "line 2: "),
    (b"a,b\n\xff,2\n", "'utf-8' codec"),
    (b"a,b\n1,2\nx,2\n", "line 3: invalid literal for int"),
])
def test_a_bad_table_is_one_line(tmp_path, content, said):
    with pytest.raises(ValueError) as error:
        read(tmp_path / "t.csv", content, parse=lambda row: int(row["a"]))
    assert str(error.value).startswith(f"{tmp_path / 't.csv'}, line ") and said in str(error.value)
    assert str(error.value).endswith("; expected columns a,b") and "\n" not in str(error.value)


def test_a_table_that_is_not_there(tmp_path):
    for path in (tmp_path, tmp_path / "t.csv"):
        with pytest.raises(FileNotFoundError, match=f"{path}: no such file; expected columns a,b"):
            list(read_rows(path, ("a",), dict, expected="columns a,b"))


def test_no_fifo_is_read(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"t\.csv: a FIFO, socket or device; expected a regular file"):
        list(read_rows(tmp_path / "t.csv", ("a",), dict, expected="columns a,b"))
