"""An index on disk against sorting all distances; what becomes of damaged, foreign and hostile ones."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from made_up import BITS, DIM, MODEL, OTHER, dump, flat_files, images, in_another_process, joined
from paths import ROOT
from scripts import error_of

from utils.index import main
from utils.search import STORES, ModelIdentity, Searchable, StoredRows, TwoStageIndex, search_hamming, store_rows
from utils.search.index import disk, searchable


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
    of_first_byte = np.unpackbits(queries["codes"][:, None, :1] ^ data["codes"][live][:, :1], axis=2).sum(2)
    cut = nearest(of_first_byte, depth)
    distances, ids = index.search_codes(queries["codes"], depth, bits=8)
    assert np.array_equal(ids, live[cut])
    assert np.array_equal(distances, np.take_along_axis(of_first_byte, cut, axis=1))
    bits = np.take_along_axis(of_codes, cut, axis=1)[:, :k]
    ranked = np.lexsort((cut[:, :k], bits), axis=1)  # by distance, then row
    again, distances = index.rerank_codes(queries["codes"], ids, k)
    assert np.array_equal(again, live[np.hstack([np.take_along_axis(cut, ranked, axis=1), cut[:, k:]])])
    assert np.array_equal(distances, np.take_along_axis(bits, ranked, axis=1))
    cut = np.sort(nearest(of_first_byte, depth + 7), axis=1)
    by_whole = np.take_along_axis(cut, nearest(np.take_along_axis(of_codes, cut, axis=1), depth + 7), axis=1)
    again = nearest(np.take_along_axis(of_floats, by_whole[:, :depth], axis=1), depth)
    found = index.search(queries["codes"], queries["floats"], k=1, depth=depth, bits=8, shortlist=depth + 7)
    assert np.array_equal(found.first_ids, live[by_whole])
    assert np.array_equal(found.first_distances, np.take_along_axis(of_codes, by_whole, axis=1))
    assert np.array_equal(found.ids, live[np.take_along_axis(by_whole, again, axis=1)[:, :1]])


@pytest.fixture
def small_blocks(monkeypatch):
    """Of 50 rows and fewer."""
    monkeypatch.setattr(disk, "BLOCK_ROWS", 50)
    monkeypatch.setattr(disk, "BLOCK_BYTES", 500)


@pytest.fixture
def built(tmp_path):
    data = images(120)
    return TwoStageIndex.build(tmp_path / "index", model=MODEL, **data), data


# --- what is written is found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
def test_round_trip(tmp_path, store, small_blocks):
    data = images(120)
    data["names"][:4] = ["", "two\nlines", "Zürich/été.jpg", os.fsdecode(b"not-\xff\xfe-utf8")]
    data["coordinates"][:3] = [np.nan, 3.5], [-0.0, 0.0], [4e5, 5e6]
    built = TwoStageIndex.build(tmp_path / "index", model=MODEL, store=store, source={"split": "test"},
                                **{**data, "names": iter(data["names"])})
    for index in (built, TwoStageIndex.open(tmp_path / "index", model=MODEL)):
        check_search(index, data, np.arange(120))
        check_search(index, data, np.arange(120), k=50, depth=20)
        check_search(index, data, np.arange(120), k=200, depth=500)  # more than there are
        assert index.names(range(120)) == data["names"]
        assert index.names([3, 0, 3]) == [data["names"][row] for row in (3, 0, 3)] and index.names([]) == []
        assert np.array_equal(index.coordinates(range(120)), data["coordinates"], equal_nan=True)
        assert np.array_equal(index.coordinates([7, 1, 7]), data["coordinates"][[7, 1, 7]], equal_nan=True)
        assert index.coordinates([]).shape == (0, 2)
        assert all(np.array_equal(rows, data[key][[7, 1, 7]])
                   for rows, key in zip(index.rows([7, 1, 7]), ("codes", "floats"), strict=True))
        assert (index.model, index.source, index.generation) == (MODEL, {"split": "test"}, 1)
        assert index.shape == (BITS // 8, DIM, store)
        size = {"fp32": 4 * DIM, "fp16": 2 * DIM, "int8": DIM + 4}[store]
        assert index.bytes_per_image == {"binary": BITS // 8, "float": size}
        assert index.bytes_on_disk == sum(path.stat().st_size for path in index.folder.iterdir())
        index.verify()
    for rows in (built.codes, built.floats.values):
        with pytest.raises(ValueError, match="read-only"):
            rows[0] = 0
    stored = store_rows(data["floats"], store)
    expected = {"codes": data["codes"].tobytes(), "floats": stored.values.tobytes()}
    expected |= {"scales": stored.scales.tobytes()} if store == "int8" else {}
    assert flat_files(tmp_path / "index") == expected
    again = TwoStageIndex.build(tmp_path / "held", model=MODEL, store=store, **{**data, "floats": stored})
    assert flat_files(again.folder) == expected


def test_in_memory_as_on_disk(built):
    index, data = built
    memory = Searchable(data["codes"], data["floats"])
    check_search(memory, data, np.arange(120))
    assert memory.bytes_per_image == index.bytes_per_image and memory.shape == index.shape
    assert all(np.array_equal(*pair) for pair in zip(memory.rows([5, 2]), index.rows([5, 2]), strict=True))
    some = np.array([3, 4, 50, 119])
    check_search(memory.restricted_to([119, 3, 50, 4]), data, some)
    check_search(memory.restricted_to([119, 3, 50, 4]).restricted_to([3, 7, 50]), data, np.array([3, 50]))
    floats = Searchable(None, store_rows(data["floats"], "int8"))
    assert np.array_equal(floats.search_floats(data["floats"][:3], 4)[1], index.search_floats(data["floats"][:3], 4)[1])
    for wrong in ((None, None), (data["codes"], data["floats"][1:]), (data["codes"].astype(int), None),
                  (data["codes"][0], None)):
        with pytest.raises(ValueError, match="expected"):
            Searchable(*wrong)


def test_no_queries_find_nothing(built):
    index, data = built
    found = index.search(data["codes"][:0], data["floats"][:0], k=3)
    assert [part.shape for part in found] == [(0, 3), (0, 3), (0, 100), (0, 100)]
    assert index.search_floats(data["floats"][:0], 3)[1].shape == (0, 3)
    assert index.search_codes(data["codes"][:0], 500)[1].shape == (0, 120)


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
def test_added_and_removed(tmp_path, store, small_blocks):
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
    for wrong, message in ((np.array([[0, 135]]), "135 database rows"), (np.array([[-1]]), "-1")):
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

    again.save(tmp_path / "copy")
    copy = TwoStageIndex.open(tmp_path / "copy")
    copy.verify()
    kept = {key: [rows[row] for row in live] if key == "names" else rows[live] for key, rows in three.items()}
    check_search(copy, kept, np.arange(len(live)))
    assert copy.names(range(len(live))) == kept["names"] and copy.generation == 3
    assert np.array_equal(copy.coordinates(range(len(live))), kept["coordinates"], equal_nan=True)
    fresh = TwoStageIndex.build(tmp_path / "fresh", model=MODEL, store=store, **kept)
    assert flat_files(copy.folder) == flat_files(fresh.folder)


def test_restricted_to_some_rows(tmp_path):
    data = joined(images(60, 1), images(45, 2))
    index = TwoStageIndex.build(tmp_path / "index", model=MODEL, **images(60, 1))
    index.add(**images(45, 2))
    index.remove([3, 70])
    for rows in ([3, 50, 2, 2, 9, 70, 104, 61, 60], range(105), range(60, 90), [7]):
        live = np.setdiff1d(rows, [3, 70])
        check_search(index.restricted_to(rows), data, live)
    check_search(index, data, np.setdiff1d(np.arange(105), [3, 70]))
    with pytest.raises(ValueError, match="no images"):
        index.restricted_to([3]).search(data["codes"][:1], data["floats"][:1])
    with pytest.raises(ValueError, match="105"):
        index.restricted_to([105])


def test_a_prefix_is_read_alone(tmp_path, monkeypatch):
    """From a copy of its own, which is made once: a search by few bits touches few bytes."""
    index = TwoStageIndex.build(tmp_path / "index", model=MODEL, **images(60, 1))
    searched = []
    monkeypatch.setattr(searchable, "search_hamming",
                        lambda rows, *more, **options: searched.append(rows) or search_hamming(rows, *more, **options))
    queries = images(9, seed=99)["codes"]
    for bits in (8, 8, 16, None):
        index.search_codes(queries, 5, bits=bits)
    assert [rows.shape for rows in searched] == [(60, 1), (60, 1), (60, 2), (60, 2)]
    assert searched[0] is searched[1] and searched[0].flags.c_contiguous and searched[0].base is None
    assert np.shares_memory(searched[2], index.codes) and np.shares_memory(searched[3], index.codes)
    for bits in (0, 4, 12, 24, -8):
        with pytest.raises(ValueError, match=f"bits is {bits}; expected a multiple of 8, at most the code's 16"):
            index.search_codes(queries, 5, bits=bits)
    with pytest.raises(ValueError, match="width"):
        index.search_codes(np.zeros((3, 3), np.uint8), 5, bits=8)


# --- what does not fit is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("change, message", [
    ({"codes": None}, "45 images.* codes|code_bytes=None"), ({"names": ["one"]}, "1 names for 45"),
    ({"names": [str(i) for i in range(46)]}, "46 names for 45"), ({"coordinates": np.zeros((44, 2))}, r"\(44, 2\)"),
    ({"coordinates": np.zeros((45, 3))}, r"\(45, 2\)"), ({"codes": np.zeros((45, 3), np.uint8)}, "code_bytes=3"),
    ({"codes": np.zeros((44, 2), np.uint8)}, "44 and 45"), ({"codes": np.zeros((45, 2), np.int8)}, "int8"),
    ({"floats": np.zeros((45, 5), np.float32)}, "float_dim=5"), ({"floats": np.zeros((45, 6))}, "float64"),
    ({"floats": np.full((45, 6), np.nan, np.float32)}, "NaN"),
    ({"floats": store_rows(np.zeros((45, 6), np.float32), "int8")}, "'int8'.*'fp32'"),
    ({key: [] if key == "names" else value[:0] for key, value in images(45).items()}, "0 images"),
])
@pytest.mark.parametrize("unsaved", [False, True])
def test_what_does_not_fit_changes_nothing(built, small_blocks, unsaved, change, message):
    index, data = built
    before, said = flat_files(index.folder), dump(index.folder)
    if unsaved:
        index.add(**images(30, 7))
        data = joined(data, images(30, 7))
    with pytest.raises(ValueError, match=message):
        index.add(**{**images(45, 2), **change})
    check_search(index, data, np.arange(len(data["codes"])))
    if not unsaved:  # nor is the lock held
        index.save()
        TwoStageIndex.open(index.folder).remove([0])
        assert dump(index.folder) == said
        assert all(now.startswith(before[name]) for name, now in flat_files(index.folder).items())
    index.add(**images(45, 2))
    index.save()
    TwoStageIndex.open(index.folder).verify()
    check_search(TwoStageIndex.open(index.folder), joined(data, images(45, 2)), np.arange(len(data["codes"]) + 45))


def test_what_cannot_be_built_can_be_built_again(tmp_path):
    data = images(20)
    with pytest.raises(ValueError, match="21 names for 20"):
        TwoStageIndex.build(tmp_path, model=MODEL, **{**data, "names": [*data["names"], "x"]})
    with pytest.raises(FileNotFoundError, match="holds no index"):
        TwoStageIndex.open(tmp_path)
    check_search(TwoStageIndex.build(tmp_path, model=MODEL, **data), data, np.arange(20))


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
    index.remove([])
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
    with pytest.raises(ValueError, match="of no images; expected codes, floats or both"):
        TwoStageIndex.build(tmp_path / "c", model=MODEL, names=["a"])
    with pytest.raises(FileNotFoundError, match="holds no index"):
        TwoStageIndex.open(tmp_path / "c")
    index.remove(np.setdiff1d(np.arange(120), [4]))
    for call in (lambda: index.search(data["codes"], data["floats"]), lambda: index.search_floats(data["floats"], 1)):
        with pytest.raises(ValueError, match="all are removed"):
            call()
    with pytest.raises(ValueError, match="0 images"):
        index.save(tmp_path / "copy")
    assert list(index.live_ids()) == []


def test_a_student_of_its_model_is_accepted_and_one_of_another_is_not(built):
    index, _ = built
    student = ModelIdentity("77" * 32, "tiny gem")
    index.of(student, teacher=MODEL)
    index.of(MODEL, teacher=OTHER)
    with pytest.raises(ValueError, match=r"index of base gem .*; the queries are from tiny gem \(fingerprint 77777777"):
        index.of(student, teacher=OTHER)


def test_another_model_is_refused_by_name(built):
    index, _ = built
    TwoStageIndex.open(index.folder, model=ModelIdentity(MODEL.fingerprint, "another name for it"))
    with pytest.raises(ValueError, match=r"index of base gem \(fingerprint 3f3f3f3f\w+\).* large boq .*9c9c9c9c"):
        TwoStageIndex.open(index.folder, model=OTHER)


# --- others, and their changes -----------------------------------------------------------------------------------


def test_one_changes_it_while_others_read(built, monkeypatch):
    """The second to change it waits, and is refused by name; then it goes on behind the first's rows."""
    monkeypatch.setattr(disk, "WAIT", 0.05)
    index, data = built
    other, more = TwoStageIndex.open(index.folder), images(30, 2)
    index.add(**more)
    index.remove([5])
    for change in (lambda: other.remove([6]), lambda: other.add(**more)):
        with pytest.raises(ValueError, match="index is being changed by another process, for which 0.05 s"):
            change()
    check_search(other, data, np.arange(120))
    check_search(TwoStageIndex.open(index.folder), data, np.arange(120))
    assert other.names([119]) == data["names"][119:]
    index.save()
    other.remove([6])
    assert other.add(**images(10, 3)) == range(150, 160)
    other.save()
    assert other.generation == 3
    everything = joined(joined(data, more), images(10, 3))
    for one in (other, TwoStageIndex.open(index.folder)):
        check_search(one, everything, np.setdiff1d(np.arange(160), [5, 6]))
    check_search(index, joined(data, more), np.setdiff1d(np.arange(150), [5]))  # as it saved it
    with pytest.raises(ValueError, match="row 6 is removed already"):
        index.remove([6])
    other.verify()


