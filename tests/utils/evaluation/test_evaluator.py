"""Describing, searching and what is written, against loops; evaluation of trained, published and fetched files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from descriptors import Rows, evaluator_of, extract_rows, search, search_by, searchable
from images import write_benchmark
from scripts import error_of, evaluation_options, metrics, one_thread, results, run_folder

import eval as eval_float
import eval_hashing
import eval_rerank
from datasets import BenchmarkDataset, evaluation_transform, read_folder
from model import Checkpoint, ModelConfig, build_model, fingerprint, load_model, published_state_dict
from utils.evaluation.evaluator import EvaluationOptions
from utils.evaluation.results import write_evaluation
from utils.run import Run, RunOptions
from utils.search import TwoStageIndex


def benchmark(folder: Path, name: str = "pitts30k") -> BenchmarkDataset:
    return BenchmarkDataset(read_folder(folder, name, split="test"), transform=evaluation_transform((56, 56)))


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def model(rerank_run):
    return load_model(rerank_run / "best_model.pth")


# --- extracting

def test_every_image_gets_its_own_row(model, data, tmp_path):
    dataset = benchmark(data)
    with one_thread():
        both = extract_rows(model.train(), dataset, tmp_path / "both", branches=("float", "binary"), batch_size=3)
        alone = extract_rows(model, dataset, tmp_path / "alone", branches=("float",), batch_size=4)
        assert not model.training
        assert (alone.codes, both.codes.dtype, both.codes.shape) == (None, np.uint8, (13, 64))
        assert (both.floating.dtype, both.floating.shape) == (np.float32, (13, 512))
        for i in range(len(dataset)):
            with torch.no_grad():
                out = model(dataset[i][0][None])
            assert np.abs(both.floating[i] - out.floating[0].numpy()).max() <= 1e-5
            assert np.abs(alone.floating[i] - out.floating[0].numpy()).max() <= 1e-5
            bits = np.unpackbits(both.codes[i]).astype(bool)
            clear = out.relaxed[0].abs().numpy() > 1e-5
            assert (bits == (out.binary[0].numpy() > 0))[clear].all()


# --- searching: made-up descriptors on a real data set

N_DATABASE, N_QUERIES = 30, 12


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A set of 30 + 12 (2 unanswerable) images, and random descriptors that tie often in Hamming distance."""
    folder = tmp_path_factory.mktemp("made_up")
    write_benchmark(folder, "set", "test", database=N_DATABASE, queries=10, unanswerable=2, first_place=0)
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 256, (N_DATABASE + N_QUERIES, 2), dtype=np.uint8)
    floating = rng.standard_normal((N_DATABASE + N_QUERIES, 6)).astype(np.float32)
    return benchmark(folder, "set"), Rows(codes, floating)


def hamming(extracted) -> list[list[int]]:
    bits = np.unpackbits(extracted.codes, axis=1).astype(int)
    return [[sum(abs(a - b) for a, b in zip(row, query, strict=True)) for row in bits[:N_DATABASE]]
            for query in bits[N_DATABASE:]]


def squared_l2(extracted) -> list[list[float]]:
    rows = extracted.floating.astype(float)
    return [[sum((a - b) ** 2 for a, b in zip(row, query, strict=True)) for row in rows[:N_DATABASE]]
            for query in rows[N_DATABASE:]]


def order(distances: list[float]) -> list[int]:
    return sorted(range(len(distances)), key=lambda i: (distances[i], i))


def naive_recall(ids, positives, k: int, *, answerable_only: bool = False) -> float:
    queries = [q for q in range(len(ids)) if len(positives[q]) or not answerable_only]
    return 100 * sum(any(i in positives[q] for i in list(ids[q])[:k]) for q in queries) / len(queries)


@pytest.mark.parametrize("mode", ["float", "hashing"])
def test_one_stage(mode, made_up, tmp_path):
    dataset, extracted = made_up
    naive = squared_l2(extracted) if mode == "float" else hamming(extracted)
    found = search(searchable(tmp_path, extracted, N_DATABASE), dataset.listing, mode=mode, recall_values=[1, 5, 300])
    assert found.first is None
    assert found.final.tolist() == [order(distances) for distances in naive]
    assert np.abs(found.final_distances - np.sort(naive, axis=1)).max() < 1e-4
    assert found.latency_ms["search"] > 0
    assert found.latency_ms["rerank"] is None
    assert found.bytes_per_image == {"binary": 2, "float": 24}
    assert found.protocol == {"float": "flat L2", "hashing": "Hamming"}[mode]


