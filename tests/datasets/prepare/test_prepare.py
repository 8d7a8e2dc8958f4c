"""The unified training set: each raw layout, restarts, --check, mistakes."""

import errno
import itertools
import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import utm
from PIL import Image
from prepare_trees import HEADER, mistake, sfxl_name, touch
from torchvision.transforms.functional import pil_to_tensor

from datasets import UNIFIED_CITIES, PlaceDataset
from datasets.prepare import build
from datasets.prepare.__main__ import main
from datasets.prepare.mapillary import CITIES, POINTS, nearest_cities
from datasets.prepare.sources import SOURCES, groups_in_the_paper
from datasets.training.tables import read_city


def pitts_image(root, side, east, north, pano, tile, lat="040.43960", lon="-80.00652"):
    name = f"@{east:010.2f}@{north:010.2f}@17@T@{lat}@{lon}@{pano:06d}@{tile:02d}@@@@@@@.jpg"
    touch(root / "pitts30k" / "images" / "train" / side / name)
    return name


def write_pitts(root):
    """Two classes of two groups, six lone images: 39000 and 298467 are multiples of 3, hence cell group (0, 0)."""
    for tile in (0, 1, 12, 13):  # 0 and 30 degrees, of either pitch
        pitts_image(root, "database", 585000, 4477005, 7, tile)
    pitts_image(root, "queries", 585000, 4477005, 7, 1)  # the queries' own panorama 7
    for pano in (8, 9):
        for tile in (10, 11):  # 300 and 330 degrees: the other group in heading
            pitts_image(root, "database", 585014.99, 4477019.99, pano, tile, "040.50", "-80.5")
    for tile in (0, 1, 12):
        pitts_image(root, "database", 584999.99, 4477005, 10, tile)
    for tile in (2, 3, 14):
        pitts_image(root, "queries", 585000, 4477005, 11, tile)
    return root


PITTS_TABLES = {
    "Pitts30k0": [f"0,2024,09,10,Pitts30k0,040.43960,-80.00652,{pano}" for pano in
                  ("d000007-00", "d000007-01", "d000007-12", "d000007-13", "q000007-01")],
    "Pitts30k1": [f"0,2024,09,10,Pitts30k1,040.50,-80.5,{pano}" for pano in
                  ("d000008-10", "d000008-11", "d000009-10", "d000009-11")],
}


def tables(root):
    return {path.stem: path.read_text().splitlines() for path in (root / "unified_dataset" / "Dataframes").iterdir()}


