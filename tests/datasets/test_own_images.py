"""Two folders of any images, with coordinates from a table, EXIF data or names; right answers worked out by hand."""

import csv
import os

import numpy as np
import pytest
import utm
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from datasets.readers.coordinates import (
    Degrees,
    Metres,
    checked,
    from_exif,
    from_name,
    in_one_plane,
    number,
    read_table,
)
from datasets.readers.own_images import own_images

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


@pytest.mark.parametrize("lines, said", [
    ("", "t.csv: the first line is ''; expected the columns path,lat,lon"),
    ("path,lat,heading\n", "the first line is 'path,lat,heading'; expected"),
    ("lat,lon\n", "expected the columns path,lat,lon"),
    ("path,lat,lon,utm_east,utm_north\n", "each once"),
    ("path,lat,lon,lat\n", "each once"),
    ("path;lat;lon\nb.JPG;1;2\n", "the first line is 'path;lat;lon'"),
    ("path,lat,lon\nb.JPG,48,11\nx.jpg,48,1,5\n", "t.csv, line 3: 4 fields; expected 3"),
    ("path,lat,lon\nb.JPG,48\n", "t.csv, line 2: 2 fields"),
    ("path,lat,lon\nb.JPG,north,11\n", "t.csv, line 2: lat is 'north'; expected a number"),
    ("path,lat,lon\nb.JPG,48,\n", "line 2: lon is ''"),
    ("path,lat,lon\nb.JPG,48,nan\n", "lon is 'nan'"),
    ("path,lat,lon\nb.JPG,48,1_1\n", "lon is '1_1'"),
    ("path,utm_east,utm_north\nb.JPG,1e999,0\n", "utm_east is '1e999'"),
    ("path,lat,lon,heading\nb.JPG,48,11,west\n", "heading is 'west'"),
    ("path,lat,lon\n ,48,11\n", "t.csv, line 2: no path"),
    ("path,lat,lon\nb.JPG,90.5,11\n", "t.csv, line 2: latitude 90.5, longitude 11 out of range"),
    ("path,lat,lon\nb.JPG,-90.5,11\n", "t.csv, line 2: latitude -90.5, longitude 11 out of range"),
    ("path,lat,lon\nb.JPG,48,-180.5\n", "longitude -180.5 out of range"),
    ("path,lat,lon\nb.JPG,84.5,11\n", "latitude 84.5, where there is no UTM"),
    ("path,lat,lon\nb.JPG,-80.5,11\n", "latitude -80.5, where there is no UTM"),
    ('path,lat,lon\n"b.JPG,48,11\n', "t.csv: not readable"),
    ("path,lat,lon\nb\udcff,48,11\n", "t.csv: not readable"),
])
def test_a_bad_table_is_one_clear_line(tmp_path, lines, said):
    path = tmp_path / "t.csv"
    path.write_bytes(lines.encode(errors="surrogateescape"))
    with pytest.raises(ValueError) as error:
        read_table(path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_tables_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file; expected a CSV with the columns path,lat"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="not readable"):
        read_table(tmp_path)


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


@pytest.mark.parametrize("lat, lon", [(48.5, 11.25), (-33.85, 151.2), (-22.9, -43.2), (40.7, -74.0)])
def test_exif_signs(tmp_path, lat, lon):
    assert from_exif(add(tmp_path, "a.jpg", gps=gps(lat, lon)) / "a.jpg") == pytest.approx((lat, lon), abs=1e-8)


def test_exif_as_cameras_vary_it(tmp_path, monkeypatch):
    def read(**changed):
        tags = {**gps(48.5, 11.25), **{int(tag[1:]): value for tag, value in changed.items()}}
        return from_exif(add(tmp_path, "a.jpg", gps={tag: value for tag, value in tags.items() if value}) / "a.jpg")

    assert read(_1="n\0", _3="e") == (48.5, 11.25)
    assert read(_2=(48, IFDRational(305, 10))) == pytest.approx((48 + 30.5 / 60, 11.25))
    assert read(_2=IFDRational(485, 10), _4=IFDRational(45, 4)) == (48.5, 11.25)
    for none in ({"_1": ""}, {"_3": "X"}, {"_2": ()}, {"_4": (IFDRational(0, 0), 1, 1)}, {"_4": (1, 2, 3, 4)},
                 {"_2": (0, 0, 0), "_4": (0, 0, 0)}):
        assert read(**none) is None
    assert read(_2=(0, 0, 0)) == (0, 11.25)  # the equator
    monkeypatch.setattr(Image.Exif, "get_ifd", lambda *_: {**gps(48.5, 11.25), 2: (-48.0, 30.0, 0.0)})
    assert read() is None
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"a\.jpg: EXIF GPS: latitude 100, longitude 11\.25 out of range"):
        read(_2=(100, 0, 0))
    assert from_exif(add(tmp_path, "none.png") / "none.png") is None


