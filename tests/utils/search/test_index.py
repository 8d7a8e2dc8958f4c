"""An index on disk against sorting all distances; what becomes of damaged, changed and unfinished ones."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from utils.index import main
from utils.run import exit_with
from utils.search.index import IndexWriter, ModelIdentity, TwoStageIndex, search, segments
from utils.search.index import writer as writer_module
from utils.search.index.files import read_manifest
from utils.search.stores import STORES, store_rows

MODEL = ModelIdentity("3f" * 32, "base gem")
OTHER = ModelIdentity("9c" * 32, "large boq")
BITS, DIM = 16, 6
IDENTITY = {"model": MODEL.fingerprint, "files": "ab12", "images": [322, 322], "precision": "fp32"}


def images(n: int, seed: int = 0) -> dict:
    """Few code bits and repeated descriptors, so that distances tie; whole numbers up to 127, which every store holds
    exactly."""
    rng = np.random.default_rng(seed)
    floats = rng.integers(-127, 128, (n, DIM)).astype(np.float32)
    floats[:, 0] = 127
    floats[rng.integers(0, n, n // 3)] = floats[rng.integers(0, n, n // 3)]
    coordinates = rng.uniform(-1e6, 1e6, (n, 2))
    coordinates[::7] = np.nan
    return {"codes": rng.integers(0, 256, (n, BITS // 8), dtype=np.uint8), "floats": floats,
            "names": [f"{seed}/p{row}.jpg" for row in range(n)], "coordinates": coordinates}


def joined(*parts: dict) -> dict:
    return {key: [*parts[0][key], *parts[1][key]] if key == "names" else np.concatenate([part[key] for part in parts])
            for key in parts[0]}


def nearest(distances: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k smallest of each row, equal ones by column."""
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def check_search(index, data: dict, live: np.ndarray, *, k: int = 5, depth: int = 20) -> None:
    """`index` finds what sorting all distances to the rows `live` of data finds."""
    queries = images(9, seed=99)
    of_codes = np.unpackbits(queries["codes"][:, None] ^ data["codes"][live], axis=2).sum(2).astype(int)
    of_floats = ((queries["floats"][:, None].astype(float) - data["floats"][live]) ** 2).sum(2)
    first = nearest(of_codes, max(k, depth))
    again = nearest(np.take_along_axis(of_floats, first[:, :depth], axis=1), depth)
    final = np.hstack([np.take_along_axis(first, again, axis=1), first[:, depth:]])[:, :k]

    found = index.search(queries["codes"], queries["floats"], k=k, depth=depth)
    assert found.first_ids.dtype == found.ids.dtype == np.int64
    assert np.array_equal(found.first_ids, live[first])
    assert np.array_equal(found.first_distances, np.take_along_axis(of_codes, first, axis=1))
    assert np.array_equal(found.ids, live[final])
    np.testing.assert_allclose(found.distances, np.sqrt(np.take_along_axis(of_floats, final, axis=1))[:, :depth])
    distances, ids = index.search_codes(queries["codes"], k)
    assert np.array_equal(ids, found.first_ids[:, :k]) and np.array_equal(distances, found.first_distances[:, :k])
    distances, ids = index.search_floats(queries["floats"], k)
    assert np.array_equal(ids, live[nearest(of_floats, k)])
    np.testing.assert_allclose(distances, np.sort(of_floats, axis=1)[:, :k])
    assert len(index) == len(live)


def contents(folder: Path) -> dict[str, bytes]:
    """Of the segments' files by kind."""
    return {path.suffix: path.read_bytes() for path in folder.glob("segment-*")}


@pytest.fixture
def built(tmp_path):
    data = images(120)
    return TwoStageIndex.build(tmp_path / "index", model=MODEL, **data), data


