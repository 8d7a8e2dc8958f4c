"""Files that are there whole or not at all."""

import pytest

from datasets.files import temporary_path


def test_a_file_and_a_folder_are_renamed_behind_the_block(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    with temporary_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("after")
        assert temporary.parent == tmp_path and temporary.name.startswith(".")
        assert (tmp_path / "a.txt").read_text() == "before"
    assert (tmp_path / "a.txt").read_text() == "after"
    with temporary_path(tmp_path / "folder") as temporary:
        (temporary / "deep").mkdir(parents=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder"]
    assert (tmp_path / "folder" / "deep").is_dir()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_everything_as_it_was(tmp_path, error):
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(error), temporary_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    with pytest.raises(error), temporary_path(tmp_path / "folder") as temporary:
        (temporary / "deep").mkdir(parents=True)
        raise error
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"] and (tmp_path / "a.txt").read_text() == "before"
