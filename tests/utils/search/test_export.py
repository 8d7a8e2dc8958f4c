"""LanceDB beside this project's `datasets`, and what several parts' candidates become."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from paths import ROOT

from utils.search.lancedb_search import ABOUT, Candidates, Exported, about_of, merged

with_lancedb = pytest.mark.skipif(importlib.util.find_spec("lancedb") is None, reason="lancedb is optional")


@pytest.mark.slow
@with_lancedb
def test_exports_in_a_process_of_their_own(tmp_path):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    done = subprocess.run([sys.executable, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-o", "addopts=",
                           "--basetemp", tmp_path / "cases", Path(__file__).with_name("lancedb_cases.py")], cwd=ROOT,
                          capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif("lancedb" in sys.modules, reason="lancedb came first")
def test_otherwise_one_line_says_so(tmp_path):
    import datasets  # noqa: F401

    with pytest.raises(ValueError, match="takes this project's package datasets.* import lancedb first"):
        Exported(str(tmp_path))


def test_candidates_of_several_parts_are_cut_at_the_depth_of_all_together():
    """Four of ten remain, equal ones by part; those behind them are not seen, however near by L2."""
    def part(bits, distances, first):
        ids = np.arange(first, first + 5)[None]
        return Candidates(ids, np.array([bits], np.int32), np.array([distances], np.float32), ids.astype(str),
                          np.zeros((1, 5, 2)))

    found = merged([part([1, 3, 3, 3, 9], [.5, .4, .2, .1, 0], 0), part([2, 3, 3, 4, 4], [.4, .0, .0, .0, .0], 10)],
                   k=3, depth=4)
    assert found.ids.tolist() == [[2, 10, 1]]
    assert found.parts.tolist() == [[0, 1, 0]]
    assert found.names.tolist() == [["2", "10", "1"]]


SAID = {"model": {"fingerprint": "f" * 64, "name": "tiny"}, "row": {"code_bytes": 64},
        "generation": 1, "images": 3, "part": [0, 1]}


@pytest.mark.parametrize("metadata", [
    None, {}, {ABOUT: b"\xff"}, {ABOUT: b"[" * 100_000}, {ABOUT: b"[]"}, {ABOUT: b"{}"},
    *({ABOUT: json.dumps(SAID | odd).encode()} for odd in (
        {"model": None}, {"model": {"no": 1}}, {"part": [0]}, {"part": 3}, {"row": {}},
        {"row": {"code_bytes": "64"}}))])
def test_what_an_export_says_of_itself_is_all_there_or_nothing(metadata):
    def said(metadata):
        return about_of(SimpleNamespace(schema=SimpleNamespace(metadata=metadata)))

    assert said({ABOUT: json.dumps(SAID).encode()}) == SAID
    assert said(metadata) is None