# --- what is written is found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
def test_round_trip(tmp_path, store, monkeypatch):
    monkeypatch.setattr(segments, "BLOCK_BYTES", 500)  # several blocks
    monkeypatch.setattr(segments, "_NAMES", 50)
    data = images(120)
    data["names"][:4] = ["", "two\nlines", "Zürich/été.jpg", os.fsdecode(b"not-\xff\xfe-utf8")]
    built = TwoStageIndex.build(tmp_path / "index", model=MODEL, store=store, source={"split": "test"},
                                **{**data, "names": iter(data["names"])})
    for index in (built, TwoStageIndex.open(tmp_path / "index", model=MODEL)):
        check_search(index, data, np.arange(120))
        check_search(index, data, np.arange(120), k=50, depth=20)
        check_search(index, data, np.arange(120), k=200, depth=500)  # more than there are
        assert index.names(range(120)) == data["names"]
        assert index.names([3, 0, 3]) == [data["names"][row] for row in (3, 0, 3)]
        assert np.array_equal(index.coordinates([7, 1, 8]), data["coordinates"][[7, 1, 8]], equal_nan=True)
        assert all(np.array_equal(rows, data[key][[7, 1, 7]])
                   for rows, key in zip(index.rows([7, 1, 7]), ("codes", "floats"), strict=True))
        assert (index.model, index.source, index.generation) == (MODEL, {"split": "test"}, 1)
        size = {"fp32": 4 * DIM, "fp16": 2 * DIM, "int8": DIM + 4}[store]
        assert index.bytes_per_image == {"binary": BITS // 8, "float": size}
        index.verify()
    with pytest.raises(ValueError, match="read-only"):
        index._segments[0].codes[0] = 0
    stored = store_rows(data["floats"], store)
    files = contents(tmp_path / "index")
    assert (files[".codes"], files[".values"]) == (data["codes"].tobytes(), stored.values.tobytes())
    assert files.get(".scales", b"") == (b"" if stored.scales is None else stored.scales.tobytes())


def test_one_branch_alone(tmp_path):
    data = images(50)
    codes = TwoStageIndex.build(tmp_path / "codes", model=MODEL, names=data["names"], codes=data["codes"])
    floats = TwoStageIndex.build(tmp_path / "floats", model=MODEL, names=data["names"], floats=data["floats"])
    both = TwoStageIndex.build(tmp_path / "both", model=MODEL, **data)
    query = data["codes"][:3], data["floats"][:3]
    for one, of_both in ((codes.search_codes, both.search_codes), (floats.search_floats, both.search_floats)):
        rows = query[one == floats.search_floats]
        assert all(np.array_equal(a, b) for a, b in zip(one(rows, 4), of_both(rows, 4), strict=True))
    assert codes.bytes_per_image == {"binary": 2, "float": None}
    assert floats.bytes_per_image == {"binary": None, "float": 24}
    assert np.isnan(codes.coordinates([0, 49])).all()
    with pytest.raises(ValueError, match="no float descriptors"):
        codes.search(*query)
    with pytest.raises(ValueError, match="no codes"):
        floats.search(*query)
    codes.add(names=["x"], codes=data["codes"][:1], coordinates=np.array([[1.0, 2.0]]))
    assert codes.coordinates([49, 50])[1].tolist() == [1, 2] and np.isnan(codes.coordinates([49, 50])[0]).all()


@pytest.mark.parametrize("store", STORES)
def test_added_and_removed(tmp_path, store, monkeypatch):
    monkeypatch.setattr(segments, "BLOCK_BYTES", 500)
    monkeypatch.setattr(search, "_PAIR_BYTES", 2 * 20 * 4 * DIM)  # two queries
    folder = tmp_path / "index"
    first, second, third = images(60, 1), images(45, 2), images(30, 3)
    index = TwoStageIndex.build(folder, model=MODEL, store=store, **first)
    reader = TwoStageIndex.open(folder)
    assert index.add(**second) == range(60, 105)
    two = joined(first, second)
    check_search(index, two, np.arange(105))
    removed = np.array([0, 1, 5, 59, 60, 80, 104])
    index.remove(removed[:4])
    index.remove([two["names"][row] for row in removed[4:]])
    live = np.setdiff1d(np.arange(105), removed)
    check_search(index, two, live)
    check_search(reader, first, np.arange(60))
    check_search(TwoStageIndex.open(folder), first, np.arange(60))  # nothing is saved yet
    index.save()
    assert index.generation == 2
    check_search(TwoStageIndex.open(folder), two, live)
    check_search(reader, first, np.arange(60))  # which still has the files that it opened

    again = TwoStageIndex.open(folder)
    again.add(**third)
    again.remove(np.setdiff1d(np.arange(60, 105), removed))  # all that is left of the second
    three = joined(two, third)
    live = np.concatenate([np.setdiff1d(np.arange(60), removed), np.arange(105, 135)])
    check_search(again, three, live)
    check_search(again, three, live, depth=85)
    for wrong, message in ((np.array([[0, 135]]), "below 135"), (np.array([[-1]]), "-1")):
        with pytest.raises(ValueError, match=message):
            again.rerank(three["floats"][:1], wrong, 1)
    with pytest.raises(ValueError, match="depth is 0"):
        again.search(three["codes"], three["floats"], depth=0)
    again.save()
    again = TwoStageIndex.open(folder)
    again.verify()
    check_search(again, three, live)
    assert again.names([2, 134]) == [three["names"][2], three["names"][134]]
    assert np.array_equal(again.coordinates(live), three["coordinates"][live], equal_nan=True)
    assert len(list(folder.glob("removed-*"))) == 1

    again.save(tmp_path / "copy")
    copy = TwoStageIndex.open(tmp_path / "copy")
    copy.verify()
    kept = {key: [rows[row] for row in live] if key == "names" else rows[live] for key, rows in three.items()}
    check_search(copy, kept, np.arange(len(live)))
    assert copy.names(range(len(live))) == kept["names"] and copy.generation == 3
    fresh = TwoStageIndex.build(tmp_path / "fresh", model=MODEL, store=store, **kept)
    assert contents(copy.folder) == contents(fresh.folder)


def test_few_candidates_in_large_files_are_asked_for_first(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "_LARGE_BYTES", 600 * 4 * DIM)
    first, second, asked = images(600, 1), images(45, 2), []
    expect = segments.Segment._expect
    monkeypatch.setattr(segments.Segment, "_expect", lambda self, rows: (asked.append(rows.size), expect(self, rows)))
    index = TwoStageIndex.build(tmp_path / "index", model=MODEL, **first)
    check_search(index, first, np.arange(600), k=30)
    assert asked == [9 * 20]  # the candidates of 9 queries
    monkeypatch.setattr(segments, "_FEW_ROWS", 100)
    check_search(index, first, np.arange(600), k=30)
    assert len(asked) == 1
    index.add(**second)
    check_search(index, joined(first, second), np.arange(645))
    for wrong in (-1, 600):
        with pytest.raises(ValueError, match=f"{wrong}.*600 database rows"):
            TwoStageIndex.open(tmp_path / "index").rerank(first["floats"][:1], np.array([[wrong, 3]]), 2)


def test_restricted_to_some_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "BLOCK_BYTES", 500)
    data = joined(images(60, 1), images(45, 2))
    index = TwoStageIndex.build(tmp_path / "index", model=MODEL, **images(60, 1))
    index.add(**images(45, 2))
    index.remove([3, 70])
    for rows in ([3, 50, 2, 2, 9, 70, 104, 61, 60], range(105), range(60, 90), [7]):
        live = np.setdiff1d(rows, [3, 70])
        part = index.restricted_to(rows)
        check_search(part, data, live)
        assert part.names(live[-1:]) == index.names(live[-1:])
    check_search(index, data, np.setdiff1d(np.arange(105), [3, 70]))
    with pytest.raises(ValueError, match="no images"):
        index.restricted_to([3]).search(data["codes"][:1], data["floats"][:1])
    with pytest.raises(ValueError, match="105"):
        index.restricted_to([105])


