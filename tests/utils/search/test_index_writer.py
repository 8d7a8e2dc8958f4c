"""Rows of an index that are written one by one: by several processes, and on after a kill."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from made_up import BITS, DIM, MODEL, dump, flat_files, images, in_another_process

from utils.search import IndexWriter, TwoStageIndex
from utils.search.index import writer as module

IDENTITY = {"model": MODEL.fingerprint, "files": "ab12", "images": [322, 322], "precision": "fp32"}


def writer_for(folder: Path, n: int, **changes) -> IndexWriter:
    return IndexWriter(folder, **{"n": n, "identity": IDENTITY, "code_bytes": BITS // 8, "float_dim": DIM,
                                  "store": "int8", **changes})


def write_rows(writer: IndexWriter, data: dict, rows: range, step: int = 7) -> None:
    for start in range(rows.start, rows.stop, step):
        part = slice(start, min(start + step, rows.stop))
        writer.write(start, codes=data["codes"][part], floats=data["floats"][part])


def finish(writer: IndexWriter, data: dict) -> TwoStageIndex:
    return writer.finish(names=data["names"], coordinates=data["coordinates"], model=MODEL)


def check_as_built(index: TwoStageIndex, data: dict, folder: Path) -> None:
    """The same bytes and labels as of an index that was built at once."""
    whole = TwoStageIndex.build(folder, model=MODEL, store="int8", source=index.source, **data)
    assert flat_files(index.folder) == flat_files(whole.folder)
    assert dump(index.folder) == dump(whole.folder)
    assert sorted(path.name for path in index.folder.iterdir()) == ["codes", "floats", "index.sqlite", "scales"]
    index.verify()


def test_killed_and_continued_gives_equal_files(tmp_path):
    data = images(200)

    def killed():
        writer = writer_for(tmp_path / "index", 200)
        write_rows(writer, data, range(100, 170))
        writer.flush()
        write_rows(writer, data, range(30, 60))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_another_process(killed) == -signal.SIGKILL
    with pytest.raises(ValueError, match="unfinished extraction, 70 of 200 images are written; run the same command"):
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
        with pytest.raises(ValueError, match="199 names for 200"):
            writer.finish(names=data["names"][1:], model=MODEL)
        index = finish(writer, data)
    check_as_built(index, data, tmp_path / "whole")
    assert index.source == IDENTITY and IndexWriter.finished(tmp_path / "index", IDENTITY)
    with pytest.raises(ValueError, match="finished index"):
        writer_for(tmp_path / "index", 200)
    with pytest.raises(ValueError, match="precision is 'fp32' there, 'bf16' here"):
        IndexWriter.finished(tmp_path / "index", {**IDENTITY, "precision": "bf16"})
    index.remove([0])
    index.save(tmp_path / "copy")
    index.save()
    for folder in ("index", "copy"):
        with pytest.raises(ValueError, match="changed after its extraction"):
            IndexWriter.finished(tmp_path / folder, IDENTITY)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_write_their_shares_after_two_were_killed(tmp_path, processes):
    """Whose number is another than before; all begin at once, the first time in an empty folder."""
    data = images(200)
    for shares, dies in ((2, True), (processes, False)):
        children = []
        for part in range(shares):
            child = os.fork()
            if child == 0:
                with writer_for(tmp_path / "index", 200) as writer:
                    own = writer.missing(range(200 * part // shares, 200 * (part + 1) // shares))
                    for row in own[:40] if dies else own:
                        writer.write(row, codes=data["codes"][row:row + 1], floats=data["floats"][row:row + 1])
                    if dies:
                        writer.flush()
                        os.kill(os.getpid(), signal.SIGKILL)
                os._exit(0)
            children.append(child)
        assert {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children} == {-9 if dies else 0}
        if dies:
            with pytest.raises(ValueError, match="80 of 200"):
                TwoStageIndex.open(tmp_path / "index")
    check_as_built(finish(writer_for(tmp_path / "index", 200), data), data, tmp_path / "whole")


def test_rows_of_a_writer_in_another_folder(tmp_path):
    data = images(40)
    with writer_for(tmp_path / "a", 40) as first, writer_for(tmp_path / "b", 40) as second:
        write_rows(first, data, range(25))
        write_rows(second, data, range(25, 40))
        first.write_arrays(25, second.read_arrays(25, 40))
        first.flush()
        assert [[*map(len, writer.read_arrays(3, 9))] for writer in (first, second)] == [[6, 6, 6]] * 2
        assert all(array.flags.writeable for array in second.read_arrays(25, 40))
        check_as_built(finish(first, data), data, tmp_path / "whole")


@pytest.mark.parametrize("changes, message", [
    ({"n": 41}, "images is 40 there, 41 here"), ({"store": "fp16"}, "store is 'int8' there, 'fp16' here"),
    ({"float_dim": None}, "float_dim is 6 there, None"), ({"code_bytes": 3}, "code_bytes is 2 there, 3"),
    ({"identity": {**IDENTITY, "files": "cd34"}}, "files is 'ab12' there, 'cd34' here"),
    ({"identity": {"model": MODEL.fingerprint}}, "files is 'ab12' there, None here"),
    ({"identity": {**IDENTITY, "crop": 5}}, "crop is None there, 5 here"),
])
def test_unfinished_files_of_other_descriptors_are_refused(tmp_path, changes, message):
    writer_for(tmp_path, 40).close()
    writer_for(tmp_path, 40, identity={**IDENTITY, "images": (322, 322)}).close()  # as JSON has it the same
    with pytest.raises(ValueError, match=message):
        writer_for(tmp_path, **{"n": 40, **changes})


def test_rows_that_do_not_fit_are_refused(tmp_path):
    data = images(40)
    for changes, message in (({"n": 0}, "n is 0"), ({"store": "fp8"}, "store is 'fp8'"),
                             ({"code_bytes": None, "float_dim": None}, "expected codes, floats or both")):
        with pytest.raises(ValueError, match=message):
            writer_for(tmp_path, **{"n": 40, **changes})
    with writer_for(tmp_path, 40) as writer:
        for start, message in ((35, "rows 35 to 42"), (-1, "rows -1 to 6")):
            with pytest.raises(ValueError, match=message):
                writer.write(start, codes=data["codes"][:7], floats=data["floats"][:7])
        for rows in ({"codes": data["codes"]}, {"floats": data["floats"]},
                     {"codes": data["codes"], "floats": data["floats"][:, :5]}):
            with pytest.raises(ValueError, match="this index holds RowShape"):
                writer.write(0, **rows)
        with pytest.raises(ValueError, match="NaN"):
            writer.write(0, codes=data["codes"][:1], floats=np.full((1, DIM), np.nan, np.float32))
        assert len(writer.missing(range(40))) == 40


@pytest.mark.parametrize("name", ["codes", "floats", "scales", "marks"])
def test_a_file_lost_or_torn_after_rows_were_marked(tmp_path, name):
    with writer_for(tmp_path, 40) as writer:
        write_rows(writer, images(40), range(10))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{name} is torn"):
        writer_for(tmp_path, 40)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        writer_for(tmp_path, 40)


def test_rows_are_marked_once_they_are_on_the_disk(tmp_path, monkeypatch):
    """At every sync of the files the rows that were written since the last are not marked yet."""
    data, missing = images(40), []
    sync, writer = os.fsync, writer_for(tmp_path, 40)
    monkeypatch.setattr(os, "fsync", lambda file: (sync(file), missing.append(len(writer.missing(range(40))))))
    write_rows(writer, data, range(14))
    assert not missing and len(writer.missing(range(40))) == 40
    writer.flush()
    assert set(missing) == {40} and len(missing) >= 3 and len(writer.missing(range(40))) == 26
    monkeypatch.setattr(module, "SYNC_BYTES", 100)
    write_rows(writer, data, range(14, 28))
    assert len(writer.missing(range(40))) == 12
    monkeypatch.setattr(module, "SYNC_BYTES", 10**9)
    monkeypatch.setattr(module, "SYNC_SECONDS", 0)
    write_rows(writer, data, range(28, 29))
    assert len(writer.missing(range(40))) == 11
    writer.close()
    writer.close()


def test_an_earlier_version_s_folder_is_refused(tmp_path):
    (tmp_path / "unfinished.json").write_text("{}")
    for call in (lambda: IndexWriter.finished(tmp_path, IDENTITY), lambda: writer_for(tmp_path, 40)):
        with pytest.raises(ValueError, match="earlier version.* extract again"):
            call()


def test_rows_that_are_left_out_need_not_be_written(tmp_path):
    data = images(60)
    writer = writer_for(tmp_path, 60)
    write_rows(writer, data, range(0, 21))
    write_rows(writer, data, range(23, 60))
    given = {"names": data["names"], "coordinates": data["coordinates"], "model": MODEL}
    with pytest.raises(ValueError, match="1 of 60 images are not written"):
        writer.finish(**given, left_out=[22])
    index = writer.finish(**given, left_out=[21, 22])
    index.verify()
    assert (len(index), index.generation) == (58, 1)
    assert not {21, 22} & {*index.search_codes(data["codes"][:4], 58)[1].ravel().tolist()}
    assert IndexWriter.finished(tmp_path, IDENTITY)
