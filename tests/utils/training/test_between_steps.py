"""States that are written between two steps: going on from them, SIGTERM, Ctrl-C, and what is told."""

import contextlib
import json
import re
import shlex
import shutil
import signal
import sys

import pytest
import torch
from images import write_benchmark
from scripts import RANDOM, close_log, error_of, metrics, one_thread, results, run_folder, training_options

import train
import train_hashing
import train_rerank
import train_selavpr
from utils.distil.__main__ import main as distil
from utils.run import exit_with, resumed
from utils.training.loop import Training

MAINS = {"train.py": train.main, "train_hashing.py": train_hashing.main, "train_rerank.py": train_rerank.main,
         "train_selavpr.py": train_selavpr.main, "distil.py": distil}


def saved(path) -> dict:
    return torch.load(path, weights_only=True)


def broken_off(script, words, *, after, cwd, monkeypatch, send=signal.SIGTERM) -> tuple[int, str]:
    """Runs a script that gets a signal in its step number `after`; its exit code and last line of log."""
    step, steps = Training.step, []

    def stepping(training, *losses, **parts):
        steps.append(training)
        if len(steps) == after:
            signal.raise_signal(send)
        step(training, *losses, **parts)

    words = [str(word) for word in words]
    with monkeypatch.context() as patch, contextlib.chdir(cwd), one_thread(), pytest.raises(SystemExit) as stop:
        patch.setattr(Training, "step", stepping)
        patch.setattr(sys, "argv", [script, *words])
        exit_with(lambda: MAINS[script](words))
    close_log()
    folder = max(cwd.glob("logs/*/*"))
    return stop.value.code, (folder / "info.log").read_text().splitlines()[-1].split(" ", 2)[2]


def gone_on(line: str, *more: object, cwd):
    """The run folder of the command that a broken-off run named."""
    words = shlex.split(line.partition("; go on with: ")[2])
    assert words[0] == "python"
    return run_folder(MAINS[words[1]], *words[2:], *more, cwd=cwd)


def timeless(record: dict) -> dict:
    """A line of metrics.jsonl without what differs from run to run."""
    return {key: timeless(value) if isinstance(value, dict) else value for key, value in record.items()
            if key not in ("seconds", "share_of_epoch", "images_per_second", "peak_memory_mib")}


def compare(folder, straight) -> None:
    """Weights, optimiser, random states and figures to the last bit."""
    for name in ("last_model.pth", "best_model.pth"):
        found, expected = (saved(one / name) for one in (folder, straight))
        assert not [key for key, value in expected["model_state_dict"].items()
                    if not torch.equal(found["model_state_dict"][key], value)]
        states = [one["training"]["optimiser"]["state"] for one in (found, expected)]
        assert all(torch.equal(states[0][slot][key], value) for slot, state in states[1].items()
                   for key, value in state.items())
        assert torch.equal(*(one["training"]["random"]["cpu"] for one in (found, expected)))
        assert [found["training"][key] for key in ("epoch", "score", "best_score", "within_epoch")] == [
            expected["training"][key] for key in ("epoch", "score", "best_score", "within_epoch")]
    assert [timeless(record) for record in metrics(folder)] == [timeless(record) for record in metrics(straight)]
    assert results(folder)["recalls"] == results(straight)["recalls"]


@pytest.mark.slow
@pytest.mark.parametrize(("script", "words", "after"), [
    ("train.py", [*RANDOM], 2), ("train.py", [*RANDOM, "--precision", "bf16"], 5),
    ("train.py", [*RANDOM, "--variant", "full"], 6),
    ("train_hashing.py", [*RANDOM, "--set", "pair_fraction=0.5"], 7), ("train_rerank.py", [], 3)],
    ids=["first-epoch", "bf16", "backbone", "hashing", "rerank"])
def test_broken_off_in_an_epoch_and_gone_on(script, words, after, data, float_run, tmp_path, monkeypatch):
    """Four batches an epoch: at SIGTERM the present step is ended, and the command that is named ends as if never
    broken off, with other numbers of workers."""
    words = [*training_options(data), *(words or ["--resume", float_run / "last_model.pth"]), "--epochs_num", 2]
    straight = run_folder(MAINS[script], *words, cwd=tmp_path)
    (tmp_path / "broken").mkdir()
    code, line = broken_off(script, words, after=after, cwd=tmp_path / "broken", monkeypatch=monkeypatch)
    state, = tmp_path.glob("broken/logs/*/*/last_model.pth")
    steps = [json.loads(one)["epoch"] for one in (state.with_name("metrics.jsonl").read_text().splitlines()
                                                  if after > 4 else ())]
    assert (code, steps) == (143, [1] * (after > 4))
    assert line.startswith("terminated; go on with: python train") and line.endswith(
        f"--resume {state.parent.relative_to(tmp_path / 'broken')}")
    within = saved(state)["training"]["within_epoch"]
    assert (within["steps"], within["images"]) == ((after - 1) % 4 + 1, 8 * ((after - 1) % 4 + 1))
    if after > 4:  # broken off once more, before this run has validated anything itself
        _, line = broken_off(script, shlex.split(line)[-len(words):], after=1, cwd=tmp_path / "broken",
                             monkeypatch=monkeypatch)
        again = saved(max(tmp_path.glob("broken/logs/*/*/last_model.pth")))["training"]
        assert again["selected_by"] == "msls val" and again["validation"] == saved(state)["training"]["validation"]
    compare(gone_on(line, "--num_workers", 2 if after == 2 else 0, cwd=tmp_path / "broken"), straight)


