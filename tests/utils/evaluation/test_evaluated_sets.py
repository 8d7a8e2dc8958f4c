"""What can be evaluated, by the scripts: protocols, lists, images of one's own; what they say and write of it."""

import csv
import json
import shutil

import msls_tree
import numpy as np
import pytest
from scripts import error_of, evaluation_options, results, run_folder

import eval as eval_float
import eval_hashing
import eval_rerank
from datasets import PROTOCOLS, read_folder
from datasets.msls.predictions import check_predictions
from model import read_checkpoint
from utils.data import EvaluationImages, validation_and_test_sets

SIZE = ("--resize", "56", "56", "--device", "cpu", "--num_workers", "0")


def own(data, *more):
    images = data / "pitts30k" / "images" / "test"
    return ["--database_folder", str(images / "database"), "--queries_folder", str(images / "queries"), *SIZE, *more]


def log_of(folder):
    return (folder / "info.log").read_text()


@pytest.fixture(scope="module")
def as_folder(data, rerank_run, tmp_path_factory):
    """The re-ranked evaluation of the small set as a folder in the benchmark layout."""
    return run_folder(eval_rerank.main, *evaluation_options(data), "--resume", rerank_run / "best_model.pth",
                      cwd=tmp_path_factory.mktemp("folder"))


# --- protocols

def test_a_protocol_is_named_with_its_counts_rule_and_files(as_folder, data):
    listing = read_folder(data, "pitts30k", split="test")
    found = results(as_folder)
    assert found["dataset"] == "pitts30k"
    assert found["benchmark"]["protocol"] == "pitts30k"
    assert found["benchmark"]["rule"] == "within 25 m"
    assert found["benchmark"]["files_sha256"] == listing.fingerprint()
    assert found["benchmark"]["warnings"] == [
        "expected 10,000 database images (paper, Table I), found 8: not comparable with published figures",
        "expected 6,816 queries (paper, Table I), found 5: not comparable with published figures"]
    for warning in found["benchmark"]["warnings"]:
        assert f"pitts30k: {warning}" in log_of(as_folder)
    assert (f"pitts30k: 8 database images, 5 queries, 1 of them without a right answer (within 25 m); "
            f"file list {listing.fingerprint()[:16]}") in log_of(as_folder)


def test_another_threshold_or_split_is_no_protocol(data, float_run, tmp_path):
    options = [*evaluation_options(data), "--resume", float_run / "best_model.pth"]
    for more, rule in ((["--split", "val"], "within 25 m"), (["--val_positive_dist_threshold", "5"], "within 5 m")):
        found = results(run_folder(eval_float.main, *options, *more, cwd=tmp_path))
        assert (found["benchmark"]["protocol"], found["benchmark"]["rule"]) == (None, rule)


def test_the_trainings_that_gave_the_weights_are_told(as_folder, rerank_run, float_run):
    trainings = read_checkpoint(rerank_run / "best_model.pth").trainings
    assert [(told["script"], told["selected_by"], [*told["validation"]]) for told in trainings] == [
        (script, "msls val", ["msls val"]) for script in ("train.py", "train_rerank.py")]
    alone = read_checkpoint(float_run / "best_model.pth").trainings
    for folder, expected in ((rerank_run, trainings), (float_run, alone), (as_folder, trainings)):
        assert results(folder)["model"]["trainings"] == expected
    places = alone[0]["data"]
    assert len(places["absent_cities"]) == 21  # of the 23 of GSV-Cities
    assert {name: places[name] for name in ("set", "places", "images", "cities")} == {
        "set": "gsv_cities", "places": 7, "images": 28, "cities": 2}


