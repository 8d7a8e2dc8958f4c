"""Going on after a break where something is damaged, another's, or missing: told at the start, in one line."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from faulty_checkpoints import changed_content, outcomes, same
from scripts import close_log, error_of, metrics, run_folder, training_options
from test_loop import Batches, Clockwork, saved

import train
from datasets.training.triplets.mining import TripletMiner
from model import BACKBONES, CheckpointError, read_checkpoint
from model.config import ViT
from utils.models import ModelOptions, read_resume
from utils.training.loop import Training

STATES = int(os.environ.get("SELAVPRPP_FAULTS", "60"))


@pytest.fixture
def small(monkeypatch):
    """Models whose files are small."""
    monkeypatch.setitem(BACKBONES, "dinov2-tiny", ViT(32, 2, 2, "all", 48, None))


@pytest.fixture
def run(small, tmp_path) -> Path:
    """The folder of a training whose second epoch of three was the best."""
    clockwork = Clockwork(tmp_path, epochs=3)
    clockwork.run([10, 30, 20])
    close_log()
    return clockwork.folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def refused(folder: Path, message: str, name: str = "last_model.pth") -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        Clockwork(folder.parent, resume=folder / name)
    assert "\n" not in str(error.value)


def log_of(clockwork: Clockwork) -> str:
    return (clockwork.folder / "info.log").read_text()


# --- the best model so far

def test_the_best_model_of_another_run_is_refused_at_the_start(run, tmp_path):
    """It gave that run's results, with exit code 0."""
    other = Clockwork(tmp_path, epochs=3)
    other.run([10, 30, 20])  # equal epochs and scores: only who wrote it tells
    shutil.copy(other.folder / "best_model.pth", run / "best_model.pth")
    refused(run, r"best_model.pth: not the best model of the training that \S+/last_model.pth goes on with, but "
                 r"another's: epoch 2, score \(30, 0.0\).*; put the right one there, or move it away: then "
                 "last_model.pth itself is taken for the best so far")
    (run / "best_model.pth").unlink()
    assert Clockwork(tmp_path, resume=run / "last_model.pth").epoch_of("best_model.pth") == 3


def test_of_files_without_identities_the_scores_are_compared(run, tmp_path):
    for name in ("best_model.pth", "last_model.pth"):
        content = saved(run / name)
        del content["training"]["run"], content["training"]["best"]
        torch.save(content, run / name)
    again = Clockwork(tmp_path, resume=run / "last_model.pth", epochs=4)
    assert again.run([5]) == 1
    assert again.epoch_of("best_model.pth") == 2
    assert Clockwork(tmp_path, resume=again.folder / "last_model.pth").epoch_of("best_model.pth") == 2
    content = saved(run / "best_model.pth")
    content["training"]["score"] = (31.0, 0.0)
    torch.save(content, run / "best_model.pth")
    refused(run, "not the best model of the training")