def test_what_is_not_saved_is_given_up(built):
    index, data = built
    index.add(**images(10, 4))
    index.remove([0])
    index.close()
    TwoStageIndex.open(index.folder).verify()
    again = TwoStageIndex.open(index.folder)
    check_search(again, data, np.arange(120))
    assert again.add(**images(10, 5)) == range(120, 130)
    del again  # as whoever forgets
    third = TwoStageIndex.open(index.folder)
    assert third.add(**images(3, 6)) == range(120, 123)
    third.save()
    assert (index.folder / "codes").stat().st_size == 123 * BITS // 8  # what was added before is cut off
    check_search(TwoStageIndex.open(index.folder), joined(data, images(3, 6)), np.arange(123))


def test_generations_count_changes(built, tmp_path):
    index, _ = built
    index.save(tmp_path / "same")
    index.remove([5])
    index.save(tmp_path / "changed")
    index.save(index.folder)
    index.save()
    assert [TwoStageIndex.open(folder).generation for folder in (index.folder, tmp_path / "same", tmp_path / "changed")
            ] == [2, 1, 2]


def test_an_index_whose_folder_another_takes_goes_on_as_it_was(built):
    index, data = built
    other = images(200, 8)
    shutil.rmtree(index.folder)
    TwoStageIndex.build(index.folder, model=OTHER, **other)
    check_search(index, data, np.arange(120))
    assert index.names(range(120)) == data["names"]
    with pytest.raises(ValueError, match="cannot be used"):
        index.add(**images(10, 9))
    TwoStageIndex.open(index.folder).verify()
    check_search(TwoStageIndex.open(index.folder), other, np.arange(200))


