"""Training: going on after a break, the best weights, what is trained and what stays, and what is recorded."""

import contextlib
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import RANDOM, metrics, one_thread, results, run_folder, training_options

import train
import train_rerank
from model import ModelConfig, build_model, load_model, published_state_dict, read_checkpoint
from utils.data import TrainingData
from utils.models import Origin
from utils.run import Run, RunOptions
from utils.training.loop import Training, TrainingOptions


def saved(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return saved(path)["model_state_dict"]


def assert_close(ours: dict, expected: dict, tolerance: float = 1e-6) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert (ours[name].double() - value.double()).abs().max() <= tolerance, name


def assert_equal(ours: dict, expected: dict) -> None:
    assert ours.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not torch.equal(ours[name], value)]


def part(state: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


class Started(Exception):
    """Raised, with the Training, where the first epoch would begin."""


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Calls a script's main and gives its Training just before the first epoch, and the log."""
    def stop(training, loader):
        raise Started(training)

    def run(main, *argv):
        monkeypatch.setattr(Training, "remaining_epochs", stop)
        with contextlib.chdir(tmp_path), one_thread(), pytest.raises(Started) as reached:
            main([str(word) for word in argv])
        training = reached.value.args[0]
        return training, (tmp_path / training.run.folder / "info.log").read_text()

    return run


# --- going on after a break

@pytest.mark.slow
@pytest.mark.parametrize(("main", "precision"), [
    (train.main, "fp32"), (train_rerank.main, "fp32")], ids=["float", "rerank"])
def test_going_on_equals_never_stopping(main, precision, data, float_run, tmp_path):
    """After whole epochs; other precisions and scripts, and within an epoch: test_between_steps.py."""
    options = [*training_options(data), "--precision", precision]
    if main is not train.main:
        options += ["--set", "pair_fraction=0.5"]  # draws from torch's generator, whose state must be restored
    first = ["--resume", float_run / "last_model.pth"] if main is train_rerank.main else RANDOM
    straight = run_folder(main, *options, *first, "--epochs_num", 4, cwd=tmp_path)
    broken = run_folder(main, *options, *first, "--epochs_num", 2, cwd=tmp_path)
    again = run_folder(main, *options, "--resume", broken / "last_model.pth", "--epochs_num", 4, cwd=tmp_path)

    one, two, half = (saved(folder / "last_model.pth") for folder in (straight, again, broken))
    assert_close(two["model_state_dict"], one["model_state_dict"])
    name = next(name for name in one["model_state_dict"] if name.endswith("head.expand.weight")
                and not torch.equal(one["model_state_dict"][name], half["model_state_dict"][name]))
    assert (one["model_state_dict"][name] - half["model_state_dict"][name]).abs().max() > 1e-4  # the test can fail
    for key in ("epoch", "score", "best_score", "epochs_without_gain", "schedule", "scaler"):
        assert two["training"][key] == one["training"][key], key
    for slot, state in one["training"]["optimiser"]["state"].items():
        assert_close(two["training"]["optimiser"]["state"][slot], state)
    assert torch.equal(two["training"]["random"]["cpu"], one["training"]["random"]["cpu"])

    timing = {"images_per_second", "peak_memory_mib", "seconds"}
    records = [[{key: value for key, value in record.items() if key not in timing} for record in metrics(folder)]
               for folder in (straight, again)]
    assert [record["epoch"] for record in records[1]] == [1, 2, 3, 4]
    assert [record["lr"] for record in records[1]] == [4e-4, 4e-4, 4e-4, 2e-4]
    for ours, expected in zip(*records, strict=True):
        assert ours["loss"] == pytest.approx(expected["loss"], abs=1e-6)
        assert ours["score"] == expected["score"]
    assert results(again)["recalls"] == results(straight)["recalls"]
    assert "going on with" in (again / "info.log").read_text()
    assert "option " not in (again / "info.log").read_text().replace("option epochs_num was 2", "")


@pytest.mark.slow
def test_a_resumed_rerank_training_keeps_its_own_binary_branch(data, rerank_run, start):
    """The published script copies the float adapters over it at every start."""
    training, log = start(train_rerank.main, *training_options(data), "--resume", rerank_run / "last_model.pth")
    assert_equal(training.model.state_dict(), weights(rerank_run / "last_model.pth"))
    assert training.epoch == 2
    assert f"going on with {rerank_run / 'last_model.pth'} after 2 epochs" in log
    assert "starting both branches" not in log


@pytest.mark.slow
def test_a_finished_training_resumed_trains_no_more(data, float_run, tmp_path):
    again = run_folder(train.main, *training_options(data), "--resume", float_run / "last_model.pth",
                       "--epochs_num", 2, cwd=tmp_path)
    assert (again / "best_model.pth").read_bytes() == (float_run / "best_model.pth").read_bytes()
    assert results(again)["recalls"] == results(float_run)["recalls"]
    assert metrics(again) == metrics(float_run)


def test_other_options_are_said_when_going_on(data, float_run, start):
    _, log = start(train.main, *training_options(data), "--resume", float_run / "last_model.pth", "--lr", 1e-3,
                   "--seed", 3)
    assert "option lr was 0.0004 in the resumed run and is 0.001 now; the schedule stays as it was" in log
    assert "option seed was 0 in the resumed run and is 3 now\n" in log


# --- kinds of files to start from

def test_rerank_starts_both_branches_from_a_float_file(data, float_run, start):
    training, log = start(train_rerank.main, *training_options(data), "--resume", float_run / "best_model.pth")
    ours, trained = training.model.state_dict(), weights(float_run / "best_model.pth")
    for prefix in ("backbone.", "float_branch."):
        assert_equal(part(ours, prefix), part(trained, prefix))
    side = part(trained, "float_branch.side.")
    assert_equal(part(ours, "binary_branch.side."), side)
    assert sum("running_" in name for name in side) == 4 * 5 * 2  # adapters, BatchNorms, mean and variance
    assert all(value.abs().max() > 0 for name, value in side.items() if "running_mean" in name)
    fresh = build_model(training.model.config, seed=0).state_dict()
    assert_equal(part(ours, "binary_branch.head."), part(fresh, "binary_branch.head."))
    assert training.epoch == 0
    assert f"starting both branches from the float model {float_run / 'best_model.pth'}" in log
    trained_names = {name for name, parameter in training.model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained_names} == {"binary_branch"}


@pytest.mark.parametrize("kind", ["bare", "bare, DataParallel", "published training file"])
def test_a_file_without_our_training_state_gives_weights_and_starts_at_epoch_0(kind, data, float_run, start, tmp_path):
    model = load_model(float_run / "last_model.pth")
    content = published_state_dict(model)
    if kind != "bare":
        content = {f"module.{name}": value for name, value in content.items()}
    if kind == "published training file":
        content = {"epoch_num": 7, "model_state_dict": content, "recalls": np.array([50.0, 60.0]),
                   "best_r5": np.float64(110.0), "not_improved_num": 2,
                   "optimizer_state_dict": torch.optim.Adam(model.parameters()).state_dict()}
    torch.save(content, tmp_path / "theirs.pth")
    training, log = start(train.main, *training_options(data), "--resume", tmp_path / "theirs.pth")
    assert_equal(training.model.state_dict(), model.state_dict())
    assert (training.epoch, training.best_score, training.epochs_without_gain) == (0, (float("-inf"), 0.0), 0)
    assert training.optimiser.state_dict()["state"] == {}
    assert "holds no training state: starting at epoch 0" in log


def test_a_published_two_branch_file_goes_on_as_two_branches(data, rerank_run, start, tmp_path):
    model = load_model(rerank_run / "last_model.pth")
    torch.save(published_state_dict(model), tmp_path / "theirs.pth")
    training, log = start(train_rerank.main, *training_options(data), "--resume", tmp_path / "theirs.pth")
    assert_equal(training.model.state_dict(), model.state_dict())
    assert "starting at epoch 0" in log


def test_weights_without_pre_training_are_stamped(data, float_run, rerank_run, start, tmp_path):
    for folder in (float_run, rerank_run):
        assert read_checkpoint(folder / "best_model.pth").pretrained is False
        assert results(folder)["model"]["pretrained"] is False
    official = tmp_path / "dinov2_tiny_pretrain.pth"
    torch.save(part(weights(float_run / "best_model.pth"), "backbone."), official)
    training, log = start(train.main, *training_options(data), "--backbone", "dinov2-tiny",
                          "--foundation_model_path", official)
    assert training.origin.pretrained is True
    assert f"foundation model: {official}" in log
    assert_equal(training.model.backbone.state_dict(), saved(official))
    # On pre-trained weights the adapters start at zero, and training from what those weights see.
    assert all(adapter.up.weight.count_nonzero() == 0 for adapter in training.model.float_branch.side.adapters)


def test_random_weights_have_random_adapters(data, start):
    training, _ = start(train.main, *training_options(data), *RANDOM, "--seed", 3)
    assert_equal(training.model.state_dict(), build_model(training.model.config, seed=3).state_dict())


# --- what changes

def test_frozen_parts_stay_bit_equal(float_run, rerank_run):
    """The published frozen branch drifts."""
    before, after = weights(float_run / "last_model.pth"), weights(rerank_run / "last_model.pth")
    for prefix in ("backbone.", "float_branch."):
        assert_equal(part(after, prefix), part(before, prefix))
    binary, side = part(after, "binary_branch.side."), part(before, "float_branch.side.")
    # A convolution's bias under a BatchNorm has no effect and hardly a gradient.
    assert [name for name in side if torch.equal(binary[name], side[name])] == []


def test_float_training_leaves_the_backbone(float_run):
    config = read_checkpoint(float_run / "last_model.pth").config
    start, end = build_model(config, seed=0).state_dict(), weights(float_run / "last_model.pth")
    assert_equal(part(end, "backbone."), part(start, "backbone."))
    assert not torch.equal(end["float_branch.head.expand.weight"], start["float_branch.head.expand.weight"])


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(data, float_run, tmp_path):
    options = [*training_options(data), "--resume", float_run / "last_model.pth", "--epochs_num", 2,
               "--set", "pair_fraction=0.5"]
    alone = run_folder(train_rerank.main, *options, cwd=tmp_path)
    helped = run_folder(train_rerank.main, *options, "--num_workers", 2, cwd=tmp_path)
    assert_close(weights(helped / "last_model.pth"), weights(alone / "last_model.pth"))


@pytest.mark.slow
def test_another_seed_gives_other_weights(data, float_run, tmp_path):
    other = run_folder(train.main, *training_options(data), *RANDOM, "--epochs_num", 1, "--seed", 1, cwd=tmp_path)
    name = "backbone.blocks.0.mlp.fc1.weight"
    assert not torch.equal(weights(other / "last_model.pth")[name], weights(float_run / "last_model.pth")[name])


# --- what is recorded

@pytest.mark.slow
def test_losses_are_the_means_of_the_batches(data, float_run, tmp_path, monkeypatch):
    seen = {"metric": [], "quantization": []}

    def spy(name, values):
        loss = getattr(train_rerank, name)

        def recorded(*inputs, **options):
            values.append(loss(*inputs, **options))
            return values[-1]
        monkeypatch.setattr(train_rerank, name, recorded)

    spy("multi_similarity_loss", seen["metric"])
    spy("similarity_constrained_loss", seen["quantization"])
    folder = run_folder(train_rerank.main, *training_options(data), "--resume", float_run / "last_model.pth",
                        "--epochs_num", 1, "--set", "quantization_weight=0.7", cwd=tmp_path)
    record, = metrics(folder)
    assert len(seen["metric"]) == 4  # 7 places, 2 a batch
    means = {key: sum(value.item() for value in values) / 4 for key, values in seen.items()}
    assert record["metric"] == pytest.approx(means["metric"], rel=1e-5)
    assert record["quantization"] == pytest.approx(means["quantization"], rel=1e-5)
    assert record["loss"] == pytest.approx(means["metric"] + 0.7 * means["quantization"], rel=1e-5)


def test_an_epoch_is_recorded(float_run, rerank_run):
    for folder, stages in ((float_run, {"final"}), (rerank_run, {"final", "first_stage"})):
        for k, record in enumerate(metrics(folder), start=1):
            assert record["epoch"] == k
            assert record["lr"] == 4e-4
            assert min(record["loss"], record["images_per_second"], record["peak_memory_mib"], record["seconds"]) > 0
            recalls = record["recalls"]["msls"]
            assert {stage for stage, values in recalls.items() if values} == stages
            assert record["score"] == pytest.approx(recalls["final"]["1"] + recalls["final"]["5"])
        assert len(metrics(folder)) == 2
        log = (folder / "info.log").read_text()
        assert "epoch 2/2: loss " in log
        assert all(word in log for word in ("images/s", "peak memory", "lr 4.0e-04", "device cpu, precision fp32"))
    assert {"metric", "quantization"} <= metrics(rerank_run)[0].keys()


# --- the best weights, patience and schedule, with scores made up

class Clockwork:
    """A Training of a tiny model whose epochs get the given scores; weight p tells the epoch that wrote it."""

    def __init__(self, folder: Path, *, resume: Path | None = None, **options):
        self.training = Training(
            build_model(ModelConfig(backbone="dinov2-tiny", branches=("float",)), seed=0),
            TrainingOptions(device=torch.device("cpu"), **{"precision": "fp32"} | options),
            TrainingData(datasets_folder=folder, size=(56, 56), places_per_batch=2, images_per_place=2),
            run=Run(RunOptions(root=folder, name="run", options={}), model=ModelConfig(backbone="dinov2-tiny")),
            script="train.py", origin=Origin(None))
        self.folder = self.training.run.folder
        if resume is not None:
            self.training.resume(read_checkpoint(resume))

    def run(self, scores) -> int:
        """Number of epochs run; the scores are those of the epochs from now on."""
        loader = Batches()
        weight = self.training.model.float_branch.head.pool.p
        count = 0
        for _, score in zip(self.training.remaining_epochs(loader), scores, strict=False):
            count += 1
            self.training.step((weight * 0).sum())
            with torch.no_grad():
                weight.fill_(self.training.epoch + 1)
            self.training.end_training_pass()
            self.training.end_epoch([Scored(score)])
        return count

    def epoch_of(self, name: str) -> int:
        return weights(self.folder / name)["float_branch.head.pool.p"].item()


class Scored:
    listing = types.SimpleNamespace(name="made up", label="made up", warnings=("of two queries",),
                                    fingerprint=lambda: "0" * 64)

    def __init__(self, score: float | tuple[float, float]):
        self.stages = score if isinstance(score, tuple) else (score, 0.0)

    def score(self):
        return self.stages

    def recalls(self):
        return {"first_stage": None, "final": {}}


@pytest.mark.slow
def test_the_learning_rate_is_halved_every_three_epochs(tmp_path):
    clockwork = Clockwork(tmp_path, epochs=8)
    assert clockwork.run(range(1, 20)) == 8
    assert [record["lr"] for record in metrics(clockwork.folder)] == pytest.approx(
        [4e-4 * 0.5 ** (epoch // 3) for epoch in range(8)], rel=1e-12)


@pytest.mark.slow
def test_the_best_is_strictly_better_and_patience_counts_epochs_without_gain(tmp_path):
    clockwork = Clockwork(tmp_path, patience=3)
    assert clockwork.run([10, 30, 20, 30, 25, 99]) == 5
    assert (clockwork.epoch_of("best_model.pth"), clockwork.epoch_of("last_model.pth")) == (2, 5)
    best, written = clockwork.training.best_model()
    assert written.source == str(clockwork.folder / "best_model.pth")
    assert [told["epoch"] for told in written.trainings] == [2]
    assert best.float_branch.head.pool.p.item() == 2
    assert not best.training
    assert [record["best_score"] for record in metrics(clockwork.folder)] == [10, 30, 30, 30, 30]
    assert "no gain in 3 epochs" in (clockwork.folder / "info.log").read_text()


def test_the_first_stage_decides_between_equal_scores(tmp_path):
    clockwork = Clockwork(tmp_path, patience=2)
    assert clockwork.run([(30, 10), (30, 12), (30, 11), (29, 50)]) == 4
    assert clockwork.epoch_of("best_model.pth") == 2


def test_all_scores_zero_still_give_a_best_model(tmp_path):
    clockwork = Clockwork(tmp_path, patience=2)
    assert clockwork.run([0, 0, 0, 0]) == 3
    assert clockwork.epoch_of("best_model.pth") == 1


def test_best_score_and_patience_go_on_after_a_break(tmp_path):
    """The published code restores the score before the best, and counts one too few."""
    first = Clockwork(tmp_path, patience=3, epochs=3)
    first.run([10, 30, 20])
    again = Clockwork(tmp_path, patience=3, resume=first.folder / "last_model.pth")
    assert again.training.best_score == (30, 0.0)
    assert again.training.optimiser.param_groups[0]["lr"] == 2e-4
    assert again.run([25, 29, 99]) == 2
    assert (again.epoch_of("best_model.pth"), again.epoch_of("last_model.pth")) == (2, 5)
    assert [record["score"] for record in metrics(again.folder)] == [10, 30, 20, 25, 29]
    stopped = Clockwork(tmp_path, patience=3, resume=again.folder / "last_model.pth")
    assert list(stopped.training.remaining_epochs(Batches())) == []


def test_a_lone_last_model_is_its_own_best(tmp_path):
    first = Clockwork(tmp_path, epochs=3)
    first.run([10, 30, 20])
    (first.folder / "best_model.pth").unlink()
    again = Clockwork(tmp_path, epochs=4, resume=first.folder / "last_model.pth")
    assert again.epoch_of("best_model.pth") == 3
    assert again.run([15]) == 1
    assert again.epoch_of("best_model.pth") == 3
    assert "no best_model.pth beside" in (again.folder / "info.log").read_text()


def test_going_on_from_the_best_model(tmp_path):
    first = Clockwork(tmp_path, epochs=3)
    first.run([10, 30, 20])
    again = Clockwork(tmp_path, epochs=3, resume=first.folder / "best_model.pth")
    assert again.run([20]) == 1
    assert [record["epoch"] for record in metrics(again.folder)] == [1, 2, 3]
    assert (again.epoch_of("best_model.pth"), again.epoch_of("last_model.pth")) == (2, 3)


def test_a_file_of_another_script_is_refused(tmp_path):
    first = Clockwork(tmp_path, epochs=1)
    first.training.script = "another.py"
    first.run([1])
    with pytest.raises(ValueError, match="written by another.py, this is train.py"):
        Clockwork(tmp_path, resume=first.folder / "last_model.pth")


@pytest.mark.slow
def test_patience_stops_the_script(data, tmp_path):
    folder = run_folder(train.main, *training_options(data), *RANDOM, "--lr", 1e-12, "--epochs_num", 9,
                        "--patience", 1, cwd=tmp_path)
    assert saved(folder / "last_model.pth")["training"]["epoch"] == 2
    assert saved(folder / "best_model.pth")["training"]["epoch"] == 1


# --- precision

@pytest.mark.slow
def test_fp16_scales_the_loss_and_keeps_the_scale_over_a_break(data, tmp_path):
    options = [*training_options(data), "--precision", "fp16"]
    folder = run_folder(train.main, *options, *RANDOM, "--epochs_num", 1, cwd=tmp_path)
    again = run_folder(train.main, *options, "--resume", folder / "last_model.pth", "--epochs_num", 2, cwd=tmp_path)
    for epochs, run in ((1, folder), (2, again)):
        scaler = saved(run / "last_model.pth")["training"]["scaler"]
        assert scaler["scale"] == 2.0**16
        assert scaler["_growth_tracker"] == 4 * epochs  # steps without overflow so far
    assert np.isfinite([record["loss"] for record in metrics(again)]).all()
    # Another precision may go on: it has no scale to take over, or starts a new one.
    for before, now in (("fp16", "fp32"), ("fp32", "fp16")):
        first = Clockwork(tmp_path, precision=before, epochs=1)
        first.run([1])
        assert Clockwork(tmp_path, precision=now, epochs=2, resume=first.folder / "last_model.pth").run([2]) == 1


@pytest.mark.slow
def test_an_overflowing_step_is_skipped(tmp_path):
    training = Clockwork(tmp_path, precision="fp16").training
    weight = training.model.float_branch.head.pool.p
    before = weight.item()
    training.step((weight * 1e35).sum())  # finite, but not times 65536
    assert weight.item() == before
    assert training.scaler.get_scale() == 2.0**15
    training.step((weight * 1.0).sum())
    assert weight.item() < before


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    training = Clockwork(tmp_path).training
    training.step(training.model.float_branch.head.pool.p.sum() * float("nan"))
    with pytest.raises(ValueError, match="loss is no longer finite; lower --lr"):
        training.end_training_pass()


def test_a_long_epoch_does_not_go_on_without_a_number(tmp_path):
    training = Clockwork(tmp_path).training
    loader = Batches([(torch.zeros(1, 3, 14, 14, dtype=torch.uint8), torch.zeros(1))] * 200)
    steps = 0
    with pytest.raises(ValueError, match="epoch 1: the metric is no longer finite"):
        for _ in next(training.remaining_epochs(loader)):
            steps += 1
            loss = training.model.float_branch.head.pool.p.sum()
            training.step(loss, metric=loss * (float("nan") if steps == 60 else 1.0))
    assert steps == 100


class Batches(list):
    """Stands for a loader."""

    batch_sampler = types.SimpleNamespace(set_epoch=lambda epoch, done: None)
    dataset = types.SimpleNamespace(n_places=3, n_images=7, cities=["Boston", "Osaka"], empty_cities=[])


def test_the_optimiser_is_fused_also_after_going_on_with_an_older_file(tmp_path):
    first = Clockwork(tmp_path, epochs=1)
    first.run([1])
    older = saved(first.folder / "last_model.pth")
    for group in older["training"]["optimiser"]["param_groups"]:
        assert group["fused"]
        group["fused"] = None
    torch.save(older, tmp_path / "older.pth")
    again = Clockwork(tmp_path, resume=tmp_path / "older.pth", epochs=2)
    assert all(group["fused"] for group in again.training.optimiser.param_groups)
    assert again.run([2]) == 1


# --- speed and memory

@pytest.mark.slow
@pytest.mark.parametrize(("precision", "held"), [
    ("bf16", torch.bfloat16), ("fp16", torch.float32), ("fp32", torch.float32)])
def test_the_frozen_backbone_holds_bf16_weights_through_a_bf16_epoch(tmp_path, precision, held):
    training = Clockwork(tmp_path, precision=precision).training
    weight = training.model.backbone.blocks[0].attn.qkv.weight
    exact = weight.clone()
    loader = Batches([(torch.zeros(1, 3, 14, 14, dtype=torch.uint8), torch.zeros(1))] * 2)
    assert [weight.dtype for _ in next(training.remaining_epochs(loader))] == [held, held]
    assert torch.equal(weight, exact)  # for the evaluation and the files that follow


@pytest.mark.slow
def test_compiled_backbone_trains_alike_and_its_warm_up_is_logged(data, tmp_path, monkeypatch):
    compiled = []

    def compile_without_a_compiler(function):
        compiled.append(function)
        return original(function, backend="eager")

    original = torch.compile
    monkeypatch.setattr(torch, "compile", compile_without_a_compiler)
    options = [*training_options(data), *RANDOM, "--epochs_num", 1, "--precision", "bf16"]
    plain = run_folder(train.main, *options, cwd=tmp_path)
    assert compiled == []
    folder = run_folder(train.main, *options, "--compile", cwd=tmp_path)
    assert len(compiled) == 1
    assert (folder / "info.log").read_text().count("compiling the backbone took") == 1
    assert "compiling" not in (plain / "info.log").read_text()
    trained = weights(folder / "last_model.pth")
    for name, value in weights(plain / "last_model.pth").items():
        assert torch.equal(trained[name], value), name


def test_a_machine_that_cannot_compile_is_told_so(data, tmp_path, monkeypatch):
    def no_compiler(graph, inputs):
        raise RuntimeError("no C++ compiler found")

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: original(function, backend=no_compiler))
    with pytest.raises(ValueError, match=r"^--compile: .*no C\+\+ compiler found; leave it out$"):
        run_folder(train.main, *training_options(data), *RANDOM, "--epochs_num", 1, "--compile", cwd=tmp_path)


@pytest.mark.slow
def test_memory_is_told_before_training(data, memory_measured, tmp_path, monkeypatch):
    options = [*training_options(data), *RANDOM, "--epochs_num", 1]
    text = (run_folder(train.main, *options, cwd=tmp_path) / "info.log").read_text()
    assert re.search(r"memory: a step of \d+ images takes about [\d.]+[kMG]B, [\d.]+[kMG]B of them kept", text)
    assert re.search(r"memory: [\d.]+GB are free, enough for about --train_batch_size \d+\n", text)
    monkeypatch.setattr("utils.training.memory.free_memory", lambda device: 145 * 10**5)
    folder = run_folder(train.main, *options, cwd=tmp_path)
    largest = int(re.search(r"memory: only 14.5MB are free; the largest batch that would fit is about "
                            r"--train_batch_size (\d+)\n", (folder / "info.log").read_text())[1])
    assert largest < saved(folder / "last_model.pth")["training"]["options"]["train_batch_size"]
    assert len(metrics(folder)) == 1  # told, not acted upon