def test_pitts30k(tmp_path, capsys):
    write_pitts(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["pitts30k", "--datasets_folder", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[:2] == [
        "Pitts30k: 2 groups, 2 classes, 9 of 15 images; 2 classes with fewer than 4 images left out (6 images)",
        "total: 2 groups, 2 classes, 9 of 15 images"]
    assert said.err == "Pitts30k: 2 groups, where the paper's images fill 18: is the source complete?\n"
    assert tables(tmp_path) == {city: [HEADER, *rows] for city, rows in PITTS_TABLES.items()}
    images = tmp_path / "unified_dataset" / "Images"
    image = images / "Pitts30k1" / "Pitts30k1_0000000_2024_09_010_40.5_-80.5_d000009-11.jpg"
    source = next((tmp_path / "pitts30k").rglob("*@000009@11@*"))
    assert image.samefile(source) and image.read_text() == source.name
    queries = next(images.rglob("*q000007-01.jpg"))
    assert queries.samefile(next((tmp_path / "pitts30k" / "images" / "train" / "queries").glob("*@000007@01@*")))
    assert [path for path in sorted(tmp_path.rglob("*")) if "unified_dataset" not in path.parts] == before
    assert len(list(images.rglob("*.jpg"))) == 9


def test_pitts30k_names(tmp_path):
    """Twelve pseudo-angles for each of two pitches; database and queries in one order, by position first."""
    for tile in range(24):
        pitts_image(tmp_path, "database" if tile % 2 else "queries", 585000, 4477005, 7, tile)
    pitts_image(tmp_path, "queries", 584000, 4477005, 8, 0)
    (images,) = SOURCES["pitts30k"].read(tmp_path, None, None)
    fields = [images.fields(i) for i in range(25)]
    assert images.names[0] == b"@0584000.00@4477005.00@17@T@040.43960@-80.00652@q000008-00@@0@@@@202409@@.jpg"
    assert {int(f.key[-2:]): int(f.heading) for f in fields[1:]} == dict(enumerate([*range(0, 360, 30)] * 2))
    assert images.names == sorted(images.names)
    assert all(Path(images.path(i)).name.split("@")[8] == f.key[-2:] for i, f in enumerate(fields))


def test_sf_xl(tmp_path, capsys):
    source = tmp_path / "processed"
    for folder, east, north, pano, heading in (
        ("37.71", 543200, 4178900, "cropped", 0), ("37.71", 543200, 4178900, "cropped", 30),  # of one panorama
        ("37.71", 543205, 4178900, "other", 31), ("37.72", 543209.99, 4178909.99, "other", 59),
        ("37.70", 543210, 4178900, "a", 0), ("37.70", 543210, 4178900, "b", 1), ("37.70", 543210, 4178900, "c", 2),
        ("37.79", 543250, 4178950, "a", 0), ("37.79", 543250, 4178950, "b", 119), ("37.79", 543250, 4178950, "c", 2),
        *(("37.80", 543250, 4178950, pano, 60) for pano in "stuv"),  # with 119: a group that is not used
        *(("37.81", 543300, 4178950, pano, 120) for pano in "stuv"),  # of the first group
    ):
        touch(source / folder / sfxl_name(east, north, pano, heading))
    arguments = ["sf_xl", "--datasets_folder", str(tmp_path), "--source", str(source)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "SFXL: 1 groups, 2 classes, 8 of 18 images; 2 classes with fewer than 4 images left out (5 images), "
        "1 groups not used (5 images)")
    head = "2013,11,10,SFXL,037.75634,-122.50895"
    assert tables(tmp_path)["SFXL"] == [
        HEADER, *(f"0,{head},{pano}" for pano in ("cropped", "cropped-30", "other", "other-59")),
        *(f"1,{head},{pano}" for pano in "stuv")]
    crops = sorted((tmp_path / "unified_dataset").rglob("*_cropped*.jpg"))
    assert [path.read_text().split("@")[9] for path in crops] == ["30", "0"]  # "-" comes before "."
    assert main([*arguments, "--check"]) == 0
    shutil.rmtree(tmp_path / "unified_dataset")
    assert main([*arguments, "--groups", "0", "--min_images", "3"]) == 0
    assert Counter(re.sub(r",.*", "", line) for line in itertools.chain(*tables(tmp_path).values())) == {
        "place_id": 3, "0": 3 + 4 + 5, "1": 4}
    assert sorted(tables(tmp_path)) == ["SFXL0", "SFXL1", "SFXL2"]


def msls_rows(*rows):
    """key, lon, lat, ca, date, pano -> a raw.csv as downloaded."""
    return "".join(line + "\n" for line in (",key,lon,lat,ca,captured_at,pano", *(
        ",".join(map(str, (i, *row))) for i, row in enumerate(rows))))


def write_msls(root, tree="msls/train_val"):
    """Tokyo: one class of four images of both sides, whose north is 3 m apart; and what must not enter."""
    city, places = root / tree / "tokyo", {
        "database": [("db-1", "139.7", "35.68", "59.99", "2016-07-04", "False"),
                     ("db_2", "139.7", "35.68002", "0.4", "2017-12-31", "False"),
                     ("pano", "139.7", "35.68", "10", "2016-07-04", "True"),
                     ("away", "139.7", "35.69", "10", "2016-07-04", "False")],
        "query": [("q1", "139.7", "35.68", "-0.9", "2018-01-01", "False"),
                  ("q2", "139.7", "35.68", "60.0", "2018-01-01", "False"),
                  ("q3", "139.7", "35.68001", "1.0", "2018-01-01", "False")]}
    for side, rows in places.items():
        for key, *_ in rows:
            touch(city / side / "images" / f"{key}.jpg")
        (city / side / "raw.csv").write_text(msls_rows(*rows))
    touch(city / "query" / "images" / "unlisted.jpg")
    for side in ("database", "query"):
        touch(root / tree / "cph" / side / "raw.csv", msls_rows(("k", "12.57", "55.68", "1", "2018-01-01", "False"))
              .encode())
    return city


TOKYO = ["0,2016,07,10,Tokyo0,35.68,139.7,db-1", "0,2018,01,10,Tokyo0,35.68,139.7,q1",
         "0,2018,01,10,Tokyo0,35.68001,139.7,q3", "0,2017,12,10,Tokyo0,35.68002,139.7,db_2"]


@pytest.mark.parametrize("tree, options", [("msls/train_val", []), ("mapillary_sls/train_val", []),
                                           ("raw/train_val", ["--source", "raw"]), ("raw", ["--source", "raw"])])
def test_msls_as_downloaded(tree, options, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_msls(tmp_path, tree)
    assert main(["msls", "--datasets_folder", str(tmp_path), *options]) == 0
    said = capsys.readouterr()
    east, north, zone, _ = utm.from_latlon(35.68, 139.7)
    assert (zone, east // 15, north // 15) == (54, (east + 0.5) // 15, (north + 3) // 15)  # one cell, the paper's 15 m
    assert "Tokyo: 1 groups, 1 classes, 4 of 6 images; 2 classes" in said.out
    assert "Tokyo: cph left out: no training cities" in said.err
    assert "Tokyo: 1 panoramas left out" in said.err and "Tokyo: 1 images that raw.csv does not list" in said.err
    assert re.search(r"not in the source: Trondheim, .*, phoenix$", said.err, re.MULTILINE)
    assert tables(tmp_path) == {"Tokyo0": [HEADER, *TOKYO]}
    image = tmp_path / "unified_dataset/Images/Tokyo0/Tokyo0_0000000_2018_01_010_35.68_139.7_q1.jpg"
    assert image.samefile(tmp_path / tree / "tokyo/query/images/q1.jpg")


def test_msls_names(tmp_path):
    """Metres with two decimals in ten characters, south of the equator too, and headings cut to whole degrees."""
    rows = [("k1", "36.82", "-1.29", "-0.9", "2018-01-01", "False"),
            ("k0", "36.8", "-1.3", "359.9", "2018-11-30", "False")]
    for side in ("database", "query"):
        city = tmp_path / "msls/train_val/nairobi" / side
        for key, *_ in rows:
            touch(city / "images" / f"{side[0]}{key}.jpg")
        touch(city / "raw.csv", msls_rows(*((side[0] + key, *rest) for key, *rest in rows)).encode())
    (images,) = SOURCES["msls"].read(tmp_path, None, None)
    metres = [[f"{x:010.2f}" for x in utm.from_latlon(float(lat), float(lon))[:2]] for _, lon, lat, *_ in rows]
    assert metres[1][0] < metres[0][0] and metres[0][1].startswith("98")
    assert [name.decode() for name in images.names] == [
        f"@{'@'.join(metres[row])}@37@M@{rows[row][2]}@{rows[row][1]}@{side}k{1 - row}@@{heading}@@@@{month}@@.jpg"
        for row, heading, month in ((1, "359", "201811"), (0, "0", "201801")) for side in "dq"]
    assert [Path(images.path(i)).name for i in range(4)] == ["dk0.jpg", "qk0.jpg", "dk1.jpg", "qk1.jpg"]


def test_msls_moved_by_the_downloader(tmp_path):
    """Tables stay in the tree, images lie in msls/images/train by names that have no heading."""
    city = write_msls(tmp_path)
    for path in sorted(city.rglob("*.jpg")):
        moved = tmp_path / "msls/images/train/database" / f"@1@2@54@S@35.68@139.7@{path.stem}@@@@@@20180101@@.jpg"
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    assert main(["msls", "--datasets_folder", str(tmp_path)]) == 0
    assert tables(tmp_path) == {"Tokyo0": [HEADER, *TOKYO]}
    assert {path.read_text() for path in (tmp_path / "unified_dataset/Images/Tokyo0").iterdir()} == {
        "db-1.jpg", "db_2.jpg", "q1.jpg", "q3.jpg"}


def test_msls_without_its_tables_lacks_headings(tmp_path, capsys):
    touch(tmp_path / "msls/images/train/database/@1@2@54@S@35.68@139.7@key@@@@@@20180101@@.jpg")
    assert mistake(["msls", "--datasets_folder", str(tmp_path)], capsys).endswith(
        "no heading in the name (VPR-datasets-downloader leaves it out of MSLS); expected the tree as downloaded, "
        "whose raw.csv has it: give it to --source")


def test_msls_renamed(tmp_path, capsys):
    """The city by a folder's name, else by coordinates; validation cities never enter."""
    train = tmp_path / "msls/images/train"
    for pano in "abcd":
        touch(train / "tokyo/database" / sfxl_name(10, 10, pano, 20, "54", "S", "20180704", "0", "0"))
        touch(train / "queries" / sfxl_name(700, 10, pano, 20, "30", "U", "201807", "51.5", "-0.12"))
        touch(train / "database" / sfxl_name(700, 10, pano, 20, "33", "U", "201807", "55.7", "12.5"))
    assert main(["msls", "--datasets_folder", str(tmp_path), "--cities", "london", "tokyo"]) == 0
    assert {city: len(rows) for city, rows in tables(tmp_path).items()} == {"Tokyo0": 5, "london0": 5}
    assert tables(tmp_path)["Tokyo0"][1] == "0,2018,07,10,Tokyo0,0,0,a"
    said = capsys.readouterr()
    assert "Tokyo: cph left out: no training cities" in said.err and "not in the source" not in said.err


def test_cities_of_msls():
    assert set(UNIFIED_CITIES) >= {f"{name}{group}" for name in CITIES.values() for group in range(17)}
    assert list(POINTS) == [*CITIES, "cph", "sf"] and CITIES["tokyo"] == "Tokyo" and CITIES["london"] == "london"
    assert [groups_in_the_paper(name) for name in ("Amman", "Nairobi", "Tokyo", "boston", "Pitts30k", "SFXL")] == [
        17, 17, 18, 18, 18, 1]
    assert sum(groups_in_the_paper(name) for source in SOURCES.values() for name in source.names) == 436 - 23
    assert nearest_cities([(35.7, 139.8), (48.8, 2.3), (0, 0), (math.nan, 1), (37.8, -122.4)]) == [
        "tokyo", "paris", None, None, "sf"]


# --- building, and going on -----------------------------------------------------------------------------------------

def content(root):
    """Every file below unified_dataset with what it holds."""
    folder = root / "unified_dataset"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = write_pitts(tmp_path_factory.mktemp("whole"))
    assert main(["pitts30k", "--datasets_folder", str(root)]) == 0
    return content(root)


class Stop(Exception):
    pass


@pytest.mark.parametrize("options, function", [([], "link_image"), (["--copy"], "copy_image")])
@pytest.mark.parametrize("survives", range(9))
def test_an_interrupted_build_goes_on(options, function, survives, tmp_path, monkeypatch, whole):
    root, arguments, calls = write_pitts(tmp_path), ["pitts30k", "--datasets_folder", str(tmp_path), *options], []
    original = getattr(build, function)

    def put(source, target):
        if len(calls) == survives:
            raise Stop
        calls.append(target)
        original(source, target)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(build, function, put)
        main(arguments)
    finished = [name for name in content(root) if name.endswith(".csv")]
    assert finished == (["Dataframes/Pitts30k0.csv"] if survives >= 5 else [])
    partly = content(root)
    assert len(partly) == survives + len(finished) and partly.items() <= whole.items()
    with monkeypatch.context() as patch:
        patch.setattr(build, function, lambda source, target: (calls.append(target), original(source, target)))
        assert main(arguments) == 0
    assert content(root) == whole
    assert len(calls) == len(set(calls)) == 9  # no image twice


def test_a_build_interrupted_before_its_table_is_whole(tmp_path, monkeypatch, whole):
    root, replace = write_pitts(tmp_path), Path.replace

    def refuse(path, target):
        if path.suffix == ".csv":
            raise Stop
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Path, "replace", refuse)
        main(["pitts30k", "--datasets_folder", str(root)])
    assert len(content(root)) == 5 and not list(root.rglob("*.csv"))
    assert main(["pitts30k", "--datasets_folder", str(root)]) == 0
    assert content(root) == whole


def test_a_half_written_copy_is_no_image(tmp_path, monkeypatch, whole):
    root = write_pitts(tmp_path)

    def half(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:3])
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(shutil, "copyfile", half)
        main(["pitts30k", "--datasets_folder", str(root), "--copy"])
    assert not list(root.rglob("unified_dataset/Images/*/[!.]*.jpg"))
    assert main(["pitts30k", "--datasets_folder", str(root), "--copy"]) == 0
    assert content(root) == whole
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in root.rglob("*.jpg"))


def test_a_finished_city_is_left_alone_and_a_lost_image_comes_back(tmp_path, monkeypatch, capsys, whole):
    root = write_pitts(tmp_path)
    assert main(["pitts30k", "--datasets_folder", str(root)]) == 0
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.csv")}
    with monkeypatch.context() as patch:
        patch.setattr(build, "link_image", lambda source, target: pytest.fail(f"{target} again"))
        assert main(["pitts30k", "--datasets_folder", str(root)]) == 0
    assert capsys.readouterr().out.endswith("0 cities linked, 2 were complete\n")
    next(root.rglob("*d000009-11.jpg")).unlink()
    assert main(["pitts30k", "--datasets_folder", str(root)]) == 0
    assert content(root) == whole and times == {path: path.stat().st_mtime_ns for path in root.rglob("*.csv")}


def test_symbolic_links_on_another_file_system(tmp_path, monkeypatch, whole, capsys):
    root = write_pitts(tmp_path / "here")

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.chdir(tmp_path)
    assert main(["pitts30k", "--datasets_folder", "here"]) == 0
    assert content(root) == whole
    assert all(path.is_symlink() and path.readlink().is_absolute()
               for path in (root / "unified_dataset").rglob("*.jpg"))
    # The disk with the images is mounted elsewhere now.
    (root / "pitts30k").rename(tmp_path / "elsewhere")
    arguments = ["pitts30k", "--datasets_folder", "here", "--source", "elsewhere/images/train"]
    assert main([*arguments, "--check"]) == 1
    assert "5 of 5 images missing" in capsys.readouterr().out
    assert main(arguments) == 0
    assert content(root) == whole and main([*arguments, "--check"]) == 0
    shutil.rmtree(root / "unified_dataset")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert "use --copy" in mistake(arguments, capsys)


def test_a_link_in_the_source_is_followed(tmp_path):
    root = write_pitts(tmp_path)
    for path in sorted((root / "pitts30k").rglob("*.jpg")):
        real = tmp_path / "store" / path.name
        real.parent.mkdir(exist_ok=True)
        path.rename(real)
        path.symlink_to(os.path.relpath(real, path.parent))
    assert main(["pitts30k", "--datasets_folder", str(root)]) == 0
    images = list((root / "unified_dataset").rglob("*.jpg"))
    assert len(images) == 9 and not any(path.is_symlink() for path in images)


def test_another_division_does_not_mix_with_this_one(tmp_path, capsys, whole):
    root = write_pitts(tmp_path)
    assert main(["pitts30k", "--datasets_folder", str(root)]) == 0
    message = mistake(["pitts30k", "--datasets_folder", str(root), "--min_images", "3"], capsys)
    table, images = (f"{re.escape(str(root))}/unified_dataset/{part}" for part in ("Dataframes", "Images"))
    assert re.search(rf"{table}/Pitts30k0\.csv: 5 images, expected 3; .* to build it anew, remove "
                     rf"{table}/Pitts30k0\.csv and {images}/Pitts30k0$", message)
    assert content(root) == whole
    message = mistake(["pitts30k", "--datasets_folder", str(root), "--groups", "1"], capsys)
    assert re.search(rf"error: {table}: tables that would not be built: Pitts30k1; expected ", message)
    assert content(root) == whole


def test_check(tmp_path, capsys):
    root = write_pitts(tmp_path)
    check = ["pitts30k", "--datasets_folder", str(root), "--check"]

    def problems():
        capsys.readouterr()
        before = content(root) if (root / "unified_dataset").exists() else None
        code = main(check)
        assert before == (content(root) if (root / "unified_dataset").exists() else None)  # nothing is written
        lines = capsys.readouterr().out.splitlines()[1:-1]
        return code, [line.replace(f"{root / 'unified_dataset'}{os.sep}", "") for line in lines]

    code, lines = problems()
    assert code == 1 and lines[0] == "Dataframes/Pitts30k0.csv: no such file" and len(lines) == 4
    assert lines[1].startswith("Images/Pitts30k0: 5 of 5 images missing: Pitts30k0_0000000_2024_09_010_40.4396_-80.")
    assert main(check[:-1]) == 0
    assert problems() == (0, ["Pitts30k: complete"])
    lost = next(root.rglob("*d000009-11.jpg"))
    content_of_lost = lost.read_bytes()
    lost.unlink()
    assert problems() == (1, [f"Images/Pitts30k1: 1 of 4 images missing: {lost.name}"])
    lost.write_bytes(content_of_lost)
    touch(lost.with_name("stray.jpg"))
    assert problems() == (1, ["Images/Pitts30k1: 1 images that would not be built: stray.jpg"])
    lost.with_name("stray.jpg").unlink()
    table = root / "unified_dataset" / "Dataframes" / "Pitts30k1.csv"
    text = table.read_text()
    table.write_text("\n".join(text.splitlines()[:-1]) + "\n")
    assert problems() == (1, ["Dataframes/Pitts30k1.csv: 3 images, expected 4"])
    table.write_text(text.replace("d000009-10", "d000009-12"))
    code, lines = problems()
    assert code == 1 and lines[0].startswith("Dataframes/Pitts30k1.csv: line 4 is '0,2024,09,10,Pitts30k1,040.50,-80.")
    table.write_text(text)
    shutil.copy(table, table.with_name("Pitts30k7.csv"))
    shutil.copy(table, table.with_name("Pitts30kOther.csv"))  # somebody else's
    assert problems() == (1, ["Dataframes: tables that would not be built: Pitts30k7"])


def write_turns(root, *turns):
    """Four images of each heading of SF-XL, all at one spot."""
    for heading in turns:
        for pano in "abcd":
            touch(root / "sf_xl/processed/train" / sfxl_name(543200, 4178900, f"{pano}{heading}", heading))
    return ["sf_xl", "--datasets_folder", str(root)]


def places(root):
    """Headings of each place of SFXL."""
    found = {}
    for row in tables(root)["SFXL"][1:]:
        found.setdefault(int(row.split(",")[0]), set()).add(int(re.sub(r".*,[a-d]", "", row)))
    return found


def test_5_and_360_degrees_are_one_place_unless_as_published(tmp_path, capsys):
    arguments = write_turns(tmp_path, 5, 360, -355, 130)
    assert main(arguments) == 0
    assert sorted(map(sorted, places(tmp_path).values())) == [[-355, 5, 360], [130]]
    assert "--published_headings" not in capsys.readouterr().err
    shutil.rmtree(tmp_path / "unified_dataset")
    assert main([*arguments, "--published_headings"]) == 0
    assert sorted(map(sorted, places(tmp_path).values())) == [[-355], [5], [130], [360]]  # all of one group
    assert ("SFXL: --published_headings: 8 of 16 images have a heading below 0, or of 360 and more, and so classes of "
            "their own: a batch may have one place twice") in capsys.readouterr().err


@pytest.mark.parametrize("first, second", [([], ["--published_headings"]), (["--published_headings"], [])])
def test_a_folder_with_the_other_cut_of_headings_is_noticed(first, second, tmp_path, capsys, monkeypatch):
    arguments = write_turns(tmp_path, 5, 360)
    assert main([*arguments, *first]) == 0
    before = content(tmp_path)
    assert re.search(r"SFXL\.csv: line \d is .*\(--published_headings is one\)", mistake([*arguments, *second], capsys))
    assert main([*arguments, *second, "--check"]) == 1
    assert "SFXL.csv: line " in capsys.readouterr().out
    assert content(tmp_path) == before and main([*arguments, *first, "--check"]) == 0


def test_an_unfinished_folder_with_the_other_cut_is_noticed(tmp_path, capsys):
    arguments = write_turns(tmp_path, 5, 360)
    assert main([*arguments, "--published_headings"]) == 0
    (tmp_path / "unified_dataset/Dataframes/SFXL.csv").unlink()  # as where the build was interrupted
    before = content(tmp_path)
    assert re.search(r"Images/SFXL: would not be built: SFXL_0000001_.*\.jpg \(and 3 more like it\); expected what the "
                     r"same images and options", mistake(arguments, capsys))
    assert content(tmp_path) == before
    assert main([*arguments, "--published_headings"]) == 0


def write_amman(root, groups):
    """Images in that many of the 18 groups; those of the last are in two sectors, but for whole turns in one."""
    rows, (east, north) = [], utm.from_latlon(31.95, 35.93)[:2]
    for group, (row, column, turn) in enumerate(itertools.islice(
            itertools.product(range(3), range(3), (30, 90)), groups)):
        middle = (east // 45 * 45 + 15 * column + 7.5, north // 45 * 45 + 15 * row + 7.5)  # of a cell of 15 m
        lat, lon = utm.to_latlon(*middle, 36, "R")
        rows += [(f"k{group}-{i}", f"{lon:.7f}", f"{lat:.7f}", turn + 360 * (group == groups - 1 and i % 2),
                  "2018-01-01", "False") for i in range(4)]
    for side, some in (("database", rows), ("query", [("q", *rows[0][1:5], "True")])):
        for key, *_ in some:
            touch(root / "msls/train_val/amman" / side / "images" / f"{key}.jpg")
        touch(root / "msls/train_val/amman" / side / "raw.csv", msls_rows(*some).encode())
    return ["msls", "--datasets_folder", str(root)]


@pytest.mark.parametrize("groups, options, built, complaint", [
    (18, ["--published_headings"], 17, False), (18, [], 18, False), (17, [], 17, False),
    (17, ["--published_headings"], 16, True), (16, [], 16, True)])
def test_only_groups_that_headings_cannot_explain_are_missed(groups, options, built, complaint, tmp_path, capsys):
    """Of Amman the paper has 17 groups, but its headings may fill one more when they are taken modulo 360."""
    assert main([*write_amman(tmp_path, groups), *options]) == 0
    said = capsys.readouterr()
    assert f"Amman: {built} groups, {built} classes, {4 * built} of {4 * groups} images" in said.out
    missed = f"Amman: {built} groups, where the paper's images fill 17: is the source complete?"
    assert (missed in said.err) == complaint
    assert ("Amman17: no city of the paper's, hence not read by --training_dataset unified_dataset; a path to that "
            "folder is read with all that is in it" in said.err) == (built == 18)


def test_what_is_built_trains(tmp_path):
    names = [sfxl_name(543200 + 3 * i, 4178900, f"pano_{i}", 10) for i in range(4)]
    names += [sfxl_name(543250 + 3 * i, 4178900, f"pano-{i}", 10, lat="-01.50", lon="+2.5e-05") for i in range(4)]
    for shade, name in enumerate(names):
        path = tmp_path / "sf_xl/processed/train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (shade, 0, 0)).save(path, "PNG")
    assert main(["sf_xl", "--datasets_folder", str(tmp_path)]) == 0
    folder = tmp_path / "unified_dataset"
    assert {path.decode() for path in read_city(folder / "Dataframes" / "SFXL.csv")[1]} == {
        path.relative_to(folder / "Images").as_posix() for path in folder.rglob("*.jpg")}
    data = PlaceDataset(folder, cities=UNIFIED_CITIES, transform=pil_to_tensor)
    assert (data.cities, data.n_places, data.n_images, data.dropped_places) == (["SFXL"], 2, 8, 0)
    shades = [sorted(data[0, place][0][:, 0, 0, 0].tolist()) for place in range(2)]
    assert shades == [[0, 1, 2, 3], [4, 5, 6, 7]]


# --- GSV-Cities -------------------------------------------------------------------------------------------------------

def write_gsv(folder, city="Boston", city_id=None):
    rows = [f"{place},2018,0{shot},90,{city_id or city},1.5,-2.25,p{place}x{shot}"
            for place in (0, 7) for shot in (1, 2)]
    touch(folder / "Dataframes" / f"{city}.csv", "\n".join([HEADER, *rows, ""]).encode())
    for image in read_city(folder / "Dataframes" / f"{city}.csv")[1].tolist():
        touch(folder / "Images" / os.fsdecode(image))


def test_gsv_cities_stands_beside_the_categories_as_it_is(tmp_path, capsys):
    write_gsv(tmp_path / "gsv_cities")
    write_gsv(tmp_path / "gsv_cities", "Lisbon")
    arguments = ["gsv_cities", "--datasets_folder", str(tmp_path)]
    assert main([*arguments, "--check"]) == 1
    assert "4 of 4 images missing" in capsys.readouterr().out
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [*(f"{city}: 2 places, 4 images" for city in ("Boston", "Lisbon")),
                                     f"{tmp_path / 'unified_dataset'}: 2 cities linked, 0 were complete"]
    assert said.err.startswith("not in the source: Bangkok, ")
    for kind in ("Dataframes", "Images"):
        source = {path.relative_to(tmp_path / "gsv_cities"): path.read_bytes()
                  for path in (tmp_path / "gsv_cities" / kind).rglob("*") if path.is_file()}
        built = {path.relative_to(tmp_path / "unified_dataset"): path.read_bytes()
                 for path in (tmp_path / "unified_dataset" / kind).rglob("*") if path.is_file()}
        assert built == source
    next((tmp_path / "unified_dataset/Images/Boston").iterdir()).unlink()
    assert main(arguments) == 0
    assert "1 cities linked, 1 were complete" in capsys.readouterr().out
    assert main([*arguments, "--check"]) == 0
    data = PlaceDataset(tmp_path / "unified_dataset", cities=["Boston", "Lisbon"], images_per_place=2,
                        transform=pil_to_tensor)
    assert (data.n_places, data.n_images) == (4, 8)


def test_gsv_cities_that_cannot_be_taken(tmp_path, capsys):
    arguments = ["gsv_cities", "--datasets_folder", tmp_path]
    assert "gsv_cities: no city of GSV-Cities; expected" in mistake(arguments, capsys)
    write_gsv(tmp_path / "gsv_cities", city_id="Rome")
    assert "an image of another city; expected city_id Boston" in mistake(arguments, capsys)
    assert "taken as it is" in mistake([*arguments, "--M", "10"], capsys)
    (tmp_path / "gsv_cities/Dataframes/Boston.csv").write_text("place_id\n0\n")
    assert "no column year" in mistake(arguments, capsys)


# --- mistakes -------------------------------------------------------------------------------------------------------

GOOD = ("key", "139.7", "35.68", "1", "2018-01-01", "False")


@pytest.mark.parametrize("table, said", [
    (b"key,lon,lat,ca,captured_at\n", r"query/raw\.csv, line 1: no column pano; found key, lon, lat, ca, captured_at"),
    (b"", r"line 1: no column key, lon, lat, ca, captured_at, pano"),
    (msls_rows(GOOD, GOOD[:5]).encode(), r"line 3: 6 fields under a header of 7"),
    (msls_rows(GOOD, GOOD).encode(), r"line 3: key 'key' again, first in line 2; expected a key of its own"),
    (msls_rows(("a/b", *GOOD[1:])).encode(), r"line 2: key 'a/b'"),
    (msls_rows(("k", "x", *GOOD[2:])).encode(), r"line 2: lon 'x', expected a finite number"),
    (msls_rows(("k", "139.7", "91", *GOOD[3:])).encode(), r"line 2: lat '91', lon '139\.7'"),
    (msls_rows(("k", "139.7", "nan", *GOOD[3:])).encode(), r"line 2: lat 'nan'"),
    (msls_rows((*GOOD[:3], "", *GOOD[4:])).encode(), r"line 2: ca '', expected a finite number"),
    (msls_rows((*GOOD[:3], "inf", *GOOD[4:])).encode(), r"line 2: ca 'inf'"),
    (msls_rows((*GOOD[:4], "2018", "False")).encode(), r"line 2: captured_at '2018'"),
    (msls_rows((*GOOD[:5], "maybe")).encode(), r"line 2: pano 'maybe'"),
    (b",key,lon,lat,ca,captured_at,pano\n0,\xff,1,1,1,2018-01-01,False\n", r"raw\.csv, line \d: .*can't decode byte"),
    (msls_rows(GOOD).encode(), r"query/images/key\.jpg: no such file; 1 of the 4 images in raw\.csv are missing"),
    (msls_rows(("q1", "2.35", "48.86", *GOOD[3:])).encode(),
     r"Tokyo: 3 images in UTM zone 54, 1 in 31, whose metres cannot be compared"),
])
def test_mistakes_in_raw_csv(table, said, tmp_path, capsys):
    (write_msls(tmp_path) / "query" / "raw.csv").write_bytes(table)
    assert re.search(said, mistake(["msls", "--datasets_folder", tmp_path], capsys))


def test_details_that_are_no_mistakes_in_raw_csv(tmp_path):
    city = write_msls(tmp_path)
    for side in ("database", "query"):  # CRLF, a byte-order mark, a blank line, no newline at the end
        table = city / side / "raw.csv"
        table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n") .rstrip() + b"\r\n\r\n")
        table.write_bytes(table.read_bytes().rstrip())
    assert main(["msls", "--datasets_folder", str(tmp_path)]) == 0
    assert tables(tmp_path) == {"Tokyo0": [HEADER, *TOKYO]}


def test_a_city_on_both_sides_of_a_line_between_zones(tmp_path, capsys):
    """London: each image has its own zone's metres, as published, and this is said."""
    for side, lon in (("database", -0.001), ("query", 0.001)):
        city = tmp_path / "msls/train_val/london" / side
        rows = [(f"{side}{i}", lon, 51.48, 10, "2018-01-01", "False") for i in range(4)]
        for key, *_ in rows:
            touch(city / "images" / f"{key}.jpg")
        (city / "raw.csv").write_text(msls_rows(*rows))
    assert main(["msls", "--datasets_folder", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "london: 4 images in UTM zone 31, 4 in 30: each has the metres of its own zone" in said.err
    assert "2 classes, 8 of 8 images" in said.out


@pytest.mark.parametrize("source, names, said", [
    ("sf_xl", ["image.jpg", "@x@2@.jpg"], r"@x@2@\.jpg: no UTM coordinates and heading in the name \(and 1 more"),
    ("sf_xl", [sfxl_name(1, 2, "a", "")], r"no UTM coordinates and heading in the name; expected @<utm_east>@"),
    ("sf_xl", [sfxl_name(math.inf, 2, "a", 3)], r"no UTM coordinates and heading"),
    ("sf_xl", [sfxl_name(1, 1e12, "a", 3)], r"no UTM coordinates and heading"),
    ("sf_xl", [sfxl_name(1, 2, p, 3, stamp="20181") for p in "abcd"], r"no date \(yyyymm\), latitude"),
    ("sf_xl", [sfxl_name(1, 2, "a", 3), sfxl_name(1, 2, "b", 3, zone="11")],
     r"SFXL: 1 images in UTM zone 10, 1 in 11, whose metres cannot be compared"),
    ("sf_xl", [sfxl_name(1, 2, p, 3, stamp="2018") for p in "abcd"], r"no date \(yyyymm\), latitude, longitude or"),
    ("sf_xl", [sfxl_name(1, 2, p, 3, lat="") for p in "abcd"], r"no date \(yyyymm\), latitude, longitude or panorama"),
    ("sf_xl", [sfxl_name(1, 2, "", h) for h in range(4)], r"no date \(yyyymm\), latitude, longitude or panorama"),
    ("sf_xl", [f"{i}/{sfxl_name(1, 2, 'a', 3)}" for i in range(4)], r"the same place, date, panorama and heading"),
    ("sf_xl", [sfxl_name(1, 2, "a", 3)], r"no class of 4 images or more among 1 images: nothing to build"),
    ("sf_xl", [], r"no image in it; expected <folder>/\*\*/@<utm_east>"),
    ("pitts30k", ["database/@1@2@3@T@5@6@7@.jpg"], r"no panorama and tile number"),
    ("pitts30k", ["database/@1@2@3@T@5@6@@1@.jpg"], r"no panorama and tile number"),
    ("pitts30k", ["database/@1@2@3@T@5@6@7@8@.jpg"], r"queries: no such folder; expected <folder>/\{database,queri"),
    ("msls", ["@1@2@30@U@0@0@key@@9@@@@201801@@.jpg"], r"neither below a city's folder nor named by latitude and lon"),
    ("msls", [], r"no image in it; expected <folder>/<city>/"),
])
def test_mistakes_in_names_and_folders(source, names, said, tmp_path, capsys):
    (tmp_path / "source").mkdir()
    for name in names:
        touch(tmp_path / "source" / name)
    message = mistake([source, "--datasets_folder", tmp_path, "--source", tmp_path / "source"], capsys)
    assert re.search(said, message), message
    assert not (tmp_path / "unified_dataset").exists()


@pytest.mark.parametrize("arguments, said", [
    (["pitts30k"], "no such folder; expected .*or use --source"),
    (["sf_xl"], "no such folder; expected .*or use --source"),
    (["msls"], "no such folder; expected .*or use --source"),
    (["sf_xl", "--cities", "tokyo"], "only msls has cities to choose among"),
    (["msls", "--cities", "cph"], "city 'cph': not a training city of MSLS"),
    (["pitts30k", "--M", "0"], "M 0: expected at least 1"),
    (["--audit", "nowhere"], "nowhere: no queries there; expected <name>/images/test/queries"),
    (["--audit", "bench"], "unified_dataset: no training image; expected <folder>/Dataframes/<City>.csv"),
])
def test_mistakes_on_the_command_line(arguments, said, tmp_path, capsys):
    touch(tmp_path / "bench/images/test/queries" / sfxl_name(1, 2, "a", 3))
    assert re.search(said, mistake([*arguments, "--datasets_folder", tmp_path], capsys))


@pytest.mark.parametrize("arguments", [[], ["--check"], ["gsv"], ["msls", "--copy", "--check"]])
def test_unusable_command_lines(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--datasets_folder", str(tmp_path)])
    assert stopped.value.code == 2


def test_a_missing_option_and_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DATASETS_FOLDER", raising=False)
    with pytest.raises(SystemExit):
        main(["pitts30k"])
    assert "--datasets_folder, or the environment variable" in capsys.readouterr().err
    monkeypatch.setenv("DATASETS_FOLDER", str(write_pitts(tmp_path)))
    assert main(["pitts30k"]) == 0
    assert sorted(tables(tmp_path)) == ["Pitts30k0", "Pitts30k1"]