@pytest.mark.parametrize("rerank_num", [1, 7, 30, 100])
def test_two_stages(rerank_num, made_up, tmp_path):
    """Beyond rerank_num the Hamming order stays; fewer database images than that: all of them, and never -1."""
    dataset, extracted = made_up
    found = search(searchable(tmp_path, extracted, N_DATABASE), dataset.listing, mode="rerank", recall_values=[1, 5],
                   rerank_num=rerank_num)
    l2, bits = squared_l2(extracted), hamming(extracted)
    for q in range(N_QUERIES):
        first = order(bits[q])
        head = sorted(first[:rerank_num], key=lambda i: l2[q][i])
        assert found.first[q].tolist() == first
        assert found.first_distances[q].tolist() == sorted(bits[q])
        assert found.final[q].tolist() == head + first[rerank_num:]
        assert np.abs(found.final_distances[q] - np.sqrt([l2[q][i] for i in head])).max() < 1e-4
    assert found.final_distances.shape == (N_QUERIES, min(rerank_num, N_DATABASE))
    assert found.protocol == f"Hamming top {rerank_num}, then L2"
    assert min(found.latency_ms.values()) > 0


@pytest.mark.parametrize(("shortlist", "rerank_num"), [(0, 5), (5, 5), (12, 3), (100, 7)])
def test_three_stages(shortlist, rerank_num, made_up, tmp_path):
    """Of codes of 16 bits the first 8, the best by all 16, the best of these by L2; equal distances by row."""
    dataset, extracted = made_up
    evaluate = eval_rerank.evaluator(EvaluationOptions(), rerank_num=rerank_num, code_bits=8, shortlist=shortlist)
    found = search_by(evaluate.retrieve, searchable(tmp_path, extracted, N_DATABASE), dataset.listing,
                      protocol=evaluate.protocol, recall_values=[1, 5])
    l2, whole = squared_l2(extracted), hamming(extracted)
    cut = hamming(extracted._replace(codes=extracted.codes[:, :1]))
    assert cut != whole
    for q in range(N_QUERIES):
        first = order(cut[q])
        second = sorted(first[:shortlist], key=lambda i: (whole[q][i], i)) + first[shortlist:]
        assert found.first[q].tolist() == first
        assert found.first_distances[q].tolist() == sorted(cut[q])
        assert found.final[q].tolist() == sorted(second[:rerank_num], key=lambda i: l2[q][i]) + second[rerank_num:]
    assert (found.latency_ms.get("shortlist", 0) > 0) == (shortlist > 0)
    words = f"Hamming of 8 bits top {shortlist}, then Hamming" if shortlist else "Hamming of 8 bits"
    assert found.protocol == f"{words} top {rerank_num}, then L2"
    assert evaluate.first_protocol == "Hamming of 8 bits"


def test_recalls_of_both_stages_over_all_and_over_answerable_queries(made_up, tmp_path):
    dataset, extracted = made_up
    # Queries 0 to 3 look like their place in both ways, 4 to 6 in codes alone.
    codes, floating = extracted.codes.copy(), extracted.floating.copy()
    codes[N_DATABASE:N_DATABASE + 7], floating[N_DATABASE:N_DATABASE + 4] = codes[:7], floating[:4]
    extracted = Rows(codes, floating)
    found = search(searchable(tmp_path, extracted, N_DATABASE), dataset.listing, mode="rerank",
                   recall_values=[1, 2, 5, 20], rerank_num=9)
    assert [len(ids) for ids in dataset.listing.positives] == [1] * 10 + [0] * 2
    for answerable_only in (False, True):
        recalls = found.recalls(answerable_only=answerable_only)
        for stage, ids in (("first_stage", found.first), ("final", found.final)):
            assert recalls[stage] == pytest.approx({
                str(k): naive_recall(ids, dataset.listing.positives, k, answerable_only=answerable_only)
                for k in (1, 2, 5, 20)})
    assert found.recalls()["final"]["1"] < found.recalls(answerable_only=True)["final"]["1"]
    assert found.recalls()["final"] != found.recalls()["first_stage"]
    assert found.final_recalls((1, 5)) == pytest.approx(
        {k: naive_recall(found.final, dataset.listing.positives, k) for k in (1, 5)})
    assert found.score() == pytest.approx(tuple(
        sum(naive_recall(ids, dataset.listing.positives, k) for k in (1, 5)) for ids in (found.final, found.first)))
    one_stage = search(searchable(tmp_path, extracted, N_DATABASE), dataset.listing, mode="float", recall_values=[1])
    assert one_stage.recalls()["first_stage"] is None and one_stage.score()[1] == 0


