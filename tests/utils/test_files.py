"""Files that are whole or not there."""

import json

import pytest

from utils.files import temporary_path, write_json


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
