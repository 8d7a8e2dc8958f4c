"""Who is who among several processes; quiet progress."""

import io
import itertools
import os
import signal
import sys

import pytest
from tqdm import tqdm

from utils.ranks import is_first, launched, local_processes, local_rank, progress, rank, share


class Terminal(io.StringIO):
    def isatty(self):
        return True


def as_torchrun_starts(monkeypatch, **environment: int) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))


def test_who_is_who(monkeypatch):
    as_torchrun_starts(monkeypatch, RANK=5, LOCAL_RANK=1, WORLD_SIZE=8, LOCAL_WORLD_SIZE=4)
    assert (launched(), rank(), local_rank(), local_processes(), is_first()) == (True, 5, 1, 4, False)
    for alone in ({}, {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}, {"RANK": 3, "WORLD_SIZE": 4}):
        as_torchrun_starts(monkeypatch, **alone)
        assert (launched(), rank(), local_rank(), local_processes(), is_first()) == (False, 0, 0, 1, True)


@pytest.mark.parametrize(("count", "parts"), [*itertools.product((0, 1, 5, 16, 1001), (1, 2, 3, 16))])
def test_shares_are_all_of_it_in_order_and_differ_by_one_at_most(count, parts):
    shares = [share(count, part, parts) for part in range(parts)]
    assert [*itertools.chain(*shares)] == [*range(count)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_progress_is_quiet_unless_stderr_is_a_terminal_of_the_first_process(monkeypatch):
    for stream, process, said in ((io.StringIO(), 0, False), (Terminal(), 0, True), (Terminal(), 1, False)):
        as_torchrun_starts(monkeypatch, RANK=process, LOCAL_RANK=process, WORLD_SIZE=2)
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress(range(3), "counting")) == [0, 1, 2]
        assert ("counting" in stream.getvalue()) == said


def test_a_process_that_is_killed_keeps_no_bar_of_another_from_showing():
    progress((), "").close()
    child = os.fork()
    if child == 0:
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert tqdm.get_lock().acquire(blocking=False)
    tqdm.get_lock().release()