# --- what does not fit is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("change, message", [
    ({"codes": None}, "45 names for|holds codes|codes, but none"), ({"names": ["one"]}, "1 names for 45"),
    ({"names": [str(i) for i in range(46)]}, "46 names for 45"), ({"coordinates": np.zeros((44, 2))}, "44 coordinates"),
    ({"coordinates": np.zeros((45, 3))}, r"\(45, 3\)"), ({"codes": np.zeros((45, 3), np.uint8)}, r"\(rows, 2\)"),
    ({"codes": np.zeros((44, 2), np.uint8)}, "44 codes and 45"), ({"codes": np.zeros((45, 2), np.int8)}, "int8"),
    ({"floats": np.zeros((45, 5), np.float32)}, r"\(rows, 6\)"), ({"floats": np.zeros((45, 6))}, "float64"),
    ({"floats": np.full((45, 6), np.nan, np.float32)}, "NaN"),
    ({"floats": store_rows(np.zeros((45, 6), np.float32), "int8")}, "int8.*expected fp32"),
])
def test_what_does_not_fit_leaves_nothing(built, change, message):
    index, data = built
    before = sorted(index.folder.iterdir())
    with pytest.raises(ValueError, match=message):
        index.add(**{**images(45, 2), **change})
    assert sorted(index.folder.iterdir()) == before
    check_search(index, data, np.arange(120))


