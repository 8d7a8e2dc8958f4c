"""Loaders' worker processes, and the signals that a scheduler or Ctrl-C sends to a whole group of processes."""

import os
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from torch.utils.data import Dataset

from utils.loader import ImageLoader


class Groups(Dataset):
    """Which group of processes reads an item."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> int:
        return os.getpgrp()


@pytest.mark.parametrize(("num_workers", "away"), [(0, 0), (2, 4)])
def test_workers_get_no_signals_of_the_group(num_workers, away):
    before = torch.random.get_rng_state()
    groups = [int(group) for group in ImageLoader(Groups(), num_workers=num_workers)]
    assert sum(group != os.getpgrp() for group in groups) == away
    assert torch.equal(torch.random.get_rng_state(), before)


SIGNALLED = """
import os, signal, sys, threading, time, torch
from utils.loader import ImageLoader
from utils.run import exit_with
if sys.argv[1] == "worker":  # which calls this before it has left the group
    torch.set_num_threads = lambda _: os.kill(os.getpid(), signal.SIGTERM)
else:  # another of its threads may get it
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    os.register_at_fork(before=lambda: (signal.pthread_kill(thread.ident, signal.SIGTERM), time.sleep(0.1)))
exit_with(lambda: print(sum(map(int, ImageLoader(range(8), num_workers=2)))))
"""


@pytest.mark.parametrize(("who", "code", "output", "said"), [
    ("worker", 0, "28", ""), ("parent", 143, "", "terminated")])
def test_a_signal_while_workers_are_made_is_neither_lost_nor_kills_one(who, code, output, said):
    done = subprocess.run([sys.executable, "-c", SIGNALLED, who], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (code, output, said)
