"""MSLS in both layouts against what is worked out by hand for the miniature of msls_tree.py."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from msls_tree import (
    EAST,
    FRAMES,
    NORTH,
    TEST_CITIES,
    ZONES,
    as_csv,
    renamed,
    tables,
    write_raw,
    write_renamed,
    write_test,
)

from datasets.listing import Listing
from datasets.msls import listings as msls
from datasets.msls.frames import image_key
from datasets.msls.listings import detect_msls_version, msls_test, msls_val, subset_of

# By hand, from the offsets in msls_tree.py.  B-25m and sB-25m lie at exactly 25 m of q350 and s100 (25, 0 and 15, 20),
# C and sC a quarter of a metre beyond.  Of the angles, q350 is 20 from A and 110 from B; q-1 is 0 from -W (359), 40
# from X, 41 from Y_; q180 is 170, 80 and 170 from A, B and C; s100 is 10 and 20 from its two.
METRES = {"q350": {"A", "B-25m"}, "q-1": {"-W", "X", "Y_"}, "q180": {"A", "B-25m", "C"}, "s100": {"sA", "sB-25m"}}
DEGREES = {"q350": {"A"}, "q-1": {"-W", "X"}, "q180": set(), "s100": {"sA", "sB-25m"}}
ALL = {"q350": {"A", "B-25m", "unflagged"}, "q-1": {"-W", "X", "Y_"}, "q180": {"A", "B-25m", "C", "unflagged"},
       "q_unflagged": {"A", "B-25m", "unflagged"}, "qfar": set(), "s100": {"sA", "sB-25m"},
       "s_alone": {"s_unflagged"}}
FLAGGED = {"A", "B-25m", "C", "-W", "X", "Y_", "sA", "sB-25m", "sC"}
EXPECTED = {"740": (METRES, FLAGGED), "740_40deg": (DEGREES, FLAGGED),
            "11k": (ALL, FLAGGED | {"unflagged", "s_unflagged"})}


def answers(listing):
    database = [image_key(path) for path in listing.database_paths]
    return {image_key(path): {database[i] for i in ids}
            for path, ids in zip(listing.query_paths, listing.positives, strict=True)}


def database_keys(listing):
    return {image_key(path) for path in listing.database_paths}


def raw(folder):
    write_raw(folder / "mapillary_sls")


def raw_in_msls(folder):
    write_raw(folder / "msls")


def raw_itself(folder):
    write_raw(folder)


def renamed_with_keys(folder):
    root = write_renamed(folder)
    (root / "val_740_keys.txt").write_text("q350\r\nq-1\n\ns100\nq180")


def renamed_with_tables(folder):
    write_renamed(folder, heading=False)
    write_raw(folder / "mapillary_sls", images=False)


def moved(folder):
    """As the downloader leaves it: the raw tree keeps its tables and the panoramas."""
    write_renamed(folder, heading=False)
    write_raw(folder / "msls")
    for city, sides in FRAMES.items():
        for side, frames in sides.items():
            for frame in frames:
                if not frame.pano:
                    (folder / "msls" / "train_val" / city / side / "images" / f"{frame.key}.jpg").unlink()


def both(folder):
    """With as many database images in each."""
    write_renamed(folder)
    write_raw(folder / "mapillary_sls")
    (folder / "mapillary_sls/train_val/cph/database/images/pano.jpg").unlink()


@pytest.mark.parametrize("layout", [raw, raw_in_msls, raw_itself, renamed_with_tables, moved, both, renamed_with_keys])
@pytest.mark.parametrize("version", ["740", "740_40deg", "11k"])
def test_right_answers_are_those_worked_out_by_hand(tmp_path, layout, version):
    layout(tmp_path)
    listing = msls_val(tmp_path, version=version)
    right, database = EXPECTED[version]
    if layout is renamed_with_keys:  # whose names tell the subtask of no database image
        database = EXPECTED["11k"][1]
        if version == "740":
            right = {query: ALL[query] for query in right}
        elif version == "740_40deg":
            right = {**right, "q350": {"A", "unflagged"}}  # 20 degrees
    assert answers(listing) == right
    assert database_keys(listing) == database
    assert (listing.n_queries, listing.n_database) == (len(right), len(database))  # each once
    for ids in listing.positives:
        assert ids.dtype == np.int64
        assert ids.tolist() == sorted(ids)
    assert all(path.is_file() for path in [*listing.query_paths, *listing.database_paths])
    assert listing.database_paths == sorted(listing.database_paths)
    assert listing.query_paths == sorted(listing.query_paths)
    assert listing.name == f"msls_val_{version}"
    assert (listing.split, listing.threshold_m) == ("val", 25)
    assert listing.rule == ("within 25 m and 40 degrees" if version == "740_40deg" else "within 25 m")
    assert not [name for side in ("query", "database") for name in listing.names(side) if Path(name).is_absolute()]
    is_renamed = layout in (renamed_with_keys, renamed_with_tables, moved)
    assert listing.folder.name == ("val" if is_renamed else "train_val")


def test_coordinates_belong_to_the_images(tmp_path):
    raw(tmp_path)
    listing = msls_val(tmp_path, version="11k")
    for paths, utm, side in ((listing.query_paths, listing.query_utm, "query"),
                             (listing.database_paths, listing.database_utm, "database")):
        place = {frame.key: [EAST + frame.east, NORTH + frame.north]
                 for city in FRAMES.values() for frame in city[side]}
        assert utm.dtype == np.float64
        assert utm.tolist() == [place[path.stem] for path in paths]


def test_the_raw_tree_and_the_renamed_layout_have_one_set_of_right_answers(tmp_path):
    write_raw(tmp_path / "first")
    write_renamed(tmp_path / "second")
    first, second = (msls_val(tmp_path / name, version="11k") for name in ("first", "second"))
    assert answers(first) == answers(second)
    assert database_keys(first) == database_keys(second)
    # Names are rounded to centimetres, and here exact.
    assert sorted(first.database_utm.tolist()) == sorted(second.database_utm.tolist())


def write_table(path, *, change):
    city, side = path.parts[-3:-1]
    rows = tables(FRAMES[city][side], ZONES[city])[path.stem]
    path.write_bytes(change(rows))


SPELLINGS = {
    "CRLF": lambda rows: as_csv(rows, newline="\r\n").encode(),
    "no last newline": lambda rows: as_csv(rows).rstrip("\n").encode(),
    "CRLF and no last newline": lambda rows: as_csv(rows, newline="\r\n").rstrip("\r\n").encode(),
    "byte order mark": lambda rows: b"\xef\xbb\xbf" + SPELLINGS["no index"](rows),
    "a blank line": lambda rows: (as_csv(rows) + "\n").encode(),
    "spaces": lambda rows: as_csv([{name: f" {value} " for name, value in row.items()} for row in rows]).encode(),
    "lower case": lambda rows: as_csv(rows).replace("True", "true").replace("False", "false").encode(),
    "no index": lambda rows: as_csv([{name: row[name] for name in row if name} for row in rows]).encode(),
    "columns reversed": lambda rows: as_csv([{name: row[name] for name in reversed(row)} for row in rows]).encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_tables_may_be_spelt_in_several_ways(tmp_path, spelling):
    raw(tmp_path)
    plain = {version: msls_val(tmp_path, version=version) for version in EXPECTED}
    for path in tmp_path.glob("*/train_val/*/*/*.csv"):
        write_table(path, change=SPELLINGS[spelling])
    for version, listing in plain.items():
        again = msls_val(tmp_path, version=version)
        assert again.fingerprint() == listing.fingerprint()
        assert again.warnings == listing.warnings


@pytest.mark.parametrize("table", ["raw", "postprocessed", "subtask_index"])
def test_rows_of_tables_are_matched_by_key(tmp_path, table):
    raw(tmp_path)
    plain = msls_val(tmp_path, version="740_40deg")
    for path in tmp_path.glob(f"*/train_val/*/*/{table}.csv"):
        write_table(path, change=lambda rows: as_csv(rows[2:] + rows[:2]).encode())
    again = msls_val(tmp_path, version="740_40deg")
    assert again.fingerprint() == plain.fingerprint()
    assert again.query_utm.tolist() == plain.query_utm.tolist()


def test_what_is_left_out_is_counted_and_said(tmp_path, monkeypatch):
    raw(tmp_path)
    assert msls_val(tmp_path, version="740").warnings == (
        "4 queries, expected 740: not comparable with published figures",
        "9 database images, expected 18,871: not comparable with published figures",
        "left out by the rule, of queries: 1 not in subtask all, 1 panoramas, 2 without a database image within 25 m",
        "left out by the rule, of database images: 2 not in subtask all, 1 panoramas")
    assert msls_val(tmp_path, version="740_40deg").warnings[-1] == (
        "1 of 4 queries have no right answer and count as missed")
    monkeypatch.setitem(msls.COUNTS, "11k", (None, 11))
    assert msls_val(tmp_path, version="11k").warnings == (
        "7 queries: not verified, sources say 11,084 or 11,120",
        "left out by the rule, of queries: 1 panoramas", "left out by the rule, of database images: 1 panoramas",
        "1 of 7 queries have no right answer and count as missed")
    monkeypatch.setitem(msls.COUNTS, "740", (4, 9))
    assert len(msls_val(tmp_path, version="740").warnings) == 2


def test_one_city_alone_is_said(tmp_path):
    raw(tmp_path)
    shutil.rmtree(tmp_path / "mapillary_sls" / "train_val" / "sf")
    listing = msls_val(tmp_path, version="740")
    assert set(answers(listing)) == {"q350", "q-1", "q180"}
    assert listing.warnings[0].endswith("train_val: no sf: figures of a part of the set")


def test_other_cities_are_not_read(tmp_path):
    raw(tmp_path)
    write_raw(tmp_path / "other")
    shutil.copytree(tmp_path / "other/train_val/cph", tmp_path / "mapillary_sls/train_val/trondheim")
    assert answers(msls_val(tmp_path, version="740")) == METRES


def test_renamed_images_that_no_table_lists_are_left_out_and_counted(tmp_path):
    renamed_with_tables(tmp_path)
    folder = tmp_path / "msls/images/val/database"
    for key in ("miami-1", "miami-2"):
        shutil.copy(next(folder.iterdir()), folder / renamed(FRAMES["cph"]["database"][0]._replace(key=key), 17))
    for version in EXPECTED:
        listing = msls_val(tmp_path, version=version)
        assert answers(listing) == EXPECTED[version][0]
        assert f"{folder}: 2 images left out that no table lists" in listing.warnings


def test_a_city_in_two_zones_is_said(tmp_path):
    raw(tmp_path)
    path = tmp_path / "mapillary_sls/train_val/cph/query/raw.csv"
    write_table(path, change=lambda rows: as_csv([{**row, "lon": 11.9} if row["key"] == "qfar" else row
                                                  for row in rows]).encode())
    remarks = [line for line in msls_val(tmp_path, version="740").warnings if "zones" in line]
    assert len(remarks) == 1
    assert remarks[0].startswith(f"{path.parent}: frames in UTM zones 32 and 33: metres do not compare")


def test_renamed_folder_with_740_queries_needs_no_list(tmp_path, monkeypatch):
    write_renamed(tmp_path)
    monkeypatch.setitem(msls.COUNTS, "740", (7, 11))
    listing = msls_val(tmp_path, version="740")
    assert answers(listing) == ALL
    assert "the 7 queries are taken for the official ones by their number" in listing.warnings
    assert "1 of 7 queries have no right answer and count as missed" in listing.warnings


def test_listed_keys_are_all_kept(tmp_path):
    root = write_renamed(tmp_path)
    (root / "val_740_keys.txt").write_text("qfar\nq350\n")
    listing = msls_val(tmp_path, version="740")
    assert answers(listing) == {"q350": {"A", "B-25m", "unflagged"}, "qfar": set()}
    assert "1 of 2 queries have no right answer and count as missed" in listing.warnings
    assert "left out by the rule, of queries: 5 not in val_740_keys.txt" in listing.warnings


@pytest.mark.parametrize("layout", [raw, renamed_with_tables, renamed_with_keys])
@pytest.mark.parametrize("version", ["740", "740_40deg"])
def test_both_versions_are_scored_by_one_extraction(tmp_path, layout, version):
    layout(tmp_path)
    whole, part = msls_val(tmp_path, version="11k"), msls_val(tmp_path, version=version)
    subset = subset_of(whole, part)
    assert subset.query_rows.dtype == subset.database_rows.dtype == np.int64
    assert [whole.query_paths[row] for row in subset.query_rows] == part.query_paths
    assert [whole.database_paths[row] for row in subset.database_rows] == part.database_paths
    for row, ids in zip(subset.query_rows, part.positives, strict=True):
        within_25_m = set(whole.positives[row]) & set(subset.database_rows)
        right = set(subset.database_rows[ids])
        assert right == within_25_m if version == "740" else right <= within_25_m


def test_an_image_outside_the_whole_is_an_error(tmp_path):
    raw(tmp_path)
    whole, part = msls_val(tmp_path, version="740"), msls_val(tmp_path, version="11k")
    with pytest.raises(KeyError, match=r"q_unflagged\.jpg"):
        subset_of(whole, part)


@pytest.mark.parametrize(("n_queries", "n_database", "unanswered", "version"), [
    (740, 18871, 0, "740"), (740, 18871, None, "740"), (740, 18871, 1, "other"), (740, 18000, 0, "other"),
    (747, 18871, 0, "other"), (11084, 18871, 600, "11k"), (11120, 18871, 600, "11k"), (11120, 36565, 600, "other"),
    (11000, 18871, 0, "11k"), (11200, 18871, 0, "11k"), (10999, 18871, 0, "other"), (11201, 18871, 0, "other")])
def test_version_of_a_folder(n_queries, n_database, unanswered, version):
    positives = None
    if unanswered is not None:
        positives = [np.arange(i >= unanswered) for i in range(n_queries)]
    listing = Listing(name="msls", folder=Path("val"), database_paths=range(n_database), query_paths=range(n_queries),
                      positives=positives, rule="within 25 m")
    assert detect_msls_version(listing) == version


def edit(path, line, old, new):
    lines = path.read_text().split("\n")
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(("table", "line", "old", "new", "said"), [
    ("raw", 1, "pano", "panorama", "line 1: no column pano; found key, lon, lat, ca, captured_at, panorama;"),
    ("raw", 1, "ca,", "angle,", "line 1: no column ca; found"),
    ("postprocessed", 1, "easting,northing", "e,n", "line 1: no column easting, northing; found key, e, n,"),
    ("subtask_index", 1, "all", "every", "line 1: no column all; found"),
    ("raw", 1, "key", "id", "line 1: no column key; found"),
    ("postprocessed", 3, "B-25m", "A", "line 3: key 'A' again, first in line 2"),
    ("raw", 5, "pano", "A", "line 5: key 'A' again, first in line 2"),
    ("raw", 3, "B-25m", "", "line 3: no key"),
    ("raw", 3, ",False", "", "line 3: 6 fields under a header of 7"),
    ("raw", 3, "False", "False,", "line 3: 8 fields under a header of 7"),
    ("raw", 3, "False", "0", "line 3: pano '0', expected True or False"),
    ("subtask_index", 4, "True,", "yes,", "line 4: all 'yes', expected True or False"),
    ("postprocessed", 3, "346025.0", "346o25", "line 3: easting '346o25', expected a finite number"),
    ("postprocessed", 4, "6171000.0", "nan", "line 4: northing 'nan', expected a finite number"),
    ("raw", 3, "100.0", "", "line 3: ca '', expected a finite number"),
    ("raw", 4, "C,", "D,", "raw.csv; expected the same frames in both"),
    ("subtask_index", 4, "C,", "D,", "subtask_index.csv; expected the same frames in both"),
])
def test_a_bad_table_is_one_error_with_its_line(tmp_path, table, line, old, new, said):
    raw(tmp_path)
    path = tmp_path / "mapillary_sls/train_val/cph/database" / f"{table}.csv"
    edit(path, line, old, new)
    with pytest.raises(ValueError) as error:
        msls_val(tmp_path, version="740_40deg")
    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_frame_that_the_first_table_lacks_is_an_error(tmp_path):
    raw(tmp_path)
    path = tmp_path / "mapillary_sls/train_val/cph/database/postprocessed.csv"
    write_table(path, change=lambda rows: as_csv(rows[:-1]).encode())
    with pytest.raises(ValueError, match=r"raw.csv, line 9: key 'Y_' is not in .*postprocessed.csv;"):
        msls_val(tmp_path, version="11k")


def test_bytes_that_are_no_text_are_an_error(tmp_path):
    raw(tmp_path)
    path = tmp_path / "mapillary_sls/train_val/cph/database/raw.csv"
    path.write_bytes(path.read_bytes().replace(b"B-25m", b"B\xff\xfe"))
    with pytest.raises(ValueError, match=r"raw.csv, line \d: .*decode"):
        msls_val(tmp_path, version="740")


def test_values_of_frames_that_are_left_out_do_not_matter(tmp_path):
    raw(tmp_path)
    folder = tmp_path / "mapillary_sls/train_val/cph/database"
    edit(folder / "raw.csv", 5, ",10.0", ",")  # the panorama's heading
    edit(folder / "raw.csv", 5, "12.5", "east")  # its longitude
    edit(folder / "postprocessed.csv", 6, "346002.0", "")  # east of the frame outside the subtask
    (folder / "images/pano.jpg").unlink()
    (folder / "images/unflagged.jpg").unlink()
    assert answers(msls_val(tmp_path, version="740_40deg")) == DEGREES
    with pytest.raises(ValueError, match="line 6: easting"):
        (folder / "images/unflagged.jpg").touch()
        msls_val(tmp_path, version="11k")


def test_headings_matter_to_the_version_that_compares_them(tmp_path):
    raw(tmp_path)
    for path in tmp_path.glob("*/train_val/*/*/raw.csv"):
        write_table(path, change=lambda rows: as_csv([{name: row[name] for name in ("key", "pano")}
                                                      for row in rows]).encode())
    assert answers(msls_val(tmp_path, version="740")) == METRES
    with pytest.raises(ValueError, match="raw.csv, line 1: no column ca; found key, pano"):
        msls_val(tmp_path, version="740_40deg")


@pytest.mark.parametrize("version", ["740", "11k"])
def test_absent_images_are_an_error_with_file_and_line(tmp_path, version):
    raw(tmp_path)
    folder = tmp_path / "mapillary_sls/train_val/cph/query"
    (folder / "images/q-1.jpg").unlink()
    (folder / "images/q180.jpg").unlink()
    with pytest.raises(FileNotFoundError) as error:
        msls_val(tmp_path, version=version)
    assert str(error.value) == (
        f"{folder}/postprocessed.csv, line 3: no image of 'q-1' (and 1 more like it); expected "
        f"{folder}/images/q-1.jpg, or one renamed with this key")


@pytest.mark.parametrize("table", ["raw", "postprocessed", "subtask_index"])
def test_absent_tables_are_an_error(tmp_path, table):
    raw(tmp_path)
    path = tmp_path / "mapillary_sls/train_val/sf/query" / f"{table}.csv"
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no such file; expected .* Mapillary download's table") as error:
        msls_val(tmp_path, version="740")
    assert str(error.value).startswith(f"{path}: ")
    if table == "subtask_index":  # which the 11k has no use for
        assert answers(msls_val(tmp_path, version="11k")) == ALL


def test_a_key_in_two_cities_is_an_error(tmp_path):
    renamed_with_tables(tmp_path)
    edit(tmp_path / "mapillary_sls/train_val/sf/database/postprocessed.csv", 2, "sA", "A")
    for table in ("raw", "subtask_index"):
        edit(tmp_path / f"mapillary_sls/train_val/sf/database/{table}.csv", 2, "sA", "A")
    with pytest.raises(ValueError, match="key 'A' in the tables of cph and of sf; expected each key once"):
        msls_val(tmp_path, version="740")


def test_nothing_left_is_an_error(tmp_path):
    raw(tmp_path)
    for path in tmp_path.glob("*/train_val/*/query/subtask_index.csv"):
        path.write_text(path.read_text().replace("True", "False"))
    with pytest.raises(ValueError, match=r"no queries of msls_val_740 are left \(8 not in subtask all\); expected"):
        msls_val(tmp_path, version="740")


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no MSLS-val; expected msls or mapillary_sls/train_val"):
        msls_val(tmp_path, version="740")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no MSLS test; expected msls or mapillary_sls/test/"):
        msls_test(tmp_path)


@pytest.mark.parametrize("version", ["740", "740_40deg"])
def test_the_740_of_renamed_images_need_a_list(tmp_path, version):
    root = write_renamed(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        msls_val(tmp_path, version=version)
    assert str(error.value).startswith(f"{root}/val_740_keys.txt: no such file, and 7 queries do not tell")
    assert "github.com/Lu-Feng/MSLS-val" in str(error.value)
    assert "mapillary_sls" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "said"), [
    ("q350\nq-1\nq350\n", "line 3: key 'q350' again, first in line 1;"),
    ("q350\n\nq351\n", "line 3: key 'q351' of no image;"), ("\n", "no key in it;")])
def test_a_bad_list_of_keys_is_an_error(tmp_path, text, said):
    root = write_renamed(tmp_path)
    (root / "val_740_keys.txt").write_text(text)
    with pytest.raises(ValueError, match=said):
        msls_val(tmp_path, version="740")


@pytest.mark.parametrize(("old", "new", "said"), [
    ("@q350@", "@@", "no Mapillary key in the file name"),
    ("@q350@", "@q180@", "key 'q180' also belongs to"),
    ("@33@", "@@", "no UTM coordinates with zone and letter"),
    ("@U@", "@@", "no UTM coordinates with zone and letter"),
    ("@0346000", "@east", "no UTM coordinates with zone and letter"),
    ("@0346000.00", "@nan", "no UTM coordinates with zone and letter"),
    ("@33@", "@17@", "UTM zone 17N, expected 10N or 33N"),
    ("@U@", "@L@", "UTM zone 33S, expected 10N or 33N"),
])
def test_bad_names_are_errors(tmp_path, old, new, said):
    renamed_with_keys(tmp_path)
    path = next((tmp_path / "msls/images/val/queries").glob("*@q350@*"))
    path.rename(path.with_name(path.name.replace(old, new)))
    with pytest.raises(ValueError, match=said) as error:
        msls_val(tmp_path, version="11k")
    assert str(path.parent) in str(error.value)
    assert "\n" not in str(error.value)


def test_headings_must_be_in_the_names_or_in_tables(tmp_path):
    root = write_renamed(tmp_path, heading=False)
    (root / "val_740_keys.txt").write_text("q350\n")
    assert answers(msls_val(tmp_path, version="740")) == {"q350": {"A", "B-25m", "unflagged"}}
    with pytest.raises(ValueError, match="no heading in the ninth field of the name; put the Mapillary download's"):
        msls_val(tmp_path, version="740_40deg")


def test_an_empty_renamed_folder_is_an_error(tmp_path):
    write_renamed(tmp_path)
    shutil.rmtree(tmp_path / "msls/images/val/database")
    with pytest.raises(FileNotFoundError, match="database: no image in it; expected @<utm_east>"):
        msls_val(tmp_path, version="11k")


TEST_QUERIES = {f"{city}-{name}" for city in TEST_CITIES for name in ("q", "lost")}
TEST_DATABASE = {f"{city}-{name}" for city in TEST_CITIES for name in "de"}


@pytest.mark.parametrize("root", ["msls", "mapillary_sls", "."])
def test_the_test_set_as_released_first_has_no_labels(tmp_path, root):
    write_test(tmp_path / root, only=("subtask_index", "seq_info"))
    listing = msls_test(tmp_path)
    assert listing.positives is listing.database_utm is listing.query_utm is None
    assert {image_key(path) for path in listing.query_paths} == TEST_QUERIES
    assert database_keys(listing) == TEST_DATABASE
    assert (listing.n_queries, listing.n_database) == (12, 12)
    assert (listing.name, listing.split, listing.folder) == ("msls_test", "test", tmp_path / root / "test")
    assert listing.warnings == (
        "12 queries, expected 1,135: not comparable with published figures",
        "12 database images, expected 36,565: not comparable with published figures",
        "no ground truth: postprocessed.csv missing for miami, athens, buenosaires, stockholm, bengaluru, kampala",
        "left out by the rule, of database images: 6 not in subtask all")


def test_the_test_set_with_ground_truth(tmp_path, monkeypatch):
    write_test(tmp_path / "msls", only=("subtask_index", "postprocessed"))
    monkeypatch.setitem(msls.COUNTS, "test", (12, 12))
    listing = msls_test(tmp_path)
    assert answers(listing) == {f"{city}-q": {f"{city}-d"} for city in TEST_CITIES}
    assert database_keys(listing) == TEST_DATABASE
    assert listing.warnings == (
        "ground truth: postprocessed.csv of miami, athens, buenosaires, stockholm, bengaluru, kampala",
        "left out by the rule, of queries: 6 without a database image within 25 m",
        "left out by the rule, of database images: 6 not in subtask all")


def test_ground_truth_of_some_cities_labels_nothing(tmp_path):
    write_test(tmp_path / "msls")
    (tmp_path / "msls/test/athens/query/postprocessed.csv").unlink()
    listing = msls_test(tmp_path)
    assert listing.positives is None
    assert listing.n_queries == 12
    assert "no ground truth: postprocessed.csv missing for athens" in listing.warnings


def test_panoramas_of_the_test_set_are_left_out_where_a_table_tells(tmp_path):
    write_test(tmp_path / "msls", only=("subtask_index", "raw"))
    path = tmp_path / "msls/test/miami/database/raw.csv"
    path.write_text("key,pano\nmiami-d,True\nmiami-e,False\nmiami-f,False")
    listing = msls_test(tmp_path)
    assert database_keys(listing) == TEST_DATABASE - {"miami-d"}
    assert "left out by the rule, of database images: 6 not in subtask all, 1 panoramas" in listing.warnings
