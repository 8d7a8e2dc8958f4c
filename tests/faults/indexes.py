"""Faults of an index on disk, many times over: two and three writers, changed bytes, folders made to do harm.

    PYTHONPATH=.:tests python tests/faults/indexes.py writers 100
    PYTHONPATH=.:tests python tests/faults/indexes.py flips 1000
    PYTHONPATH=.:tests python tests/faults/indexes.py folders 1000

Each tells counts. None may be `lost`, `used` or a `traceback`. Short form: tests/utils/search/test_index_faults.py.
"""

import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from made_up import BITS, DIM, MODEL, images

from utils.search import TwoStageIndex

START = 30  # images, before the writers come


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


if __name__ == "__main__":
    main()
