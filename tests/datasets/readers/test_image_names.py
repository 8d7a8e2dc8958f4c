"""Names with "@": every field, and names that lack some."""

import numpy as np
import pytest

from datasets.readers.image_names import FORM, ImageName, number, parse_name, zone_name

NAME = "@0548546.25@4180340.50@10@S@37.77@-122.41@key-1_@07@350@1@2@3@201907@day_Forward@.jpg"
FIELDS = ImageName("0548546.25", "4180340.50", "10", "S", "37.77", "-122.41", "key-1_", "07", "350", "1", "2", "3",
                   "201907", "day_Forward")


def test_all_fields_there_and_back():
    assert parse_name(NAME) == parse_name(f"a/b@c@/{NAME}") == parse_name(f"d@/{NAME}".encode()) == FIELDS
    assert str(FIELDS) == NAME and str(ImageName(east=1.5, zone=31)) == "@1.5@@31@@@@@@@@@@@@.jpg"
    assert str(parse_name(FORM)) == FORM
    assert parse_name("@1@2@3@U@5@6@k\udcff@.jpg") == parse_name(b"@1@2@3@U@5@6@k\xff@.jpg")


@pytest.mark.parametrize("name, expected", [
    ("@1@2@.jpg", ("1", "2")), ("@1.5@2.5.PNG", ("1.5", "2.5")), ("x@1@2@3@4@.jpeg", ("1", "2", "3", "4")),
    ("house.jpg", ()), ("@.jpg", ()), ("@1@2@3@U@5@6@key", ("1", "2", "3", "U", "5", "6", "key")),
])
def test_fields_that_lack_are_empty(name, expected):
    assert parse_name(name) == ImageName(*expected)


def test_metres():
    assert FIELDS.metres == (548546.25, 4180340.5)
    assert np.isnan(parse_name("@1@north@.jpg").metres).tolist() == [False, True]


@pytest.mark.parametrize("zone, letter, expected", [
    ("31", "T", 31), ("31", "C", -31), ("31", "M", -31), ("31", "N", 31), ("7", "x", 7), ("7", "h", -7), ("31", "", 31),
    ("", "", 0), ("031", "t", 31), ("61", "N", 0), ("0", "N", 0), ("place", "", 0), ("\u0663", "", 0), ("9", "O", 9),
    ("9", "ST", 9), ("9", "A", 9),
])
def test_zones(zone, letter, expected):
    assert ImageName(zone=zone, letter=letter).signed_zone == expected
    if expected:
        assert zone_name(expected) == f"{abs(expected)}{'N' if expected > 0 else 'S'}"


def test_plain_numbers():
    assert [number(text) for text in ("1", " -2.5 ", "+.5", "3.", "1e3")] == [1, -2.5, 0.5, 3, 1000]
    assert np.isnan([number(text) for text in ("", "1 2", "0x1", "inf", "nan", "1e999", "1,5", "1_0", "\u0661")]).all()
