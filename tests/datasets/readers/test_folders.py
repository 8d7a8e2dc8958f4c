"""Benchmark reader against naive loops over generated folders."""

import math

import numpy as np
import pytest
from PIL import Image

from datasets import BenchmarkDataset, evaluation_transform, read_folder

TRANSFORM = evaluation_transform((14, 28))


def add_image(folder, name, colour=(10, 200, 30)):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), colour).save(path)
    return path


def utm_name(east, north, tail="@.jpg"):
    return f"@{east:.10f}@{north:.10f}{tail}"


@pytest.fixture
def tiny(tmp_path):
    """One database and one query image; returns (datasets folder, split folder)."""
    split = tmp_path / "pitts30k" / "images" / "test"
    add_image(split / "database", utm_name(500000, 4000000))
    add_image(split / "queries", utm_name(500010, 4000000))
    return tmp_path, split


def read(folder, **options):
    return read_folder(folder, "pitts30k", split="test", **options)


def images(folder):
    return BenchmarkDataset(read(folder), transform=TRANSFORM)


def contents(folder):
    return {(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


# 7 images: scikit-learn's own choice would be brute force; 200: a tree of several leaves.
@pytest.mark.parametrize("n_database", [7, 200])
@pytest.mark.parametrize("threshold", [25.0, 10.0, 0.0])
def test_positives_are_those_of_naive_loops(tmp_path, n_database, threshold):
    rng = np.random.default_rng(n_database)
    # Differences of these are exact in float64 and squares are not: a search that expands the square loses both
    # pairs at exactly 25 m.
    east, north = 548273 + 778 / 1024, 4180999 + 401 / 1024
    database = {(east, north), (east + 25, north), (east + 15, north + 20), (east + 25, north + 1)}
    while len(database) < n_database:
        database.add((east + int(rng.integers(-60, 60)), north + int(rng.integers(-60, 60))))
    queries = {(east, north), (east + 400, north)} | {
        (east + int(rng.integers(-60, 60)), north + int(rng.integers(-60, 60))) for _ in range(10)
    }
    split = tmp_path / "pitts30k" / "images" / "test"
    for folder, points in (("database", database), ("queries", queries)):
        for point in points:
            add_image(split / folder, utm_name(*point))

    data = read(tmp_path, threshold_m=threshold)

    database, queries = sorted(database), sorted(queries)
    assert data.database_utm.tolist() == [list(point) for point in database]
    assert data.query_utm.tolist() == [list(point) for point in queries]
    assert data.database_utm.dtype == np.float64
    for query, positives in zip(queries, data.positives, strict=True):
        expected = [i for i, point in enumerate(database) if math.dist(query, point) <= threshold]
        assert positives.dtype == np.int64 and positives.tolist() == expected
    reference = data.positives[queries.index((east, north))].tolist()
    assert (database.index((east + 25, north)) in reference) == (threshold == 25)
    assert (database.index((east + 15, north + 20)) in reference) == (threshold == 25)
    assert database.index((east + 25, north + 1)) not in reference
    assert len(data.positives[queries.index((east + 400, north))]) == 0


def test_items_are_database_then_queries(tiny):
    folder, split = tiny
    add_image(split / "database", utm_name(500001, 4000000), (255, 0, 0))
    data = images(folder)
    assert (len(data), data.n_database, data.n_queries) == (3, 2, 1)
    for i, path in enumerate([*data.listing.database_paths, *data.listing.query_paths]):
        image, index = data[i]
        with Image.open(path) as opened:
            assert index == i and image.equal(TRANSFORM(opened))
    assert image.shape == (3, 14, 28)
    for outside in (3, -1):
        with pytest.raises(IndexError):
            data[outside]


def test_images_are_found_recursively_in_every_format_and_sorted(tmp_path):
    split = tmp_path / "pitts30k" / "images" / "test"
    names = ["b/" + utm_name(1, 2, "@.JPG"), "a/c/" + utm_name(5, 6, "@x@.jpeg"), utm_name(3, 4, ".PnG")]
    for name in names:
        add_image(split / "database", name)
    (split / "database" / "notes.txt").write_text("no image")
    add_image(split / "queries", utm_name(1, 2))
    data = read(tmp_path)
    assert [path.relative_to(split / "database").as_posix() for path in data.database_paths] == sorted(names)
    expected = {names[0]: [1, 2], names[1]: [5, 6], names[2]: [3, 4]}
    assert data.database_utm.tolist() == [expected[name] for name in sorted(names)]


def test_linked_folders_are_followed(tiny):
    folder, split = tiny
    add_image(folder / "elsewhere", utm_name(7, 8))
    (split / "database" / "more").symlink_to(folder / "elsewhere", target_is_directory=True)
    assert read(folder).n_database == 2


def test_at_signs_in_folder_names_do_not_matter(tmp_path):
    folder = tmp_path / "me@lab@7@" / "sets"
    split = folder / "pitts30k" / "images" / "test"
    add_image(split / "database" / "@9@9@", utm_name(500000.25, 4000000))
    add_image(split / "queries", utm_name(500010, 4000000))
    data = read(folder)
    assert data.database_utm.tolist() == [[500000.25, 4000000]]
    assert data.positives[0].tolist() == [0]


def test_nothing_is_written(tiny):
    folder, _ = tiny
    before = contents(folder)
    data = images(folder)
    [data[i] for i in range(len(data))]
    assert contents(folder) == before


def test_toy_city_is_named(tiny):
    folder, _ = tiny
    assert read(folder).name == "pitts30k"
    (folder / "TOY_CITY.json").write_text("{}")
    assert read(folder).name == "toy_city/pitts30k"


@pytest.mark.parametrize("bad", ["house.jpg", "@500000.00@.jpg", "@500000.00@north@.jpg", "@nan@0@.jpg"])
def test_a_name_without_coordinates_is_shown(tiny, bad):
    folder, split = tiny
    path = add_image(split / "queries", bad)
    with pytest.raises(ValueError) as error:
        read(folder)
    assert str(path) in str(error.value) and "@<utm_east>@<utm_north>@" in str(error.value)
    assert "more" not in str(error.value) and "\n" not in str(error.value)


def test_more_names_without_coordinates_are_counted(tiny):
    folder, split = tiny
    for i in range(4):
        add_image(split / "database", f"house{i}.jpg")
    with pytest.raises(ValueError, match=r"house0\.jpg.*and 3 more"):
        read(folder)


def test_missing_folders_name_the_layout_and_what_is_there(tiny):
    folder, split = tiny
    layout = r"no such folder; expected <datasets_folder>/<name>/images/<split>/\{database,queries\}"
    with pytest.raises(FileNotFoundError, match=layout + r".*sub-folders of .*images: test$"):
        read_folder(folder, "pitts30k", split="val")
    with pytest.raises(FileNotFoundError, match=layout + r".*: pitts30k$"):
        read_folder(folder, "msls", split="val")
    with pytest.raises(FileNotFoundError, match=layout):
        read_folder(folder / "nowhere", "msls", split="val")
    (split / "queries").rename(split / "query")
    with pytest.raises(FileNotFoundError, match=layout + r".*: database, query$"):
        read(folder)


@pytest.mark.parametrize("empty", ["database", "queries"])
def test_an_empty_folder_is_an_error(tiny, empty):
    folder, split = tiny
    for path in (split / empty).iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{empty}: no image in it; expected <datasets_folder>"):
        read(folder)


def test_a_corrupt_image_is_named_when_read(tiny):
    folder, split = tiny
    path = split / "queries" / utm_name(1, 1)
    path.write_bytes(b"\xff\xd8 no image")
    data = images(folder)
    with pytest.raises(ValueError) as error:
        data[data.n_database + data.listing.query_paths.index(path)]
    assert str(path) in str(error.value)


@pytest.mark.parametrize("threshold", [-1.0, math.nan, math.inf])
def test_a_senseless_threshold_is_an_error(tiny, threshold):
    with pytest.raises(ValueError, match="threshold"):
        read(tiny[0], threshold_m=threshold)