def test_an_unknown_name_tells_the_protocols(data, float_run, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = error_of(eval_float.main, *evaluation_options(data), "--resume", float_run / "best_model.pth",
                       "--dataset_name", "atlantis", capsys=capsys)
    assert all(name in message for name in PROTOCOLS)
    assert "folders there: msls, pitts30k" in message


# --- MSLS

@pytest.fixture(scope="module")
def msls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mapillary")
    msls_tree.write_raw(folder / "msls")
    msls_tree.write_test(folder / "msls")
    return folder


@pytest.mark.slow
def test_both_versions_of_msls_val_from_one_extraction(msls, rerank_run, tmp_path):
    options = [*SIZE, "--datasets_folder", msls, "--resume", rerank_run / "best_model.pth", "--recall_values", 1, 5]
    whole = run_folder(eval_rerank.main, *options, "--dataset_name", "msls_val_11k", cwd=tmp_path)
    alone = results(run_folder(eval_rerank.main, *options, "--dataset_name", "msls_val_740", cwd=tmp_path))
    part = results(whole)["parts"]["msls_val_740"]
    assert part["recalls"] == alone["recalls"]
    assert (part["n_database"], part["n_queries"]) == (alone["n_database"], alone["n_queries"])
    assert part["n_queries"] < results(whole)["n_queries"]
    assert alone["parts"].items() <= results(whole)["parts"].items()
    assert [*alone["parts"]] == ["msls_val_740_40deg"]
    strict = results(run_folder(eval_rerank.main, *options, "--dataset_name", "msls_val_740_40deg", cwd=tmp_path))
    assert alone["parts"]["msls_val_740_40deg"]["recalls"] == strict["recalls"] and strict["parts"] == {}
    lines = [line for line in log_of(whole).splitlines() if "L2: R@1" in line]
    assert [line.split()[2] for line in lines] == ["msls_val_11k", "msls_val_740", "msls_val_740_40deg"]
    assert log_of(whole).count("extracted ") == 1


def test_the_best_epoch_is_chosen_on_the_740_wherever_they_can_be_had(msls, data, tmp_path):
    def chosen(folder):
        (dataset,), _ = validation_and_test_sets(["msls"], "msls_val_11k", EvaluationImages(datasets_folder=folder))
        return dataset.listing

    assert chosen(msls).label == "msls_val_740"  # a raw tree, where there is no folder "msls/images"
    msls_tree.write_renamed(tmp_path)
    (tmp_path / "msls" / "val_740_keys.txt").write_text("q350\ns100\n")
    assert (chosen(tmp_path).label, chosen(tmp_path).n_queries) == ("msls_val_740", 2)
    (tmp_path / "msls" / "val_740_keys.txt").unlink()
    listing = chosen(tmp_path)
    assert listing.label == "msls val" and listing.n_queries > 2
    assert any(warning.startswith("not msls_val_740, by which the paper chooses: ") and "val_740_keys.txt" in warning
               for warning in listing.warnings)


@pytest.mark.slow
def test_msls_test_without_ground_truth_gives_predictions(msls, rerank_run, tmp_path, monkeypatch):
    shutil.copytree(msls, tmp_path / "sets")
    for table in (tmp_path / "sets").glob("msls/test/*/*/postprocessed.csv"):
        table.unlink()
    monkeypatch.setattr("utils.evaluation.results.OFFICIAL_DEPTH", 3)  # the miniature's database is smaller than 20
    monkeypatch.setattr("datasets.msls.predictions.LEAST", 3)
    folder = run_folder(eval_rerank.main, *SIZE, "--datasets_folder", tmp_path / "sets", "--dataset_name", "msls_test",
                        "--resume", rerank_run / "best_model.pth", cwd=tmp_path)
    found = results(folder)
    assert found["recalls"] == {"first_stage": None, "final": None}
    assert found["n_queries_without_positives"] is None
    with np.load(folder / "predictions.npz") as file:
        queries = [name.rsplit("/", 1)[-1].removesuffix(".jpg") for name in file["query_names"]]
        database = [name.rsplit("/", 1)[-1].removesuffix(".jpg") for name in file["database_names"]]
        assert "final_correct" not in file
    checked = check_predictions(folder / "msls_predictions.zip", queries, database)
    assert (checked.queries, checked.per_query) == (len(queries), 3)
    assert "predictions in the official format, checked: " in log_of(folder)
    monkeypatch.setattr("utils.evaluation.results.OFFICIAL_DEPTH", 100)
    folder = run_folder(eval_rerank.main, *SIZE, "--datasets_folder", tmp_path / "sets", "--dataset_name", "msls_test",
                        "--resume", rerank_run / "best_model.pth", cwd=tmp_path)
    assert "and its format asks for 100; the database is too small" in log_of(folder)
    assert not (folder / "msls_predictions.zip").exists()


# --- published lists

def test_lists_give_the_recalls_of_the_folder(as_folder, data, rerank_run, tmp_path):
    listing = read_folder(data, "pitts30k", split="test")
    lists = tmp_path / "lists"
    lists.mkdir()
    prefix = "images/test/"
    np.save(lists / "p_dbImages.npy", np.array([prefix + name for name in listing.names("database")]))
    np.save(lists / "p_qImages.npy", np.array([prefix + name for name in listing.names("query")]))
    truth = np.empty(listing.n_queries, object)
    for query, ids in enumerate(listing.positives):
        truth[query] = ids
    np.save(lists / "p_gt.npy", truth, allow_pickle=True)
    found = results(run_folder(eval_rerank.main, *evaluation_options(data), "--file_lists", lists, "--resume",
                               rerank_run / "best_model.pth", cwd=tmp_path))
    assert found["recalls"] == results(as_folder)["recalls"]
    assert found["benchmark"]["rule"] == "listed"


# --- images of one's own

def test_two_folders_give_the_recalls_of_the_set(as_folder, data, rerank_run, tmp_path):
    folder = run_folder(eval_rerank.main, *own(data), "--resume", rerank_run / "best_model.pth", cwd=tmp_path)
    assert results(folder)["recalls"] == results(as_folder)["recalls"]
    with (folder / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 8  # ten answers are asked for, the database has eight images
    right_first = sum(row["answer"] == "right" for row in rows if row["rank"] == "1")
    assert 100 * right_first / 5 == pytest.approx(results(folder)["recalls"]["final"]["1"])
    tree = json.loads((folder / "answers.json").read_text())
    assert tree["distance"] == "L2"
    assert [query["query"] for query in tree["queries"]] == list(dict.fromkeys(row["query"] for row in rows))


@pytest.mark.parametrize(("main", "distance"), [
    (eval_float.main, "squared L2"), (eval_hashing.main, "Hamming distance in bits"), (eval_rerank.main, "L2")])
def test_without_labels_there_are_answers_and_no_recall(main, distance, data, rerank_run, tmp_path):
    folder = run_folder(main, *own(data, "--no_labels", "--answers", "3"), "--resume", rerank_run / "best_model.pth",
                        cwd=tmp_path)
    found = results(folder)
    assert set(found["recalls"].values()) == {None}
    assert found["recalls_answerable"] == found["recalls"]
    assert "R@1" not in log_of(folder)
    tree = json.loads((folder / "answers.json").read_text())
    assert tree["distance"] == distance
    assert [len(query["answers"]) for query in tree["queries"]] == [3] * 5
    assert {answer["right"] for query in tree["queries"] for answer in query["answers"]} == {None}


@pytest.mark.parametrize(("options", "said"), [
    (["--database_folder", "a"], "--database_folder and --queries_folder belong together"),
    (["--datasets_folder", "a", "--no_labels"], "--coordinates and --no_labels are of --database_folder"),
    (["--datasets_folder", "a", "--coordinates", "b.csv"], "--coordinates and --no_labels are of --database_folder"),
    (["--database_folder", "a", "--queries_folder", "b", "--file_lists", "c"], "--file_lists beside --database_folder"),
    (["--database_folder", "nowhere", "--queries_folder", "nowhere"], "nowhere"),
    ([], "--datasets_folder is missing"),
])
def test_wrong_calls(options, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATASETS_FOLDER", raising=False)
    assert said in error_of(eval_float.main, *options, "--device", "cpu", capsys=capsys)
