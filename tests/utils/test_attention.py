"""Where a model looks, as a command: the maps in a sheet, images that cannot be read, models of other kinds."""

import logging
import os

import numpy as np
import pytest
import torch
from images import image
from PIL import Image
from scripts import error_of
from test_maps import model_of, naive, seen_by_hooks

from datasets import evaluation_transform, query_transform
from model import BACKBONES, SelaVPRConfig, build_selavpr, save_checkpoint, save_selavpr
from model.config import DEIT, DINOV3, ViT
from utils import attention
from utils.maps import BACKBONE, overlay


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """Runs leave a log that does not propagate."""
    monkeypatch.setattr(logging.getLogger("selavprpp"), "propagate", True)


@pytest.fixture
def folder(tmp_path):
    """Two images, 90 x 60 and 60 x 60, and a model of both branches."""
    images = tmp_path / "images"
    images.mkdir()
    image(1, 0).resize((90, 60)).save(images / "a.png")
    image(2, 0).resize((60, 60)).save(images / "b.png")
    save_checkpoint(model_of(), tmp_path / "model.pth", pretrained=False)
    return tmp_path


def run(*argv: object) -> None:
    attention.main([str(word) for word in argv])


def cell(sheet: Image.Image, row_top: int, column: int, size: tuple[int, int]) -> np.ndarray:
    left = 10 + column * 234 + 12 * column
    return np.asarray(sheet, dtype=int)[row_top:, left:][:size[1], :size[0]]


def test_the_sheet_holds_each_image_and_the_map_of_every_branch(folder, capsys):
    out = folder / "sheet.png"
    run(folder / "images", "--resume", folder / "model.pth", "--resize", 56, 84, "--output", out, "--device", "cpu")
    assert capsys.readouterr().out == f"{out}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["images", "model.pth", "sheet.png"]
    sheet, model, top = Image.open(out), model_of(), 18 + 4 + 34
    for name, height in (("a.png", 149), ("b.png", 224)):
        picture = Image.open(folder / "images" / name)
        seen = seen_by_hooks(model, evaluation_transform((56, 84))(picture)[None])
        shown = picture.resize((224, height), Image.Resampling.BICUBIC)
        expected = [shown, *(overlay(shown, naive(seen[kind][0], 4, 6)) for kind in (BACKBONE, "float", "binary"))]
        for column, one in enumerate(expected):
            assert np.abs(cell(sheet, top, column, (224, height)) - np.asarray(one, dtype=int)).max() <= 2
        top += height + 18 + 10


@pytest.mark.parametrize(("name", "vit"), [
    ("dinov3-small", ViT(32, 2, 2, "all", 48, None, registers=4, family=DINOV3)),
    ("deit-tiny", ViT(32, 2, 2, "all", 48, None, family=DEIT))])
def test_an_image_keeps_its_ratio_beside_other_backbones(name, vit, folder, monkeypatch):
    monkeypatch.setitem(BACKBONES, name, vit)
    model = model_of(backbone=name, branches=("binary",))
    looked = attention.look(model, [folder / "images" / "a.png"], size=None)
    assert [column.heading for column in looked.columns] == [f"{name}, frozen", "binary branch"]
    assert looked.sizes == ["320x480"]
    with Image.open(folder / "images" / "a.png") as picture:
        tensor = query_transform("single_query", (320, 320), multiple=16)(picture)[None]
    seen = seen_by_hooks(model, tensor)
    for column, tokens in zip(looked.columns, (seen[BACKBONE], seen["binary"]), strict=True):
        np.testing.assert_allclose(column.maps[0], naive(tokens[0], 20, 30), atol=2e-4)
    assert "no float branch" in attention.said_of_columns(model.config)


def test_images_that_cannot_be_drawn_are_named_and_counted(folder, caplog, monkeypatch):
    images, notes, draw = folder / "images", [], attention.draw
    (images / "torn.jpg").write_bytes((images / "a.png").read_bytes()[:200])
    (images / "two\nlines.jpg").write_bytes(b"no image")
    (images / os.fsdecode(b"bytes\xff.jpg")).write_bytes(b"")
    Image.new("RGB", (900, 20)).save(images / "long.png")
    monkeypatch.setattr(attention, "draw", lambda *drawn, **said: notes.extend(said["notes"]) or draw(*drawn, **said))
    run(images, images / "gone.jpg", "--resume", folder / "model.pth", "--count", 9, "--output", folder / "x.jpg")
    left_out = [record.getMessage() for record in caplog.records if record.getMessage().startswith("left out: ")]
    assert len(left_out) == 5 and all("\n" not in line for line in left_out)
    assert f"{images}/long.png: 900 x 20 pixels, too long and thin" in "".join(left_out)
    said, = [note for note in notes if note.startswith("left out")]
    assert said.startswith("left out, as they cannot be drawn: 5 of 7 images (")
    assert all(name in said for name in ("torn.jpg", "two\nlines.jpg", "long.png", "gone.jpg"))
    assert any("pretrained: false" in note for note in notes)
    assert Image.open(folder / "x.jpg").width > 900


def test_of_many_images_some_are_drawn(folder):
    for number in range(20):
        image(number, 0).save(folder / "images" / f"{number:02}.png")
    assert [path.name for path in attention.find([folder / "images"], 3)] == ["00.png", "10.png", "b.png"]


def test_wrong_usage_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "hub"))
    save_selavpr(build_selavpr(SelaVPRConfig(backbone="dinov2-tiny"), seed=0), folder / "selavpr.pth", pretrained=False)
    (folder / "empty").mkdir()
    ours = ("--resume", "model.pth")
    for argv, said in (
            (("images", "--resume", "nowhere.pth"), "no checkpoint file at nowhere.pth"),
            (("images", "--resume", "selavpr.pth"), "selavpr.pth: a SelaVPR model, expected a SelaVPR++ one"),
            (("images", "--backbone", "deit-tiny"), "no weights are published for deit-tiny"),
            (("images", *ours, "--backbone", "deit-tiny"), "--backbone deit-tiny contradicts model.pth"),
            (("images", *ours, "--output", "x.gif"), "--output x.gif: expected a name that ends in .jpg"),
            (("images", *ours, "--output", "no/x.jpg"), "--output no/x.jpg: expected the name of a file in a folder"),
            (("images", *ours, "--count", "0"), "--count: '0' is not a whole number of at least 1"),
            (("empty", *ours), "empty: no image in it"),
            (("gone.jpg", *ours), "gone.jpg: none of 1 images can be drawn")):
        assert said in error_of(attention.main, *argv, capsys=capsys)
    assert sorted(path.name for path in folder.iterdir()) == ["empty", "images", "model.pth", "selavpr.pth"]
