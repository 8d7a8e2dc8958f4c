"""Several processes are as one: the same step, the same epochs, one run folder, one line for a mistake."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import several_processes
import torch
from paths import ROOT
from scripts import HARD, RANDOM, metrics, one_thread, results, run_folder, training_options
from torch import nn

import train
import train_rerank
from datasets import CityBatchSampler
from utils import distributed


def torchrun(script: Path, *argv: object, cwd: Path, processes: int = 2) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), script,
         *map(str, argv)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    """What several_processes.py computes in each of two processes."""
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run([sys.executable, ROOT / "tests" / "several_processes.py", folder, data],
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    with one_thread():
        return several_processes.steps()


# --- two gloo processes equal one on the same batch

def relative(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return ((ours.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.slow
@pytest.mark.parametrize("case", [*several_processes.STEPS, *several_processes.METHODS])
def test_a_step_of_two_processes_is_that_of_one(case, two, alone):
    expected = alone[case]
    assert 0 < expected["positive"].sum() < expected["labels"].numel() * 3  # the miner leaves some out
    assert expected["negative"].any()
    largest = max(gradient.norm() for gradient in expected["gradients"].values())
    for found in (process["steps"][case] for process in two):
        assert torch.equal(found["labels"], expected["labels"])
        assert (found["descriptors"] - expected["descriptors"]).abs().max() <= 1e-5
        assert abs(found["loss"] - expected["loss"]) <= 1e-5 * expected["loss"]
        for kind in ("positive", "negative"):
            assert torch.equal(found[kind], expected[kind])
        assert found["gradients"].keys() == expected["gradients"].keys()
        for name, gradient in expected["gradients"].items():
            # The gradient of a bias under a BatchNorm is zero but for rounding.
            if name.endswith("conv.bias"):
                assert max(found["gradients"][name].norm(), gradient.norm()) <= 1e-6 * largest, name
            else:
                assert gradient.norm() >= 1e-6 * largest
                assert relative(found["gradients"][name], gradient) <= 1e-5, name
        assert found["buffers"].keys() == expected["buffers"].keys()
        for name, buffer in expected["buffers"].items():
            assert (found["buffers"][name] - buffer).abs().max() <= 1e-5, name
    statistics = sum(name.endswith("running_var") for name in expected["buffers"])
    assert statistics >= 4 * 5 or case in ("full", "selavpr", "vanilla")


@pytest.mark.slow
def test_gradients_and_statistics_stay_equal_to_the_last_bit(two):
    """Else the processes' weights would drift apart."""
    for case in (*several_processes.STEPS, *several_processes.METHODS):
        first, second = (process["steps"][case] for process in two)
        for kind in ("gradients", "buffers"):
            assert not [name for name, value in first[kind].items() if not torch.equal(second[kind][name], value)]


@pytest.mark.slow
@pytest.mark.parametrize("case", several_processes.BATCH_NORMS)
def test_batch_norm_over_two_processes(case, two):
    """Against torch's own in float64 on all images at once; tolerances are those of the input's type."""
    dtype, _, mean, spread = several_processes.BATCH_NORMS[case]
    with one_thread():
        expected = several_processes.batch_norm(
            *several_processes.BATCH_NORMS[case], kind=several_processes.Exact)
    first, second = (process["batch_norms"][case] for process in two)
    # Where the mean is 5000 times the spread, x * scale + shift loses as many times fp32's rounding, torch's own too.
    loss = {"large mean": 3e-4, "bf16": 5e-3}.get(case, 2e-6)
    for name in ("y", "dx"):
        found = torch.cat([first[name], second[name]])
        assert found.dtype == dtype
        assert relative(found, expected[name]) <= loss, name
    for name in ("dweight", "dbias"):
        assert relative(first[name] + second[name], expected[name]) <= loss, name
    for process in (first, second):
        for name in ("running_mean", "running_var"):
            assert process[name].dtype == torch.float32
            assert relative(process[name], expected[name]) <= 1e-6, name
        assert process["passes"] == 2


# --- what processes tell each other

