"""benchmarks/retrieval.py and its parts on tiny sizes: a run of the code, not of the figures."""

import json

import numpy as np
import pytest
import torch
from scripts import one_thread

from benchmarks import extraction, precision, retrieval, scale, search
from benchmarks.report import Report
from benchmarks.search import plain_recalls, plain_rerank
from utils.evaluation.metrics import recall_at_k


def test_the_plain_path_sorts_and_counts():
    rng = np.random.default_rng(0)
    database, queries = (rng.standard_normal((n, 5)).astype(np.float32) for n in (30, 8))
    predictions = np.stack([rng.permutation(30)[:12] for _ in queries])
    found = plain_rerank(database, queries, predictions)
    for query, before, after in zip(queries, predictions, found, strict=True):
        assert after.tolist() == sorted(before, key=lambda i: sum((database[i] - query) ** 2))
    positives = [rng.choice(30, 2, replace=False) for _ in range(7)] + [np.zeros(0, np.int64)]
    assert plain_recalls(found, positives, (1, 5, 12)) == pytest.approx(
        list(recall_at_k(found, positives, (1, 5, 12)).values()))


def test_rows_of_searching(monkeypatch):
    monkeypatch.setattr(search, "L2_QUERIES", 6)
    monkeypatch.setattr(search, "SINGLE", 3)
    report = Report()
    with one_thread():
        search.rows(report, images=120, queries=20, repeats=1)
    rows = {row["what"]: row for row in report.rows}
    assert rows["20 x 120, search + re-rank 4096-d + recall, recalls"]["met"] is True
    assert sum(row["met"] is not None for row in report.rows) == 2 + 3
    assert any("int8" in what for what in rows)


@pytest.mark.slow
def test_rows_from_files_to_an_index(monkeypatch):
    monkeypatch.setattr(extraction, "SIZE", 28)
    report = Report()
    with one_thread():
        extraction.rows_from_files(report, device=torch.device("cpu"), backbone="dinov2-tiny", images=96)
    first, *told = report.rows
    assert first["measured"].endswith("images/s")
    assert [row["goal"] for row in told] == ["within 25 %"] * 3
    assert told[1]["met"] and told[2]["met"]  # memory and disk; so short a run's time is anybody's guess


def test_the_command_writes_its_page(tmp_path, monkeypatch):
    parts = (extraction, "rows_from_files"), (extraction, "rows"), (search, "rows"), (scale, "rows")
    for module, name in parts:
        def rows(report, *, name=f"{module.__name__}.{name}", **options):
            report.add(name, "2", ", ".join(options), goal=">= 1", met=True)
        monkeypatch.setattr(module, name, rows)
    retrieval.main(["--images", "10000", "--out", str(tmp_path)])
    (stored,) = json.loads((tmp_path / "retrieval.json").read_text()).values()
    assert [row["what"] for row in stored["rows"]] == [f"{module.__name__}.{name}" for module, name in parts]
    assert (tmp_path / "retrieval.md").read_text().count("| met |") == 4


@pytest.mark.slow
def test_what_precision_and_store_change(data, rerank_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(precision, "STORES", ("fp32", "int8"))
    options = ["--set", str(rerank_run / "best_model.pth"), str(data / "pitts30k"), "56", "--out", str(tmp_path)]
    with one_thread():
        precision.main(options)
    (stored,) = json.loads((tmp_path / "precision.json").read_text()).values()
    (found,) = stored["sets"]
    assert (found["set"], found["queries"], list(found["changes"])) == (
        "pitts30k test", 5, ["bf16, fp32", "bf16, int8", "fp32, int8"])
    assert found["changes"]["bf16, int8"]["rounding"]["least_cosine"] > 0.99
    assert capsys.readouterr().out.count("| pitts30k test (5) | bf16, int8 |") == 1
    options[3] = "fifty"
    with pytest.raises(SystemExit):
        precision.main(options)
    assert "SIZE fifty: expected a number of pixels" in capsys.readouterr().err
    options[1:4] = [str(tmp_path / "none.pth"), str(data / "pitts30k"), "56"]
    with pytest.raises(FileNotFoundError, match="none.pth"):
        precision.main(options)


def test_changes_are_counted_in_queries():
    """Four queries; the second finds its image later, the third sooner, the fourth another one that is right too."""
    class Found:
        def __init__(self, final, rounding=None):
            self.first = self.final = np.array(final)
            self.listing = type("Listing", (), {"positives": [np.array(p) for p in ([0], [1], [2], [3, 4])]})
            self.extraction = {"rounding": rounding}

    others = list(range(10, 20))
    exact = Found([[0, *others], [1, *others], [*others, 2], [3, *others]])
    other = Found([[0, *others], [9, 8, 1, *others[:8]], [*others[:9], 2, 9], [4, *others]], {"images": 8})
    found = precision.change(exact, other)
    assert found["final"] == {"net": -1, "queries": 2, "other_answer_percent": 50.0}
    assert found["rounding"] == {"images": 8}
