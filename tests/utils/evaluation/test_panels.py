"""Panels of predictions: which queries have one, what is framed in which colour, pictures that are not there."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from descriptors import Rows, search, searchable
from images import write_benchmark
from PIL import Image

from datasets import read_folder
from utils.evaluation.panels import SIZE, write_panels
from utils.sheets import FRAME, GAP, PLAIN, RIGHT, WRONG


@pytest.fixture
def evaluation(tmp_path):
    """Of 6 database images and 4 + 1 queries; the nearest of query q is image (q + 1) % 5, then come the others."""
    write_benchmark(tmp_path, "set", "test", database=6, queries=4, unanswerable=1, first_place=0)
    listing = read_folder(tmp_path, "set", split="test", threshold_m=150)
    floats = np.eye(11, 6, dtype=np.float32)
    floats[6:] = floats[[1, 2, 3, 4, 0]] + 0.4 * floats[[0, 1, 2, 3, 4]]
    return search(searchable(tmp_path, Rows(None, floats), 6), listing, mode="float", recall_values=[1])


def frames(path: Path, count: int) -> list[tuple[int, ...]]:
    """The colour of each frame, at the middle of its upper edge."""
    image = Image.open(path)
    places = [(GAP + k * (SIZE[0] + GAP) + SIZE[0] // 2, 2 * GAP - FRAME // 2) for k in range(count)]
    nearest = []
    for place in places:
        found = np.array(image.getpixel(place), int)
        nearest.append(min((PLAIN, RIGHT, WRONG), key=lambda colour: np.abs(found - colour).sum()))
    return nearest


def test_a_panel_for_each_query(evaluation, tmp_path):
    written = write_panels(tmp_path, evaluation, count=3)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [f"preds/{i:03d}.jpg" for i in range(5)]
    for query, path in enumerate(written):
        right = [i in evaluation.listing.positives[query] for i in evaluation.final[query, :3]]
        assert frames(path, 4) == [PLAIN, *(RIGHT if one else WRONG for one in right)]
        with Image.open(path) as image:
            assert image.format == "JPEG" and image.width == GAP + 4 * (SIZE[0] + GAP)
            middle = image.getpixel((GAP + SIZE[0] // 2, 2 * GAP + SIZE[1] // 2))
        with Image.open(evaluation.listing.query_paths[query]) as original:
            there = np.asarray(original.resize(SIZE, Image.Resampling.BICUBIC))[SIZE[1] // 2, SIZE[0] // 2]
        assert np.abs(np.array(middle, int) - there).max() < 60


def test_only_wrong_ones(evaluation, tmp_path):
    wrong = [q for q in range(5) if evaluation.final[q, 0] not in evaluation.listing.positives[q]]
    assert 0 < len(wrong) < 5
    written = write_panels(tmp_path, evaluation, count=2, only_wrong=True)
    assert [int(path.stem) for path in written] == wrong


def test_pictures_that_are_gone_are_counted(evaluation, tmp_path, caplog):
    evaluation.listing.database_paths[1].unlink()
    evaluation.listing.query_paths[2].write_bytes(b"no picture")
    shown = [int((evaluation.final[q, :3] == 1).any()) for q in range(5)]
    write_panels(tmp_path, evaluation, count=3)
    assert f"{sum(shown) + 1} pictures could not be read" in caplog.text
    assert str(evaluation.listing.database_paths[1]) in caplog.text or "no picture" in caplog.text
    assert len(list((tmp_path / "preds").iterdir())) == 5


def test_without_labels_frames_are_plain(evaluation, tmp_path):
    bare = dataclasses.replace(evaluation, listing=dataclasses.replace(evaluation.listing, positives=None))
    assert frames(write_panels(tmp_path, bare, count=2)[0], 3) == [PLAIN] * 3
    with pytest.raises(ValueError, match="--save_only_wrong_preds: this set has no labels"):
        write_panels(tmp_path, bare, count=2, only_wrong=True)