# --- what is written

def assert_schema_1(written: dict) -> None:
    """Every key of schema 2, with its type."""
    percent = {"1": float, "5": float, "10": float, "20": float, "100": float}
    two_stages = {"first_stage": (percent, None), "final": percent}
    schema = {
        "schema": int, "dataset": str, "split": str, "folder": str, "protocol": str, "n_database": int,
        "n_queries": int, "n_queries_without_positives": int, "threshold_m": float, "recalls": two_stages,
        "recalls_answerable": two_stages, "latency_ms": {"search": float, "rerank": (float, None)},
        "bytes_per_image": {"binary": (int, None), "float": (int, None)}, "bytes_read_per_query": int,
        "extraction": {"precision": str, "store": str, "rounding": ({}, None), "images": int, "waiting_share": float},
        "benchmark": {"protocol": (str, None), "rule": str, "files_sha256": str, "warnings": list}, "parts": {},
        "model": {"backbone": str, "pretrained": (bool, None), "checkpoint": str, "fingerprint": str,
                  "trainings": list},
        "training": ({"trainable_parameters": int, "peak_memory_mib": (float, None), "minutes_per_epoch": float}, None),
        "options": {}, "versions": {"torch": str}, "hardware": {"cpu": str}}

    def check(value, expected, where):
        if isinstance(expected, tuple):
            if value is None:
                assert None in expected, where
                return
            expected = expected[0]
        if isinstance(expected, dict):
            assert isinstance(value, dict), where
            for key, inner in expected.items():
                assert key in value, f"{where}.{key}"
                check(value[key], inner, f"{where}.{key}")
        else:
            assert type(value) is expected, where

    check(written, schema, "results")
    assert written["schema"] == 2
    assert written.keys() == schema.keys()


@pytest.mark.slow
def test_results_of_the_three_scripts(data, float_run, rerank_run, tmp_path):
    before = tree(data)
    runs = {}
    for name, main, file in (("float", eval_float.main, float_run), ("hashing", eval_hashing.main, rerank_run),
                             ("rerank", eval_rerank.main, rerank_run)):
        folder = run_folder(main, *evaluation_options(data), "--resume", file / "best_model.pth", "--save_dir", name,
                            cwd=tmp_path)
        assert folder.parent == tmp_path / "test" / name
        runs[name] = written = results(folder)
        assert_schema_1(written)
        assert (written["dataset"], written["split"]) == ("pitts30k", "test")
        assert (written["n_database"], written["n_queries"], written["n_queries_without_positives"]) == (8, 5, 1)
        assert written["threshold_m"] == 25
        assert written["options"]["resize"] == [56, 56]
        assert written["options"]["resize_antialias"] is True
        assert written["model"]["backbone"] == "dinov2-tiny"
        assert written["model"]["pretrained"] is False
        assert written["model"]["checkpoint"] == str(file / "best_model.pth")
        assert written["model"]["fingerprint"] == fingerprint(load_model(file / "best_model.pth"))
        for stage, recalls in written["recalls"].items():
            for k, value in (recalls or {}).items():  # 4 of 5 queries can be answered
                assert value == pytest.approx(0.8 * written["recalls_answerable"][stage][k])
    assert runs["float"]["recalls"]["first_stage"] is runs["hashing"]["recalls"]["first_stage"] is None
    assert runs["rerank"]["recalls"]["first_stage"] == runs["hashing"]["recalls"]["final"]
    # Fewer than 100 database images: all are re-ranked, as flat L2 would, and the frozen branch is the float model.
    assert runs["rerank"]["recalls"]["final"] == runs["float"]["recalls"]["final"]
    assert runs["float"]["bytes_per_image"] == {"binary": None, "float": 2048}
    assert runs["hashing"]["bytes_per_image"] == {"binary": 64, "float": None}
    assert runs["rerank"]["bytes_per_image"] == {"binary": 64, "float": 2048}
    assert [written["bytes_read_per_query"] for written in runs.values()] == [8 * 2048, 8 * 64, 8 * (64 + 2048)]
    assert tree(data) == before