def test_a_file_that_is_no_image_is_named_when_its_exif_is_wanted(tmp_path):
    add(tmp_path / "phone", "q.jpg", gps=gps(*MUNICH))
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots" / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"shots.a\.jpg: not a readable image"):
        of(tmp_path)


@pytest.mark.parametrize("name, expected", [
    ("@548546.25@4180340.5@.jpg", Metres(548546.25, 4180340.5)),
    ("@0548546@4180340.jpg", Metres(548546, 4180340)),
    ("@-1@2@x@y@.png", Metres(-1, 2)),
    ("@1@2@32@U@48.1@11.5@key@@@@@@@@.jpg", Metres(1, 2, 32, "U")),
    ("@1@2@10@@.jpg", Metres(1, 2, 10)), ("@1@2@61@U@.jpg", Metres(1, 2)), ("@1@2@0@U@.jpg", Metres(1, 2)),
    ("@1@2@9@s@.jpg", Metres(1, 2, 9, "S")), ("@1@2@9@O@.jpg", Metres(1, 2, 9)),
    ("house.jpg", None), ("me@2@3@.jpg", None), ("@1.jpg", None), ("@1@.jpg", None), ("@1@north@.jpg", None),
    ("@nan@1@.jpg", None), ("@1_0@1@.jpg", None), ("@@@.jpg", None),
])
def test_names(name, expected):
    assert from_name(name) == expected


def test_images_with_coordinates_in_their_names_are_not_opened(tmp_path, monkeypatch):
    for side in ("shots", "phone"):
        (tmp_path / side / "with@7@8@").mkdir(parents=True)
        (tmp_path / side / "with@7@8@" / "@1000@2000@.jpg").touch()

    def opened(path, *_):
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


@pytest.mark.parametrize("lat, letter", [(48.0, "U"), (-33.5, "H"), (-33.5, "S"), (35.0, "S"), (-3.0, "M"), (3.0, "N")])
def test_metres_of_either_hemisphere_beside_degrees(lat, letter):
    east, north, zone, _ = utm.from_latlon(lat, 18.25)
    plane = in_one_plane([Metres(east, north, zone, letter), Degrees(lat, 18.25)], ["a", "b"])
    assert plane.tolist() == [[east, north], [pytest.approx(east), pytest.approx(north)]]


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


def planar(*points):
    return in_one_plane([Degrees(*point) for point in points], [f"p{i}" for i in range(len(points))])


def on_the_globe(first, second):
    """Metres between places near each other, along an ellipsoid's meridian and parallel (WGS 84)."""
    lat, dlat, dlon = np.radians([(first[0] + second[0]) / 2, second[0] - first[0], second[1] - first[1]])
    dlon = (dlon + np.pi) % (2 * np.pi) - np.pi
    w = 1 - 0.00669438 * np.sin(lat) ** 2
    return 6378137 * np.hypot(dlat * (1 - 0.00669438) / w**1.5, dlon * np.cos(lat) / w**0.5)


