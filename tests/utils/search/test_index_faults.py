"""Damaged and hostile index folders, in short; tests/faults/indexes.py does the same many times over."""

import contextlib
import hashlib
import os
import re
import socket
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faults import indexes
from made_up import MODEL, flat_files, images, joined

from utils.search import TwoStageIndex
from utils.search.index import disk


@pytest.mark.parametrize("store", ["fp32", "int8"])
def test_what_was_damaged_is_never_used(tmp_path, store):
    counts = indexes.flips(tmp_path / "index", 40, store=store)
    refused = sum(count for what, count in counts.items() if what.endswith(" refused"))
    equal = sum(count for what, count in counts.items() if what == "index.sqlite equal")  # bytes that nothing stands in
    assert refused > 25 and refused + equal == 40


def use(index: TwoStageIndex, how: str, rows: np.ndarray, data: dict) -> None:
    """Reads these rows of an index, and hardly others."""
    queries = data["codes"][:2], data["floats"][:2]
    candidates = np.stack([rows, rows])
    {"search_codes": lambda: index.search_codes(queries[0], 3),
     "search_floats": lambda: index.search_floats(queries[1], 3),
     "rerank": lambda: index.rerank(queries[1], candidates, len(rows)),
     "restricted": lambda: index.restricted_to(rows).search(*queries, k=2),
     "rows": lambda: index.rows(rows),
     "names": lambda: index.names(rows),
     "copy": lambda: index.save(index.folder.with_name("copy")),
     "remove": lambda: index.remove([data["names"][row] for row in rows])}[how]()


@pytest.mark.parametrize("how, file", [
    ("search_codes", "codes"), ("search_floats", "floats"), ("rerank", "floats"), ("restricted", "codes"),
    ("restricted", "floats"), ("rows", "codes"), ("rows", "floats"), ("names", "index.sqlite"), ("copy", "codes"),
    ("copy", "floats"), ("copy", "index.sqlite"), ("remove", "index.sqlite")])
def test_it_is_noticed_where_it_would_be_read_and_only_there(tmp_path, monkeypatch, how, file):
    monkeypatch.setattr(disk, "SUM_BYTES", 50)  # 2 rows of 24 bytes
    data = images(600)
    TwoStageIndex.build(tmp_path / "index", model=MODEL, **data).close()
    path = tmp_path / "index" / file
    content = path.read_bytes()
    place = content.index(b"0/p500.jpg") + 5 if file == disk.DATABASE else 500 * len(content) // 600
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
    index = TwoStageIndex.open(tmp_path / "index")
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}: rows .* not what was written; restore"):
            use(index, how, np.array([7, 500, 3]), data)
    if how in ("rerank", "names"):
        use(index, how, np.array([7, 8, 3]), data)
    path.write_bytes(content)
    use(TwoStageIndex.open(tmp_path / "index"), how, np.array([7, 500, 3]), data)


def as_version_2(folder: Path) -> None:
    """Gives an index of 120 images the table of checksums that the version before wrote: one for many rows."""
    rows = flat_files(folder)
    with contextlib.closing(sqlite3.connect(folder / "index.sqlite")) as db:
        rows["images"] = repr(db.execute("SELECT * FROM images ORDER BY id").fetchall()).encode()
        db.executescript("DROP TABLE checksums; PRAGMA user_version = 2; "
                         "CREATE TABLE checksums (file TEXT, start INTEGER, stop INTEGER, sha256 BLOB)")
        db.executemany("INSERT INTO checksums VALUES (?, 0, 120, ?)",
                       [(name, hashlib.sha256(content).digest()) for name, content in rows.items()])
        db.commit()


def test_an_index_of_the_version_before_is_read_checked_and_added_to(tmp_path):
    data, more = images(120), images(40, 2)
    TwoStageIndex.build(tmp_path, model=MODEL, store="int8", **data).close()
    as_version_2(tmp_path)
    expected = indexes.everything(tmp_path)
    index = TwoStageIndex.open(tmp_path)
    index.add(**more)
    index.remove([*range(120, 160)])
    index.save()
    index.close()
    index.verify()
    assert indexes.everything(tmp_path) == expected
    assert TwoStageIndex.open(tmp_path).names(range(160)) == joined(data, more)["names"]
    for name in ("codes", "floats", "scales"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert indexes.outcome(tmp_path, indexes.everything, expected) == "refused"
        (tmp_path / name).write_bytes(content)
    assert indexes.outcome(tmp_path, indexes.everything, expected) == "equal"


@pytest.mark.slow
def test_hostile_folders_end_in_one_line_and_change_nothing_outside(tmp_path):
    counts = indexes.folders(tmp_path, 12, seconds=60)
    came = {what.partition(": ")[2] for what in counts - Counter(outside=0)}
    assert came == {"refused", "equal"} and counts["outside"] == 0


@pytest.mark.parametrize("name", ["index.sqlite", "codes", "floats", "scales"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "FIFO", "endless", "folder", "socket"])
def test_only_regular_files_are_read_or_written(tmp_path, name, kind):
    folder, elsewhere = tmp_path / "index", tmp_path / "elsewhere"
    TwoStageIndex.build(folder, model=MODEL, store="int8", **images(120)).close()
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    {"link": lambda: (elsewhere.write_bytes(content), path.symlink_to(elsewhere)),
     "dangling link": lambda: path.symlink_to(elsewhere), "FIFO": lambda: os.mkfifo(path),
     "endless": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir,
     "socket": lambda: bind(path)}[kind]()
    said = {"folder": "a folder", "FIFO": "a FIFO", "socket": "a socket"}.get(kind, "a link")
    with pytest.raises(ValueError, match=f"{name} is {said}; expected a regular file"):
        TwoStageIndex.open(folder)
    for other in disk.DATABASE, "codes", "floats", "scales":
        if other != name:
            (folder / other).unlink()
    with pytest.raises(ValueError, match=f"{name} is {said}; expected a regular file"):
        TwoStageIndex.build(folder, model=MODEL, store="int8", **images(60))
    assert elsewhere.read_bytes() == content if kind == "link" else not elsewhere.exists()


def bind(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:  # names of sockets are short
        server.bind(path.name)


def test_a_journal_that_would_have_sqlite_delete_a_file_elsewhere_is_refused(tmp_path):
    folder, victim = tmp_path / "index", tmp_path / "precious.txt"
    TwoStageIndex.build(folder, model=MODEL, **images(120)).close()
    victim.write_text("precious\n")
    (folder / "index.sqlite-journal").write_bytes(indexes.journal_of(folder, victim))
    with pytest.raises(ValueError, match="index.sqlite-journal names a file outside of the index"):
        TwoStageIndex.open(folder)
    assert victim.read_text() == "precious\n"
    with contextlib.closing(sqlite3.connect(folder / "index.sqlite")) as db:  # as SQLite alone does
        db.execute("SELECT * FROM about").fetchall()
    assert not victim.exists()
