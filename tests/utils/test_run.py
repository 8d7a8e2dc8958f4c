"""The run folder: what is in it; how a script ends."""

import json
import logging
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from model import ModelConfig
from utils import distributed
from utils import run as module
from utils.device import pick_device
from utils.run import Run, RunOptions, Terminated, exit_with, hardware, interrupted_afterwards, start_log, versions

TINY = ModelConfig(backbone="dinov2-tiny")
log = logging.getLogger("selavprpp")


def new_run(folder, name="name"):
    return Run(RunOptions(root=folder, name=name, options={"lr": 0.1}), model=TINY)


def test_a_run_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["somewhere/train.py", "--save_dir", "two words"])
    run = new_run(tmp_path)
    log.info("hello")
    assert run.folder.parent == tmp_path / "name"
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.json", "info.log"]
    config = json.loads((run.folder / "config.json").read_text())
    assert config["options"] == {"lr": 0.1}
    assert ModelConfig.from_dict(config["model"]) == TINY
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    lines = (run.folder / "info.log").read_text().splitlines()
    assert lines[0].endswith(" train.py --save_dir 'two words'")  # to be pasted
    assert lines[-1].endswith(" hello")
    output = capsys.readouterr()
    assert output.err.splitlines() == lines
    assert output.out == ""


