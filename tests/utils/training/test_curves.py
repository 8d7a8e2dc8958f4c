"""Curves of a training: against metrics.jsonl read here, after a break, where nothing can be drawn, for TensorBoard."""

import json
import sys
import types

import numpy as np
import pytest
from epochs import epoch
from PIL import Image
from scripts import RANDOM, error_of, metrics, training_options
from test_loop import Clockwork

import train_rerank
import train_selavpr
from model import BACKBONES
from model.config import ViT
from utils.training.curves import draw_training, draw_trainings, figures, read_metrics


def lines_of(figure) -> dict[str, list]:
    """Title of a panel -> the points of its lines, but for the one that marks the best epoch."""
    return {axes.get_title(): [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "."]
            for axes in figure.axes}


def legend(of) -> list[str]:
    found = of.get_legend() if hasattr(of, "get_legend") else of.legends[0]
    return [text.get_text() for text in found.get_texts()]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(BACKBONES, "dinov2-tiny", ViT(32, 2, 2, "all", 48, None))


# --- one training

def test_every_figure_of_every_epoch_is_drawn():
    records = [epoch(1), epoch(2), epoch(3, score=1.0)]
    figure = draw_training(records)
    assert lines_of(figure) == {
        "loss": [[[1, 2], [2, 1], [3, 2 / 3]], [[1, 1.5], [2, 0.75], [3, 0.5]]],
        "recall on pitts30k": [[[1, 10], [2, 20], [3, 30]], [[1, 12], [2, 24], [3, 36]]],
        "recall on ms$ls_": [[[1, 1], [2, 2], [3, 3]], [[1, 1], [2, 1], [3, 1]], [[1, 2], [2, 2], [3, 2]]],
        "learning rate": [[[1, 4e-4], [2, 2e-4], [3, 4e-4 / 3]]],
        "images a second": [[[1, 101], [2, 102], [3, 103]]]}
    assert legend(figure.axes[0]) == ["loss", "metric"]
    assert legend(figure.axes[2]) == ["R@1", "R@1, first stage", "R@5, first stage"]
    assert all(axes.lines[-1].get_xdata()[0] == 2 for axes in figure.axes)  # the best epoch
    assert "after epoch 3; grey line: the best so far (2)" in figure.get_suptitle()


@pytest.mark.slow
def test_a_training_leaves_the_curves_of_all_its_epochs_after_a_break_too(small, drawn, tmp_path):
    first = Clockwork(tmp_path, epochs=4)
    first.run([10, 30])
    assert np.asarray(Image.open(first.folder / "curves.png")).std() > 10
    again = Clockwork(tmp_path, epochs=4, resume=first.folder / "last_model.pth")
    at_once = (again.folder / "curves.png").read_bytes()
    assert at_once == (first.folder / "curves.png").read_bytes()  # a finished run that is resumed has them too
    again.run([20, 25])
    assert (again.folder / "curves.png").read_bytes() != at_once
    loss, *_ = lines_of(draw_training(read_metrics(again.folder)))["loss"]
    assert [x for x, _ in loss] == [1, 2, 3, 4]
    assert not list(again.folder.glob(".curves*"))
    (first.folder / "metrics.jsonl").unlink()
    alone = Clockwork(tmp_path, epochs=4, resume=first.folder / "last_model.pth")  # as a moved file: no figures yet
    assert not (alone.folder / "curves.png").exists() and "curves.png" not in (alone.folder / "info.log").read_text()


@pytest.mark.parametrize("fault", ["matplotlib absent", "disk full", "a library's own"])
def test_no_training_ends_by_its_curves(fault, small, drawn, tmp_path, monkeypatch):
    clockwork = Clockwork(tmp_path, epochs=3)
    if fault == "matplotlib absent":
        for module in ("matplotlib", "matplotlib.figure"):
            monkeypatch.setitem(sys.modules, module, None)
    else:
        def save(figure, path, **_):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device") if fault == "disk full" else RuntimeError("two\nlines")
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", save)
    assert clockwork.run([10, 30, 20]) == 3
    log = (clockwork.folder / "info.log").read_text()
    said = [line for line in log.splitlines() if "curves.png cannot be written" in line]
    assert len(said) == 1 and "the training goes on without it" in said[0]
    assert {"disk full": "free some space", "a library's own": "two lines"}.get(fault, "matplotlib") in said[0]
    assert not [path for path in clockwork.folder.iterdir() if "curves" in path.name]
    assert len(metrics(clockwork.folder)) == 3 and (clockwork.folder / "best_model.pth").is_file()


