"""Files that are whole or not there."""

import json
import os

import pytest
from scripts import error_of

from utils import attention, compare, demo, export_model, reductions
from utils.files import temporary_path, write_json
from utils.report.__main__ import main as report

WRITING = {  # with inputs that are not there, which is found out later
    "attention": (attention.main, "a.png", "--output"), "compare": (compare.main, "a", "b", "--json"),
    "export_model": (export_model.main, "a.pth", "--output"), "reductions": (reductions.main, "a.pth", "--json"),
    "report": (report, "a", "--output"),
}


def test_json_is_whole_or_not_there(tmp_path):
    path = tmp_path / "results.json"
    write_json({"a": 1}, path)
    circle = []
    circle.append(circle)
    with pytest.raises(ValueError):
        write_json(circle, path)
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(KeyboardInterrupt), temporary_path(path) as temporary:
        temporary.write_text("half of")
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("command", WRITING)
def test_where_nothing_can_be_written_is_told_at_once(command, tmp_path, monkeypatch, capsys):
    main, *words = WRITING[command]
    (tmp_path / "file").write_text("")
    (tmp_path / "there.jpg").mkdir()
    for wrong in (tmp_path / "none" / "a.jpg", tmp_path / "file" / "a.jpg", tmp_path / "there.jpg"):
        assert error_of(main, *words, wrong, capsys=capsys) == (
            f"{words[-1]} {wrong}: expected the name of a file in a folder that exists")
    writable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and writable(path, mode))  # root may do all
    assert error_of(main, *words, tmp_path / "a.jpg", capsys=capsys) == (
        f"{words[-1]} {tmp_path / 'a.jpg'}: nothing can be written there; change its permissions, or choose another")


def test_a_file_where_a_folder_is_needed(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert error_of(demo.main, tmp_path / "file" / "a", capsys=capsys).endswith(
        f"'{tmp_path / 'file' / 'a'}'; a part of that path is a file, expected a folder: give another path")