def test_other_threads_and_forked_processes_use_it(built):
    index, data = built
    found = []
    nearest = index.search(data["codes"], data["floats"]).ids[0]
    thread = threading.Thread(target=lambda: found.append(index.names(nearest)))
    thread.start()
    thread.join()
    assert found == [index.names(nearest)]
    assert in_another_process(lambda: os._exit(7 if index.names([3]) == ["0/p3.jpg"] else 0)) == 7


# --- damaged, foreign, hostile -----------------------------------------------------------------------------------


def test_a_changed_byte_is_found_wherever_it_is(tmp_path, small_blocks, capsys):
    index = TwoStageIndex.build(tmp_path, model=MODEL, **images(120))
    index.add(**images(80, 2))
    index.remove([1, 2])
    index.save()
    index.close()
    index.verify()
    for name, size in (("codes", 200 * BITS // 8), ("floats", 200 * 4 * DIM)):
        path = index.folder / name
        before = path.read_bytes()
        assert len(before) == size
        for row in (0, 66, 199):
            place = row * size // 200
            path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1:])
            with pytest.raises(ValueError, match=rf"{name}: rows \d+ to \d+ are not what was written") as error:
                index.verify()
            start, stop = map(int, re.search(r"rows (\d+) to (\d+)", str(error.value)).groups())
            assert start <= row < stop <= start + 50
        assert f"{path}: rows " in error_of(main, "verify", index.folder, capsys=capsys)
        path.write_bytes(before + b"of a dead process")
        index.verify()
        path.write_bytes(before[:-1])
        with pytest.raises(ValueError, match=f"{name} is torn: it holds {size - 1} bytes, expected {size}"):
            TwoStageIndex.open(index.folder)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=name):
            TwoStageIndex.open(index.folder)
        path.write_bytes(before)
    main(["verify", str(index.folder)])
    main(["info", str(index.folder)])
    assert "198 images of base gem (fingerprint 3f3f3f3f3f3f)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_changed_byte_of_the_database_is_found(built):
    """Every 31st byte: refused or found, or it meant nothing, so that all that the index says is as it was."""
    index, data = built
    index.remove([1, 2])
    index.save()
    index.close()
    path = index.folder / "index.sqlite"
    before, told = path.read_bytes(), 0
    said = dump(index.folder)
    for place in range(0, len(before), 31):
        path.write_bytes(before[:place] + bytes([before[place] ^ 16]) + before[place + 1:])
        try:
            TwoStageIndex.open(index.folder).verify()
        except (ValueError, FileNotFoundError) as error:
            assert str(index.folder) in str(error) and "\n" not in str(error)
            told += 1
        else:
            assert dump(index.folder) == said
    assert told > 100