@pytest.mark.slow
def test_both_stages_and_losses_of_a_real_training(rerank_run):
    panels, records = lines_of(draw_training(read_metrics(rerank_run))), metrics(rerank_run)
    assert panels["recall on msls"] == [
        [[record["epoch"], record["recalls"]["msls"][stage][k]] for record in records]
        for stage in ("final", "first_stage") for k in ("1", "5")]
    assert panels["loss"] == [[[record["epoch"], record[name]] for record in records]
                              for name in ("loss", "metric", "quantization")]


# --- TensorBoard

@pytest.fixture
def tensorboard(monkeypatch):
    """A stand-in for torch.utils.tensorboard, which need not be installed, and what was written to it."""
    written = []

    class SummaryWriter:
        def __init__(self, log_dir):
            self.log_dir, self.waiting = log_dir, []

        def add_scalar(self, *scalar):
            self.waiting.append(scalar)

        def flush(self):
            written.extend((self.log_dir, *scalar) for scalar in self.waiting)
            self.waiting.clear()

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return written


@pytest.mark.slow
def test_tensorboard_gets_the_same_figures_once_each_those_before_a_break_too(small, drawn, tensorboard, tmp_path):
    first = Clockwork(tmp_path, epochs=3)
    first.run([10, 30])
    assert tensorboard == []  # not asked for
    again = Clockwork(tmp_path, epochs=3, resume=first.folder / "last_model.pth", tensorboard=True)
    again.run([20])
    expected = [(str(again.folder), f"{panel}/{line}", value, record["epoch"]) for record in metrics(again.folder)
                for panel, lines in figures(record).items() for line, value in lines.items()]
    assert tensorboard == expected and {scalar[3] for scalar in tensorboard} == {1, 2, 3}


def test_tensorboard_that_fails_ends_no_training(small, drawn, tensorboard, tmp_path, monkeypatch):
    clockwork = Clockwork(tmp_path, epochs=2, tensorboard=True)
    monkeypatch.setattr(clockwork.training.curves.writer, "flush", lambda: (_ for _ in ()).throw(OSError(28, "full")))
    assert clockwork.run([1, 2]) == 2
    log = (clockwork.folder / "info.log").read_text()
    assert log.count("TensorBoard's file cannot be written") == 1 and (clockwork.folder / "curves.png").is_file()


@pytest.mark.parametrize("script", [train_rerank, train_selavpr], ids=["rerank", "selavpr"])
def test_tensorboard_that_is_not_installed_is_one_line_at_the_start(script, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.chdir(tmp_path)
    message = error_of(script.main, *training_options(data)[:9], *RANDOM, "--tensorboard", capsys=capsys)
    assert "--tensorboard: TensorBoard is not installed" in message and "pip install tensorboard" in message
    assert not list(tmp_path.iterdir())


# --- several trainings

def test_several_trainings_share_panels_and_a_legend():
    one, other = [epoch(1), epoch(2)], [epoch(1, quantization=0.25), epoch(2, quantization=0.5), epoch(3)]
    figure = draw_trainings({"_first $x$": one, "other": other})
    found = lines_of(figure)
    assert list(found) == [
        "loss", "loss: metric", "loss: quantization", "recall on pitts30k: R@1", "recall on pitts30k: R@5",
        "recall on ms$ls_: R@1", "recall on ms$ls_: R@1, first stage", "recall on ms$ls_: R@5, first stage",
        "learning rate", "images a second"]
    assert found["loss"] == [[[1, 2], [2, 1]], [[1, 2], [2, 1], [3, 2 / 3]]]
    assert found["loss: quantization"] == [[], [[1, 0.25], [2, 0.5]]]
    assert legend(figure) == ["_first $x$", "other"]
    colours = [[line.get_color() for line in axes.lines] for axes in figure.axes]
    assert all(pair == colours[0] for pair in colours) and colours[0][0] != colours[0][1]


@pytest.mark.parametrize(("text", "said"), [
    ("", "empty; expected a training after its first epoch"),
    ('{"epoch": 1}\n', "line 1 is damaged, or not of a training"),
    (json.dumps(epoch(1)) + '\n{"epoch"', "line 2 is damaged"),
    (json.dumps(epoch(1, loss="low")) + "\n", "line 1 is damaged"),
    (json.dumps(epoch(1, recalls=[])) + "\n", "line 1 is damaged"),
    ("[" * 10_000, "line 1 is damaged")], ids=["empty", "bare", "torn", "text", "list", "deep"])
def test_damaged_metrics_are_named(text, said, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        read_metrics(tmp_path)
    assert str(tmp_path / "metrics.jsonl") in str(error.value) and "\n" not in str(error.value)