@pytest.mark.parametrize("first, second", [
    ((48.0, 11.9999), (48.0, 12.0001)),  # zones 32 and 33
    ((48.0, 14.99), (48.001, 14.9905)),
    ((-17.0, 179.9999), (-17.0, -179.9999)),  # 60 and 1
    ((0.0001, 36.8), (-0.0001, 36.8)),  # the equator
    ((-0.0001, 36.8), (-0.0003, 36.8)),
    ((60.0, 2.9998), (60.0, 3.0001)),  # 31 and Norway's 32
    ((78.2, 8.999), (78.2, 9.001)),  # 31 and 33 around Svalbard
    ((12.0, 180.0), (12.0, -179.999)),
])
def test_distances_across_the_borders_of_zones(first, second):
    others = [first] * 3  # whose zone is taken
    plane = planar(first, second, *others)
    expected = on_the_globe(first, second)
    assert 14 < expected < 120
    assert np.hypot(*(plane[0] - plane[1])) == pytest.approx(expected, rel=0.006)  # a zone's scale 6 degrees out


def test_the_commonest_zone_is_taken_and_the_rest_drawn_in_it():
    west, east = (50.0, 10.5), (50.0, 13.0)
    expected = [utm.from_latlon(*point, force_zone_number=33)[:2] for point in (west, east, east)]
    assert planar(west, east, east) == pytest.approx(np.array(expected))
    expected = [utm.from_latlon(*point, force_zone_number=32)[:2] for point in (west, west, east)]
    assert planar(west, west, east) == pytest.approx(np.array(expected))


def test_zones_that_are_too_far_apart():
    near, limit, beyond = (50.0, 7.0), (50.0, 15.0), (50.0, 15.01)  # zone 32: 6 to 12 degrees, 3 more on each side
    assert planar(near, near, limit).shape == (3, 2)
    with pytest.raises(ValueError, match=r"UTM zones 32 \(p0\) and 33 \(p2\) are too far apart"):
        planar(near, near, beyond)
    # Zone 31 is the commonest, but only 32 has them all.
    expected = [utm.from_latlon(50.0, lon, force_zone_number=32)[:2] for lon in (5.5, 5.6, 7.0, 12.5)]
    assert planar((50.0, 5.5), (50.0, 5.6), (50.0, 7.0), (50.0, 12.5)) == pytest.approx(np.array(expected))
    with pytest.raises(ValueError, match=r"UTM zones 31 \(a\) and 33 \(b\)"):
        in_one_plane([Metres(5e5, 5e6, 31, "U"), Degrees(50.0, 15.0)], ["a", "b"])


def test_the_south_has_its_own_norths():
    south = (-33.85, 151.2)
    assert planar(south)[0] == pytest.approx(utm.from_latlon(*south)[:2])  # as UTM counts it: 10000 km more
    assert planar((-1.0, 36.8), (1.0, 36.8))[0, 1] == pytest.approx(-planar((1.0, 36.8))[0, 1])


@pytest.mark.parametrize("first, second, said", [
    (("32", "U"), ("33", "U"), "UTM zones 32U (a) and 33U (b)"),
    (("32", ""), ("33", "U"), "UTM zones 32 (a) and 33U (b)"),
    (("36", "N"), ("36", "M"), "UTM zones 36N (a) and 36M (b)"),
    (("36", "T"), ("36", "K"), "UTM zones 36T (a) and 36K (b)"),
    (("36", "N"), ("36", "S"), "UTM zones 36N (a) and 36S (b)"),
])
def test_metres_of_several_zones(first, second, said):
    points = [from_name(f"@500000@1000@{zone}@{letter}@.jpg") for zone, letter in (first, second)]
    with pytest.raises(ValueError) as error:
        in_one_plane(points, ["a", "b"])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_bands_of_one_hemisphere_fit_together():
    points = [from_name(f"@1@{i}@33@{letter}@.jpg") for i, letter in enumerate("TUV")] + [Metres(1, 3)]
    assert in_one_plane(points, "abcd").tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]


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


def test_plain_numbers():
    assert [number(text) for text in ("1", " -2.5 ", "+.5", "3.", "1e3")] == [1, -2.5, 0.5, 3, 1000]
    assert np.isnan([number(text) for text in ("", "1 2", "0x1", "inf", "1,5", "\u0661")]).all()
    assert checked(84, 180, "") == (84, 180) and checked(-80, -180, "") == (-80, -180)