@pytest.mark.slow
@pytest.mark.parametrize(("mining", "after"), [("full", 1), ("partial", 4), ("random", 6)])
def test_mined_triplets_of_a_broken_off_round(mining, after, triplets, tmp_path, monkeypatch):
    """Two rounds of two batches an epoch: in a round, between two, in the second epoch."""
    words = [*triplets, "--mining", mining]
    straight = run_folder(train_selavpr.main, *words, cwd=tmp_path)
    (tmp_path / "broken").mkdir()
    code, line = broken_off("train_selavpr.py", words, after=after, cwd=tmp_path / "broken", monkeypatch=monkeypatch)
    assert code == 143
    compare(gone_on(line, cwd=tmp_path / "broken"), straight)


@pytest.mark.slow
def test_a_student_broken_off_in_its_second_epoch(data, float_run, tmp_path, monkeypatch):
    """Two batches an epoch."""
    words = ["--teacher", float_run / "best_model.pth", "--images", data / "gsv_cities" / "Images", "--datasets_folder",
             data, "--val_datasets", "msls", "--train_resize", 28, 28, "--teacher_resize", 56, 56, "--num_workers", 0,
             "--train_batch_size", 14, "--precision", "fp32", "--device", "cpu", "--epochs_num", 2, *RANDOM]
    straight = run_folder(distil, *words, cwd=tmp_path)
    (tmp_path / "broken").mkdir()
    code, line = broken_off("distil.py", words, after=3, cwd=tmp_path / "broken", monkeypatch=monkeypatch)
    assert code == 143
    compare(gone_on(line, "--num_workers", 1, cwd=tmp_path / "broken"), straight)


@pytest.fixture(scope="module")
def triplets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("triplets")
    for number, split in enumerate(("train", "val", "test")):
        write_benchmark(folder, "pitts30k", split, database=12, queries=8, first_place=100 * number)
    return ["--datasets_folder", folder, "--resize", 56, 56, "--device", "cpu", "--num_workers", 0, *RANDOM,
            "--lr", 0.001, "--epochs_num", 2, "--queries_per_epoch", 8, "--cache_refresh_rate", 4,
            "--neg_samples_num", 8, "--train_batch_size", 2]


def test_states_are_written_so_often(data, tmp_path, monkeypatch):
    """Every step under so small a number of minutes; Ctrl-C then goes on from the last one and loses a step."""
    words = [*training_options(data), *RANDOM, "--epochs_num", 1, "--save_every", 1e-9]
    straight = run_folder(train.main, *words, cwd=tmp_path)
    assert (straight / "info.log").read_text().count("state after ") == 4
    (tmp_path / "broken").mkdir()
    code, line = broken_off("train.py", words, after=3, cwd=tmp_path / "broken", monkeypatch=monkeypatch,
                            send=signal.SIGINT)
    assert (code, line.partition(";")[0]) == (130, "interrupted")
    state, = tmp_path.glob("broken/logs/*/*/last_model.pth")
    assert saved(state)["training"]["within_epoch"]["steps"] == 2
    compare(gone_on(line, cwd=tmp_path / "broken"), straight)


def test_before_validation_a_long_pass_is_kept(data, tmp_path, monkeypatch):
    """A break in the validation costs no step."""
    words = [*training_options(data), *RANDOM, "--epochs_num", 1]
    straight = run_folder(train.main, *words, cwd=tmp_path)
    (tmp_path / "broken").mkdir()
    monkeypatch.setattr("utils.training.loop.LONG_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "end_epoch", lambda *_: signal.raise_signal(signal.SIGTERM))
        code, line = broken_off("train.py", words, after=99, cwd=tmp_path / "broken", monkeypatch=monkeypatch)
    state, = tmp_path.glob("broken/logs/*/*/last_model.pth")
    assert (code, saved(state)["training"]["within_epoch"]["steps"]) == (143, 4)
    compare(gone_on(line, cwd=tmp_path / "broken"), straight)


def test_before_there_is_a_state_nothing_is_named(data, tmp_path, monkeypatch):
    words = [*training_options(data), *RANDOM, "--epochs_num", 1]
    code, line = broken_off("train.py", words, after=1, cwd=tmp_path, monkeypatch=monkeypatch, send=signal.SIGINT)
    assert (code, line) == (130, "interrupted")


def test_without_room_for_checkpoints_nothing_is_trained(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    free = shutil.disk_usage(tmp_path)._replace(free=20_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    message = error_of(train.main, *training_options(data), *RANDOM, capsys=capsys)
    assert re.search("logs/.*: checkpoints need 3.*MB, its disk has 20.0MB free; free some space, or start in", message)


def test_words_of_a_command_that_goes_on(tmp_path):
    words = ["--resume", "a.pth", "--lr", "1", "--foundation_model_path=random", "--set", "x=1", "--resume=b.pth"]
    assert resumed(words, tmp_path) == ["--lr", "1", "--set", "x=1", "--resume", str(tmp_path)]
    assert resumed(["--foundation_model_path", "--odd", "--seed", "3"], tmp_path) == ["--seed", "3", "--resume",
                                                                                     str(tmp_path)]
