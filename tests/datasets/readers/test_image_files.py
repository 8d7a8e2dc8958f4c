"""The listing of all images below a folder."""

import os
import shutil
import time
import tracemalloc
from pathlib import Path

import pytest

from datasets.readers.image_files import list_images


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_listing_agrees_with_pathlib(tmp_path):
    for name in ("b/2.jpg", "b/10.JPG", "b.c/x.jpeg", "a.PNG", "b/deep/@1@2@.jpg", "b/n.txt", "z/é.jpg", "b-c/1.jpg"):
        touch(tmp_path / "set" / name)
    for name in (".hidden.jpg", ".thumbnails/x.jpg", "b/._2.jpg"):
        touch(tmp_path / "set" / name)
    touch(tmp_path / "outside/o.jpg")
    (tmp_path / "set/linked").symlink_to(tmp_path / "outside")
    (tmp_path / "set/b/l.jpg").symlink_to(tmp_path / "outside/o.jpg")
    folder = tmp_path / "set"
    found = (Path(parent, file).relative_to(folder) for parent, _, files in os.walk(folder, followlinks=True)
             for file in files if file.lower().endswith((".jpg", ".jpeg", ".png")))
    expected = sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
    assert [os.fsdecode(name) for name in list_images(folder)] == expected and len(expected) == 9
    (tmp_path / "empty").mkdir()
    assert list_images(tmp_path / "empty") == []


def test_listing_refuses_what_is_no_folder_and_links_that_never_end(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_images(tmp_path / "nowhere")
    touch(tmp_path / "set/a/file.jpg")
    with pytest.raises(NotADirectoryError, match="a file; expected a folder"):
        list_images(tmp_path / "set/a/file.jpg")
    (tmp_path / "set/a/up").symlink_to(tmp_path / "set")
    with pytest.raises(ValueError, match="set/a/up: a link to .*/set, a folder above it; remove the link"):
        list_images(tmp_path / "set")


@pytest.mark.slow
def test_listing_is_fast_and_small(tmp_path):
    """A fortieth of the 1.6 million names of docs/benchmarks/listing.md, in a fortieth of 30 s and 2 GB."""
    (tmp_path / "image.jpg").touch()
    for i in range(40):
        folder = tmp_path / "set" / f"{i % 4}" / f"{i}"
        folder.mkdir(parents=True)
        for j in range(1000):
            name = f"@0543256.96@4178906.70@10@S@037.75634@-122.50895@dNsLNHzABCDEFGHIJKLMNOP@@{j}@@@@201311@@.jpg"
            os.link(tmp_path / "image.jpg", folder / name)  # noqa: PTH140 - costs less than a file
    start = time.perf_counter()
    names = list_images(tmp_path / "set")
    seconds = time.perf_counter() - start
    assert len(set(names)) == 40_000 and names == sorted(names)
    assert seconds < 0.75
    del names
    tracemalloc.start()
    list_images(tmp_path / "set")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    shutil.rmtree(tmp_path / "set")  # pytest keeps what is left of three runs
    assert peak < 50e6
