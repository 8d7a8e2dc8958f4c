"""Descriptors into indexes on disk: resuming, forecasts, memory, rounding, and what the scripts make of them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from descriptors import Rows, extract_rows
from scripts import error_of, evaluation_options, one_thread, results, run_folder

import eval as eval_float
import eval_hashing
import eval_rerank
import utils.evaluation.extraction
from datasets import BenchmarkDataset, evaluation_transform, read_folder
from model import Descriptors, build_model, fast_inference, load_model
from utils.evaluation.extraction import extract
from utils.evaluation.forecast import BATCHES, SECONDS, Forecast, check_disk
from utils.search import TwoStageIndex, store_rows

BRANCHES = ("float", "binary")


@pytest.fixture(scope="module")
def model(rerank_run):
    return load_model(rerank_run / "best_model.pth")


class Watched(BenchmarkDataset):
    """The small set; notes which images were read, and fails after `limit` of them."""

    def __init__(self, data: Path, *, limit: int | None = None, **options):
        listing = read_folder(data, "pitts30k", split="test")
        super().__init__(listing, transform=evaluation_transform((56, 56)), **options)
        self.limit, self.seen = limit, []

    def __getitem__(self, index):
        if len(self.seen) == self.limit:
            raise KeyboardInterrupt
        self.seen.append(index)
        return super().__getitem__(index)


def files(folder: Path) -> dict[str, bytes]:
    """Content of the files of codes and of floats, by index."""
    return {f"{path.parent.name} {path.name}": path.read_bytes() for path in folder.rglob("*")
            if path.name in ("codes", "floats")}


# --- on from where it stopped

def test_an_interrupted_extraction_goes_on_and_gives_the_same_files(data, model, tmp_path):
    with one_thread():
        whole = extract_rows(model, Watched(data), tmp_path / "whole", branches=BRANCHES, batch_size=3)
        for limit, expected in ((7, [0, 1, 2, 3, 4, 5, 6]), (5, [6, 7, 8, 9, 10])):
            interrupted = Watched(data, limit=limit)
            with pytest.raises(KeyboardInterrupt):
                extract(model, interrupted, tmp_path / "parts", branches=BRANCHES, batch_size=3, num_workers=0)
            assert interrupted.seen == expected  # whole batches stay: 0 to 5, then 6 and 7, 8 to 10
        with pytest.raises(ValueError, match="unfinished extraction, 8 of 8"):
            TwoStageIndex.open(tmp_path / "parts" / "database")
        last = Watched(data)
        parts = extract_rows(model, last, tmp_path / "parts", branches=BRANCHES, batch_size=3)
    assert last.seen == [11, 12]
    assert np.array_equal(parts.codes, whole.codes) and np.array_equal(parts.floating, whole.floating)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert len(files(tmp_path / "whole")) == 2 * 2
    assert len(list((tmp_path / "parts").iterdir())) == 2
    for side in (tmp_path / "parts").iterdir():
        index, other = TwoStageIndex.open(side), TwoStageIndex.open(tmp_path / "whole" / side.name)
        index.verify()
        assert index.names(range(len(index))) == other.names(range(len(index)))
        assert np.array_equal(index.coordinates(range(len(index))), other.coordinates(range(len(index))))


def test_nothing_is_extracted_twice(data, model, tmp_path, monkeypatch):
    with one_thread():
        first = extract_rows(model, Watched(data), tmp_path, branches=BRANCHES, batch_size=8)
        monkeypatch.setattr(utils.evaluation.extraction, "fast_inference", None)
        again = extract_rows(model, Watched(data, limit=0), tmp_path, branches=BRANCHES, batch_size=8)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_other_queries_come_to_the_same_database(data, model, tmp_path):
    with one_thread():
        extract(model, Watched(data, prepared=("56x56", "one way")), tmp_path, branches=BRANCHES, batch_size=8,
                num_workers=0)
        before = files(tmp_path)
        other = Watched(data, prepared=("56x56", "another"))
        found = extract(model, other, tmp_path, branches=BRANCHES, batch_size=8, num_workers=0)
    assert other.seen == [8, 9, 10, 11, 12]
    assert before.items() <= files(tmp_path).items()
    assert found.queries.folder.name != "queries" and len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("what", "message"), [
    ({"model": True}, r"model is 'dinov2-tiny gem \(fingerprint \w{12}\)' there"),
    ({"prepared": ("70x70", "")}, "prepared is '' there, '70x70' here"),
    ({"precision": "bf16"}, "precision is 'fp32' there, 'bf16' here"),
    ({"store": "fp16"}, "store is 'fp32' there, 'fp16' here"),
    ({"branches": ("binary",)}, "(branches|float_dim) is .* there, .* here"),
])  # fmt: skip
@pytest.mark.parametrize("finished", [True, False])
def test_descriptors_of_something_else_are_not_taken(what, message, finished, data, model, tmp_path):
    options, what = {"branches": BRANCHES, "batch_size": 2, "num_workers": 0}, dict(what)
    with one_thread():
        try:
            extract(model, Watched(data, limit=None if finished else 3), tmp_path, **options)
        except KeyboardInterrupt:
            assert not finished
        dataset = Watched(data, prepared=what.pop("prepared", ("", "")))
        other = build_model(model.config, seed=5) if what.pop("model", False) else model
        with pytest.raises(ValueError, match=message):
            extract(other, dataset, tmp_path, **{**options, **what})


@pytest.mark.slow
def test_a_killed_process_leaves_what_it_had_written(data, rerank_run, tmp_path):
    """SIGKILL in the middle: no flush on the way out."""
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
import torch
from utils.search.index import writer
writer.SYNC_BYTES = 1
torch.set_num_threads(1)  # as below: the last digits depend on it
from test_extraction import Watched
from utils.evaluation.extraction import extract
from model import load_model
class Killed(Watched):
    def __getitem__(self, index):
        if index == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)
extract(load_model(sys.argv[1]), Killed(Path(sys.argv[2])), Path(sys.argv[3]), branches={BRANCHES}, batch_size=2,
        num_workers=0)
"""
    done = subprocess.run([sys.executable, "-c", script, rerank_run / "best_model.pth", data, tmp_path],
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == -9, done.stderr
    rest = Watched(data)
    with one_thread():
        found = extract_rows(load_model(rerank_run / "best_model.pth"), rest, tmp_path, branches=BRANCHES, batch_size=2)
        whole = extract_rows(load_model(rerank_run / "best_model.pth"), Watched(data), tmp_path / "whole",
                         branches=BRANCHES, batch_size=2)
    assert rest.seen == [*range(6, 13)]
    assert all(np.array_equal(a, b) for a, b in zip(found, whole, strict=True))


# --- before a long extraction

class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("utils.evaluation.forecast.time.perf_counter", lambda: self.now)


@pytest.mark.parametrize(("images", "seconds_a_batch", "told"), [
    (2000, 0.5, "01:12"), (64, 7.0, "02:40"), (10**6, 0.01, "10:25"), (10**6, 0.5, "8:40:59")])
def test_time_is_predicted_from_the_pace_after_a_slow_start(images, seconds_a_batch, told, monkeypatch, caplog):
    clock = Clock(monkeypatch)
    caplog.set_level("INFO", "selavprpp")
    forecast = Forecast(images, 10**9, torch.device("cpu"))
    predicted_after = None
    for batch in range(images // 16):
        clock.now += seconds_a_batch * (20 if batch == 0 else 1 + 0.1 * (-1) ** batch)
        forecast.add(16, waited=0.25 * seconds_a_batch)
        if forecast.predicted and predicted_after is None:
            predicted_after = clock.now - 1000
    cost = forecast.end()
    measured, predicted = cost["measured"], cost["predicted"]
    assert measured["seconds"] == pytest.approx(clock.now - 1000)
    assert predicted["seconds"] == pytest.approx(measured["seconds"], rel=0.1)
    assert predicted_after < 0.6 * measured["seconds"] or images == 64
    assert predicted_after <= 20 * seconds_a_batch + max(2 * SECONDS, (BATCHES + 1) * 1.1 * seconds_a_batch)
    assert cost["waiting_share"] == pytest.approx(0.25 * seconds_a_batch * (images // 16) / measured["seconds"])
    assert predicted["disk_bytes"] == measured["disk_bytes"] == 10**9
    assert 0 < predicted["memory_mib"] <= measured["memory_mib"] <= 1.25 * predicted["memory_mib"]
    (line,) = caplog.messages
    assert line.startswith(f"this will take {told} in all (")


def test_too_few_batches_for_a_forecast(monkeypatch):
    clock = Clock(monkeypatch)
    forecast = Forecast(48, 1, torch.device("cpu"))
    for _ in range(BATCHES):
        clock.now += 1
        forecast.add(16, waited=0.0)
    assert forecast.end()["predicted"] is None


def test_disk_is_as_predicted(data, model, tmp_path):
    with one_thread():
        cost = extract(model, Watched(data), tmp_path, branches=BRANCHES, batch_size=1, num_workers=0).cost
    assert cost["measured"]["disk_bytes"] == 13 * (64 + 4 * 512) == sum(map(len, files(tmp_path).values()))


def test_a_full_disk_is_told_before_the_work(data, model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=13 * (64 + 4 * 512) - 1))
    with pytest.raises(ValueError, match="descriptors need 27.5kB, its disk has 27.5kB free; choose another folder"):
        extract(model, Watched(data, limit=0), tmp_path / "new", branches=BRANCHES, batch_size=1, num_workers=0)
    check_disk(tmp_path / "new" / "deeper", 13 * (64 + 4 * 512) - 1)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_database():
    """Twelve times as many rows of 16 KB: 8 MB and 98 MB of descriptors."""
    script = f"""
import resource, sys, tempfile
sys.path[:0] = {sys.path!r}
from test_extraction import extracted_by_nobody
small, large = extracted_by_nobody(500), extracted_by_nobody(6000)
print(small, large)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    small, large = map(float, done.stdout.split())
    assert large - small < 25


def extracted_by_nobody(count: int) -> float:
    """Peak resident memory, in MiB, after an extraction of `count` images whose network only makes up rows."""
    import resource
    import tempfile

    from model import ModelConfig

    rows = torch.nn.functional.normalize(torch.randn(250, 4096), dim=1)
    utils.evaluation.extraction.fast_inference = (
        lambda *_, **__: lambda images, **_: Descriptors(floating=rows[:len(images)]))
    listing = SimpleNamespace(n_database=count, n_queries=1, database_utm=None, query_utm=None, label="made up",
                              folder=Path("made up"), utm_zone=0,
                              names=lambda side: [f"{n}.jpg" for n in range(count if side == "database" else 1)])
    dataset = [(torch.zeros(3, 1, 1), n) for n in range(count + 1)]
    dataset = type("Set", (list,), {"listing": listing, "queries_vary": False, "prepared": ("", "")})(dataset)
    model = build_model(ModelConfig(backbone="dinov2-tiny", branches=("float",), float_dim=4096))
    with tempfile.TemporaryDirectory() as folder:
        extract(model, dataset, Path(folder), branches=("float",), batch_size=250, num_workers=0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- rounding

@pytest.mark.parametrize(("precision", "store"), [("bf16", "fp32"), ("fp32", "int8"), ("bf16", "fp16")])
def test_what_was_rounded_is_measured(precision, store, data, model, tmp_path):
    dataset = Watched(data)
    with one_thread():
        found = extract(model, dataset, tmp_path, branches=BRANCHES, batch_size=8, num_workers=0, precision=precision,
                        store=store)
        exact = extract_rows(model, dataset, tmp_path / "exact", branches=BRANCHES, batch_size=8)
    codes, floats = found.database.rows(range(8))
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(
        floats.astype(np.float64), exact.floating[:8].astype(np.float64), strict=True)]
    changed = np.mean([bin(a ^ b).count("1") for a, b in zip(codes.ravel(), exact.codes[:8].ravel(), strict=True)]) / 8
    rounding = found.cost["rounding"]
    assert rounding["images"] == 8
    assert rounding["least_cosine"] == pytest.approx(min(cosines), abs=1e-5)
    assert rounding["least_cosine"] < 1 - 1e-9
    assert rounding["bits_changed_percent"] == pytest.approx(100 * changed, abs=0.05)
    assert found.queries.shape.store == "fp32"
    assert found.database.bytes_per_image["float"] == {"fp32": 2048, "fp16": 1024, "int8": 516}[store]
    if precision == "fp32":
        assert changed == 0
        assert np.abs(floats - store_rows(exact.floating[:8], store).read(slice(None))).max() < 1e-5


def test_exact_descriptors_have_no_rounding(data, model, tmp_path):
    with one_thread():
        assert extract(model, Watched(data), tmp_path, branches=("binary",), batch_size=8,
                       num_workers=0).cost["rounding"] is None


# --- the scripts

def test_an_index_that_is_kept_is_only_searched_the_next_time(data, rerank_run, tmp_path, capsys):
    options = [*evaluation_options(data), "--resume", rerank_run / "best_model.pth", "--index", tmp_path / "kept"]
    first = run_folder(eval_rerank.main, *options, cwd=tmp_path)
    before = files(tmp_path / "kept")
    again = run_folder(eval_rerank.main, *options, "--rerank_num", "3", cwd=tmp_path)
    assert files(tmp_path / "kept") == before
    assert f"{tmp_path / 'kept'} holds the descriptors of pitts30k already" in (again / "info.log").read_text()
    assert results(first)["extraction"]["images"] == 13 and not results(first)["extraction"]["reused"]
    assert results(again)["extraction"] == {**results(first)["extraction"], "reused": True}
    assert results(again)["recalls"]["first_stage"] == results(first)["recalls"]["first_stage"]
    index = TwoStageIndex.open(tmp_path / "kept" / "database")
    listing = read_folder(data, "pitts30k", split="test")
    assert index.names(range(8)) == listing.names("database")
    assert np.array_equal(index.coordinates(range(8)), listing.database_utm)
    said = error_of(eval_hashing.main, *options, capsys=capsys)
    assert said.startswith(f"{tmp_path / 'kept' / 'database'} holds an index of other descriptors: branches")
    assert not list(first.glob("index-*"))


@pytest.mark.slow
def test_a_damaged_or_hostile_index_ends_an_evaluation_in_one_line(data, rerank_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept, hostile = tmp_path / "kept", tmp_path / "hostile"
    options = [*evaluation_options(data), "--resume", rerank_run / "best_model.pth", "--index"]
    run_folder(eval_rerank.main, *options, kept, cwd=tmp_path)
    queries, = (path.name for path in kept.glob("queries-*"))
    for damage, said in (
            (lambda: flip(hostile / "database" / "codes"), "database/codes: rows 0 to 8 are not what was written"),
            (lambda: flip(hostile / "database" / "floats"), "database/floats: rows .* are not what was written"),
            (lambda: flip(hostile / queries / "floats"), f"{queries}/floats: rows .* are not what was written"),
            (lambda: (hostile / queries / "extraction.json").write_text("[" * 10**5), "extraction.json is damaged"),
            (lambda: (hostile / queries / "extraction.json").write_text("[]"), "extraction.json is damaged"),
            (lambda: fifo(hostile / queries / "extraction.json"), "extraction.json is a FIFO"),
            (lambda: linked(hostile / "database", tmp_path / "elsewhere"), "database is a link")):
        shutil.rmtree(hostile, ignore_errors=True)
        shutil.copytree(kept, hostile)
        damage()
        with one_thread():
            assert re.search(f"{hostile}/.*{said}", error_of(eval_rerank.main, *options, hostile, capsys=capsys))


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def linked(folder: Path, target: Path) -> None:
    folder.rename(target)
    folder.symlink_to(target)


@pytest.mark.slow
def test_an_interrupted_evaluation_says_how_to_go_on(data, float_run, tmp_path, monkeypatch):
    options = [*evaluation_options(data), "--resume", float_run / "best_model.pth", "--infer_batch_size", "4"]
    expected = results(run_folder(eval_float.main, *options, cwd=tmp_path))
    batches = []

    def failing(model, **how):
        network = fast_inference(model, **how)

        def describe_batch(images, **branches):
            batches.append(len(images))
            if len(batches) == 3:
                raise KeyboardInterrupt
            return network(images, **branches)

        return describe_batch

    with monkeypatch.context() as patched:
        patched.setattr(utils.evaluation.extraction, "fast_inference", failing)
        with pytest.raises(KeyboardInterrupt):
            run_folder(eval_float.main, *options, "--save_dir", "cut", cwd=tmp_path)
    (folder,) = (tmp_path / "test" / "cut").iterdir()
    (line,) = [line for line in (folder / "info.log").read_text().splitlines() if "resumes" in line]
    kept = line.partition("--index ")[2].partition(" ")[0]
    assert (tmp_path / kept).parent == folder
    found = run_folder(eval_float.main, *options, "--index", tmp_path / kept, cwd=tmp_path)
    assert results(found)["recalls"] == expected["recalls"]
    assert results(found)["extraction"]["images"] == 5


def test_rounded_evaluations_say_so(data, rerank_run, tmp_path):
    folder = run_folder(eval_rerank.main, *evaluation_options(data), "--resume", rerank_run / "best_model.pth",
                        "--precision", "bf16", "--store", "int8", cwd=tmp_path)
    found = results(folder)["extraction"]
    assert (found["precision"], found["store"]) == ("bf16", "int8")
    assert found["rounding"]["least_cosine"] > 0.99
    assert "rounding, on 8 images: least cosine 0.99" in (folder / "info.log").read_text()
    assert results(folder)["bytes_per_image"] == {"binary": 64, "float": 516}


def test_compiled_blocks_are_timed_before_the_images(data, float_run, tmp_path, monkeypatch, capsys):
    options = [*evaluation_options(data), "--resume", float_run / "best_model.pth"]
    plain = run_folder(eval_float.main, *options, cwd=tmp_path)
    compiled = []

    def compile_nothing(function):
        def translated(*inputs):
            compiled.append(inputs)
            return function(*inputs)

        return translated

    monkeypatch.setattr(torch, "compile", compile_nothing)
    folder = run_folder(eval_float.main, *options, "--compile", cwd=tmp_path)
    assert results(folder)["recalls"] == results(plain)["recalls"] and compiled
    assert (folder / "info.log").read_text().count("compiling the backbone took") == 1

    def no_compiler(*_):
        raise RuntimeError("no C++ compiler found\n\nand much more")

    monkeypatch.setattr(torch, "compile", lambda function: no_compiler)
    monkeypatch.chdir(tmp_path)
    assert error_of(eval_float.main, *options, "--compile", capsys=capsys) == (
        "--compile: no C++ compiler found; leave it out")


def test_a_training_leaves_no_descriptors(float_run, rerank_run):
    for run in (float_run, rerank_run):
        assert json.loads((run / "results.json").read_text())["extraction"]["precision"] == "fp32"
        assert {path.suffix for path in run.iterdir()} <= {".json", ".log", ".jsonl", ".pth", ".npz"}


def test_rows_of_a_set(data, model, tmp_path):
    with one_thread():
        found = extract_rows(model, Watched(data), tmp_path, branches=("binary",), batch_size=5)
    assert isinstance(found, Rows) and found.floating is None and found.codes.shape == (13, 64)


@pytest.mark.slow
def test_the_map_in_the_docs_finds_its_own_image(data, rerank_run, tmp_path, monkeypatch, capsys):
    images = data / "pitts30k" / "images" / "test" / "database"
    text = (Path(eval_rerank.__file__).parent / "docs" / "index.md").read_text()
    code, = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "TwoStageIndex.open" in block]
    run_folder(eval_rerank.main, "--database_folder", images, "--queries_folder", images, "--no_labels",
               "--resume", rerank_run / "best_model.pth", "--index", "my/index", "--store", "fp16", "--num_workers", 0,
               "--device", "cpu", cwd=tmp_path)
    name = sorted(path.name for path in images.iterdir())[3]
    shutil.copy(images / name, tmp_path / "query.jpg")
    monkeypatch.setattr("model.fetch_released", lambda config: rerank_run / "best_model.pth")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    with one_thread():
        exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    found, distance, *_ = lines[0].split()
    assert found == name and float(distance) < 1e-3
