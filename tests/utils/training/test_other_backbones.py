"""Scripts on backbones that are not DINOv2: official files, image sizes by the patch, licences."""

import json

import pytest
import torch
from backbones import SMALL, official
from PIL import Image
from scripts import error_of, results, run_folder, training_options

import eval as eval_float
import train
import train_rerank
from datasets.transforms import aspect_size, query_transform
from model import BACKBONES, read_checkpoint
from model.config import DEIT
from utils.cli import options as cli


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, vit in SMALL.items():
        monkeypatch.setitem(BACKBONES, name, vit)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "licence"), [("dinov3-plus", "DINOv3 License"), ("deit", "Apache-2.0")])
def test_from_an_official_file_to_results(backbone, licence, data, memory_measured, tmp_path):
    state, file = official(SMALL[backbone]), tmp_path / "official.pth"
    torch.save({"model": state} if SMALL[backbone].family is DEIT else state, file)
    options = [*training_options(data), "--epochs_num", 1]
    trained = run_folder(train.main, *options, "--backbone", backbone, "--foundation_model_path", file, cwd=tmp_path)
    log = (trained / "info.log").read_text()
    assert "memory: a step of " in log  # the forecast
    assert ("without head.weight, head.bias: its classifier is not used" in log) == (backbone == "deit")
    for flag in ("--resize", "--train_resize"):
        assert log.count(f"{flag} 56 56: not multiples of the 16-pixel patch, using the nearest: 64 64") == 1
    assert results(trained)["options"]["resize"] == results(trained)["options"]["train_resize"] == [64, 64]
    if backbone == "dinov3-plus":
        trained = run_folder(train_rerank.main, *options, "--resume", trained / "best_model.pth", cwd=tmp_path)
    held = read_checkpoint(trained / "best_model.pth")
    assert all(torch.equal(held.state_dict[f"backbone.{name}"], value) for name, value in state.items()
               if not name.startswith("head."))  # frozen is frozen
    assert (held.pretrained, held.licence) == (True, licence)
    found = run_folder(eval_float.main, "--datasets_folder", data, "--device", "cpu", "--num_workers", 0,
                       "--test_method", "single_query", "--resume", trained / "best_model.pth", cwd=tmp_path)
    assert json.loads((found / "config.json").read_text())["options"]["resize"] == [320, 320]  # by the file
    assert results(found)["model"]["licence"] == results(trained)["model"]["licence"] == licence


def test_weights_that_are_given_on_request_alone(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = error_of(train.main, *training_options(data), "--backbone", "dinov3-small", capsys=capsys)
    assert message.startswith("the weights of dinov3-small have no public address: ask for dinov3_")


@pytest.mark.parametrize(("patch", "usual", "asked"), [(14, ([322, 322], [224, 224]), ([56, 42], [28, 14])),
                                                       (16, ([320, 320], [224, 224]), ([64, 48], [32, 16]))])
def test_sizes_follow_the_patch(patch, usual, asked):
    for words, (size, train_size) in (("", usual), ("--resize 60 40 --train_resize 27 20", asked)):
        command = cli.training("", f"--datasets_folder sets {words}".split()).fitted(patch)
        assert (command.images.size, command.images.multiple, command.data.size) == (size, patch, train_size)
        assert (command.run.options["resize"], command.run.options["train_resize"]) == (size, train_size)
        assert command.fitted(patch) == command
    command = cli.evaluation("", ["--datasets_folder", "sets", "--resize", "60", "40"]).fitted(patch)
    assert command.images.size == command.run.options["resize"] == asked[0]


def test_single_queries_follow_the_patch():
    assert (aspect_size((480, 640), 320, 16), aspect_size((480, 640), 322)) == ((320, 432), (322, 434))
    image = Image.new("RGB", (60, 48))
    assert query_transform("single_query", (32, 48), multiple=16)(image).shape == (3, 32, 48)
    assert query_transform("single_query", (28, 48))(image).shape == (3, 28, 42)
