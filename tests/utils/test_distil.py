"""A student: what it learns, what its files say, and where its queries are searched for."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import close_log, error_of, evaluation_options, metrics, one_thread, results, run_folder

import eval_rerank
from datasets import evaluation_transform
from datasets.transforms import read_image
from model import build_model, fingerprint, load_model, read_checkpoint, save_checkpoint
from utils.distil.__main__ import main
from utils.localize.__main__ import main as localize
from utils.models import taught_by

SIZE, TEACHERS = (28, 28), (56, 56)


def words(data: Path, teacher: Path) -> list:
    return ["--teacher", teacher, "--images", data / "gsv_cities" / "Images", "--datasets_folder", data,
            "--val_datasets", "msls", "--train_resize", *SIZE, "--teacher_resize", *TEACHERS, "--train_batch_size", 7,
            "--precision", "fp32", "--device", "cpu", "--num_workers", 0, "--lr", 0.004, "--epochs_num", 2]


STUDENT = ["--backbone", "dinov2-tiny", "--foundation_model_path", "random", "--seed", 5, "--set", "placement=last:2"]


@pytest.fixture(scope="module")
def teacher(rerank_run) -> Path:
    return rerank_run / "best_model.pth"


@pytest.fixture(scope="module")
def student(data, teacher, tmp_path_factory) -> Path:
    """A student's run folder."""
    return run_folder(main, *words(data, teacher), *STUDENT, cwd=tmp_path_factory.mktemp("student"))


def test_a_student_comes_nearer_to_its_teacher(student, teacher):
    first, last = metrics(student)
    assert last["float"] < first["float"] and last["code"] < first["code"]
    assert last["loss"] == pytest.approx(last["float"] + last["code"], rel=1e-5)
    config, theirs = (read_checkpoint(path).config for path in (student / "best_model.pth", teacher))
    assert (config.placement, config.order) == ("last:2", "joint")
    assert (config.branches, config.float_dim, config.code_bits) == (
        theirs.branches, theirs.float_dim, theirs.code_bits)


def test_its_file_says_who_taught_it(student, teacher):
    checkpoint = read_checkpoint(student / "best_model.pth")
    assert taught_by(checkpoint) == ((fingerprint(load_model(teacher)), "dinov2-tiny gem"), "28x28", "56x56")
    assert taught_by(read_checkpoint(teacher)) is None
    told = checkpoint.trainings[-1]
    assert told["script"] == "utils.distil"
    assert told["data"] | {"set": "", "teacher": ""} == {
        "set": "", "teacher": "", "images": 28, "prepared": "28x28", "prepared_for_teacher": "56x56"}
    assert results(student)["model"]["trainings"] == checkpoint.trainings
    forged = dataclasses.replace(checkpoint, training=checkpoint.training | {"data": {"teacher": {"name": 3}}})
    with pytest.raises(ValueError, match="what it says of its teacher cannot be used; give another file"):
        taught_by(forged)


def described(model, paths, size) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        out = model(torch.stack([evaluation_transform(size)(read_image(path)) for path in paths]))
    return out.binary.numpy(), out.floating.numpy()


def test_recall_is_of_queries_by_the_student_in_a_database_by_the_teacher(data, student, teacher):
    """The test set's predictions, against both models called by hand."""
    side = {name: sorted((data / "pitts30k" / "images" / "test" / name).iterdir()) for name in ("database", "queries")}
    codes, floats = described(load_model(teacher), side["database"], TEACHERS)
    queries = described(load_model(student / "best_model.pth"), side["queries"], SIZE)
    bits = (queries[0][:, None] != codes[None]).sum(axis=2)
    written = np.load(student / "predictions.npz")
    assert np.array_equal(written["first_stage_ids"], np.argsort(bits, axis=1, kind="stable"))
    away = np.linalg.norm(queries[1][:, None] - floats[None], axis=2)
    assert np.allclose(written["final_distances"], np.sort(away, axis=1), atol=1e-5)
    told = results(student)["extraction"]["database_by"]
    assert told == {"fingerprint": fingerprint(load_model(teacher)), "name": "dinov2-tiny gem", "prepared": "56x56",
                    "precision": "fp32"}
    assert not [*student.glob("index-*")]
    assert (student / "info.log").read_text().count("the teacher's own:") == 2  # of each set, once