def test_what_is_no_index_of_this_project_is_refused_in_one_line(built, tmp_path):
    index, data = built
    index.close()
    path = index.folder / "index.sqlite"
    before = path.read_bytes()
    for statement, message in (
            ("PRAGMA user_version = 4", "was not written by this version of this project.* 4, expected .* 3"),
            ("PRAGMA user_version = 2", "was not written by this version"),  # which had other tables
            ("PRAGMA user_version = 1", "was not written by this version"),
            ("PRAGMA application_id = 1", "was not written by this version"),
            ("DROP TABLE about; CREATE TABLE about (x)", "was not written by this version"),
            ("CREATE VIEW more AS SELECT 1", "was not written by this version"),
            ("DELETE FROM about", "is damaged"), ("INSERT INTO about SELECT * FROM about", "is damaged")):
        path.write_bytes(before)
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.executescript(statement)
        with pytest.raises(ValueError, match=message):
            TwoStageIndex.open(index.folder)
    path.write_text("something else" * 100)
    with pytest.raises(ValueError, match="index.sqlite cannot be used: file is not a database"):
        TwoStageIndex.open(index.folder)
    for name in ("manifest.json", "unfinished.json"):
        old = tmp_path / name.partition(".")[0]
        old.mkdir()
        (old / name).write_text("{}")
        for call in (lambda: TwoStageIndex.open(old), lambda: TwoStageIndex.build(old, model=MODEL, **data)):  # noqa: B023
            with pytest.raises(ValueError, match="earlier version.* extract again"):
                call()