def test_runs_of_the_same_second_have_their_own_folders(tmp_path, monkeypatch):
    class Clock(module.datetime.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(module.datetime, "datetime", Clock)
    names = [new_run(tmp_path).folder.name for _ in range(3)]
    assert names == ["2026-01-02_03-04-05", "2026-01-02_03-04-05_2", "2026-01-02_03-04-05_3"]
    assert new_run(tmp_path, "other").folder.name == names[0]


def test_each_run_logs_into_its_own_folder(tmp_path):
    first, second = new_run(tmp_path), new_run(tmp_path)
    log.info("of the second")
    assert "of the second" not in (first.folder / "info.log").read_text()
    assert (second.folder / "info.log").read_text().count("of the second") == 1


def test_what_is_said_before_the_run_is_in_its_log(tmp_path, capsys):
    start_log()
    log.info("early")
    assert capsys.readouterr().err.count("early") == 1
    run = new_run(tmp_path)
    log.info("late")
    said = (run.folder / "info.log").read_text()
    assert said.index("early") < said.index("late")
    assert "early" not in capsys.readouterr().err
    assert "early" not in (new_run(tmp_path).folder / "info.log").read_text()


def test_what_dead_runs_left_behind_is_named(tmp_path, capsys):
    alive = new_run(tmp_path)  # its log stays open
    handler, = (handler for handler in log.handlers if isinstance(handler, logging.FileHandler))
    log.removeHandler(handler)
    dead = new_run(tmp_path)
    log.info("it is killed")
    for run in (alive, dead):
        (run.folder / "index-abc").mkdir()
        (run.folder / "local-abc").mkdir()
        (run.folder / "local-abc.npy").touch()
    capsys.readouterr()
    second = new_run(tmp_path)  # which closes the second's log, as a kill does
    said, = [line for line in capsys.readouterr().err.splitlines() if "left behind" in line]
    assert said.partition("early: ")[2].partition(";")[0] == f"{dead.folder / 'index-abc'}, {dead.folder / 'local-abc'}"
    assert (dead.folder / "index-abc").is_dir() and second.folder != dead.folder
    handler.close()
    new_run(tmp_path / "elsewhere")
    assert "left behind" not in capsys.readouterr().err


def test_a_log_whose_disk_is_full_ends_with_one_line(tmp_path, capsys):
    run = new_run(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((run.folder / "info.log").stat().st_size + 50, before[1]))
    try:
        capsys.readouterr()
        for word in ("x" * 100, "second", "third"):
            log.info(word)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and f"{run.folder / 'info.log'}: [Errno 27] File too large; raise the limit" in lines[1]


@pytest.mark.parametrize(("write", "name"), [
    (lambda run: run.add_metrics({"x": "y" * 5000}), "metrics.jsonl"),
    (lambda run: run.write_results({"x": "y" * 5000}), "results.json")])
def test_files_that_cannot_be_written_are_named(write, name, tmp_path, capsys):
    run = new_run(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(SystemExit) as stop:
            exit_with(lambda: write(run))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert stop.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(said) == 1
    assert f"File too large: '{run.folder / name}'; raise the limit of a file's size (ulimit -f)" in said[0]
    assert not (run.folder / "results.json").exists()


def test_metrics_lines(tmp_path):
    run = new_run(tmp_path)
    for epoch in (1, 2):
        run.add_metrics({"epoch": epoch, "recalls": {"msls": {"1": 50.0}}})
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_results_path_is_the_last_line_on_stdout(tmp_path, capsys):
    run = new_run(tmp_path)
    print("something before")
    path = run.write_results({"schema": 1})
    assert capsys.readouterr().out.splitlines()[-1] == str(path) == str(run.folder / "results.json")
    assert json.loads(path.read_text()) == {"schema": 1}


@pytest.fixture
def second_of_two(monkeypatch):
    """As if torchrun had started this process as the second on its node."""
    for name, value in (("RANK", 1), ("LOCAL_RANK", 1), ("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    slept = []
    monkeypatch.setattr(distributed.time, "sleep", slept.append)
    return slept


def test_only_the_first_of_several_processes_writes_and_talks(second_of_two, tmp_path, capsys, monkeypatch):
    start_log()
    new_run(tmp_path)
    log.warning("hello")
    log.error("trouble")
    line, = capsys.readouterr().err.splitlines()
    assert line.endswith(" process 1: trouble")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "code", "said", "waits"), [
    (ValueError("lr is -1"), 2, "error: lr is -1", [distributed.GRACE_S]),
    (RuntimeError("[gloo/pair.cc:5] Connection closed by peer"), 1,
     "error: another process ended, or cannot be reached: [gloo/pair.cc:5] Connection closed by peer",
     [2 * distributed.GRACE_S]),
    (KeyboardInterrupt(), 130, None, [])])
def test_how_another_process_ends(error, code, said, waits, second_of_two, capsys, monkeypatch):
    """It leaves time for the first, whose error the same may be, or for the one that is to blame."""
    def main():
        raise error

    monkeypatch.setattr(log, "handlers", [])
    with pytest.raises(SystemExit) as stop:
        exit_with(main)
    assert stop.value.code == code
    assert capsys.readouterr().err.splitlines() == ([said] if said else [])
    assert second_of_two == waits


def test_ctrl_c_while_an_error_waits(second_of_two, capsys, monkeypatch):
    def press(_):
        signal.raise_signal(signal.SIGINT)

    def main():
        raise ValueError("whatever")

    monkeypatch.setattr(distributed.time, "sleep", press)
    with pytest.raises(SystemExit) as stop:
        exit_with(main)
    assert stop.value.code == 130


def test_each_process_has_a_gpu_of_its_own(second_of_two, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert pick_device(None) == pick_device("cuda") == torch.device("cuda", 1)
    assert not torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 processes on this node, but torch finds 1 GPUs; lower .*--device cpu"):
        pick_device(None)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert pick_device(None) == torch.device("cuda")


@pytest.mark.parametrize(("error", "code", "said"), [
    (ValueError("lr is -1;\n expected more"), 2, "error: lr is -1; expected more"),
    (FileNotFoundError("no checkpoint file at x"), 2, "error: no checkpoint file at x"),
    (OSError(28, "No space left on device", "a/floats"), 2,
     "error: [Errno 28] No space left on device: 'a/floats'; free some space, or choose another folder"),
    (KeyboardInterrupt(), 130, "interrupted"), (Terminated(), 143, "terminated"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), 1, "error: out of memory (CUDA out of memory. Tried); "
     "lower --train_batch_size, --infer_batch_size or --num_workers")])
@pytest.mark.parametrize("logging_started", [False, True])
def test_how_a_script_ends(error, code, said, logging_started, tmp_path, capsys, monkeypatch):
    def main():
        raise error

    monkeypatch.setattr(log, "handlers", [])  # pytest's own too
    run = new_run(tmp_path) if logging_started else None
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        exit_with(main)
    assert stop.value.code == code
    line, = capsys.readouterr().err.splitlines()
    assert line.endswith(said)
    if run:
        assert (run.folder / "info.log").read_text().splitlines()[-1] == line


def test_defects_of_ours_keep_their_traceback(monkeypatch):
    def broken():
        raise RuntimeError("not the user's mistake")

    def mistake():
        raise ValueError("the user's")

    with pytest.raises(RuntimeError):
        exit_with(broken)
    monkeypatch.setenv("SELAVPRPP_TRACEBACK", "1")
    with pytest.raises(ValueError):
        exit_with(mistake)


def test_a_save_dir_that_is_a_file(tmp_path):
    (tmp_path / "name").write_text("")
    with pytest.raises(NotADirectoryError):
        new_run(tmp_path)


def test_versions_and_hardware():
    found = versions()
    assert found["python"] == sys.version.split()[0]
    assert {"torch", "torchvision", "numpy"} < found.keys()
    assert any(name.startswith("faiss") for name in found)
    extracted = hardware(torch.device("cpu"))
    assert extracted["threads"] == torch.get_num_threads()
    assert extracted["processes"] == 1
    assert extracted["cpu"]


def test_a_ctrl_c_waits_for_what_must_not_be_left_half_done():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with interrupted_afterwards():
            signal.raise_signal(signal.SIGINT)
            done.append("inside")
        done.append("behind")
    assert done == ["inside"]
    with interrupted_afterwards():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_thread_meets_no_signals():
    def work():
        with interrupted_afterwards():
            return "done"

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == "done"


def test_memory_that_a_processor_does_not_have_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        exit_with(lambda: torch.empty(2**60, dtype=torch.uint8))
    assert stop.value.code == 1
    assert "error: out of memory (" in capsys.readouterr().err