@pytest.mark.slow
def test_codes_and_floats_that_are_cut(data, rerank_run, tmp_path):
    """One index serves all lengths of codes: with them nothing is extracted again."""
    def run(main, *options):
        return run_folder(main, *evaluation_options(data), "--resume", rerank_run / "best_model.pth", "--index",
                          tmp_path / "index", *options, cwd=tmp_path)

    def said(folder):
        return [warning for warning in results(folder)["benchmark"]["warnings"] if "were not trained" in warning]

    whole = run(eval_rerank.main, "--rerank_num", 3)
    cut, three = (run(eval_rerank.main, "--rerank_num", 3, "--code_bits", 64, *more) for more in (["--report"], [5]))
    alone = run(eval_hashing.main, "--index", tmp_path / "codes", "--code_bits", 64)
    found = {name: results(folder) for name, folder in
             {"whole": whole, "cut": cut, "three": three, "alone": alone}.items()}
    assert [found[name]["extraction"]["reused"] for name in found] == [False, True, True, False]
    assert [found[name]["bytes_read_per_query"] for name in found] == [
        8 * 64 + 3 * 2048, 8 * 8 + 3 * 2048, 8 * 8 + 5 * 64 + 3 * 2048, 8 * 8]
    assert found["three"]["protocol"] == "Hamming of 64 bits top 5, then Hamming top 3, then L2"
    assert found["alone"]["protocol"] == "Hamming of 64 bits"
    index = TwoStageIndex(tmp_path / "index" / "database")
    queries = TwoStageIndex(next((tmp_path / "index").glob("queries-*")))
    distances = np.unpackbits(queries.codes[:, None, :8] ^ index.codes[None, :, :8], axis=2).sum(2)
    for folder, stage in ((cut, "first_stage"), (three, "first_stage"), (alone, "final")):
        arrays = np.load(folder / "predictions.npz")
        assert np.array_equal(arrays[f"{stage}_ids"], np.argsort(distances, axis=1, kind="stable"))
    warning = "codes were not trained to be cut at 64 bits"
    assert (said(whole), said(cut), said(alone)) == ([], [warning], [warning])
    assert warning in (cut / "report.html").read_text() and warning in (cut / "info.log").read_text()
    assert "Hamming of 64 bits" in (cut / "report.html").read_text()

    shorter = results(short := run(eval_float.main, "--index", tmp_path / "floats", "--float_dim", 96))
    assert shorter["bytes_per_image"] == {"binary": None, "float": 4 * 96}
    assert shorter["bytes_read_per_query"] == 8 * 4 * 96
    assert shorter["model"]["config"]["float_dim"] == 96
    assert said(short) == ["float descriptors were not trained to be cut at 96 dimensions"]
    rows, exact = (TwoStageIndex(tmp_path / folder / "database").floats.values for folder in ("floats", "index"))
    assert np.abs(rows - exact[:, :96] / np.linalg.norm(exact[:, :96], axis=1, keepdims=True)).max() < 1e-5
    again = results(run(eval_rerank.main, "--index", tmp_path / "both", "--float_dim", 96))
    assert again["bytes_per_image"] == {"binary": 64, "float": 4 * 96}