# --- imports -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_search_needs_neither_the_data_sets_nor_the_model():
    script = ("import sys, pkgutil, importlib, utils.search; "
              "[importlib.import_module(module.name) for module in pkgutil.walk_packages(utils.search.__path__, "
              "'utils.search.')]; print(*sorted({name.partition('.')[0] for name in sys.modules}))")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"faiss", "torch", "utils"} <= loaded
    assert not loaded & {"datasets", "model", "losses", "torchvision", "sklearn", "utm", "lancedb"}


# --- memory ----------------------------------------------------------------------------------------------------


def resident() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {key: 1024 * int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)
            if key in ("RssAnon", "RssFile")}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells of what kind the memory is")
def test_an_open_index_takes_pages_that_processes_share(tmp_path):
    n = 400_000
    codes, floats = np.zeros((n, 64), np.uint8), StoredRows(np.zeros((n, 64), np.int8), np.zeros(n, np.float32))
    start = resident()
    TwoStageIndex.build(tmp_path, model=MODEL, codes=codes, floats=floats, store="int8", names=("" for _ in range(n)))
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


def test_notes_are_kept_beside_changes_of_others(tmp_path):
    index = TwoStageIndex.build(tmp_path / "a", model=MODEL, notes={"zone": 31}, **images(20))
    other = TwoStageIndex.open(tmp_path / "a")
    other.note(confidence={"threshold": None}, zone=32)
    assert other.notes == {"zone": 32, "confidence": {"threshold": None}} and other.generation == 1
    index.remove([3])  # by one that has not seen the notes
    with pytest.raises(ValueError, match="has changes that are not saved; save them before a note"):
        index.note(zone=33)
    index.save()
    index.save(tmp_path / "copy")
    for folder in ("a", "copy"):
        again = TwoStageIndex.open(tmp_path / folder)
        assert (again.notes, len(again), again.generation) == (other.notes, 19, 2)


def test_an_index_written_before_there_were_notes_is_read(tmp_path):
    TwoStageIndex.build(tmp_path, model=MODEL, notes={"zone": 31}, **images(20)).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as db:
        content, removed = db.execute("SELECT content, removed FROM about").fetchone()
        about = json.loads(content)
        del about["notes"]
        content = json.dumps(about).encode()
        db.execute("UPDATE about SET content = ?, sha256 = ?", (content, hashlib.sha256(content + removed).digest()))
        db.commit()
    index = TwoStageIndex.open(tmp_path)
    assert index.notes == {}
    index.note(zone=31)
    assert TwoStageIndex.open(tmp_path).notes == {"zone": 31}