@pytest.mark.slow
def test_gather(two):
    for rank, found in enumerate(process["exchanges"] for process in two):
        assert found["rows"].tolist() == [[0.0] * 3, [10.0] * 3, [11.0] * 3]
        assert found["labels"].tolist() == [0, 10, 11]
        # Both processes' losses weigh the rows 1, 2, 3: each row's gradient twice that.
        assert found["gradient"].tolist() == [[[2.0] * 3], [[4.0] * 3, [6.0] * 3]][rank]


@pytest.mark.slow
def test_exchanges(two):
    first, second = (process["exchanges"] for process in two)
    assert first["collected"][5].tolist() == [[float(row)] * 2 for row in range(5)]
    assert first["collected"][1].tolist() == [[0.0] * 2]
    assert (first["share"], second["share"]) == (range(3), range(3, 5))
    for found in (first, second):
        assert (found["broadcast"], found["total"], found["largest"]) == ({"from": 0}, 3, 0)
        assert found["weights"]["weight"].tolist() == [1, 1]
        assert found["weights"]["num_batches_tracked"] == 0
    assert [process["there_already"] for process in two] == [False, True]


def test_one_process_exchanges_nothing():
    rows, model = torch.ones(3, 2), nn.Linear(2, 2)
    assert distributed.gather(rows)[0] is rows
    assert distributed.wrap(model) is model
    assert distributed.broadcast(model) is model
    assert (distributed.total(2.5), distributed.largest(2.5)) == (2.5, 2.5)
    assert distributed.own_share(7) == range(7)
    assert distributed.first_on_each_node(lambda: 5) == 5


@pytest.mark.slow
def test_nodes_with_disks_of_their_own_send_their_rows(two, data, tmp_path):
    with one_thread():
        expected = several_processes.separate_disks(tmp_path, data)
    first, second = (process["separate_disks"] for process in two)
    assert second is None and first.keys() == expected.keys()
    for name, rows in expected.items():
        assert rows.any(dim=1).all()
        assert (first[name].float() - rows.float()).abs().max() < (1e-6 if "queries floats" in name else 1e-3), name
        assert torch.equal(first[name], rows) or "floats" in name


@pytest.mark.slow
def test_an_evaluation_is_shared_out(two, data):
    with one_thread():
        expected = several_processes.evaluation(data)
    assert expected["first"].shape == (9, 10)
    for found in (process["evaluation"] for process in two):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(found[name], value) or (value - found[name]).abs().max() < 1e-6, name
            else:
                assert found[name] == value


# --- places are shared out without repeats or drops

class Cities:
    """Places of a PlaceDataset without images."""

    def __init__(self, *sizes: int):
        starts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
        self.city_places = [range(*ends) for ends in zip(starts, starts[1:], strict=False)]
        self.n_places = starts[-1]
        self.cities = [f"City {'ABCDE'[k]}" for k in range(len(sizes))]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [5, 6, 8, 40])
def test_shares_laid_end_to_end_are_the_batches_of_one_process(processes, size):
    cities = Cities(7, 9, 6)  # 22 places
    for epoch in range(3):
        shares = []
        for process in range(processes):
            sampler = CityBatchSampler(cities, places_per_batch=size, seed=3, process=process, processes=processes)
            sampler.set_epoch(epoch)
            shares.append(list(sampler))
            assert len(sampler) == len(shares[-1])
        batches = [[item for share in batch for item in share] for batch in zip(*shares, strict=True)]
        alone = CityBatchSampler(cities, places_per_batch=size, seed=3)
        alone.set_epoch(epoch)
        expected = list(alone)
        assert [item for batch in batches for item in batch] == [item for batch in expected for item in batch]
        for batch in zip(*shares, strict=True):
            lengths = [len(share) for share in batch]
            assert min(lengths) >= 1
            assert max(lengths) - min(lengths) <= 1
        if len(expected[-1]) >= processes:
            assert batches == expected
        else:  # the short one joined the one before
            assert batches == [*expected[:-2], expected[-2] + expected[-1]]


def test_too_many_processes():
    with pytest.raises(ValueError, match="places_per_batch 2: expected at least 3, a place for each process; raise it"):
        CityBatchSampler(Cities(9), places_per_batch=2, processes=3)
    with pytest.raises(ValueError, match="2 places for 3 processes: expected at least one for each; start fewer"):
        CityBatchSampler(Cities(2), places_per_batch=4, processes=3)


