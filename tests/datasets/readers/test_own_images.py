"""Two folders of any images, with coordinates from a table, EXIF data or names; right answers worked out by hand."""

import csv
import os

import pytest
import utm
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from datasets import own_images

MUNICH = (48.137, 11.575)  # UTM zone 32


def add(folder, *names, gps=None, size=(8, 6)):
    """Images; with gps the EXIF tags 1 to 4 of GPS."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if gps is not None:
            exif[0x8825] = gps
        Image.new("RGB", size).save(path, exif=exif)
    return folder


def angle(degrees):
    """Degrees, minutes, and seconds to a hundred-thousandth, 0.3 mm."""
    ticks = round(abs(degrees) * 3600 * 100_000)
    return (IFDRational(ticks // 360_000_000, 1), IFDRational(ticks // 6_000_000 % 60, 1),
            IFDRational(ticks % 6_000_000, 100_000))


def gps(lat, lon):
    return {1: "S" if lat < 0 else "N", 2: angle(lat), 3: "W" if lon < 0 else "E", 4: angle(lon)}


def table(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def street(tmp_path):
    """Three database and two query images, and a function that writes a table of them with metres.

    Along a street, east of 1000: database 0, 30, 60; queries 5 (5 and 25 from the first two) and 400 m.
    """
    add(tmp_path / "shots", "b.JPG", "in/a.png", "in/IMG 3.jpeg")
    add(tmp_path / "phone", "x.jpg", "y.jpg")
    rows = {"b.JPG": 0, "in/a.png": 30, "in/IMG 3.jpeg": 60, "x.jpg": 5, "y.jpg": 400}

    def write(**changed):
        lines = [[path, 1000 + east, 5000] for path, east in {**rows, **changed}.items()]
        return table(tmp_path / "where.csv", ["path", "utm_east", "utm_north"], *lines)

    return tmp_path, write


def of(folder, **options):
    return own_images(folder / "shots", folder / "phone", **options)


def test_a_table_of_metres(street):
    folder, write = street
    listing = of(folder, coordinates=write())
    assert listing.names("database") == ["shots/b.JPG", "shots/in/IMG 3.jpeg", "shots/in/a.png"]
    assert listing.names("query") == ["phone/x.jpg", "phone/y.jpg"]
    assert listing.folder == folder and listing.database_paths[0] == folder / "shots" / "b.JPG"
    assert listing.database_utm.tolist() == [[1000, 5000], [1060, 5000], [1030, 5000]]
    assert listing.query_utm.tolist() == [[1005, 5000], [1400, 5000]]
    assert [ids.tolist() for ids in listing.positives] == [[0, 2], []]  # exactly 25 m counts
    assert (listing.rule, listing.threshold_m, listing.split, listing.protocol) == ("within 25 m", 25, None, None)
    assert listing.name == folder.name and listing.warnings == ()


@pytest.mark.parametrize("threshold, expected", [(5, [[0], []]), (4.9, [[], []]), (55, [[0, 1, 2], []]),
                                                 (400, [[0, 1, 2], [0, 1, 2]])])
def test_any_threshold(street, threshold, expected):
    folder, write = street
    listing = of(folder, coordinates=write(), threshold_m=threshold)
    assert [ids.tolist() for ids in listing.positives] == expected
    assert (listing.rule, listing.threshold_m) == (f"within {threshold} m", threshold)


def test_a_senseless_threshold(street):
    folder, write = street
    with pytest.raises(ValueError, match="threshold -1"):
        of(folder, coordinates=write(), threshold_m=-1)


def test_a_table_may_name_the_folders_and_order_its_columns(street):
    folder, _ = street
    path = table(folder / "t.csv", ["Heading", "lon", "note", "path", " LAT "],
                 ["", MUNICH[1], "", "./shots/b.JPG", MUNICH[0]], ["12.5", MUNICH[1], "x", "in\\a.png", MUNICH[0]], [],
                 ["0", MUNICH[1], "", "shots/in/IMG 3.jpeg", MUNICH[0] + 0.001],
                 ["0", MUNICH[1], "", "x.jpg", MUNICH[0]], ["0", MUNICH[1], "", "phone/y.jpg", MUNICH[0] + 0.001])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets do
    listing = of(folder, coordinates=path)
    assert [ids.tolist() for ids in listing.positives] == [[0, 2], [1]]  # 0.001 degrees are 111 m
    assert listing.database_utm[0] == pytest.approx(utm.from_latlon(*MUNICH)[:2])
    assert listing.warnings == (f"{path}: columns not read: note",)


def test_accents_are_matched_however_they_are_spelt(tmp_path):
    add(tmp_path / "shots", "Cafe\u0301.jpg")
    add(tmp_path / "phone", "x.jpg")
    path = table(tmp_path / "t.csv", ["path", "lat", "lon"], ["Caf\u00e9.jpg", *MUNICH], ["x.jpg", *MUNICH])
    assert [ids.tolist() for ids in of(tmp_path, coordinates=path).positives] == [[0]]


def test_an_image_without_a_row(street):
    folder, _ = street
    path = table(folder / "t.csv", ["path", "lat", "lon"], ["b.JPG", *MUNICH], ["x.jpg", *MUNICH], ["y.jpg", *MUNICH])
    with pytest.raises(ValueError, match=r"t\.csv: no row for .*IMG 3\.jpeg \(and for 1 more of 5 images\); expected "
                                         r"one with the path in/IMG 3\.jpeg or shots/in/IMG 3\.jpeg, or --no_labels"):
        of(folder, coordinates=path)


def test_two_rows_for_one_image(street):
    folder, write = street
    with pytest.raises(ValueError, match=r"where\.csv, lines 2 and 7: both are of .*b\.JPG; expected one row"):
        of(folder, coordinates=write(**{"shots/b.JPG": 0}))


def test_rows_of_no_image_are_counted(street):
    folder, write = street
    listing = of(folder, coordinates=write(**{"c.jpg": 0, "phone/b.JPG": 1}))
    assert listing.warnings == (f"{folder / 'where.csv'}: 2 of 7 rows are of no image in the two folders, first line "
                                "7, c.jpg",)


def test_a_row_that_fits_two_images(street):
    folder, write = street
    add(folder / "phone", "b.JPG")
    with pytest.raises(ValueError, match=r"line 2: b\.JPG may be .*phone/b\.JPG or .*shots/b\.JPG; expected"):
        of(folder, coordinates=write())
    path = table(folder / "t.csv", ["path", "utm_east", "utm_north"], ["phone/b.JPG", 1, 2], ["shots/b.JPG", 3, 4],
                 *[[name, 5, 6] for name in ("in/a.png", "in/IMG 3.jpeg", "x.jpg", "y.jpg")])
    listing = of(folder, coordinates=path)
    assert listing.query_utm[0].tolist() == [1, 2] and listing.database_utm[0].tolist() == [3, 4]


def test_queries_that_are_in_the_database_are_counted(street):
    folder, write = street
    listing = own_images(folder, folder / "phone", coordinates=write(
        **{"shots/b.JPG": 0, "shots/in/a.png": 0, "shots/in/IMG 3.jpeg": 0}))
    assert [ids.tolist() for ids in listing.positives] == [[0, 2, 3, 4], [1]]
    assert any("2 of 2 queries are in the database too" in warning for warning in listing.warnings)
    (folder / "linked").symlink_to(folder / "phone")
    assert any("2 of 2 queries" in warning for warning in
               own_images(folder / "phone", folder / "linked", labels=False).warnings)


def test_exif_gps(tmp_path):
    lat, lon = 48.1372, 11.5755
    add(tmp_path / "shots", "near.jpg", gps=gps(lat + 0.0002, lon))  # 22 m
    add(tmp_path / "shots", "far.png", gps=gps(lat + 0.0003, lon))  # 33 m
    add(tmp_path / "phone", "q.jpeg", gps=gps(lat, lon))
    listing = of(tmp_path)
    assert listing.names("database") == ["shots/far.png", "shots/near.jpg"]
    assert [ids.tolist() for ids in listing.positives] == [[1]]
    assert listing.query_utm[0] == pytest.approx(utm.from_latlon(lat, lon)[:2], abs=0.001)
    assert listing.warnings == ()


def test_a_file_that_is_no_image_is_named_when_its_exif_is_wanted(tmp_path):
    add(tmp_path / "phone", "q.jpg", gps=gps(*MUNICH))
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots" / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"shots.a\.jpg: not a readable image"):
        of(tmp_path)


def test_images_with_coordinates_in_their_names_are_not_opened(tmp_path, monkeypatch):
    for side in ("shots", "phone"):
        (tmp_path / side / "with@7@8@").mkdir(parents=True)
        (tmp_path / side / "with@7@8@" / "@1000@2000@.jpg").touch()

    def opened(path, *_, **__):
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(Image, "open", opened)
    assert [ids.tolist() for ids in of(tmp_path).positives] == [[0]]
    where = table(tmp_path / "t.csv", ["path", "lat", "lon"], *[[f"{side}/with@7@8@/@1000@2000@.jpg", *MUNICH]
                                                               for side in ("shots", "phone")])
    assert of(tmp_path, coordinates=where).query_utm[0] == pytest.approx(utm.from_latlon(*MUNICH)[:2])
    (tmp_path / "shots" / "plain.jpg").touch()
    assert of(tmp_path, labels=False).positives is None
    with pytest.raises(AssertionError, match=r"plain\.jpg was opened"):
        of(tmp_path)


def test_names_and_exif_together(tmp_path):
    east, north, zone, letter = utm.from_latlon(*MUNICH)
    add(tmp_path / "shots", f"@{east + 20:.2f}@{north:.2f}@{zone}@{letter}@.jpg", gps=gps(10, 10))  # the name counts
    add(tmp_path / "phone", "q.jpg", gps=gps(*MUNICH))
    listing = of(tmp_path)
    assert [ids.tolist() for ids in listing.positives] == [[0]]
    assert listing.warnings == ("coordinates of 1 images are from their names, of 1 from EXIF GPS",)
    for vague in (f"@{east:.2f}@{north:.2f}@.jpg", f"@{east:.2f}@{north:.2f}@{zone}@@.jpg"):
        path = add(tmp_path / "shots", vague) / vague
        with pytest.raises(ValueError, match=rf"{vague} has metres without a UTM zone and letter, .*q\.jpg degrees"):
            of(tmp_path)
        path.unlink()


def test_no_coordinates_names_an_image_and_the_ways(street):
    folder, _ = street
    add(folder / "shots", "b.JPG", gps=gps(*MUNICH))
    with pytest.raises(ValueError) as error:
        of(folder)
    said = str(error.value)
    assert f"no coordinates for {folder}/shots/in/IMG 3.jpeg (and for 3 more of 5 images)" in said
    assert all(way in said for way in ("--coordinates", "path,lat,lon", "path,utm_east,utm_north", "EXIF GPS",
                                       "@<utm_east>@<utm_north>", "--no_labels")) and "\n" not in said


def test_without_labels(street):
    folder, write = street
    listing = of(folder, labels=False)
    assert listing.positives is None and listing.database_utm is None and listing.query_utm is None
    assert (listing.rule, listing.threshold_m, listing.warnings) == ("no labels", None, ())
    assert (listing.n_database, listing.n_queries) == (3, 2)

    listing = of(folder, labels=False, coordinates=write())
    assert listing.positives is None and listing.query_utm.tolist() == [[1005, 5000], [1400, 5000]]

    path = table(folder / "t.csv", ["path", "utm_east", "utm_north"], ["b.JPG", 1, 2], ["in/a.png", 5, 6],
                 ["in/IMG 3.jpeg", 3, 4], ["y.jpg", 5, 6])
    listing = of(folder, labels=False, coordinates=path)
    assert listing.query_utm is None and listing.database_utm.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert listing.warnings == ("no coordinates of query images in the answers: 1 of 2 have none, first "
                                f"{folder}/phone/x.jpg",)

    path = table(folder / "t.csv", ["path", "lat", "lon"], *[[name, 48, 11] for name in (
        "b.JPG", "in/a.png", "in/IMG 3.jpeg", "x.jpg")], ["y.jpg", 48, 30])
    listing = of(folder, labels=False, coordinates=path)
    assert listing.database_utm is None and listing.query_utm is None
    assert "UTM zones 32" in listing.warnings[0]


def test_suspicious_coordinates_are_said(street):
    folder, write = street
    listing = of(folder, coordinates=write(**{"x.jpg": 160, "y.jpg": 300}))
    assert listing.warnings == ("no query has a database image within 25 m; the nearest is 100.0 m away",)
    names = ("b.JPG", "in/a.png", "in/IMG 3.jpeg", "x.jpg", "y.jpg")
    path = table(folder / "t.csv", ["path", "utm_east", "utm_north"], *[[name, 11.5, 48.1] for name in names])
    assert of(folder, coordinates=path).warnings == (
        "all coordinates lie within 180 east and 90 north: degrees, where metres are expected?",)
    path = table(folder / "t.csv", ["path", "utm_east", "utm_north"], *[[name, 11.5, 90.5] for name in names])
    assert of(folder, coordinates=path).warnings == ()  # metres of a small place


def test_folders_that_are_not_there_or_empty(street):
    folder, _ = street
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        own_images(folder / "nowhere", folder / "phone")
    (folder / "empty").mkdir()
    (folder / "empty" / "._x.jpg").touch()  # which macOS leaves
    with pytest.raises(FileNotFoundError, match=r"empty: no image in it or below; expected \.jpg, \.jpeg, \.png"):
        own_images(folder / "shots", folder / "empty", labels=False)
    (folder / "empty" / "x.HEIC").touch()
    with pytest.raises(FileNotFoundError, match=r"no image in it or below; there are 1 \.heic; expected"):
        own_images(folder / "shots", folder / "empty", labels=False)


def test_images_of_other_formats_are_counted(street):
    folder, _ = street
    for name in ("a.heic", "b.HEIC", "c.tif", "notes.txt", "._a.heic"):
        (folder / "phone" / name).touch()
    listing = of(folder, labels=False)
    assert listing.warnings == (f"{folder}/phone: 2 .heic, 1 .tif left out: only .jpg, .jpeg, .png are read",)


def test_what_it_is_called(tmp_path, monkeypatch):
    for side in ("city/images/test/database", "city/images/test/queries", "other"):
        add(tmp_path / side, "a.jpg")

    def name(database, queries):
        return own_images(database, queries, labels=False).name

    test = tmp_path / "city" / "images" / "test"
    assert name(test / "database", test / "queries") == "city/images/test"
    assert name(test / "database", tmp_path / "other") == "database+other"
    assert name(tmp_path / "other", tmp_path / "other") == "other+other"
    monkeypatch.chdir(test)
    assert name("database", "../../../other") == "database+other"
    assert name(".", "database/..") == "test+test"
    (tmp_path / "city" / "TOY_CITY.json").write_text("{}")
    assert name("database", "queries") == "toy_city/city/images/test"
    assert name(tmp_path / "other", "queries") == "toy_city/other+queries"


def test_nothing_is_written(street):
    folder, write = street
    path = write()
    before = {(str(path), os.stat(path).st_mtime_ns) for path in folder.rglob("*")}  # noqa: PTH116
    of(folder, coordinates=path)
    assert {(str(path), os.stat(path).st_mtime_ns) for path in folder.rglob("*")} == before  # noqa: PTH116
