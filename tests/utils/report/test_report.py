"""Reports: what stands in the page, against the arrays that it was made from; runs that lack something."""

import base64
import dataclasses
import io
import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from made_runs import HOSTILE, N_DATABASE, write_pictures, write_run
from PIL import Image
from scripts import error_of, evaluation_options, run_folder

import eval_rerank
from model import ModelConfig, build_model, save_checkpoint
from utils.confidence import held_out, signals_of
from utils.evaluation.metrics import recall_interval
from utils.report import charts, page, pictures, write_report
from utils.report.__main__ import main
from utils.report.runs import KINDS, read_runs, said_of


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    names = [f"database/d{i:04d}.jpg" for i in range(N_DATABASE)] + [f"queries/q{q:04d}.jpg" for q in range(25)]
    write_pictures(folder, [*names, *(f"queries/{name}" for name in HOSTILE)])
    return folder


@pytest.fixture(scope="module", autouse=True)
def fitted_once():
    """Equal signals give equal confidences, whose fits take three seconds: most of a report here."""
    known = {}

    def once(signals):
        key = tuple(part if part is None else part.tobytes() for part in signals)
        if key not in known:
            known[key] = held_out(signals)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "held_out", once)
        yield


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def report_of(folder: Path) -> tuple[str, dict]:
    text = write_report([folder]).read_text()
    return text, data_of(text)