def test_mistakes_are_named(built, tmp_path):
    index, data = built
    for wrong, message in (([120], "below 120"), ([-1], "-1"), (["nowhere.jpg"], "nowhere.jpg"), ([1.5], "float64")):
        with pytest.raises(ValueError, match=message):
            index.remove(wrong)
    index.remove([4])
    with pytest.raises(ValueError, match="row 4 is removed already"):
        index.remove([3, 4])
    with pytest.raises(ValueError, match="p4.jpg"):
        index.remove(["0/p3.jpg", "0/p4.jpg"])
    assert len(index) == 119
    with pytest.raises(ValueError, match="holds an index already"):
        TwoStageIndex.build(index.folder, model=MODEL, **data)
    with pytest.raises(ValueError, match="holds an index already"):
        TwoStageIndex.build(tmp_path / "b", model=MODEL, **data).save(index.folder)
    for options in ({"k": 0}, {"depth": 0}):
        with pytest.raises(ValueError, match="is 0; expected at least 1"):
            index.search(data["codes"], data["floats"], **options)
    with pytest.raises(ValueError, match="store is 'fp8'"):
        TwoStageIndex.build(tmp_path / "c", model=MODEL, store="fp8", **data)
    with pytest.raises(ValueError, match="neither"):
        TwoStageIndex.build(tmp_path / "c", model=MODEL, names=["a"])
    with pytest.raises(FileNotFoundError, match="holds no index"):
        TwoStageIndex.open(tmp_path / "c")
    index.remove(np.setdiff1d(np.arange(120), [4]))
    with pytest.raises(ValueError, match="all are removed"):
        index.search(data["codes"], data["floats"])


def test_another_model_is_refused_by_name(built):
    index, _ = built
    TwoStageIndex.open(index.folder, model=ModelIdentity(MODEL.fingerprint, "another name for it"))
    with pytest.raises(ValueError, match=r"index of base gem \(fingerprint 3f3f3f3f\w+\).* large boq .*9c9c9c9c"):
        TwoStageIndex.open(index.folder, model=OTHER)


def test_damage_is_found(built, capsys):
    index, _ = built
    index.remove([1, 2])
    index.save()
    files = sorted(index.folder.iterdir())
    assert {path.suffix for path in files} == {".codes", ".values", ".offsets", ".names", ".coordinates", ".json", ""}
    for path in files:
        before = path.read_bytes()
        path.write_bytes(before[:-1] if path.suffix != ".json" else before[:-9])
        with pytest.raises(ValueError, match=f"{path.name} is (torn|damaged)"):
            TwoStageIndex.open(index.folder)
        middle = len(before) // 2
        path.write_bytes(before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1:])
        with pytest.raises(ValueError, match=path.name):
            TwoStageIndex.open(index.folder).verify()
        if path.suffix != ".json":
            assert len(TwoStageIndex.open(index.folder)) == 118  # as every size is right
            with pytest.raises(SystemExit) as ended:
                exit_with(lambda: main(["verify", str(index.folder)]))
            assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
            path.unlink()
            with pytest.raises(FileNotFoundError, match=f"{path.name} is missing"):
                TwoStageIndex.open(index.folder)
        path.write_bytes(before)
    manifest = index.folder / "manifest.json"
    before = manifest.read_text()
    manifest.write_text(before.replace("base gem", "base gum"))
    with pytest.raises(ValueError, match="manifest.json is damaged"):
        TwoStageIndex.open(index.folder)
    manifest.write_text(before)
    main(["verify", str(index.folder)])
    main(["info", str(index.folder)])
    assert "118 images of base gem (fingerprint 3f3f3f3f3f3f)" in capsys.readouterr().out


def test_two_who_change_it(built):
    index, data = built
    other = TwoStageIndex.open(index.folder)
    other.remove([5])
    index.remove([6])
    index.save()
    with pytest.raises(ValueError, match="changed by another process"):
        other.save()
    assert 5 in TwoStageIndex.open(index.folder).search(data["codes"], data["floats"]).first_ids


def test_generations_count_changes(built, tmp_path):
    index, _ = built
    index.save(tmp_path / "same")
    index.remove([5])
    index.save(tmp_path / "changed")
    index.save(index.folder)
    index.save()
    assert [TwoStageIndex.open(folder).generation for folder in (index.folder, tmp_path / "same", tmp_path / "changed")
            ] == [2, 1, 2]


