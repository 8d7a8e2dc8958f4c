"""Coordinates of names, EXIF data and tables, and one plane for all of them, against utm and by hand."""

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
    in_plane_of,
    plane_and_zone,
    read_table,
    to_degrees,
    to_utm,
    unit_vectors,
    zone_letters,
    zone_numbers,
)


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


@pytest.mark.parametrize("lines, said", [
    ("", "t.csv, line 1: no column path; found none; expected columns path,lat,lon"),
    ("path,lat,heading\nb.JPG,48,1\n", "neither kind of coordinates among path,lat,heading; expected"),
    ("path,lat,lon\n", "t.csv: no row; expected columns path,lat,lon"),
    ("lat,lon\n", "t.csv, line 1: no column path; found lat, lon; expected columns path,lat,lon"),
    ("path,lat,lon,utm_east,utm_north\nb.JPG,48,11,1,2\n", "both kinds of coordinates among path,lat,lon,utm_east"),
    ("path,lat,lon,lat\n", "column lat twice"),
    ("path;lat;lon\nb.JPG;1;2\n", "no column path; found path;lat;lon"),
    ("path,lat,lon\nb.JPG,48,11\nx.jpg,48,1,5\n", "t.csv, line 3: 4 fields under a header of 3"),
    ("path,lat,lon\nb.JPG,48\n", "t.csv, line 2: 2 fields"),
    ("path,lat,lon\nb.JPG,north,11\n", "t.csv, line 2: lat is 'north', no number; expected columns path,lat"),
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
    ('path,lat,lon\n"b.JPG,48,11\n', "t.csv, line 2: unexpected end of data"),
    ("path,lat,lon\nb\udcff,48,11\n", "t.csv, line 1: 'utf-8' codec can't decode"),
])
def test_a_bad_table_is_one_clear_line(tmp_path, lines, said):
    path = tmp_path / "t.csv"
    path.write_bytes(lines.encode(errors="surrogateescape"))
    with pytest.raises(ValueError) as error:
        read_table(path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_tables_that_are_not_there(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{path}: no such file; expected columns path,lat"):
            read_table(path)


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


@pytest.mark.parametrize("lat, letter", [(48.0, "U"), (-33.5, "H"), (-33.5, "S"), (35.0, "S"), (-3.0, "M"), (3.0, "N")])
def test_metres_of_either_hemisphere_beside_degrees(lat, letter):
    east, north, zone, _ = utm.from_latlon(lat, 18.25)
    plane = in_one_plane([Metres(east, north, zone, letter), Degrees(lat, 18.25)], ["a", "b"])
    assert plane.tolist() == [[east, north], [pytest.approx(east), pytest.approx(north)]]


@pytest.mark.parametrize("lat, lon, zone", [(48.2, 18.3, 34), (-33.5, 18.3, -34), (83.5, -179.9, 1), (-80, 179.9, -60)])
def test_degrees_go_into_a_plane_and_back(lat, lon, zone):
    plane, found = plane_and_zone([Degrees(lat, lon)], ["a"])
    assert found == zone
    assert to_degrees(*plane[0], found) == pytest.approx((lat, lon), abs=1e-8)
    letter = utm.latitude_to_zone_letter(lat)
    assert plane_and_zone([Metres(*plane[0], abs(zone), letter)], ["a"])[1] == zone
    assert in_plane_of(zone, [Degrees(lat, lon)], ["a"], "the map").tolist() == plane.tolist()
    assert in_plane_of(0, [Metres(1.0, 2.0)], ["a"], "the map").tolist() == [[1, 2]]
    with pytest.raises(ValueError, match=r"\(the map\) and"):
        in_plane_of(zone, [Metres(1.0, 2.0, abs(zone) % 60 + 1, letter)], ["b"], "the map")
    with pytest.raises(ValueError, match="a has degrees, and the UTM zone of the map is not known"):
        in_plane_of(0, [Degrees(lat, lon)], ["a"], "the map")


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


def test_degrees_at_the_ends_of_utm():
    assert checked(84, 180) == (84, 180) and checked(-80, -180) == (-80, -180)


# Whole arrays of degrees against utm, point by point.


def test_degrees_to_metres_agree_with_utm():
    draw = np.random.default_rng(3)
    lat = np.r_[draw.uniform(-80, 84, 300), draw.uniform(55, 84, 300), 0.0, -1e-9, 84, 83.9, 56, 64, 72]
    lon = np.r_[draw.uniform(-180, 180, 300), draw.uniform(-1, 43, 300), 6.0, 3.0, 9, 180, 3, 12, -180]
    expected = [utm.from_latlon(a, b) for a, b in zip(lat, lon, strict=True)]
    east, north, zones = to_utm(lat, lon)
    assert np.allclose(east, [e for e, *_ in expected], rtol=0, atol=1e-6)
    assert np.allclose(north + 1e7 * (lat < 0), [n for _, n, *_ in expected], rtol=0, atol=1e-6)
    assert zones.tolist() == zone_numbers(lat, lon).tolist() == [zone for _, _, zone, _ in expected]
    assert zone_letters(lat).tolist() == [letter for *_, letter in expected]
    assert zone_letters(lat[:0]).tolist() == zone_numbers(lat[:0], lon[:0]).tolist() == []


def test_another_zone_may_be_asked_for():
    east, north, zones = to_utm(np.array([50.0, -50.0]), np.array([13.0, 13.0]), np.array([32, 33]))
    assert (east[0], north[0]) == utm.from_latlon(50.0, 13.0, force_zone_number=32)[:2]
    assert (east[1], north[1] + 10_000_000) == utm.from_latlon(-50.0, 13.0)[:2]
    assert zones.tolist() == [32, 33]


def test_unit_vectors():
    found = unit_vectors(np.array([0.0, 0.0, 90.0, -30.0]), np.array([0.0, 90.0, 7.0, 180.0]))
    assert np.allclose(found, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [-(0.75**0.5), 0, -0.5]], atol=1e-15)
