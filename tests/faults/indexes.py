"""Faults of an index on disk, many times over: two and three writers, changed bytes, folders made to do harm.

    PYTHONPATH=.:tests python tests/faults/indexes.py writers 100
    PYTHONPATH=.:tests python tests/faults/indexes.py flips 1000
    PYTHONPATH=.:tests python tests/faults/indexes.py folders 1000

Each tells counts. None may be `lost`, `used` or a `traceback`. Short form: tests/utils/search/test_index_faults.py.
"""

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from made_up import BITS, DIM, MODEL, images

from utils.search import IndexWriter, TwoStageIndex

START = 30  # images, before the writers come
IDENTITY = {"files": "ab12", "precision": "fp32"}


def own(process: int, turn: int) -> dict:
    """Two images with names of their own, whose codes and floats say whose they are."""
    return {"names": [f"{process} {turn} {row}" for row in range(2)],
            "codes": np.full((2, BITS // 8), process, np.uint8), "floats": np.full((2, DIM), turn, np.float32)}


def names_added(folder: Path) -> Counter:
    """Verifies an index that began with START images; names of the others, each of which has its own descriptors."""
    index = TwoStageIndex.open(folder)
    index.verify()
    ids = np.concatenate([*index.live_ids()])
    codes, floats = index.rows(ids)
    made = [image for image in zip(index.names(ids), codes, floats, strict=True) if "/" not in image[0]]
    assert len(ids) - len(made) == START
    assert all(code[0] == int(name.split()[0]) and row[0] == int(name.split()[1]) for name, code, row in made)
    return Counter(name for name, *_ in made)


def write_at_once(folder: Path, processes: int, turns: int) -> Counter:
    """Has processes open, add, save and at every third turn remove, all at once; counts the rows that are not there."""
    TwoStageIndex.build(folder, model=MODEL, **images(START)).close()

    def work(process: int) -> None:
        for turn in range(turns):
            index = TwoStageIndex.open(folder)
            index.add(**own(process, turn))
            if turn % 3 == 2:
                index.remove([f"{process} {turn - 1} 0"])
            index.save()
            index.close()

    children = []
    for process in range(processes):
        child = os.fork()
        if child == 0:
            try:
                work(process)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    failed = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)
    expected = Counter(f"{process} {turn} {row}" for process in range(processes) for turn in range(turns)
                       for row in range(2) if not (row == 0 and turn % 3 == 1 and turn + 1 < turns))
    there = names_added(folder)
    return Counter(rounds=1, saves=processes * turns, failed=failed, lost=(expected - there).total(),
                   surplus=(there - expected).total(), generations=TwoStageIndex.open(folder).generation)


def everything(folder: Path) -> list[bytes]:
    """All that an index says, by its public calls, each answer after a first use in an order of its own."""
    index, queries = TwoStageIndex.open(folder, model=MODEL), images(40, seed=99)
    found = index.search(queries["codes"], queries["floats"], k=30, depth=30)
    alone = index.search_floats(queries["floats"], 30)
    names = "\0".join(index.names(found.ids.ravel()))
    places = index.coordinates(found.ids.ravel())
    rows = index.rows(np.concatenate([*index.live_ids()]))
    return [*(part.tobytes() for part in (*found, *alone, places, *rows)), names.encode(errors="surrogateescape")]


def outcome(folder: Path, call: Callable[[Path], object], expected: object) -> str:
    """equal, used (another result, without a word), refused (one line that names the folder), or traceback."""
    try:
        found = call(folder)
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
        return "refused" if str(folder) in said and "\n" not in said else f"unnamed: {said}"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"
    return "equal" if found == expected else "used"


def changed(content: bytes, rng: random.Random) -> bytes:
    """One bit of it turned, or a block of 4 kB zeroed."""
    content = bytearray(content)
    place = rng.randrange(len(content))
    if rng.random() < 0.5:
        content[place] ^= 1 << rng.randrange(8)
    else:
        content[place // 4096 * 4096:(place // 4096 + 1) * 4096] = bytes(len(content[place // 4096 * 4096:][:4096]))
    return bytes(content)


def flips(folder: Path, times: int, *, store: str = "fp32", seed: int = 0) -> Counter:
    """Turns bits and zeroes blocks in each file of an index, one at a time, and asks it for everything."""
    rng, counts = random.Random(seed), Counter()
    index = TwoStageIndex.build(folder, model=MODEL, store=store, **images(1500))
    index.add(**images(200, 2))
    index.remove([1, 2])
    index.save()
    index.close()
    expected = everything(folder)
    for turn in range(times):
        path = sorted(folder.iterdir())[turn % len([*folder.iterdir()])]
        content = path.read_bytes()
        path.write_bytes(changed(content, rng))
        counts[f"{path.name} {outcome(folder, everything, expected)}"] += 1
        path.write_bytes(content)
    assert everything(folder) == expected
    return counts


def resealed(db: sqlite3.Connection, change: Callable[[dict, bytearray], object]) -> None:
    """Changes what the index says of itself, and the checksum of that."""
    content, removed, _ = db.execute("SELECT * FROM about").fetchone()
    told, gone = json.loads(content), bytearray(removed)
    content = change(told, gone)
    content = json.dumps(told).encode() if not isinstance(content, bytes) else content
    db.execute("UPDATE about SET content = ?, removed = ?, sha256 = ?",
               (content, bytes(gone), hashlib.sha256(content + gone).digest()))


ODD = (None, True, -1, 0, 1, 2.5, 10**9, 2**63, 10**30, "", "../../victim", "/etc/passwd", [], ["x"], {}, {"x": 1},
       [[[]]], float("nan"), "\0", "x" * 10**5)
FLAT = ("codes", "floats", "scales", "marks")


def tampered_about(rng: random.Random) -> Callable[[dict, bytearray], object]:
    """Another type or value in one place, a field more or less, other bytes of removed rows, deep or no JSON."""
    def change(told: dict, gone: bytearray) -> object:
        key, odd = rng.choice([*told]), rng.choice(ODD)
        what = rng.randrange(8)
        if what == 0:
            told[rng.choice(["more", "segment", "folder", "removed", "files"])] = odd
        elif what == 1:
            del told[key]
        elif what == 2:
            gone[:] = rng.choice([b"x", np.array([5, 3], "<i8").tobytes(), np.array([-1], "<i8").tobytes(),
                                  np.array([10**6], "<i8").tobytes(), bytes(16), rng.randbytes(800)])
        elif what == 3:
            return rng.choice([b"[" * 10**6, b'{"source":' + b"[" * 990 + b"]" * 990 + b"}", b"", b"\xff", b"[]", b"1"])
        elif what == 4:
            depth = rng.randrange(900, 1000)
            return json.dumps({**told, "source": "DEEP"}).encode().replace(b'"DEEP"', b"[" * depth + b"]" * depth)
        elif what == 5 and isinstance(told[key], list | dict) and told[key]:
            place = rng.choice([*told[key]] if isinstance(told[key], dict) else range(len(told[key])))
            told[key][place] = odd
        else:
            told[key] = odd
    return change


def tampered_tables(db: sqlite3.Connection, rng: random.Random) -> None:
    """Other types, or other rows, in the tables of images and checksums."""
    table, column = rng.choice([("images", "name"), ("images", "east"), ("images", "id"), ("checksums", "file"),
                                ("checksums", "start"), ("checksums", "stop"), ("checksums", "sha256")])
    odd = rng.choice([-1, 2**62, 2.5, "x", "../../victim", b"", b"\xff" * 50, 1e308])
    with contextlib.suppress(sqlite3.IntegrityError):
        db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid % 7 = 1" if table == "images" else
                   f"UPDATE {table} SET {column} = ? WHERE stop % 7 = 1", [odd])
    if rng.random() < 0.3:
        db.execute(rng.choice([f"DELETE FROM {table}", "CREATE TRIGGER t AFTER DELETE ON about BEGIN SELECT 1; END",
                               "CREATE VIEW v AS SELECT 1", "DROP TABLE checksums", "PRAGMA user_version = 2"]))


def with_foreign_file(folder: Path, victim: Path, rng: random.Random) -> None:
    """A link, a FIFO, a device or a folder in place of a file, or a journal that asks SQLite to delete the victim."""
    name = rng.choice(["index.sqlite", "codes", "floats", "scales", "marks", "index.sqlite-journal", "index.sqlite-wal",
                       "index.sqlite-shm"])
    path, what = folder / name, rng.randrange(6)
    content = path.read_bytes() if path.exists() else b"x" * 5000
    path.unlink(missing_ok=True)
    if what == 0:
        victim.write_bytes(content)  # as it should be: only where it lies is wrong
        path.symlink_to(victim)
    elif what == 1:
        path.symlink_to(os.path.relpath(victim, folder))
    elif what == 2:
        path.symlink_to(victim.with_name("not there"))
    elif what == 3:
        os.mkfifo(path)
    elif what == 4:
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(content) if "-" not in name else None
        (folder / "index.sqlite-journal").write_bytes(journal_of(folder, victim))


def journal_of(folder: Path, victim: Path) -> bytes:
    """Of no page, but as if a change went over several files, which `victim` names; SQLite deletes that in the end."""
    database, name = (folder / "index.sqlite").read_bytes(), str(victim).encode()
    page, magic = int.from_bytes(database[16:18], "big"), bytes.fromhex("d9d505f920a163d7")
    head = magic + struct.pack(">5I", 0, 1, len(database) // page, 512, page)
    return head.ljust(512, b"\0") + struct.pack(">I", 2**30 // page + 1) + name + struct.pack(
        ">II", len(name), sum(name)) + magic


def used_whole(folder: Path) -> None:
    """Whatever a program or an evaluation does with an index that it was given."""
    IndexWriter.finished(folder, IDENTITY)
    everything(folder)
    index = TwoStageIndex.open(folder)
    index.verify()
    index.add(**images(5, 3))
    index.remove([f"3/p{row}.jpg" for row in range(2)])
    index.save()
    index.close()


def resumed(folder: Path) -> None:
    """What an evaluation does with an unfinished extraction."""
    data = images(120)
    with IndexWriter(folder, n=120, identity=IDENTITY, code_bytes=BITS // 8, float_dim=DIM, store="int8") as writer:
        for row in writer.missing(range(120)):
            writer.write(row, codes=data["codes"][row:row + 1], floats=data["floats"][row:row + 1])
        writer.finish(names=data["names"], coordinates=data["coordinates"], model=MODEL)
    used_whole(folder)


def folders(scratch: Path, times: int, *, seed: int = 0, seconds: int = 20) -> Counter:
    """Makes hostile folders, finished and unfinished, and uses each in a process with bounds on time and memory.

    Counts what came of each: refused (one line that names it), used (as it was, or as its sealed words had it), else
    what went wrong; `outside` counts the files outside of the folder that were changed.
    """
    rng, counts = random.Random(seed), Counter()
    data, victim = images(120), scratch / "victims" / "precious"
    whole, half = scratch / "whole", scratch / "half"
    with IndexWriter(half, n=120, identity=IDENTITY, code_bytes=BITS // 8, float_dim=DIM, store="int8") as writer:
        writer.write(0, codes=data["codes"][:60], floats=data["floats"][:60])
    shutil.copytree(half, whole)
    resumed(whole)
    for turn in range(times):
        folder = scratch / f"case {turn}"
        shutil.rmtree(victim.parent, ignore_errors=True)
        victim.parent.mkdir()
        victim.write_text("precious")
        finished = rng.random() < 0.6
        shutil.copytree(whole if finished else half, folder)
        kind = rng.choice(["about", "tables", "files"])
        if kind == "files":
            with_foreign_file(folder, victim, rng)
        else:
            with contextlib.closing(sqlite3.connect(folder / "index.sqlite")) as db:
                resealed(db, tampered_about(rng)) if kind == "about" else tampered_tables(db, rng)
                db.commit()
        before = [(path.name, path.read_bytes()) for path in victim.parent.iterdir()]
        came = in_bounds(lambda: outcome(folder, used_whole if finished else resumed, None), seconds)  # noqa: B023
        counts[f"{kind} {'finished' if finished else 'unfinished'}: {came}"] += 1
        counts["outside"] += [(path.name, path.read_bytes()) for path in victim.parent.iterdir()] != before
        shutil.rmtree(folder)
    return counts


def in_bounds(call: Callable[[], str], seconds: int) -> str:
    """What `call` says in another process, which may take so many seconds and 2 GiB more than this one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        faiss.omp_set_num_threads(1)  # OpenMP's other threads are not in this process, and would be waited for
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2**31
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        os.write(writing, call()[:4000].encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said if code == 0 else f"ended by {code}"


def main() -> None:
    what, times = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as scratch:
        if what == "writers":
            for processes in (2, 3):
                counts = Counter()
                for turn in range(times):
                    counts += write_at_once(Path(scratch, f"{processes} {turn}"), processes, 6)
                print(f"{processes} writers: {dict(counts)}", flush=True)
        elif what == "flips":
            for store in ("fp32", "int8"):
                print(f"{store}: {dict(flips(Path(scratch, store), times, store=store))}", flush=True)
        elif what == "folders":
            for line, count in sorted(folders(Path(scratch), times).items()):
                print(f"{count:6} {line[:300]}")


if __name__ == "__main__":
    main()