def test_saving_deletes_what_a_dead_process_left_and_nothing_else(built):
    index, data = built
    TwoStageIndex.open(index.folder).add(**images(10, 4))  # and never saves
    (index.folder / "segment-notes.txt").write_text("mine")
    assert len(list(index.folder.glob("segment-*"))) == 11
    index.remove([0])
    index.save()
    assert len(list(index.folder.glob("segment-*"))) == 6 and (index.folder / "segment-notes.txt").exists()
    index.verify()


def test_opening_while_another_process_saves(built, monkeypatch):
    index, data = built
    index.remove([0])
    index.save()
    old = read_manifest(index.folder)
    index.remove([1])
    index.save()
    answers = iter([old, read_manifest(index.folder)])
    monkeypatch.setattr("utils.search.index.two_stage.read_manifest", lambda folder: next(answers))
    assert len(TwoStageIndex.open(index.folder)) == 118


# --- rows written one by one -----------------------------------------------------------------------------------


def writer_for(folder: Path, n: int, **changes) -> IndexWriter:
    return IndexWriter(folder, **{"n": n, "identity": IDENTITY, "code_bytes": BITS // 8, "float_dim": DIM,
                                  "store": "int8", **changes})


def write_rows(writer: IndexWriter, data: dict, rows: range, step: int = 7) -> None:
    for start in range(rows.start, rows.stop, step):
        part = slice(start, min(start + step, rows.stop))
        writer.write(start, codes=data["codes"][part], floats=data["floats"][part])


