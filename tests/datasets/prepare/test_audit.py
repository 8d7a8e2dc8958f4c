"""--audit: how many queries of a benchmark have a training image nearby, by hand and against loops."""

import math
import re
from collections import Counter

import msls_tree
import numpy as np
import pytest
import utm
from prepare_trees import HEADER, mistake, sfxl_name, touch

from datasets.prepare.__main__ import main
from datasets.prepare.audit import count_nearby, named_points


def test_audit_counts_by_hand(tmp_path, capsys):
    """Training images at E 600000, N 4000000 of zone 54 north; queries beside them, far away and in another zone."""
    for i, pano in enumerate("abcd"):
        touch(tmp_path / "processed" / sfxl_name(600000, 4000000, pano, i, "54", "S"))
    touch(tmp_path / "processed" / sfxl_name(600500, 4000000, "lone", 0, "54", "S"))  # in a class too small to train
    for i, (east, north, zone, letter) in enumerate([
        (600025, 4000000, 54, "S"),  # 25 m, and so are the next
        *((600000 + x, 4000000 + y, 54, "S")
          for x, y in ((15, 20), (-15, 20), (-20, -15), (24, -7), (7, 24), (-7, 24))),
        (600025.01, 4000000, 54, "S"), (600060, 4000080, 54, "S"), (600000, 4000100.01, 54, "S"),
        (600600, 4000800, 54, "S"), (600600, 4000800.01, 54, "S"),
        (600000, 4000000, 56, "S"), (600000, 4000000, 54, "H"),
    ]):
        touch(tmp_path / "bench/images/test/queries" / f"{i % 5}" / sfxl_name(east, north, f"q{i}", 0, zone, letter))
    arguments = ["sf_xl", "--datasets_folder", str(tmp_path), "--source", str(tmp_path / "processed")]
    assert main([*arguments, "--audit", "bench"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "sf_xl: 4 images", f"{tmp_path / 'bench/images/test/queries'}: 14 queries",
        "  7 (50.0 %) with a training image within 25 m: SFXL 7",
        "  9 (64.3 %) with a training image within 100 m: SFXL 9",
        "  11 (78.6 %) with a training image within 1000 m: SFXL 11"]
    assert not (tmp_path / "unified_dataset").exists()


def test_audit_of_all_that_is_built(tmp_path, capsys):
    """Degrees in the tables; queries by degrees or by metres, on both sides of the equator and of a zone's border."""
    dataframes = tmp_path / "unified_dataset" / "Dataframes"
    for city, lat, lon in (("london3", 51.48, -0.001), ("Nairobi0", -1.29, 36.82), ("Lima", -1e-4, -74.0)):
        touch(dataframes / f"{city}.csv", f"{HEADER}\n0,2018,01,10,{city},{lat},{lon},x\n".encode())
    points = {"london": (51.48, 0.001), "nairobi": (-1.2905, 36.82), "lima": (1e-4, -74.0), "nowhere": (1.29, 36.82)}
    for side in ("val", "elsewhere"):
        for name, (lat, lon) in points.items():
            east, north, zone, letter = utm.from_latlon(lat, lon)
            metres, degrees = (f"{east:.2f}", f"{north:.2f}", zone, letter, "", ""), ("", "", "", "", lat, lon)
            fields = ("", *(metres if side == "val" else degrees), name, ".jpg")
            touch(tmp_path / "bench/images" / side / "queries" / "@".join(map(str, fields)))
    assert main(["--datasets_folder", str(tmp_path), "--audit", "bench/images/val",
                 str(tmp_path / "bench/images/elsewhere")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path / 'unified_dataset'}: 3 images"
    # 139 m from Greenwich's west to its east, 55 m in Nairobi, 22 m over the equator
    expected = ["  1 (25.0 %) with a training image within 25 m: Lima 1",
                "  2 (50.0 %) with a training image within 100 m: Lima 1, Nairobi 1",
                "  3 (75.0 %) with a training image within 1000 m: Lima 1, Nairobi 1, london 1"]
    for found in (lines[2:5], lines[6:9]):
        assert [re.sub(r": .*", "", line) for line in found] == [re.sub(r": .*", "", line) for line in expected]
        assert [sorted(line.split(": ")[1].split(", ")) for line in found] == [
            sorted(line.split(": ")[1].split(", ")) for line in expected]


def test_audit_of_a_protocol_whose_images_are_named_by_keys(tmp_path, capsys):
    """Mapillary's tree, where raw.csv tells where the queries are: three in Copenhagen, one in San Francisco."""
    msls_tree.write_raw(tmp_path / "msls")
    lat, lon = msls_tree.latlon(msls_tree.Frame("", 3, 4), 33)  # 5 m off
    touch(tmp_path / "unified_dataset" / "Dataframes" / "Tokyo0.csv",
          f"{HEADER}\n0,2018,01,10,Tokyo0,{lat},{lon},x\n".encode())
    assert main(["--datasets_folder", str(tmp_path), "--audit", "msls_val_740"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # q350 (0, 0), q-1 (1000, 0) and q180 (10, 0); the fourth lies in San Francisco
    assert lines[1] == "msls_val_740: 4 queries"
    assert [line.split()[0] for line in lines[2:]] == ["2", "2", "3"]


def test_audit_agrees_with_loops():
    draw = np.random.default_rng(0)

    def points(count, city):
        columns = (*draw.uniform(0, 3000, (2, count)), draw.choice([10, 20], count))
        return named_points([f"@{500000 + e:.2f}@{n:.2f}@{zone}@S@.jpg" for e, n, zone in zip(*columns, strict=True)],
                            "somewhere", city)

    queries, training = points(300, ""), points(400, "X")
    expected = Counter()
    for e, n, zone in zip(queries.east, queries.north, queries.zone, strict=True):
        nearest = min(math.hypot(e - x, n - y) for x, y, z in zip(*training[:3], strict=True) if z == zone)
        expected.update(radius for radius in (25, 100, 1000) if nearest <= radius)
    assert count_nearby(queries, training) == {radius: {"X": count} for radius, count in expected.items()}
    assert 0 < expected[25] < expected[100] < expected[1000]


@pytest.mark.parametrize("content, said", [
    (f"{HEADER}\n0,2018,1,10,X,a,1,p\n", "line 2: could not convert"), ("place_id\n0\n", "line 1: "),
    (f"{HEADER}\n0,2018,1,10,X,95,1,p\n", "line 2: latitude 95, longitude 1 out of range")])
def test_audit_of_an_unreadable_table(content, said, tmp_path, capsys):
    touch(tmp_path / "unified_dataset" / "Dataframes" / "X.csv", content.encode())
    touch(tmp_path / "bench/queries" / sfxl_name(1, 2, "a", 3))
    assert said in mistake(["--datasets_folder", tmp_path, "--audit", "bench"], capsys)


def test_audit_of_queries_without_coordinates(tmp_path, capsys):
    touch(tmp_path / "empty/queries/note.txt")
    assert "no image in it" in mistake(["--datasets_folder", tmp_path, "--audit", "empty"], capsys)
    for name in ("image.jpg", "@1@2@61@S@x@1@.jpg", "@1@2@30@I@91@1@.jpg"):
        touch(tmp_path / name / "queries" / name)
        assert "neither UTM coordinates" in mistake(["--datasets_folder", tmp_path, "--audit", name], capsys)