def words(text: str) -> str:
    """The page without its tags and data."""
    body = re.sub(r"<(script|style|svg).*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


@pytest.fixture(scope="module")
def made(images, tmp_path_factory):
    """A run's folder and arrays, its report, and the data in that."""
    folder = tmp_path_factory.mktemp("made") / "run"
    arrays = write_run(folder, images=images, parts={
        "within 40 degrees": {"rule": "closer", "n_queries": 20, "n_database": 5, "recalls": {"final": {"1": 35.0}}}})
    return folder, arrays, *report_of(folder)


# --- figures

def test_queries_their_ranks_and_their_kinds(made):
    _, arrays, text, data = made
    listed = data["runs"][0]["queries"]
    assert [row[0] for row in listed] == arrays["query_names"].tolist()
    counts = dict.fromkeys(KINDS, 0)
    for q, (_, kinds, first, final, metres, positives) in enumerate(listed):
        ranks = []
        for stage in ("first_stage", "final"):
            right = [rank for rank, correct in enumerate(arrays[f"{stage}_correct"][q], start=1) if correct]
            ranks.append(right[0] if right else 0)
        assert [first, final] == ranks
        expected = {"wrong": final != 1, "rescued": first != 1 and final == 1, "hurt": first == 1 and final != 1,
                    "unanswerable": q % 5 == 4}
        assert kinds == sum(2**i for i, kind in enumerate(KINDS) if expected[kind])
        assert positives == arrays["query_positives"][q]
        away = arrays["query_utm"][q] - arrays["database_utm"][arrays["final_ids"][q, 0]]
        assert metres == pytest.approx(math.hypot(*away), abs=0.05)
        for kind in KINDS:
            counts[kind] += expected[kind]
    assert min(counts.values()) > 0
    shown = re.findall(r'data-bit="(\d+)".*?<span class="count">(\d+)</span>', text)
    assert shown == [("0", "25"), *((str(2**i), str(counts[kind])) for i, kind in enumerate(KINDS))]


def test_answers_and_their_pictures(made, images):
    _, arrays, _, data = made
    shown = data["runs"][0]["shown"]
    assert sorted(map(int, shown)) == [*range(25)]
    for q, (picture, answers) in shown.items():
        assert len(answers) == 5
        for rank, (name, right, metres, number) in enumerate(answers):
            image = arrays["final_ids"][int(q), rank]
            assert (name, right) == (arrays["database_names"][image], arrays["final_correct"][int(q), rank])
            away = arrays["query_utm"][int(q)] - arrays["database_utm"][image]
            assert metres == pytest.approx(math.hypot(*away), abs=0.05)
            assert near(data["pictures"][number], images / name)
        assert near(data["pictures"][picture], images / arrays["query_names"][int(q)])
    assert len({*data["pictures"]}) == len(data["pictures"])  # each file once


def near(url: str, path: Path) -> bool:
    head, _, content = url.partition(",")
    small, whole = (np.asarray(Image.open(source).convert("RGB").resize((8, 6), Image.Resampling.BOX), int)
                    for source in (io.BytesIO(base64.b64decode(content)), path))
    return head == "data:image/jpeg;base64" and np.abs(small - whole).mean() < 12


def test_intervals_are_wilsons():
    for count, n in ((0, 7), (3, 7), (7, 7), (412, 740)):
        z, p = 1.959963984540054, count / n
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low, high = (100 * (middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
        assert recall_interval(count, n) == pytest.approx((low, high), abs=1e-9)


def test_the_recall_table(made):
    _, arrays, text, _ = made
    assert "Before you believe a figure" not in text
    for stage, label in (("first_stage", "Hamming"), ("final", "Hamming top 9, then L2")):
        cells = [label]
        for k in (1, 5, 10):
            count = int(arrays[f"{stage}_correct"][:, :k].any(axis=1).sum())
            cells += [f"{4 * count:.1f}", "{:.1f} to {:.1f}".format(*recall_interval(count, 25))]
        assert " ".join(cells) in words(text)
    assert f"within 40 degrees (closer) 35.0 {'{:.1f} to {:.1f}'.format(*recall_interval(7, 20))}" in words(text)
    assert "0.250" in words(text) and "0.500" in words(text) and "2,048" in words(text)


def test_the_curve_is_of_the_predictions(images, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(charts, "recall_curve", lambda *curve: drawn.append(curve) or charts.Chart("", ""))
    arrays = write_run(tmp_path / "run", images=images)
    write_report([tmp_path / "run"])
    (curves, intervals), = drawn
    for (_, _, stage, recall), between in zip(curves, intervals, strict=True):
        naive = [100 * np.mean([row[:k].any() for row in arrays[f"{stage}_correct"]]) for k in range(1, 13)]
        assert recall == pytest.approx(naive)
        assert between == pytest.approx(np.array([recall_interval(round(value / 4), 25) for value in naive]))


def test_warnings_stand_first(images, tmp_path):
    trained = {"script": "train.py", "epoch": 3, "selected_by": "hill val", "data": {"set": "gsv", "places": 9},
               "validation": {"hill val": {"warnings": ["too few images"]}}}
    write_run(tmp_path / "run", images=images, warnings=("3 files were left out",), dataset="toy_city/hill",
              options={"rerank_num": 100, "test_method": "central_crop"},
              extraction={"precision": "bf16", "store": "int8", "images_per_second": 1.0, "rounding": {
                  "images": 8, "least_cosine": 0.99, "bits_changed_percent": 0.5}},
              model={"pretrained": False, "licence": None, "trainings": [trained], "backbone": None, "config": None})
    text, _ = report_of(tmp_path / "run")
    top = words(text).partition("What was evaluated data set")[0]
    for said in ("3 files were left out", "validation set hill val: too few images", "toy city: drawn images",
                 "pretrained: false",
                 "all 30 database images were re-ranked", "prepared by central_crop",
                 "precision bf16, store int8): on 8 images least cosine to the exact descriptor 0.99"):
        assert said in top, said
    for pretrained, said in ((True, "the licence of the model's weights is not known"),
                             (None, "the model's file does not say whether its DINOv2 was pre-trained")):
        write_run(tmp_path / str(pretrained), images=images, model={"pretrained": pretrained, "licence": None})
        assert said_of(read_runs([tmp_path / str(pretrained)])) == [said]


# --- runs that lack something

def test_no_labels_no_coordinates_one_stage(images, tmp_path):
    write_run(tmp_path / "run", images=images, labelled=False, utm=False, stages=1, codes=False,
              bytes_per_image={"binary": None, "float": 2048})
    text, data = report_of(tmp_path / "run")
    for said in ("no labels: which answers are right is not known", "no coordinates are known, so there is no map",
                 "No labels: frames are grey.", "no binary codes were searched"):
        assert said in words(text)
    assert re.findall(r'data-bit="(\d+)"', text) == ["0"]
    assert data["runs"][0]["queries"][3] == ["queries/q0003.jpg", 0, None, None, None]
    assert {(right, metres) for _, answers in data["runs"][0]["shown"].values()
            for _, right, metres, _ in answers} == {(None, None)}


def test_a_run_of_an_earlier_version(images, tmp_path):
    write_run(tmp_path / "run", images=None, codes=False)
    with np.load(tmp_path / "run" / "predictions.npz") as file:
        arrays = {name: file[name] for name in file if not name.endswith(("_utm", "_positives"))}
    np.savez(tmp_path / "run" / "predictions.npz", **arrays)
    text, data = report_of(tmp_path / "run")
    assert "does not say where the images lie" in words(text) and "kept nothing of the codes" in words(text)
    assert "which queries have no right answer in the database is not known" in words(text)
    assert data["runs"][0]["shown"] == {} and len(data["runs"][0]["queries"]) == 25


def test_missing_pictures_are_blank_and_named(images, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "queries" / "q0003.jpg").unlink()
    (tmp_path / "images" / "queries" / "q0007.jpg").write_bytes(b"no picture")
    write_run(tmp_path / "run", images=tmp_path / "images")
    text, data = report_of(tmp_path / "run")
    assert "2 pictures could not be read, and are blank" in words(text)
    assert "queries/q0003.jpg: no such image" in words(text) and "queries/q0007.jpg" in words(text)
    missing = [q for q, (picture, _) in data["runs"][0]["shown"].items() if picture is None]
    assert sorted(missing, key=int) == ["3", "7"]
    write_run(tmp_path / "moved", images=tmp_path / "elsewhere")
    text, data = report_of(tmp_path / "moved")
    assert data["pictures"] == [] and "pictures could not be read" in words(text) and "and 45 more" in words(text)


def test_pictures_stay_within_their_bytes_and_every_kind_is_among_them(images, tmp_path, monkeypatch):
    write_run(tmp_path / "run", images=images, n_queries=400)
    run, = read_runs([tmp_path / "run"])
    small = tmp_path / "small"
    write_pictures(small, [f"{side}/{letter}{i:04d}.jpg" for side, letter, n in (("queries", "q", 400),
                                                                               ("database", "d", N_DATABASE))
                           for i in range(n)])
    run = dataclasses.replace(run, results={**run.results, "folder": str(small)})
    thumbnails = pictures.Thumbnails()
    shown = pictures.pictured(run, thumbnails, budget=100_000)
    assert 60_000 < thumbnails.bytes < 110_000 and 20 < len(shown) < 100
    counts = {kind: sum(run.kinds[kind][q] for q in shown) for kind in KINDS}
    assert min(counts.values()) >= len(shown) // 6
    assert max(shown) > 320 and min(shown) < 80  # spread over the set
    assert len(pictures.pictured(run, pictures.Thumbnails(), budget=10**9, most=17)) == 17
    monkeypatch.setattr(page, "PAGE_BYTES", 450_000)
    monkeypatch.setattr(page, "FEWEST_BYTES", 0)
    write_run(tmp_path / "large", images=small, n_queries=400)
    text, data = report_of(tmp_path / "large")
    assert 350_000 < len(text) < 500_000
    n = len(data["runs"][0]["shown"])
    assert f"Pictures of {n} of 400 queries" in words(text) and len(data["runs"][0]["queries"]) == 400


def test_two_runs_side_by_side(images, tmp_path, monkeypatch):
    for name, options in (("a", {}), ("b", {"stages": 1, "seed": 3, "warnings": ("odd",)})):
        write_run(tmp_path / name / "2026", images=images, **options)
    monkeypatch.chdir(tmp_path)
    path = write_report([Path("a/2026"), Path("b/2026")])
    text = path.read_text()
    assert path == Path("report.html")
    assert "b/2026: odd" in words(text) and "do not compare" not in text
    for heading in ("Queries of a/2026", "Queries of b/2026"):
        assert heading in words(text)
    for label in ("a/2026: Hamming ", "a/2026: Hamming top 9, then L2", "b/2026: Hamming"):
        assert label in words(text)
    data = data_of(text)
    assert len(data["runs"]) == 2 and len(data["pictures"]) <= 30 + 25  # shared
    write_run(tmp_path / "c" / "2026", images=images, dataset="valley")
    assert said_of(read_runs([Path("a/2026"), Path("c/2026")])) == [
        "runs of different data sets: their recalls do not compare"]


def test_cities_far_apart_are_drawn_beside_each_other(images, tmp_path):
    arrays = write_run(tmp_path / "run", images=images)
    utm = arrays["query_utm"].copy()
    utm[:10] += 3_000_000
    utm[24] = np.nan
    np.savez(tmp_path / "run" / "predictions.npz", **{**arrays, "query_utm": utm})
    run, = read_runs([tmp_path / "run"])
    chart, notes = charts.query_map(run)
    assert chart.svg.count("metres east") == 2
    assert notes == ["1 queries without coordinates are not on the map."]
    right = arrays["final_correct"][:24, 0].sum()
    assert chart.caption.startswith(f"24 queries, {right} right at rank 1.")


# --- the file

def test_one_file_that_asks_for_nothing(made, tmp_path):
    folder, _, text, _ = made
    assert "default-src 'none'" in text and charts.INK not in text and "currentColor" in text
    links = re.findall(r"""(?:src|href)=["']?(.{6})|url\((.{6})""", text)
    assert links and [link for link in links if not "".join(link).startswith(("#", "data:"))] == []
    assert text == write_report([folder], tmp_path / "again.html").read_text()


def test_hostile_names_stay_text(images, tmp_path):
    write_run(tmp_path / "<b>run</b>", images=images, hostile=True, warnings=("<i>warned</i>", HOSTILE[1]),
              dataset="</title><script>alert(3)</script>")
    text, data = report_of(tmp_path / "<b>run</b>")
    for name in (*HOSTILE[:2], "<b>run", "<i>warned", "<script>alert"):
        assert name not in text
    assert [row[0] for row in data["runs"][0]["queries"][:3]] == [f"queries/{name}" for name in HOSTILE]


def test_names_that_are_no_text(images, tmp_path):
    arrays = write_run(tmp_path / "run", images=images, warnings=("left out: \udcff.jpg",))
    names = arrays["query_names"].astype("U30")
    names[0] = "queries/\udcff.jpg"
    np.savez(tmp_path / "run" / "predictions.npz", **{**arrays, "query_names": names})
    text, _ = report_of(tmp_path / "run")
    assert "left out: ?.jpg" in text


# --- the commands

def test_the_command_says_where(images, tmp_path, capsys):
    write_run(tmp_path / "run", images=images)
    main([str(tmp_path / "run"), "--output", str(tmp_path / "here.html")])
    assert capsys.readouterr().out == f"{tmp_path}/here.html\n"
    assert (tmp_path / "here.html").read_text().startswith("<!doctype html>")


def test_what_is_no_run_is_refused(images, tmp_path, capsys, monkeypatch):
    good, bad = tmp_path / "good", tmp_path / "bad"
    arrays = write_run(good, images=images)
    assert error_of(main, good / "none", capsys=capsys).startswith(f"{good}/none/results.json: no such file; expected")
    assert "one run is given twice" in error_of(main, good, good, capsys=capsys)
    assert "expected the name of a file in a folder that exists" in error_of(
        main, good, "--output", tmp_path / "no" / "x.html", capsys=capsys)
    shutil.copytree(good, bad)
    for change, said in (({"final_ids": arrays["final_ids"] + 30}, "final_ids is int64 (25, 12); expected integers"),
                         ({"final_correct": arrays["final_correct"][:4]}, "final_correct has shape (4, 12); expected"),
                         ({"query_names": np.arange(25)}, "query_names is int64 (25,); expected a list of text"),
                         ({"query_utm": arrays["query_utm"][:, :1]}, "query_utm has shape (25, 1); expected (25, 2)")):
        np.savez(bad / "predictions.npz", **{**arrays, **change})
        assert said in error_of(main, bad, capsys=capsys)
    np.savez(bad / "predictions.npz", query_names=arrays["query_names"])
    assert "no database_names, final_distances, final_ids in it" in error_of(main, bad, capsys=capsys)
    (bad / "predictions.npz").write_bytes(b"PK")
    assert "damaged, or not the predictions of a run" in error_of(main, bad, capsys=capsys)
    (bad / "results.json").write_text("{}")
    assert "expected the results of a run (schema 2)" in error_of(main, bad, capsys=capsys)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert error_of(main, good, capsys=capsys) == (
        "a report needs matplotlib, which is not installed: pip install -r requirements.txt")


@pytest.mark.slow
def test_an_evaluation_leaves_a_report_and_panels(data, tmp_path):
    save_checkpoint(build_model(ModelConfig(backbone="dinov2-tiny"), seed=0), tmp_path / "m.pth", pretrained=False)
    folder = run_folder(eval_rerank.main, *evaluation_options(data), "--resume", tmp_path / "m.pth", "--report",
                        "--num_preds_to_save", 3, "--save_only_wrong_preds", cwd=tmp_path)
    text = (folder / "report.html").read_text()
    assert "pretrained: false" in words(text) and "Hamming top 100, then L2" in words(text)
    assert len(data_of(text)["pictures"]) == 5 + 8
    assert "query and right answer" in text and "metres east" in text and "pairs of bits" in text
    with np.load(folder / "predictions.npz") as file:
        wrong = np.flatnonzero(~file["final_correct"][:, 0])
    assert sorted(path.name for path in (folder / "preds").iterdir()) == [f"{query:03d}.jpg" for query in wrong]


def test_whether_it_can_tell_when_it_is_right(images, tmp_path):
    """The held-out table and the reliability, or why there are none."""
    arrays = write_run(tmp_path / "run", images=images, n_queries=60)
    told = held_out(signals_of(arrays))
    text = words(report_of(tmp_path / "run")[0]).partition("Can it tell when it is right? ")[2]
    for name, method in (("fitted probability", "fitted"), ("distance d1", "distance"), ("d1 / d2", "PA"),
                         ("SUE, the spread of the first ten", "SUE")):
        cells = ["{:.2f} {:.2f} to {:.2f}".format(*found) for found in told["methods"][method].values() if found]
        assert f"{name} {' '.join(cells)}" in text
    assert f"{told['right']} of 60 queries are answered right" in text
    write_run(tmp_path / "few", images=images, n_queries=12)
    write_run(tmp_path / "unlabelled", images=images, labelled=False)
    assert "a confidence needs at least 10 of each" in words(report_of(tmp_path / "few")[0])
    assert "which answers are right is not known" in words(report_of(tmp_path / "unlabelled")[0])


def test_what_a_search_is_called_is_no_formula(images, tmp_path):
    """matplotlib takes $ for one, and fails at a wrong one."""
    write_run(tmp_path / "run", images=images, protocol=r"L2, $\wrong$")
    assert "L2, $\\wrong$" in report_of(tmp_path / "run")[0].partition("<svg")[2].partition("</svg>")[0]