# --- the scripts under torchrun

def the_folder(done: subprocess.CompletedProcess, cwd: Path) -> Path:
    assert done.returncode == 0, done.stderr
    line, = done.stdout.splitlines()
    folder, = cwd.glob("logs/*/*")
    assert cwd / line == folder / "results.json"
    return folder


def assert_alike(ours: Path, expected: Path) -> None:
    """Metrics, results and the best weights of two run folders."""
    assert len(metrics(ours)) == len(metrics(expected))
    for found, record in zip(metrics(ours), metrics(expected), strict=True):
        assert found.keys() == record.keys()
        assert found["loss"] == pytest.approx(record["loss"], abs=1e-4)
        assert found["lr"] == record["lr"]
        assert found["recalls"] == record["recalls"]
    assert results(ours)["recalls"] == results(expected)["recalls"]
    weights = [torch.load(folder / "last_model.pth", weights_only=True)["model_state_dict"]
               for folder in (ours, expected)]
    for name, value in weights[1].items():
        # Adam moves a bias without effect by the sign of what is left of its gradient by rounding.
        if not name.endswith("conv.bias"):
            assert (weights[0][name].double() - value.double()).abs().max() <= 1e-4, name


@pytest.mark.slow
def test_rerank_in_one_process_and_on_in_two(data, drawn, float_run, tmp_path):
    options = [*training_options(data), "--train_batch_size", 4, "--set", "pair_fraction=0.5"]  # 7 places: 2 + 1 last
    first = ["--resume", float_run / "last_model.pth"]
    straight = run_folder(train_rerank.main, *options, *first, "--epochs_num", 2, cwd=tmp_path)
    broken = run_folder(train_rerank.main, *options, *first, "--epochs_num", 1, cwd=tmp_path)
    cwd = tmp_path / "two"
    cwd.mkdir()
    done = torchrun(ROOT / "train_rerank.py", *options, "--resume", broken / "last_model.pth", "--epochs_num", 2,
                    cwd=cwd)
    again = the_folder(done, cwd)
    assert_alike(again, straight)
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in straight.iterdir())
    assert done.stderr.count("epoch 2/2: loss ") == (again / "info.log").read_text().count("epoch 2/2: loss ") == 1
    assert "Warning" not in done.stderr
    assert "option " not in done.stderr.replace("option epochs_num was 1", "")
    assert results(again)["hardware"]["processes"] == 2
    record = metrics(again)[-1]
    assert record["images_per_second"] * record["seconds"] == pytest.approx(7 * 4)