def in_another_process(work) -> int:
    """Runs `work` in a child; returns its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(writer: IndexWriter, data: dict) -> TwoStageIndex:
    return writer.finish(names=data["names"], coordinates=data["coordinates"], model=MODEL)


def test_killed_and_continued_gives_equal_files(tmp_path):
    data = images(200)

    def killed():
        writer = writer_for(tmp_path / "index", 200)
        write_rows(writer, data, range(100, 170))
        writer.flush()
        write_rows(writer, data, range(30, 60))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_another_process(killed) == -signal.SIGKILL
    with pytest.raises(ValueError, match="unfinished extraction, 70 of 200 images"):
        TwoStageIndex.open(tmp_path / "index")
    with pytest.raises(ValueError, match="unfinished extraction already"):
        TwoStageIndex.build(tmp_path / "index", model=MODEL, **data)
    assert not IndexWriter.finished(tmp_path / "index", IDENTITY)
    with writer_for(tmp_path / "index", 200) as writer:
        assert writer.missing(range(90, 180)).tolist() == [*range(90, 100), *range(170, 180)]
        with pytest.raises(ValueError, match="130 of 200 images are not written"):
            finish(writer, data)
        for row in writer.missing(range(200))[::-1]:
            writer.write(row, codes=data["codes"][row:row + 1], floats=data["floats"][row:row + 1])
        index = finish(writer, data)
    check_search(index, data, np.arange(200))
    index.verify()
    whole = TwoStageIndex.build(tmp_path / "whole", model=MODEL, store="int8", **data)
    assert contents(tmp_path / "index") == contents(whole.folder)
    assert not list(tmp_path.glob("index/unfinished*")) and not list(tmp_path.glob("index/.*"))
    assert index.source == IDENTITY and IndexWriter.finished(tmp_path / "index", IDENTITY)
    with pytest.raises(ValueError, match="finished index"):
        writer_for(tmp_path / "index", 200)
    with pytest.raises(ValueError, match="precision is 'fp32' there, 'bf16' here"):
        IndexWriter.finished(tmp_path / "index", {**IDENTITY, "precision": "bf16"})
    index.remove([0])
    index.save()
    with pytest.raises(ValueError, match="changed after its extraction"):
        IndexWriter.finished(tmp_path / "index", IDENTITY)


def test_two_processes_write_their_shares(tmp_path):
    data = images(200)
    children = []
    for rows in (range(100), range(100, 200)):
        child = os.fork()
        if child == 0:
            with writer_for(tmp_path / "index", 200) as writer:
                write_rows(writer, data, rows)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    finish(writer_for(tmp_path / "index", 200), data)
    TwoStageIndex.build(tmp_path / "whole", model=MODEL, store="int8", **data)
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")


def test_rows_of_a_writer_in_another_folder(tmp_path):
    data = images(40)
    with writer_for(tmp_path / "a", 40) as first, writer_for(tmp_path / "b", 40) as second:
        write_rows(first, data, range(25))
        write_rows(second, data, range(25, 40))
        first.write_arrays(25, second.read_arrays(25, 40))
        first.flush()
        assert [[*map(len, writer.read_arrays(3, 9))] for writer in (first, second)] == [[6, 6, 6]] * 2
        finish(first, data)
    TwoStageIndex.build(tmp_path / "whole", model=MODEL, store="int8", **data)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


@pytest.mark.parametrize("changes, message", [
    ({"n": 41}, "images is 40 there, 41 here"), ({"store": "fp16"}, "store is 'int8' there, 'fp16' here"),
    ({"float_dim": None}, "float_dim is 6 there, None"), ({"code_bytes": 3}, "code_bytes is 2 there, 3"),
    ({"identity": {**IDENTITY, "files": "cd34"}}, "files is 'ab12' there, 'cd34' here"),
    ({"identity": {"model": MODEL.fingerprint}}, "files is 'ab12' there, None here"),
    ({"identity": {**IDENTITY, "crop": 5}}, "crop is None there, 5 here"),
])
def test_unfinished_files_of_other_descriptors_are_refused(tmp_path, changes, message):
    writer_for(tmp_path, 40).close()
    writer_for(tmp_path, 40).close()
    with pytest.raises(ValueError, match=message):
        writer_for(tmp_path, **{"n": 40, **changes})


def test_a_file_lost_after_rows_were_marked(tmp_path):
    data = images(40)
    with writer_for(tmp_path, 40):
        pass
    values, = tmp_path.glob("*.values")
    values.unlink()
    with writer_for(tmp_path, 40) as writer:  # nothing was in it
        write_rows(writer, data, range(10))
    values.write_bytes(values.read_bytes()[:-1])
    with pytest.raises(ValueError, match="values is missing or torn"):
        writer_for(tmp_path, 40)


def test_rows_are_marked_once_they_are_on_the_disk(tmp_path, monkeypatch):
    data, synced = images(40), []
    sync = os.fsync
    writer = writer_for(tmp_path, 40)
    monkeypatch.setattr(os, "fsync", lambda file: (sync(file), synced.append((file, len(writer.missing(range(40)))))))
    write_rows(writer, data, range(14))
    assert not synced and len(writer.missing(range(40))) == 40
    writer.flush()
    assert len({file for file, _ in synced}) == 3  # codes, values and scales
    assert {missing for _, missing in synced} == {40} and len(writer.missing(range(40))) == 26
    monkeypatch.setattr(writer_module, "_SYNC_BYTES", 100)
    write_rows(writer, data, range(14, 28))
    assert len(writer.missing(range(40))) == 12
    monkeypatch.setattr(writer_module, "_SYNC_BYTES", 10**9)
    monkeypatch.setattr(writer_module, "_SYNC_SECONDS", 0)
    write_rows(writer, data, range(28, 29))
    assert len(writer.missing(range(40))) == 11
    for start, message in ((35, "rows 35 to 42"), (-1, "rows -1 to 6")):
        with pytest.raises(ValueError, match=message):
            writer.write(start, codes=data["codes"][:7], floats=data["floats"][:7])
    writer.close()
    writer.close()


# --- memory ----------------------------------------------------------------------------------------------------


def resident() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {key: 1024 * int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)
            if key in ("RssAnon", "RssFile")}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells of what kind the memory is")
def test_an_open_index_takes_pages_that_processes_share(tmp_path):
    n = 400_000
    with IndexWriter(tmp_path, n=n, identity={}, code_bytes=64, float_dim=64, store="int8") as writer:
        os.pwrite(writer._marks, b"\1" * n, 0)  # sparse files: nothing is on the disk but zeros
        start = resident()
        writer.finish(names=("" for _ in range(n)), model=MODEL)
    written = resident()
    index = TwoStageIndex.open(tmp_path)
    opened = resident()
    found = index.search(np.zeros((1, 64), np.uint8), np.ones((1, 64), np.float32))
    searched = resident()
    assert found.ids.tolist() == [list(range(10))]
    assert written["RssAnon"] - start["RssAnon"] < 16 * 2**20  # writing: blocks, whatever n is
    assert opened["RssAnon"] - written["RssAnon"] < 2**20 and opened["RssFile"] - written["RssFile"] < 2**20
    assert searched["RssAnon"] - opened["RssAnon"] < 8 * 2**20  # against 25.6 MB of codes
    assert searched["RssFile"] - opened["RssFile"] >= 64 * n
