"""Ray runs in a process of its own; what is said where it is not installed."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from paths import ROOT
from scripts import error_of

from utils.cluster.__main__ import main
from utils.search import ModelIdentity, TwoStageIndex


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is optional")
def test_parts_on_ray_in_a_process_of_their_own(tmp_path):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    done = subprocess.run([sys.executable, "-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-o", "addopts=",
                           "--basetemp", tmp_path / "cases", Path(__file__).with_name("cluster_cases.py")], cwd=ROOT,
                          capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"})
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    TwoStageIndex.build(tmp_path, model=ModelIdentity("3f", "base gem"), names=["a"],
                        codes=np.zeros((1, 1), np.uint8))
    assert "optional: pip install 'ray==" in error_of(main, "serve", tmp_path, capsys=capsys)


def test_nobody_at_an_address_is_told_at_once(tmp_path, monkeypatch, capsys):
    """Ray itself tries for a minute, in lines of its own."""
    def init(*_, **__):
        raise AssertionError("Ray was asked")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    TwoStageIndex.build(tmp_path, model=ModelIdentity("3f", "base gem"), names=["a"],
                        codes=np.zeros((1, 1), np.uint8))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999999"):
        assert f"no Ray at {address}: " in error_of(main, "serve", tmp_path, "--address", address, capsys=capsys)


def test_a_folder_without_parts_is_named(tmp_path, capsys):
    assert f"{tmp_path}: no index" in error_of(main, "serve", tmp_path, capsys=capsys)