def test_a_torn_best_model_is_noticed_at_the_start(run):
    whole = (run / "best_model.pth").read_bytes()
    (run / "best_model.pth").write_bytes(whole[:len(whole) // 2])
    refused(run, "best_model.pth: not a readable torch checkpoint.*; or put the right one there, or move it away")
    (run / "best_model.pth").write_bytes(whole)
    flip(run / "best_model.pth")
    refused(run, "best_model.pth: damaged, the bytes of .*; or put the right one there, or move it away")


def test_stopped_between_the_two_writes_the_best_is_one_epoch_ahead(small, tmp_path):
    """Also in a run that goes on, whose last_model.pth is still that of before, and once more after that."""
    first = Clockwork(tmp_path, epochs=2)
    first.run([10, 20])
    for scores in ([30], [40]):
        again = Clockwork(tmp_path, epochs=9, resume=first.folder / "last_model.pth")
        before = (again.folder / "last_model.pth").read_bytes()
        again.run(scores)
        (again.folder / "last_model.pth").write_bytes(before)
        first = again
    last = Clockwork(tmp_path, epochs=9, resume=first.folder / "last_model.pth")
    assert last.epoch_of("best_model.pth") == last.training.epoch + 1
    assert Clockwork(tmp_path, epochs=9, resume=last.folder / "last_model.pth").training.epoch == last.training.epoch


def test_the_script_refuses_before_it_trains(data, float_run, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(float_run, folder)
    flip(folder / "best_model.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Training, "remaining_epochs", lambda *_: pytest.fail("it trained"))
    assert "best_model.pth: damaged, the bytes of" in error_of(
        train.main, *training_options(data), "--resume", folder / "last_model.pth", "--epochs_num", 9, capsys=capsys)


# --- a damaged last_model.pth

def test_a_damaged_last_model_gives_way_to_the_best(run, tmp_path, caplog):
    expected = read_checkpoint(run / "best_model.pth")
    flip(run / "last_model.pth")
    with caplog.at_level("WARNING", logger="selavprpp"):
        found, _ = read_resume(ModelOptions(resume=run / "last_model.pth"), branches=("float",))
    assert found.source == str(run / "best_model.pth")
    assert same(found.state_dict, expected.state_dict)
    line, = caplog.messages
    assert line.startswith(f"{run / 'last_model.pth'}: damaged, the bytes of ")
    assert line.endswith(f"; going on from {run / 'best_model.pth'} instead, after 2 epochs")
    # A two-branch training would start from its weights: from others.
    with pytest.raises(CheckpointError, match="last_model.pth: damaged"):
        read_resume(ModelOptions(resume=run / "last_model.pth"), branches=("float", "binary"))
    shutil.copy(run / "last_model.pth", run / "another.pth")
    with pytest.raises(CheckpointError, match="another.pth: damaged"):
        read_resume(ModelOptions(resume=run / "another.pth"), branches=("float",))
    (run / "best_model.pth").unlink()
    with pytest.raises(CheckpointError, match="last_model.pth: damaged"):
        read_resume(ModelOptions(resume=run / "last_model.pth"), branches=("float",))


@pytest.mark.slow
def test_going_on_from_the_best_comes_to_the_same(data, float_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(float_run, folder)
    flip(folder / "last_model.pth")
    options = [*training_options(data), "--epochs_num", 3, "--resume", folder / "last_model.pth"]
    whole = run_folder(train.main, *options[:-1], float_run / "last_model.pth", cwd=tmp_path)
    again = run_folder(train.main, *options, cwd=tmp_path)
    one, two = (saved(run / "last_model.pth") for run in (whole, again))
    assert same(one["model_state_dict"], two["model_state_dict"])
    assert one["training"]["epoch"] == two["training"]["epoch"] == 3


# --- what is left, and what is missing

def test_a_run_that_goes_on_has_a_last_model_from_its_start(run, tmp_path):
    none_left = Clockwork(tmp_path, epochs=3, resume=run / "last_model.pth")
    assert list(none_left.training.remaining_epochs(Batches())) == []
    one, two = saved(run / "last_model.pth"), saved(none_left.folder / "last_model.pth")
    for name in ("optimiser", "schedule", "random", "epoch", "score", "best_score", "epochs_without_gain"):
        assert same(one["training"][name], two["training"][name]), name
    assert same(one["model_state_dict"], two["model_state_dict"])
    again = Clockwork(tmp_path, epochs=4, resume=none_left.folder / "last_model.pth")
    assert again.run([99]) == 1
    assert [record["score"] for record in metrics(again.folder)] == [10, 30, 20, 99]


@pytest.mark.parametrize(("torn", "left"), [
    (lambda lines: [*lines, lines[0][:30]], [1, 2, 3]),  # killed while it wrote the next
    (lambda lines: [lines[0], lines[1][:30] + "\n", lines[2]], [1, 3]),
    (lambda lines: [lines[0], lines[1][:30] + lines[2]], [1]),
    (lambda lines: [lines[0], "\0" * 40 + "\n", '{"epoch": 3}\n'], [1]),
    (lambda lines: lines[:1], [1]),
], ids=["one too many", "torn", "two in one", "zeros", "short"])
def test_torn_metrics_are_told_and_left_out(run, tmp_path, torn, left):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(torn(lines)))
    again = Clockwork(tmp_path, epochs=3, resume=run / "last_model.pth")
    assert [record["epoch"] for record in metrics(again.folder)] == left
    assert again.training.costs()["minutes_per_epoch"] > 0
    missing = 3 - len(left)
    assert (f"{path}: {missing} of 3 epochs are missing or torn and left out" in log_of(again)) == bool(missing)
    assert "Traceback" not in log_of(again)
    assert json.loads(lines[0]) == metrics(again.folder)[0]


def test_halves_of_checkpoints_of_killed_runs_are_removed_but_not_those_of_living_ones(run, tmp_path):
    half, others = run / ".best_model.pth.123.tmp", run / ".notes.tmp"
    for path in (half, others):
        path.write_bytes(b"half")
    killed = os.fork()
    if killed == 0:  # holds the lock on the log as a run does, and dies with it
        from utils.run import _log_to
        _log_to(run / "info.log")
        os.kill(os.getpid(), 19)  # waits
        os._exit(0)
    os.waitpid(killed, os.WUNTRACED)
    Clockwork(tmp_path, epochs=3, resume=run / "last_model.pth")
    assert half.exists()
    os.kill(killed, 9)
    os.waitpid(killed, 0)
    again = Clockwork(tmp_path, epochs=3, resume=run / "last_model.pth")
    assert not half.exists()
    assert others.exists()
    assert f"removed {half}, the half of a checkpoint that a killed run left behind" in log_of(again)


# --- a training state that is not whole

@pytest.mark.parametrize(("field", "value", "message"), [
    ("schedule", {}, "schedule holds no step_size"), ("options", {}, "options holds none of this script's"),
    ("best_score", None, "best_score is None, expected a tuple"),
    ("best_score", (float("nan"), 0.0), "best_score is nan"),
    ("score", (1.0,), "score is a tuple"), ("epoch", True, "epoch is True, expected int"),
    ("epoch", 2, "schedule is that of epoch 3, epoch is 2"), ("epoch", 2**70, "schedule is that of epoch 3"),
    ("epochs_without_gain", 4, "epoch 3, 4 without gain"), ("random", {}, "random holds no cpu"),
    ("random", {"cpu": torch.zeros(5056)}, "random's cpu is torch.float32 .5056,., expected torch.uint8 .5056,."),
    ("scaler", None, "scaler is None, expected dict"), ("optimiser", {}, "optimiser has other parameter groups"),
    ("best", "abc", "best is 'abc', expected a list")])
def test_a_training_state_that_would_train_on_wrongly_is_refused(run, field, value, message):
    content = saved(run / "last_model.pth")
    content["training"]["options"] = {"lr": 4e-4}
    content["training"][field] = value
    torch.save(content, run / "last_model.pth")
    with pytest.raises(CheckpointError, match=message) as error:
        resumed(run.parent, run / "last_model.pth")
    assert str(error.value).startswith(f"{run / 'last_model.pth'}: its training state cannot be used: ")


def resumed(folder: Path, path: Path) -> Training:
    clockwork = Clockwork(folder)
    clockwork.training.run.options = {"lr": 4e-4}
    clockwork.training.resume(read_checkpoint(path))
    return clockwork.training


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's
def test_a_training_state_without_a_field_or_with_an_odd_one_is_refused_or_comes_to_the_same(run, tmp_path):
    content = saved(run / "last_model.pth")
    content["training"]["options"] = {"lr": 4e-4}
    torch.save(content, run / "last_model.pth")
    training = resumed(tmp_path, run / "last_model.pth")
    folder = tmp_path / "changed"
    folder.mkdir()
    shutil.copy(run / "best_model.pth", folder)

    def state() -> list:
        return [training.optimiser.state_dict(), training.schedule.state_dict(), torch.get_rng_state(), training.epoch,
                training.best_score, training.epochs_without_gain]

    expected = state()

    def comes_to_the_same(path: Path) -> bool:
        training.resume(read_checkpoint(path))
        return same(state(), expected)

    changed = ((what, {**content, "training": state}) for what, state in changed_content(
        content["training"], STATES, seed=5))
    found = outcomes(changed, folder / "last_model.pth", comes_to_the_same)
    assert found.keys() <= {"refused", "equal"}
    assert found["refused"] > STATES / 4


def test_negatives_that_are_no_ids_are_refused():
    miner = object.__new__(TripletMiner)
    for chosen in (None, [1], torch.zeros(2), torch.zeros(2, dtype=torch.int64).to_sparse()):
        with pytest.raises(ValueError, match="negatives chosen before: a .*; expected a tensor of int64 ids"):
            miner.load_state_dict({"chosen": chosen})