def test_what_a_student_cannot_be(data, teacher, student, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = error_of(main, *words(data, teacher), *STUDENT, "code_bits=64", capsys=capsys)
    assert said == ("--set code_bits=64: a student has its teacher's descriptors, all learnt at once, so it is 512; "
                    "leave it out")
    said = error_of(main, *words(data, teacher), *STUDENT, "hashing=sc", capsys=capsys)
    assert said == "--set hashing=sc: of a loss by labels, and a student learns without; leave it out"
    said = error_of(main, *words(data, student / "best_model.pth"), "--resume", student, capsys=capsys)
    assert "it learns from dinov2-tiny gem (fingerprint " in said and ", and --teacher is dinov2-tiny gem (" in said
    said = error_of(main, *words(data, teacher)[:-2], *STUDENT, "--images", tmp_path, capsys=capsys)
    assert said == f"{tmp_path}: no image in it or below; expected .jpg, .jpeg, .png"


def test_its_queries_come_to_an_index_of_its_teacher(data, teacher, student, tmp_path, capsys, monkeypatch):
    """Kept as it is, whatever it was extracted with; another model is refused as ever."""
    best, index = student / "best_model.pth", tmp_path / "index"
    options = [*evaluation_options(data), "--index", index]
    run_folder(eval_rerank.main, *options, "--resume", teacher, "--store", "fp16", cwd=tmp_path)
    before = {path: path.read_bytes() for path in (index / "database").iterdir()}
    kept = run_folder(eval_rerank.main, *options, "--resume", best, "--resize", *SIZE, "--report", cwd=tmp_path)
    assert {path: path.read_bytes() for path in (index / "database").iterdir()} == before
    found, expected = (np.load(folder / "predictions.npz") for folder in (kept, student))
    assert np.array_equal(found["first_stage_ids"], expected["first_stage_ids"])
    assert np.allclose(found["final_distances"], expected["final_distances"], atol=1e-3)
    assert results(kept)["recalls"] == results(student)["recalls"]
    assert results(kept)["extraction"]["database_by"] == results(student)["extraction"]["database_by"]
    assert results(kept)["extraction"]["store"] == "fp16"
    said = (f"descriptors of the database are by dinov2-tiny gem ({fingerprint(load_model(teacher))[:12]}, images of "
            f"56x56), those of queries by its student {fingerprint(load_model(best))[:12]}")
    page = (kept / "report.html").read_text()
    assert said in page and "28 images without labels, taught by dinov2-tiny gem" in page
    assert "the student learnt" not in (kept / "info.log").read_text()

    again = run_folder(eval_rerank.main, *options, "--resume", best, cwd=tmp_path)  # --resize 56 56
    assert "queries are prepared as 56x56, hard_resize, and the student learnt from 28x28: give that to --resize" in (
        again / "info.log").read_text()
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other.pth"
    save_checkpoint(build_model(read_checkpoint(best).config, seed=9), other, pretrained=False)
    assert "database holds an index of other descriptors: model is" in error_of(
        eval_rerank.main, *options, "--resume", other, capsys=capsys)
    said = error_of(eval_rerank.main, *options, "--resume", best, "--resize", *SIZE, "--float_dim", 3, capsys=capsys)
    assert said.endswith("have 512 dimensions, the student's 3; leave --float_dim out"), said


def test_cut_descriptors_come_to_an_index_of_its_teacher_cut_alike(data, teacher, tmp_path, capsys, monkeypatch):
    """At lengths that the teacher was trained for; the database stays as it is."""
    monkeypatch.chdir(tmp_path)
    nested = dataclasses.replace(read_checkpoint(teacher).config, nested_floats=(16, 512))
    save_checkpoint(build_model(nested, seed=3), "nested.pth", pretrained=False)
    best = run_folder(main, *words(data, "nested.pth"), *STUDENT, "--epochs_num", 1, cwd=tmp_path) / "best_model.pth"
    options = [*evaluation_options(data), "--index", "index", "--float_dim", 16]
    run_folder(eval_rerank.main, *options, "--resume", "nested.pth", cwd=tmp_path)
    before = {path: path.read_bytes() for path in Path("index/database").iterdir()}
    found = run_folder(eval_rerank.main, *options, "--resume", best, "--resize", *SIZE, cwd=tmp_path)
    assert {path: path.read_bytes() for path in Path("index/database").iterdir()} == before
    side = {name: sorted((data / "pitts30k" / "images" / "test" / name).iterdir()) for name in ("database", "queries")}
    rows, asking = (described(load_model(path), side[name], size)[1][:, :16] for path, name, size in (
        ("nested.pth", "database", TEACHERS), (best, "queries", SIZE)))
    rows, asking = (of / np.linalg.norm(of, axis=1, keepdims=True) for of in (rows, asking))
    away = np.linalg.norm(asking[:, None] - rows[None], axis=2)
    assert np.allclose(np.load(found / "predictions.npz")["final_distances"], np.sort(away, axis=1), atol=1e-5)
    localize(["index", str(side["queries"][0]), "--resume", str(best), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["distance"] == pytest.approx(away[0].min(), abs=1e-3)
    for other in (["--float_dim", 9], []):
        said = error_of(eval_rerank.main, *options[:-2], *other, "--resume", best, "--resize", *SIZE, capsys=capsys)
        assert "database holds an index of other descriptors: model is" in said


def test_a_map_of_the_teacher_answers_a_student(data, teacher, student, tmp_path, capsys, monkeypatch):
    """Seen at the student's own size; nothing is added by it, and another model stays refused."""
    monkeypatch.chdir(tmp_path)
    images, best = data / "pitts30k" / "images" / "test", student / "best_model.pth"
    with one_thread():
        localize(["build", "map", str(images / "database"), "--resume", str(teacher), "--resize", "56", "56"])
        capsys.readouterr()
        localize(["map", str(images / "queries"), "--resume", str(best), "--json"])
    close_log()
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    database = sorted((images / "database").iterdir())
    floats = described(load_model(teacher), database, TEACHERS)[1]
    queries = sorted((images / "queries").iterdir())
    away = np.linalg.norm(described(load_model(best), queries, SIZE)[1][:, None] - floats[None], axis=2)
    assert [Path(answer["query"]) for answer in answers] == queries
    assert [Path(answer["database"]).name for answer in answers] == [database[i].name for i in away.argmin(axis=1)]
    said = error_of(localize, "add", "map", queries[0], "--resume", best, capsys=capsys)
    assert "is an index of dinov2-tiny gem" in said and "asks it but adds nothing; give the file of the first" in said
    stranger = tmp_path / "stranger.pth"
    save_checkpoint(build_model(read_checkpoint(best).config, seed=9), stranger, pretrained=False)
    assert "expected one model" in error_of(localize, "map", queries[0], "--resume", stranger, capsys=capsys)
    damaged = tmp_path / "damaged.pth"
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert "damaged.pth: damaged" in error_of(localize, "map", queries[0], "--resume", damaged, capsys=capsys)
