"""The demo's table and sheet of retrievals, from made-up results; the runs themselves are `make demo`."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from utils import demo


def results(final, first=None, rerank=None):
    def recalls(values):
        return None if values is None else dict(zip(("1", "5", "10"), values, strict=True))

    return {"recalls": {"final": recalls(final), "first_stage": recalls(first)},
            "latency_ms": {"search": 0.25, "rerank": rerank}, "bytes_per_image": {"binary": 64, "float": 2048}}


def test_rows_of_the_three_searches():
    rows = demo.results_rows(results((80, 90, 95)), results((85, 91, 96), first=(70, 88, 93), rerank=0.5))
    assert [(row["recalls"], row["ms"], row["bytes"]) for row in rows] == [
        ([80, 90, 95], 0.25, 2048), ([70, 88, 93], 0.25, 64), ([85, 91, 96], 0.75, 2112)]


def test_interesting_queries_are_of_every_kind_and_come_once():
    right = np.array([True] * 20 + [False] * 4)
    at_first = np.array([False] * 5 + [True] * 15 + [False] * 4)
    chosen = demo._interesting(right, at_first, 8)
    assert len(chosen) == len(set(chosen)) == 8
    assert (sum(query < 5 for query in chosen), sum(query >= 20 for query in chosen)) == (3, 2)
    assert demo._interesting(np.array([True]), np.array([True]), 8) == [0]


def test_frames_tell_right_from_wrong(tmp_path):
    for name in ("q0.png", "d0.png", "d1.png"):
        Image.new("RGB", (168, 126), (10, 20, 30)).save(tmp_path / name)
    np.savez(tmp_path / "predictions.npz", final_ids=[[1, 0]], final_correct=[[False, True]],
             first_stage_correct=[[False, True]], query_names=["q0.png"], database_names=["d0.png", "d1.png"])
    sheet = demo.draw_retrievals(tmp_path / "predictions.npz", tmp_path, found=2)
    # Frames are 4 pixels wide, outside the 168-pixel images, which start at 10, 200 and 378.
    assert [sheet.getpixel((left - 2, 60)) for left in (10, 200, 378)] == [demo.PLAIN, demo.WRONG, demo.RIGHT]
    assert sheet.getpixel((300, 90)) == (10, 20, 30)


@pytest.mark.slow
def test_a_command_that_fails_is_named(tmp_path, capfd):
    with pytest.raises(ValueError, match="eval.py ended with exit code 2"):
        demo.run(tmp_path, "eval.py", "--no_such_option")
    out, err = capfd.readouterr()
    assert "$ python eval.py --no_such_option" in out
    assert "error" in err and sys.executable not in err


@pytest.mark.slow
def test_an_interrupt_waits_until_the_command_has_cleared_up(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text("import pathlib, time\ntime.sleep(1)\npathlib.Path('cleared_up').touch()\n")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path, "-m", "slow")
    assert (tmp_path / "cleared_up").exists()


@pytest.mark.parametrize(("idle_s", "expected"), [(1.0, 2), (0.6, 1), (0.0, 1)])
def test_threads_are_the_cores_that_are_idle(idle_s, expected, monkeypatch):
    """Of two cores, in half a second."""
    ticks = os.sysconf("SC_CLK_TCK")
    seen = iter([f"cpu  500 0 30 {idle} 0 0 0 0 0 0\ncpu0 ..." for idle in (7 * ticks, int((7 + idle_s) * ticks))])
    clock = iter([0.0, 0.5])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(demo.Path, "read_text", lambda path: next(seen))
    monkeypatch.setattr(demo.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(demo.time, "perf_counter", lambda: next(clock))
    assert demo.threads.__wrapped__() == expected


def test_threads_are_those_asked_for(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert demo.threads.__wrapped__() == 7
