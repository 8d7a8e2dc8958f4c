"""Several processes that change one index at once, and some that are killed while they do."""

import contextlib
import os
import random
import resource
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faults.indexes import START, names_added, own, write_at_once
from made_up import DIM, MODEL, images, in_another_process

from utils.search import TwoStageIndex


@pytest.fixture
def folder(tmp_path) -> Path:
    TwoStageIndex.build(tmp_path / "index", model=MODEL, **images(START)).close()
    return tmp_path / "index"


def check(folder: Path, added: Counter) -> None:
    """The index is whole, and its images are those that it began with and the added ones, each with its descriptors."""
    assert names_added(folder) == added


@pytest.mark.parametrize("processes", [2, 3])
def test_no_writer_loses_a_row(tmp_path, processes):
    counts = write_at_once(tmp_path / "index", processes, 6)
    assert (counts["lost"], counts["surplus"], counts["failed"]) == (0, 0, 0)
    assert counts["generations"] == 1 + counts["saves"] == 1 + 6 * processes


@pytest.mark.slow
def test_whoever_is_killed_loses_what_was_not_saved_and_nothing_else(folder):
    """Killed at random moments of adding and saving, beside another who goes on; each tells what it has saved."""
    rng, saved = random.Random(0), Counter()

    def work(process: int, report: int) -> None:
        for turn in range(1000):
            index = TwoStageIndex.open(folder)
            index.add(**own(process, turn))
            index.save()
            index.close()
            os.write(report, f"{turn}\n".encode())

    for process in range(0, 12, 2):
        reports, children = [], []
        for number in (process, process + 1):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                work(number, writing)
            os.close(writing)
            reports.append(reading)
            children.append(child)
        time.sleep(rng.uniform(0.02, 0.15))
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for number, reading in zip((process, process + 1), reports, strict=True):
            with os.fdopen(reading) as file:
                told = [int(line) for line in file]
            index = TwoStageIndex.open(folder)
            ids = np.concatenate([*index.live_ids()])
            there = {int(name.split()[1]) for name in index.names(ids) if name.startswith(f"{number} ")}
            assert there - {len(told)} == {*told}  # one may have been saved and not told
            saved += Counter(f"{number} {turn} {row}" for turn in there for row in range(2))
        check(folder, saved)
    assert sum(saved.values()) > 10


def test_a_reader_goes_on_while_another_process_adds(folder):
    """A change that is larger than SQLite's cache, and not saved for a while: nobody is locked out."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        index = TwoStageIndex.open(folder)
        n = 60_000
        index.add(names=(f"{row}" * 20 for row in range(n)), codes=np.zeros((n, 2), np.uint8),
                  floats=np.zeros((n, DIM), np.float32))
        os.write(writing, b"x")
        time.sleep(60)
        os._exit(1)
    assert os.read(reading, 1) == b"x"
    before = time.perf_counter()
    index = TwoStageIndex.open(folder)
    assert len(index) == START and index.names([3]) == ["0/p3.jpg"]
    assert time.perf_counter() - before < 5
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    index.add(**own(1, 1))
    index.save()
    check(folder, Counter(["1 1 0", "1 1 1"]))


def test_killed_while_it_is_built(tmp_path):
    """Nothing is there then, and it can be built again."""
    data = images(200)

    def killed():
        def names():
            yield from data["names"][:150]
            os.kill(os.getpid(), signal.SIGKILL)

        TwoStageIndex.build(tmp_path / "index", model=MODEL, **{**data, "names": names()})

    assert in_another_process(killed) == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match="holds no index"):
        TwoStageIndex.open(tmp_path / "index")
    TwoStageIndex.build(tmp_path / "index", model=MODEL, **data).verify()


@pytest.mark.parametrize("names", [5, 3000])  # what does not fit is the codes, or the database when it is saved
def test_a_disk_that_is_full_loses_what_was_not_saved_and_nothing_else(folder, names):
    def work():
        index = TwoStageIndex.open(folder)
        index.add(**own(1, 1))
        index.save()
        index.add(**own(1, 2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        n = 50_000 if names == 5 else 500
        with pytest.raises((OSError, ValueError)):
            index.add(names=("x" * names for _ in range(n)), codes=np.zeros((n, 2), np.uint8),
                      floats=np.zeros((n, DIM), np.float32))
            index.save()
        with contextlib.suppress(ValueError):
            index.save()
        there = START + 2 * index.generation - 2
        assert len(index) == there and index.names([there - 1]) == [f"1 {index.generation - 1} 1"]
        assert index.search_codes(np.full((1, 2), 1, np.uint8), 1)[0][0, 0] == 0
        os._exit(index.generation)

    generation = in_another_process(work)
    assert generation in (2, 3)
    check(folder, Counter(f"1 {turn} {row}" for turn in range(1, generation) for row in range(2)))