@pytest.mark.slow
def test_hard_places_of_two_processes_are_those_of_one(streets, hard_run, tmp_path):
    done = torchrun(ROOT / "train.py", *training_options(streets), *HARD, *RANDOM, "--epochs_num", 2, cwd=tmp_path)
    folder = the_folder(done, tmp_path)
    for found, expected in zip(metrics(folder), metrics(hard_run)[:2], strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
        assert [found.get("hard_places", {}).get(name) for name in ("nearest_bits", "papers_nearest_bits")] == [
            expected.get("hard_places", {}).get(name) for name in ("nearest_bits", "papers_nearest_bits")]
    noted, expected = (torch.load(run / "last_model.pth", weights_only=True)["training"]["places"][when]
                       for run, when in ((folder, "noted"), (hard_run, "before")))  # in the second epoch
    assert torch.equal(noted[0], expected[0])  # batch by batch the same places
    assert (noted[1] == expected[1]).float().mean() > 0.95


def errors(done: subprocess.CompletedProcess) -> list[str]:
    """What our processes say; torchrun adds a report of its own."""
    assert done.returncode != 0
    assert done.stdout == ""
    ours = done.stderr.partition("torch/distributed/elastic")[0]
    assert "Traceback" not in ours
    return [line for line in ours.splitlines() if "error: " in line]


@pytest.mark.slow
def test_a_signal_to_one_process_ends_both_between_the_same_steps(data, tmp_path):
    """Two steps an epoch, SIGTERM in the third; going on in one process gives what one gives that never stopped."""
    options = [*training_options(data), "--train_batch_size", 4, "--epochs_num", 2]
    straight = run_folder(train.main, *options, *RANDOM, cwd=tmp_path)
    cwd = tmp_path / "two"
    cwd.mkdir()
    done = torchrun(ROOT / "tests" / "terminated_training.py", *options, *RANDOM, cwd=cwd)
    assert done.returncode != 0 and done.stderr.count("epoch 2: state after 1 steps written") == 1
    folder, = cwd.glob("logs/*/*")
    said, = (line for line in done.stderr.splitlines() if "terminated; " in line)
    assert "; go on with: torchrun ... " in said and said.endswith(f"--resume {folder.relative_to(cwd)}")
    assert_alike(run_folder(train.main, *options, "--resume", folder, cwd=tmp_path), straight)


def is_alive(process: str) -> bool:
    stat = Path("/proc", process, "stat")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_torchrun_killed_leaves_nobody_behind(data, tmp_path):
    """Its processes save what they have and end, instead of training on unseen."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               ROOT / "train.py", *training_options(data), *RANDOM, "--epochs_num", 10_000, "--patience", 10_000]
    with subprocess.Popen(list(map(str, command)), cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}) as torchrun_itself:
        next(line for line in torchrun_itself.stderr if "epoch 1/" in line)
        processes = Path(f"/proc/{torchrun_itself.pid}/task/{torchrun_itself.pid}/children").read_text().split()
        assert len(processes) == 2 and all(map(is_alive, processes))
        torchrun_itself.kill()
        torchrun_itself.stderr.close()  # nobody reads what they say, as after the end of a session
    until = time.monotonic() + 60
    while any(map(is_alive, processes)) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(map(is_alive, processes))
    folder, = tmp_path.glob("logs/*/*")
    assert "terminated; go on with" in (folder / "info.log").read_text()


@pytest.mark.slow
def test_a_wrong_option_is_one_line(tmp_path):
    line, = errors(torchrun(ROOT / "train.py", "--datasets_folder", "sets", "--lr", "-1", cwd=tmp_path))
    assert line == "train.py: error: argument --lr: '-1' is not a positive number (--help lists the options)"
    assert list(tmp_path.iterdir()) == []


MISTAKE = """
import torch
from utils import distributed
from utils.ranks import rank
from utils.run import exit_with, start_log

def main():
    distributed.start(torch.device("cpu"))
    start_log()
    if rank() == 1:
        raise ValueError("an image that process 1 alone has seen")
    distributed.total(1)

distributed.GRACE_S = 3
exit_with(main)
"""


@pytest.mark.slow
def test_a_mistake_of_one_process_ends_all(tmp_path):
    (tmp_path / "mistake.py").write_text(MISTAKE)
    line, = errors(torchrun(tmp_path / "mistake.py", cwd=tmp_path))
    assert line.endswith("process 1: error: an image that process 1 alone has seen")


FROZEN = """
import os, signal, time
import torch
from utils import distributed, heartbeat
from utils.ranks import rank
from utils.run import exit_with, start_log

def main():
    distributed.start(torch.device("cpu"))
    start_log()
    if rank() == 0:
        time.sleep(3)  # searches alone, for many beats
    distributed.total(1)
    print("met again", flush=True)
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    distributed.total(1)

heartbeat.BEAT_S, heartbeat.MISSED_BEATS = 0.2, 6
exit_with(main)
"""


@pytest.mark.slow
def test_a_frozen_process_ends_all_and_a_busy_one_does_not(tmp_path):
    """Without torchrun, which would wait half a minute for the frozen one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    both = [subprocess.Popen([sys.executable, "-c", FROZEN], cwd=tmp_path, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True,
                             env={**environment, "RANK": str(number), "LOCAL_RANK": str(number)}) for number in (0, 1)]
    try:
        stdout, stderr = both[0].communicate(timeout=60)
        assert both[1].poll() is None
    finally:
        for process in both:
            process.kill()
            process.wait()
    assert (both[0].returncode, stdout) == (1, "met again\n")
    line, = stderr.splitlines()
    assert line.endswith("error: process 1 has not answered for 1 s: it is frozen, or its node is; end it and start "
                         "again, a training with --resume")
