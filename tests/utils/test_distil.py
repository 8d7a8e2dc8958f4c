"""A student: what it learns, what its files say, and where its queries are searched for."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import error_of, metrics, results, run_folder

from datasets import evaluation_transform
from datasets.transforms import read_image
from model import fingerprint, load_model, read_checkpoint
from utils.distil.__main__ import main
from utils.models import teacher_of

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
    assert teacher_of(checkpoint) == (fingerprint(load_model(teacher)), "dinov2-tiny gem")
    assert teacher_of(read_checkpoint(teacher)) is None
    told = checkpoint.trainings[-1]
    assert told["script"] == "utils.distil"
    assert told["data"] | {"set": "", "teacher": ""} == {
        "set": "", "teacher": "", "images": 28, "prepared": "28x28", "prepared_for_teacher": "56x56"}
    assert results(student)["model"]["trainings"] == checkpoint.trainings
    forged = dataclasses.replace(checkpoint, training=checkpoint.training | {"data": {"teacher": {"name": 3}}})
    with pytest.raises(ValueError, match="what it says of its teacher cannot be used; give another file"):
        teacher_of(forged)


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
    said = error_of(main, *words(data, student / "best_model.pth"), "--resume", student, capsys=capsys)
    assert "it learns from dinov2-tiny gem (fingerprint " in said and ", and --teacher is dinov2-tiny gem (" in said
    said = error_of(main, *words(data, teacher)[:-2], *STUDENT, "--images", tmp_path, capsys=capsys)
    assert said == f"{tmp_path}: no image in it or below; expected .jpg, .jpeg, .png"
