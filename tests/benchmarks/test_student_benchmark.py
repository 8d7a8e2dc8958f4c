"""What a student saves is measured beside its teacher."""

import json

from scripts import one_thread

from benchmarks import student


def test_each_model_has_its_images_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(student, "TEACHER", ("dinov2-tiny", "all", 56))
    monkeypatch.setattr(student, "STUDENTS", (("dinov2-tiny", "last:2", 28),))
    with one_thread():
        student.main(["--repeats", "3", "--out", str(tmp_path)])
    (stored,) = json.loads((tmp_path / "student.json").read_text()).values()
    first, second, *_ = stored["rows"]
    assert first["what"].startswith("dinov2-tiny 56x56, adapters all, ")
    assert (first["beside"], first["met"]) == ("1.0 x", None)
    assert second["what"].startswith("dinov2-tiny 28x28, adapters last:2, ") and second["goal"] == ">= 4 x"
    samples = [sorted(values) for values in stored["samples"].values()][:2]
    assert second["beside"] == f"{samples[0][1] / samples[1][1]:.1f} x"
    assert all(row["measured"] in (tmp_path / "student.md").read_text() for row in stored["rows"])
