"""Named protocols and folders on generated miniatures, whose right answers are worked out by hand."""

import dataclasses
import os
import re
from functools import partial
from pathlib import Path

import msls_tree
import pytest

from datasets import protocols
from datasets.msls.listings import msls_test, msls_val
from datasets.protocols import PROTOCOLS, as_protocol, open_protocol, resolve
from datasets.readers.folders import LAYOUT, find_images, read_folder

PAGE = Path(protocols.__file__).with_name("README.md")
EAST, NORTH = 500000.0, 4000000.0
FRAME = 2.38  # metres, in the downloader's made-up coordinates of Nordland


def put(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def at(east=0.0, north=0.0, zone="", tail="@.jpg"):
    """A name with coordinates in metres from the origin; zone "31T", or none."""
    number, letter = (zone[:-1], zone[-1]) if zone else ("", "")
    return f"@{EAST + east:010.2f}@{NORTH + north:010.2f}@{number}@{letter}{tail}"


def answers(listing):
    return [ids.tolist() for ids in listing.positives]


def expect(monkeypatch, name, n_database, n_queries):
    """The protocol, as if a source said that it had so many images."""
    small = dataclasses.replace(PROTOCOLS[name], n_database=n_database, n_queries=n_queries, source="a source")
    monkeypatch.setitem(PROTOCOLS, name, small)


def street(split):
    """Four database images, 20 m apart, and three queries: within 25 m of two, of one at exactly 25 m, of none."""
    put(split / "database", *(at(20 * i) for i in range(4)))
    put(split / "queries", at(10), at(85), at(500))


STREET = [[0, 1], [3], []]


def refused(call, error, *parts):
    with pytest.raises(error) as raised:
        call()
    text = str(raised.value)
    assert "\n" not in text and [part for part in parts if part not in text] == []


# Every protocol that is read by metres, in each of its folders.
@pytest.mark.parametrize(("name", "pair"), [
    (protocol.name, pair) for protocol in PROTOCOLS.values() if not protocol.reader and protocol.frames is None
    for pair in protocol.sides])
def test_protocols_by_metres(tmp_path, monkeypatch, name, pair):
    database, queries = (tmp_path / side for side in pair)
    put(database, at(40), at(0, tail="@.png"), at(20))
    put(database / "part", at(60))
    put(queries, at(10), at(85), at(500))
    expect(monkeypatch, name, 4, 3)
    listing = open_protocol(tmp_path, name)
    assert (listing.name, listing.protocol, listing.warnings) == (name, name, ())
    assert (listing.split, listing.rule, listing.threshold_m) == ("test", "within 25 m", 25.0)
    assert listing.folder == database.parent
    # Sorted by their paths in the folder: 0, 20, 40, then the one in the sub-folder at 60.
    assert [name.removeprefix(f"{database.name}/") for name in listing.names("database")] == [
        at(0, tail="@.png"), at(20), at(40), f"part/{at(60)}"]
    assert answers(listing) == STREET
    assert listing.query_utm.tolist() == [[EAST + 10, NORTH], [EAST + 85, NORTH], [EAST + 500, NORTH]]


def test_the_first_of_two_layouts_is_read_and_the_other_named(tmp_path, monkeypatch):
    street(tmp_path / "svox_night" / "images" / "test")
    put(tmp_path / "svox" / "images" / "test" / "gallery", at(0))
    put(tmp_path / "svox" / "images" / "test" / "queries_night", at(0))
    expect(monkeypatch, "svox_night", 1, 1)
    listing = open_protocol(tmp_path, "svox_night")
    assert listing.names("query") == [f"queries_night/{at(0)}"]
    assert re.search(r"there, and not read: svox_night/images/test/database, svox_night/images/test/queries$",
                     *listing.warnings)


@pytest.mark.parametrize("condition", ["night", "rain", "overcast", "snow", "sun"])
def test_svox_conditions_share_a_database(tmp_path, monkeypatch, condition):
    test = tmp_path / "svox" / "images" / "test"
    put(test / "gallery", at(0), at(20))
    for i, other in enumerate(("night", "rain", "overcast", "snow", "sun")):
        put(test / f"queries_{other}", *(at(100 * k, i) for k in range(i + 1)))
    listing = open_protocol(tmp_path, f"svox_{condition}")
    assert listing.n_queries == ["night", "rain", "overcast", "snow", "sun"].index(condition) + 1
    assert set(listing.names("query")[0].split("/")[:1]) == {f"queries_{condition}"}


def test_wrong_counts_are_told_with_their_source(tmp_path):
    street(tmp_path / "pitts30k" / "images" / "test")
    assert open_protocol(tmp_path, "pitts30k").warnings == (
        "expected 10,000 database images (paper, Table I), found 4: not comparable with published figures",
        "expected 6,816 queries (paper, Table I), found 3: not comparable with published figures")


def test_one_wrong_count(tmp_path, monkeypatch):
    street(tmp_path / "pitts30k" / "images" / "test")
    expect(monkeypatch, "pitts30k", 5, 3)
    assert [said[:26] for said in open_protocol(tmp_path, "pitts30k").warnings] == ["expected 5 database images"]


def test_unverified_counts_are_told(tmp_path):
    street(tmp_path / "sf_xl" / "images" / "test")
    (tmp_path / "sf_xl/images/test/queries").rename(tmp_path / "sf_xl/images/test/queries_v1")
    assert open_protocol(tmp_path, "sf_xl_v1").warnings == (
        "counts unverified: no source states them; found 4 database images and 3 queries",)


def test_counts_from_memory_that_are_not_met_are_no_certainty(tmp_path):
    street(tmp_path / "eynsham" / "images" / "test")
    assert open_protocol(tmp_path, "eynsham").warnings == (
        "expected, unverified: 23,935 database images and 23,935 queries (from memory, no source at hand states them); "
        "found 4 database images and 3 queries",)


@pytest.mark.parametrize("n_queries", [3, 4])
def test_counts_from_memory_that_are_met_are_told_once(tmp_path, monkeypatch, n_queries):
    street(tmp_path / "st_lucia" / "images" / "test")
    monkeypatch.setitem(PROTOCOLS, "st_lucia",
                        dataclasses.replace(PROTOCOLS["st_lucia"], n_database=4, n_queries=n_queries))
    met = ("counts unverified: 4 database images and 3 queries are as many as we remember, but no source at hand "
           "states them")
    other = ("expected, unverified: 4 database images and 4 queries (from memory, no source at hand states them); "
             "found 4 database images and 3 queries")
    assert open_protocol(tmp_path, "st_lucia").warnings == (met if n_queries == 3 else other,)


def test_one_count_without_a_source(tmp_path, monkeypatch):
    street(tmp_path / "pitts30k" / "images" / "test")
    expect(monkeypatch, "pitts30k", 5, None)
    assert open_protocol(tmp_path, "pitts30k").warnings == (
        "counts unverified: no source states them; found 3 queries",
        "expected 5 database images (a source), found 4: not comparable with published figures")


def test_no_count_without_a_source():
    for protocol in PROTOCOLS.values():
        assert (protocol.source is None) == (protocol.n_database is None and protocol.n_queries is None), protocol.name


def test_counts_of_the_papers_table():
    counts = {name: (PROTOCOLS[name].n_database, PROTOCOLS[name].n_queries) for name in (
        "pitts30k", "msls_val_740", "tokyo247", "nordland_27592_w2s_10f", "msls_val_740_40deg")}
    assert counts == {"pitts30k": (10000, 6816), "msls_val_740": (18871, 740), "tokyo247": (75984, 315),
                      "nordland_27592_w2s_10f": (27592, 27592), "msls_val_740_40deg": (18871, 740)}


def test_counts_from_memory():
    """As they were given to us, unverified; whoever finds a source names it."""
    counts = {name: (protocol.n_database, protocol.n_queries) for name, protocol in PROTOCOLS.items()
              if protocol.source == "memory, unverified"}
    assert counts == {"pitts250k": (83952, 8280), "sped": (607, 607), "eynsham": (23935, 23935),
                      "st_lucia": (1549, 1464), "amstertime": (1231, 1231)}
    svox = {"night": 823, "rain": 937, "overcast": 872, "snow": 870, "sun": 854}  # which a source states
    assert {condition: (17166, queries) for condition, queries in svox.items()} == {
        condition: (PROTOCOLS[f"svox_{condition}"].n_database, PROTOCOLS[f"svox_{condition}"].n_queries)
        for condition in svox}


# Nordland: frames 0 to 29 on both sides.


def nordland(folder, database_names, query_names):
    put(folder / "database", *database_names)
    put(folder / "queries", *query_names)


def made_up(i, side):
    return f"@{0:010.2f}@{FRAME * i:010.2f}@@@@@@@@@@@@{side}@.jpg"


def near(n, frames):
    return [[j for j in range(n) if abs(i - j) <= frames] for i in range(n)]


def test_nordland_as_the_downloader_writes_it(tmp_path, monkeypatch):
    expect(monkeypatch, "nordland_27592_w2s_10f", 30, 30)
    nordland(tmp_path / "nordland" / "images" / "test", (made_up(i, "summer") for i in range(30)),
             (made_up(i, "winter") for i in range(30)))
    listing = open_protocol(tmp_path, "nordland_27592_w2s_10f")
    assert answers(listing) == near(30, 10)  # frames 10 apart are 23.8 m apart, frames 11 apart 26.18 m
    assert (listing.rule, listing.threshold_m, listing.warnings) == ("+-10 frames", None, ())
    assert listing.database_utm[3].tolist() == [0, 7.14]
    by_metres = resolve(tmp_path, "nordland")
    assert answers(by_metres) == answers(listing) and by_metres.fingerprint() == listing.fingerprint()
    assert by_metres.protocol is None
    assert by_metres.warnings == ("nordland names no version; protocols: nordland_27592_w2s_10f, "
                                  "nordland_2760_s2w_1f, nordland_3450_2f",)


def test_nordland_by_names_without_coordinates_and_zeros(tmp_path, monkeypatch):
    expect(monkeypatch, "nordland_27592_w2s_10f", 30, 30)
    for season in ("summer", "winter"):
        put(tmp_path / "nordland" / season, *(f"{season}_{i}.png" for i in range(1, 31)))
    listing = open_protocol(tmp_path, "nordland_27592_w2s_10f")
    assert listing.names("query") == [f"winter/winter_{i}.png" for i in range(1, 31)]  # not winter_1, winter_10, ...
    assert listing.names("database")[2] == "summer/summer_3.png"
    assert answers(listing) == near(30, 10)
    assert (listing.database_utm, listing.query_utm, listing.warnings) == (None, None, ())


def test_nordland_whose_frames_and_coordinates_disagree(tmp_path, monkeypatch):
    expect(monkeypatch, "nordland_27592_w2s_10f", 30, 30)
    # Winter frame 29 carries the coordinates of frame 28 and a bit: its right answers by metres are 18 to 29.
    nordland(tmp_path / "nordland" / "images" / "test", (made_up(i, "s") for i in range(30)),
             [*(made_up(i, "w") for i in range(29)), made_up(28.1, "w")])
    listing = open_protocol(tmp_path, "nordland_27592_w2s_10f")
    assert answers(listing) == near(30, 10)
    assert listing.warnings == ("+-10 frames by the order of the names and 25 m by the coordinates in them give "
                                "different right answers for 1 of 30 queries; frames are used",)


def test_frames_need_as_many_on_both_sides(tmp_path):
    nordland(tmp_path / "nordland" / "images" / "test", (made_up(i, "s") for i in range(30)),
             (made_up(i, "w") for i in range(29)))
    refused(lambda: open_protocol(tmp_path, "nordland_27592_w2s_10f"), ValueError, "database: 30 images, and 29 in",
            "expected the same number in both")


def test_nordland_of_two_frames(tmp_path, monkeypatch):
    expect(monkeypatch, "nordland_3450_2f", 6, 6)
    nordland(tmp_path / "nordland_3450" / "images" / "test", (f"{i}.jpg" for i in range(6)),
             (f"{i}.jpg" for i in range(6)))
    listing = open_protocol(tmp_path, "nordland_3450_2f")
    assert answers(listing) == near(6, 2)
    assert (listing.rule, listing.warnings) == ("+-2 frames", ())


def test_nordland_2760_is_for_lists(tmp_path):
    refused(lambda: open_protocol(tmp_path, "nordland_2760_s2w_1f"), ValueError, "--file_lists", "GSV-Cities")
    street(tmp_path / "lists" / "images" / "test")
    listing = as_protocol(read_folder(tmp_path, "lists", split="test"), "nordland_2760_s2w_1f")
    assert (listing.name, listing.protocol) == ("nordland_2760_s2w_1f",) * 2
    assert "expected 2,760 queries (the lists of GSV-Cities), found 3" in listing.warnings[1]


def test_msls_is_read_by_its_own_reader(tmp_path):
    msls_tree.write_raw(tmp_path / "msls")
    msls_tree.write_test(tmp_path / "msls")
    readers = {f"msls_val_{version}": partial(msls_val, version=version) for version in ("740", "740_40deg", "11k")}
    for name, read in {**readers, "msls_test": msls_test}.items():
        listing, own = resolve(tmp_path, name), read(tmp_path)
        assert (listing.name, listing.protocol, listing.rule) == (name, name, PROTOCOLS[name].rule)
        assert (listing.fingerprint(), listing.warnings) == (own.fingerprint(), own.warnings)


@pytest.mark.parametrize(("found", "name", "said"), [
    ("740", "msls (740)", "found the version 740"), ("11k", "msls (11k)", "found the version 11k"),
    ("other", "msls", "3 queries and 4 database images are neither version of MSLS-val"),
])
def test_a_bare_msls_tells_its_version(tmp_path, monkeypatch, found, name, said):
    street(tmp_path / "msls" / "images" / "val")
    if found != "other":
        monkeypatch.setattr(protocols, "detect_msls_version", lambda listing: found)
    listing = resolve(tmp_path, "msls", split="val")
    assert (listing.name, listing.protocol, listing.split) == (name, None, "val")
    assert said in listing.warnings[-1]
    assert listing.warnings[-1].endswith("protocols: msls_val_740, msls_val_740_40deg, msls_val_11k, msls_test")


def test_every_protocol_has_a_set_of_its_own_or_a_warning():
    assert len(PROTOCOLS) == 21 and [name for name in PROTOCOLS if PROTOCOLS[name].name != name] == []


# What --dataset_name means.


def test_a_name_that_is_both_means_the_protocol(tmp_path):
    street(tmp_path / "pitts30k" / "images" / "test")
    street(tmp_path / "pitts30k" / "images" / "val")
    for options in ({}, {"split": "test"}, {"threshold_m": 25.0}, {"split": "test", "threshold_m": 25}):
        assert resolve(tmp_path, "pitts30k", **options).protocol == "pitts30k"
    said = ("not the protocol pitts30k, which is within 25 m",)
    for options, name, warnings, right in (
            ({"split": "val"}, "pitts30k", (), STREET),
            ({"threshold_m": 10.0}, "pitts30k at 10 m", said, [[0, 1], [], []]),
            ({"split": "val", "threshold_m": 30.0}, "pitts30k at 30 m", said, [[0, 1, 2], [3], []])):
        listing = resolve(tmp_path, "pitts30k", **options)
        assert (listing.name, listing.protocol, answers(listing)) == (name, None, right)
        assert (listing.warnings, listing.split) == (warnings, options.get("split", "test"))


def test_any_other_folder(tmp_path):
    street(tmp_path / "corridor" / "images" / "test")
    listing = resolve(tmp_path, "corridor")
    assert (listing.name, listing.protocol, listing.split, listing.warnings) == ("corridor", None, "test", ())
    assert (listing.rule, answers(listing)) == ("within 25 m", STREET)
    listing = resolve(tmp_path, "corridor", split="test", threshold_m=10.5)
    assert (listing.rule, listing.threshold_m, answers(listing)) == ("within 10.5 m", 10.5, [[0, 1], [], []])


@pytest.mark.parametrize(("name", "options", "said"), [
    ("msls_val_740", {"split": "test"}, "val split, within 25 m; leave out what contradicts it (split 'test')"),
    ("msls_val_740_40deg", {"threshold_m": 10.0}, "within 25 m and 40 degrees; leave out what contradicts it (thres"),
    ("nordland_3450_2f", {"threshold_m": 25.0}, "+-2 frames; leave out what contradicts it (threshold 25.0 m)"),
    ("sf_xl_v1", {"split": "val", "threshold_m": 1.0}, "contradicts it (split 'val' and threshold 1.0 m)"),
])
def test_a_protocol_is_not_changed(tmp_path, name, options, said):
    refused(lambda: resolve(tmp_path, name, **options), ValueError, said, "name a folder")


def test_what_is_neither_protocol_nor_folder(tmp_path):
    street(tmp_path / "mine" / "images" / "test")
    put(tmp_path / "notes", "readme.txt")
    refused(lambda: resolve(tmp_path, "pits30k"), FileNotFoundError, "'pits30k' is neither a protocol (pitts30k, ",
            LAYOUT, "folders there: mine")
    refused(lambda: resolve(tmp_path / "nowhere", "x"), FileNotFoundError, "folders there: none")
    refused(lambda: resolve(tmp_path, "mine", split="val"), FileNotFoundError, "no such folder", "test")
    refused(lambda: resolve(tmp_path, "notes"), FileNotFoundError, "notes: no folder images in it; 'notes' is neither")
    for name in ("pitts30k", "svox_rain"):  # the folder is what is missing
        refused(lambda name=name: resolve(tmp_path, name, split="val"), FileNotFoundError,
                f"{name}/images/val/database: no such folder", LAYOUT)


def test_a_toy_root_is_never_a_protocol(tmp_path):
    (tmp_path / "TOY_CITY.json").write_text("{}")
    for split in ("val", "test"):
        for name in ("pitts30k", "msls"):
            street(tmp_path / name / "images" / split)
    for name, options in (("pitts30k", {}), ("pitts30k", {"split": "val"}), ("pitts30k", {"threshold_m": 5.0}),
                          ("msls", {"split": "val"}), ("msls_val_740", {}), ("msls_val_740_40deg", {}),
                          ("msls_val_11k", {}), ("msls_test", {})):
        listing = resolve(tmp_path, name, **options)
        assert (listing.name, listing.protocol, listing.warnings) == (f"toy_city/{name}", None, ())
        assert listing.rule == f"within {options.get('threshold_m', 25):g} m"
    drawn = read_folder(tmp_path, "msls", split="val")
    assert drawn.name == "toy_city/msls" and as_protocol(drawn, "msls_val_740") is drawn


def test_links_are_followed_and_signs_in_folder_names_do_not_matter(tmp_path):
    root = tmp_path / "me@lab@7@"
    street(tmp_path / "@9@9@" / "images" / "test")
    (root / "linked" / "images").mkdir(parents=True)
    (root / "linked" / "images" / "test").symlink_to(tmp_path / "@9@9@" / "images" / "test")
    assert answers(resolve(root, "linked")) == STREET


# What is wrong is one clear line.


@pytest.mark.parametrize(("name", "parts"), [
    ("pitts30k", ["pitts30k: no such folders in", "expected pitts30k/images/test/{database,queries};", "mine, other",
                  "to be had from the author of NetVLAD by mail"]),
    ("svox_sun", ["svox/images/test/{database,queries_sun} or svox/images/test/{gallery,queries_sun} or "
                  "svox_sun/images/test/{database,queries}"]),
])
def test_missing_folders(tmp_path, name, parts):
    put(tmp_path / "mine")
    put(tmp_path / "other")
    refused(lambda: open_protocol(tmp_path, name), FileNotFoundError, *parts)


def test_half_a_set(tmp_path):
    put(tmp_path / "svox" / "images" / "test" / "gallery", at())
    refused(lambda: open_protocol(tmp_path, "svox_sun"), FileNotFoundError,
            "svox/images/test/gallery is there, svox/images/test/queries_sun is not; to be had from")


@pytest.mark.parametrize("name", ["tokyo247", "nordland_27592_w2s_10f"])
def test_empty_folders(tmp_path, name):
    for side in PROTOCOLS[name].sides[0]:
        put(tmp_path / side, "readme.txt")
    refused(lambda: open_protocol(tmp_path, name), FileNotFoundError, "database: no image in it; expected "
            f"<datasets_folder>/{PROTOCOLS[name].where}/")


def test_names_without_coordinates(tmp_path):
    split = tmp_path / "sped" / "images" / "test"
    street(split)
    put(split / "queries", "0001.jpg", "0002.jpg")
    refused(lambda: open_protocol(tmp_path, "sped"), ValueError, str(split / "queries" / "0001.jpg"),
            "no UTM coordinates in the file name (and 1 more like it)")


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    put(tmp_path / "set", at())
    put(tmp_path / "set" / "locked", at())
    scandir = os.scandir

    def locked(path):
        if os.fsencode(path).rstrip(b"/").endswith(b"locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    refused(lambda: find_images(tmp_path / "set"), ValueError, f"{tmp_path / 'set' / 'locked'}",
            "this folder cannot be listed (Permission denied)")


# UTM zones.  43 degrees north, 6 degrees east, the border of zones 31 and 32, lies 244,533.02 m east of the middle of
# zone 31, and as far west of that of zone 32.


def test_zones_far_apart_are_kept_apart(tmp_path):
    split = tmp_path / "cities" / "images" / "test"
    put(split / "database", at(0, zone="10S"), at(5, zone="33U"), at(10, zone="10S"))
    put(split / "queries", at(1, zone="33U"), at(2, zone="10S"), at(2, zone="10T"))
    listing = resolve(tmp_path, "cities")
    assert answers(listing) == [[1], [0, 2], [0, 2]]
    assert listing.warnings == ("images of several UTM zones, none a right answer in another: 4 in 10N, 2 in 33N; the "
                                f"first in 33N is {at(5, zone='33U')}",)


def neighbours(split, metres):
    """Database images on the border, in zone 31, and `metres` east of it, in zone 32; a query 4 m west of it."""
    put(split / "database", "@0744533.02@4765182.93@31@T@.jpg", f"@{255466.98 + metres:010.2f}@4765182.93@32@T@.jpg")
    put(split / "queries", "@0744529.02@4765182.93@31@T@.jpg")


@pytest.mark.parametrize("metres", [0, 20.9])
def test_zones_that_touch_are_an_error(tmp_path, metres):
    neighbours(tmp_path / "border" / "images" / "test", metres)
    refused(lambda: resolve(tmp_path, "border"), ValueError, "UTM zone 31N, within 25 m of", "in zone 32N",
            "@0744529.02@", "@02554", "expected one zone")


@pytest.mark.parametrize("metres", [21.5, 1000])
def test_zones_that_do_not_touch_are_read(tmp_path, metres):
    neighbours(tmp_path / "border" / "images" / "test", metres)
    assert answers(resolve(tmp_path, "border")) == [[1]]  # sorted by name, the image of zone 32 comes first


def test_the_equator_is_a_border(tmp_path):
    split = tmp_path / "equator" / "images" / "test"
    put(split / "database", "@0500000.00@9999995.00@36@M@.jpg", "@0500000.00@0000090.00@36@N@.jpg")
    put(split / "queries", "@0500000.00@0000005.00@36@N@.jpg")
    refused(lambda: resolve(tmp_path, "equator"), ValueError, "zone 36N, within 25 m of", "zone 36S")


def test_zones_in_some_names_alone(tmp_path):
    split = tmp_path / "cities" / "images" / "test"
    put(split / "database", at(0, zone="10S"), at(5, zone="33U"), at(10))
    put(split / "queries", at(1, zone="33U"))
    refused(lambda: resolve(tmp_path, "cities"), ValueError, at(10), "no UTM zone in the file name", "10N, 33N")
    (split / "database" / at(5, zone="33U")).unlink()
    (split / "queries" / at(1, zone="33U")).rename(split / "queries" / at(1, zone="10S"))
    assert answers(resolve(tmp_path, "cities")) == [[0, 1]]  # one zone: names without it are taken for it


# The page.


def table_of_the_page():
    rows = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row] for row in rows]
    return {cell[0].strip("`"): cell[1:] for cell in cells if cell[0].strip("`") in PROTOCOLS}


def test_the_page_has_the_protocols():
    def count(number):
        return "unverified" if number is None else f"{number:,}"

    table = table_of_the_page()
    assert list(table) == list(PROTOCOLS)
    for name, protocol in PROTOCOLS.items():
        where = ", ".join(f"`{part}`" for part in protocol.where.split(" or ")) if protocol.sides else protocol.where
        assert table[name][:-1] == [  # the last cell are notes, which the page alone has
            count(protocol.n_database), count(protocol.n_queries), protocol.rule, where, protocol.source or "none",
            protocol.obtain], name