def test_lengths_that_a_model_does_not_have(data, rerank_run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = rerank_run / "best_model.pth"
    for main, options, message in (
            (eval_rerank.main, ("--code_bits", 60), "--code_bits 60: expected a multiple of 8, at most the 512 bits"),
            (eval_hashing.main, ("--code_bits", 520), "--code_bits 520: expected a multiple of 8, at most the 512"),
            (eval_float.main, ("--float_dim", 513), f"float_dim 513: expected 1 to the 512 dimensions of {file}")):
        assert message in error_of(main, *evaluation_options(data), "--resume", file, *options, capsys=capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_training_ends_with_the_evaluation_of_its_best_weights(data, float_run, rerank_run, tmp_path):
    for main, run in ((eval_float.main, float_run), (eval_rerank.main, rerank_run)):
        assert_schema_1(results(run))
        alone = results(run_folder(main, *evaluation_options(data), "--resume", run / "best_model.pth", cwd=tmp_path))
        for key in ("recalls", "recalls_answerable", "n_database", "n_queries", "bytes_per_image", "protocol"):
            assert alone[key] == results(run)[key], key
        assert alone["model"]["fingerprint"] == results(run)["model"]["fingerprint"]
        val = run_folder(main, *evaluation_options(data), "--resume", run / "last_model.pth", "--dataset_name", "msls",
                         "--split", "val", cwd=tmp_path)
        assert results(val)["recalls"] == metrics(run)[-1]["recalls"]["msls"]


def test_predictions(data, rerank_run, model, tmp_path):
    folder = run_folder(eval_rerank.main, *evaluation_options(data), "--resume", rerank_run / "best_model.pth",
                        "--rerank_num", "3", cwd=tmp_path)
    dataset = benchmark(data)
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        found = dict(file)
    assert sorted(found) == sorted(
        ["database_names", "query_names", "database_utm", "query_utm", "query_positives",
         "codes_positives", "codes_negatives", "codes_ones", "codes_correlations",
         *(f"{stage}_{what}" for stage in ("first_stage", "final") for what in ("ids", "distances", "correct"))])
    for side, paths in (("database", dataset.listing.database_paths), ("query", dataset.listing.query_paths)):
        assert [str(dataset.listing.folder / name) for name in found[f"{side}_names"]] == [str(path) for path in paths]
    with one_thread():
        extracted = extract_rows(model, dataset, tmp_path / "again", branches=("float", "binary"), batch_size=16)
    bits = np.unpackbits(extracted.codes, axis=1).astype(int)
    for q in range(5):
        distances = np.abs(bits[:8] - bits[8 + q]).sum(axis=1)
        first = order(list(distances))
        l2 = np.linalg.norm(extracted.floating[:8] - extracted.floating[8 + q], axis=1)
        head = sorted(first[:3], key=lambda i: l2[i])
        assert found["first_stage_ids"][q].tolist() == first
        assert found["first_stage_distances"][q].tolist() == sorted(distances)
        assert found["final_ids"][q].tolist() == head + first[3:]
        assert np.abs(found["final_distances"][q] - l2[head]).max() < 1e-5
        for stage in ("first_stage", "final"):
            assert found[f"{stage}_correct"][q].tolist() == [
                bool(np.linalg.norm(dataset.listing.database_utm[i] - dataset.listing.query_utm[q]) <= 25)
                for i in found[f"{stage}_ids"][q]]
        near = np.linalg.norm(found["database_utm"] - found["query_utm"][q], axis=1) <= 25
        assert found["query_positives"][q] == near.sum()
    away = np.abs(bits[:8, None] - bits[None, 8:]).sum(axis=2)
    right = np.linalg.norm(found["database_utm"][:, None] - found["query_utm"], axis=2) <= 25
    assert found["codes_positives"].tolist() == np.bincount(away[right], minlength=513).tolist()
    assert found["codes_negatives"].tolist() == np.bincount(away[~right], minlength=513).tolist()
    assert results(folder)["folder"] == str(dataset.listing.folder)
    assert found["final_correct"].any()
    assert not found["final_correct"][4].any()  # the query without a positive
    recall = 100 * found["final_correct"][:, :1].any(axis=1).mean()
    assert results(folder)["recalls"]["final"]["1"] == pytest.approx(recall)


def test_at_most_100_predictions_are_kept(tmp_path):
    write_benchmark(tmp_path / "sets", "set", "test", database=130, queries=2, first_place=0)
    dataset = benchmark(tmp_path / "sets", "set")
    rng = np.random.default_rng(0)
    extracted = Rows(rng.integers(0, 256, (132, 64), dtype=np.uint8), rng.standard_normal((132, 4)).astype(np.float32))
    found = search(searchable(tmp_path, extracted, 130), dataset.listing, mode="rerank", recall_values=[1, 120],
                   rerank_num=110)
    assert found.final.shape == (2, 120)
    tiny = build_model(ModelConfig(backbone="dinov2-tiny"))
    run = Run(RunOptions(root=tmp_path / "runs", name="a", options={}), model=tiny.config)
    write_evaluation(run, found, tiny, Checkpoint(tiny.config, {}))
    with np.load(run.folder / "predictions.npz") as file:
        shapes = {name: file[name].shape for name in file}
    assert shapes["first_stage_ids"] == shapes["final_ids"] == shapes["final_distances"] == (2, 100)
    assert shapes["final_correct"] == shapes["first_stage_distances"] == (2, 100)
    assert list(results(run.folder)["recalls"]["final"]) == ["1", "120"]


def test_results_on_a_toy_city_say_so(data, float_run, tmp_path):
    shutil.copytree(data / "pitts30k", tmp_path / "sets" / "pitts30k")
    (tmp_path / "sets" / "TOY_CITY.json").write_text(json.dumps({"seed": 0}))
    folder = run_folder(eval_float.main, *evaluation_options(tmp_path / "sets"), "--resume",
                        float_run / "best_model.pth", cwd=tmp_path)
    assert results(folder)["dataset"] == "toy_city/pitts30k"
    assert "toy_city/pitts30k test (within 25 m), flat L2: R@1:" in (folder / "info.log").read_text()


def test_both_stages_are_printed(data, rerank_run, tmp_path):
    folder = run_folder(eval_rerank.main, *evaluation_options(data), "--resume", rerank_run / "best_model.pth",
                        "--rerank_num", "4", "--recall_values", "5", "1", cwd=tmp_path)
    written, log = results(folder)["recalls"], (folder / "info.log").read_text()
    for words, stage in (("Hamming", "first_stage"), ("Hamming top 4, then L2", "final")):
        one, five = written[stage]["1"], written[stage]["5"]
        assert f"pitts30k (within 25 m), {words}: R@1: {one:.1f}, R@5: {five:.1f}\n" in log
    assert "8 database images, 5 queries, 1 of them without a right answer (within 25 m)" in log


def test_a_wider_threshold(data, float_run, tmp_path):
    options = [*evaluation_options(data), "--resume", float_run / "best_model.pth"]
    near = results(run_folder(eval_float.main, *options, "--val_positive_dist_threshold", "5", cwd=tmp_path))
    assert (near["n_queries_without_positives"], near["threshold_m"]) == (5, 5)
    assert near["recalls"]["final"]["1"] == 0
    assert near["recalls_answerable"]["final"] is None


def test_sizes_that_are_no_multiples_of_14_are_moved_and_said(data, float_run, tmp_path):
    options = [*evaluation_options(data), "--resume", float_run / "best_model.pth"]
    folder = run_folder(eval_float.main, *options, "--resize", "60", "40", cwd=tmp_path)
    assert (folder / "info.log").read_text().count("using the nearest: 56 42") == 1


# --- files of other origin

@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_file_scores_as_ours(prefix, data, rerank_run, tmp_path):
    ours = rerank_run / "best_model.pth"
    torch.save({prefix + name: value for name, value in published_state_dict(load_model(ours)).items()},
               tmp_path / "published.pth")
    one, two = (results(run_folder(eval_rerank.main, *evaluation_options(data), "--resume", file, cwd=tmp_path))
                for file in (ours, tmp_path / "published.pth"))
    assert two["recalls"] == one["recalls"]
    assert two["model"]["fingerprint"] == one["model"]["fingerprint"]
    assert (two["model"]["pretrained"], one["model"]["pretrained"]) == (None, False)


@pytest.mark.slow
def test_without_resume_the_published_file_is_fetched_and_named(data, rerank_run, tmp_path, monkeypatch):
    server = tmp_path / "server" / "SelaVPRplusplus_tiny_rerank.pth"
    server.parent.mkdir()
    ours = load_model(rerank_run / "best_model.pth")
    torch.save({"model_state_dict": {f"module.{name}": value for name, value in published_state_dict(ours).items()}},
               server)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("model.released.RELEASED_MODELS", {
        ("dinov2-tiny", "gem", ("float", "binary")): server.as_uri()})
    cached = tmp_path / "cache" / "hub" / "checkpoints" / server.name
    for main in (eval_rerank.main, eval_hashing.main):
        folder = run_folder(main, *evaluation_options(data), "--backbone", "dinov2-tiny", cwd=tmp_path)
        written = results(folder)["model"]
        assert written["fingerprint"] == fingerprint(ours)
        assert written["pretrained"] is True
        assert written["checkpoint"] == str(cached)
        assert f"published weights of dinov2-tiny, {cached}" in (folder / "info.log").read_text()
        server.unlink(missing_ok=True)  # the second time it comes from the cache
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="changed since it was fetched"):
        run_folder(eval_rerank.main, *evaluation_options(data), "--backbone", "dinov2-tiny", cwd=tmp_path)


def test_an_evaluator_extracts_and_searches(data, model, tmp_path):
    dataset = benchmark(data)
    evaluate = evaluator_of("rerank", 2, recall_values=(1, 5), batch_size=8)
    with one_thread():
        found = evaluate(model, dataset)
        rows = extract_rows(model, dataset, tmp_path, branches=("float", "binary"), batch_size=8)
    expected = search(searchable(tmp_path, rows, 8), dataset.listing, mode="rerank", recall_values=(1, 5), rerank_num=2)
    assert found.listing is dataset.listing
    assert found.recalls() == expected.recalls()
    for field in ("first", "first_distances", "final", "final_distances"):
        assert np.array_equal(getattr(found, field), getattr(expected, field))
