"""Comparing two runs: against whole numbers, loops over queries, and results.json; whatever does not fit is refused."""

import dataclasses
import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from descriptors import Rows, search, searchable
from epochs import epoch, write_metrics
from images import write_benchmark
from scripts import error_of, results

from datasets import BenchmarkDataset, evaluation_transform, read_folder
from model import Checkpoint, ModelConfig, build_model
from utils import compare
from utils.compare import bootstrap_interval, compare_predictions, difference_over_seeds, mcnemar
from utils.evaluation.results import write_evaluation
from utils.run import Run, RunOptions

ON_MSLS = {"dataset": "msls", "split": "val", "threshold_m": 25.0}


def write_run(folder: Path, correct: np.ndarray, *, said: dict | None = ON_MSLS, file: str = "predictions.npz",
              **arrays) -> Path:
    """A run folder with made-up predictions of one stage; `said` is what results.json says of the set."""
    folder.mkdir(exist_ok=True)
    content = {"query_names": [f"queries/{i}.jpg" for i in range(len(correct))],
               "database_names": ["database/a.jpg", "database/b.jpg"], "final_correct": correct, **arrays}
    np.savez_compressed(folder / file, **{name: value for name, value in content.items() if value is not None})
    if said is not None:
        (folder / "results.json").write_text(json.dumps(said))
    return folder


def first_right(*ranks: int | None, depth: int = 12) -> np.ndarray:
    """(m, depth) bool: a query's only right image stands at that rank, from 1; None: nowhere."""
    correct = np.zeros((len(ranks), depth), bool)
    for row, rank in zip(correct, ranks, strict=True):
        if rank:
            row[rank - 1] = True
    return correct


def discordant(n: int, only_a: int, only_b: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    """Right at rank 1 or not at all."""
    a = np.zeros((n, 1), bool)
    b = a.copy()
    a[:both + only_a], b[:both], b[both + only_a:both + only_a + only_b] = True, True, True
    return a, b


# --- the statistics

@pytest.mark.parametrize("n", [*range(1, 21), 100, 741, 3000])
def test_mcnemar_is_the_two_sided_binomial_test(n):
    for only_a in {*range(min(n, 20) + 1), n // 3, round(0.49 * n), n // 2, n}:
        tail = sum(math.comb(n, i) for i in range(min(only_a, n - only_a) + 1))  # in whole numbers
        expected = min(1.0, 2 * tail / 2**n)
        assert mcnemar(only_a, n - only_a) == pytest.approx(expected, rel=1e-9, abs=1e-300)
        assert mcnemar(n - only_a, only_a) == mcnemar(only_a, n - only_a)


def test_mcnemar_without_discordant_queries_and_with_very_many():
    assert mcnemar(0, 0) == mcnemar(1, 0) == mcnemar(7, 7) == mcnemar(3, 4) == 1
    assert mcnemar(0, 6) == 2 / 64
    assert mcnemar(0, 5000) == 0  # 2 ** -4999 is no float
    # Without a skew worth naming, the normal approximation with Yates' correction is close.
    assert mcnemar(9900, 10100) == pytest.approx(math.erfc(199 / math.sqrt(20000) / math.sqrt(2)), rel=1e-3)


def quantile(values: list[float], share: float) -> float:
    """Between the two order statistics around it, linearly."""
    place = share * (len(values) - 1)
    low = math.floor(place)
    ordered = sorted(values)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(values) - 1)] - ordered[low])


@pytest.mark.parametrize("only_a, only_b, n", [(3, 9, 40), (0, 1, 7), (20, 20, 40), (5, 0, 5)])
def test_bootstrap_matches_a_loop_with_the_same_resamples(only_a, only_b, n):
    """Each resample as a list of queries, drawn one after the other from the same source."""
    rng = np.random.default_rng(11)
    differences = []
    for _ in range(500):
        drawn_a, drawn_b, drawn_rest = rng.multinomial(n, [only_a / n, only_b / n, (n - only_a - only_b) / n])
        queries = [-1] * drawn_a + [1] * drawn_b + [0] * drawn_rest
        assert len(queries) == n
        differences.append(100 * sum(queries) / len(queries))
    expected = quantile(differences, 0.025), quantile(differences, 0.975)
    assert bootstrap_interval(only_a, only_b, n, seed=11, resamples=500) == pytest.approx(expected)


def test_bootstrap_is_that_of_drawing_queries():
    """The plain way: indices of queries, drawn with replacement for both runs at once."""
    n, rng = 400, np.random.default_rng(0)
    a, b = discordant(n, 30, 12, both=300)
    order = rng.permutation(n)
    a, b = a[order, 0], b[order, 0]
    differences = []
    for _ in range(20_000):
        drawn = rng.integers(0, n, n)
        differences.append(100 * (b[drawn].mean() - a[drawn].mean()))
    expected = np.quantile(differences, [0.025, 0.975])
    # Differences come in steps of 0.25 points; two sets of resamples agree to about one of them.
    assert bootstrap_interval(30, 12, n, seed=1, resamples=20_000) == pytest.approx(expected, abs=0.26)


@pytest.mark.parametrize("only_a, only_b, n", [(300, 500, 5000), (40, 60, 740), (1000, 1000, 20000)])
def test_bootstrap_is_close_to_the_normal_approximation(only_a, only_b, n):
    mean = (only_b - only_a) / n
    deviation = math.sqrt(((only_a + only_b) / n - mean**2) / n)
    expected = [100 * (mean + z * deviation) for z in (-1.959964, 1.959964)]
    found = bootstrap_interval(only_a, only_b, n, seed=0, resamples=40_000)
    assert found == pytest.approx(expected, abs=100 * (0.06 * deviation + 1 / n))


def test_the_seed_decides_and_the_other_recalls_do_not(tmp_path):
    rng = np.random.default_rng(0)
    a, b = (write_run(tmp_path / name, rng.random((200, 12)) < 0.1) for name in "ab")
    whole, alone = (compare_predictions(a, b, recall_values=ks, seed=3) for ks in ((1, 5, 10), (5,)))
    assert whole.recalls[1] == alone.recalls[0]
    assert whole == compare_predictions(a, b, recall_values=(1, 5, 10), seed=3)
    assert whole.recalls[0].interval[0] < whole.recalls[0].difference < whole.recalls[0].interval[1]
    intervals = {compare_predictions(a, b, seed=seed, recall_values=(5,)).recalls[0].interval for seed in range(8)}
    assert len(intervals) > 1
    fine, coarse = (compare_predictions(a, b, resamples=n, recall_values=(5,)).recalls[0] for n in (10_000, 20))
    assert fine.interval != coarse.interval and fine == compare_predictions(a, b).recalls[1]


# --- over seeds

def test_difference_over_seeds_against_drawing_every_seed_and_query(tmp_path):
    generator, n = np.random.default_rng(3), 40
    a, b = (generator.random((3, n, 2)) < share for share in (0.4, 0.5))
    shuffled = [generator.permutation(n) for _ in range(3)]
    runs_a = [write_run(tmp_path / f"a{seed}", a[seed]) for seed in range(3)]
    runs_b = [write_run(tmp_path / f"b{seed}", b[seed][order], query_names=[f"queries/{i}.jpg" for i in order])
              for seed, order in enumerate(shuffled)]
    found_a, found_b = a.any(axis=2), b.any(axis=2)
    difference, (low, high) = difference_over_seeds(runs_a, runs_b, k=2)
    assert difference == pytest.approx(100 * (found_b.mean() - found_a.mean()))
    draws = []
    for _ in range(4000):
        seeds, queries = generator.integers(0, 3, 3), generator.integers(0, n, n)
        draws.append(np.mean([[100.0 * (int(found_b[seed, query]) - int(found_a[seed, query])) for query in queries]
                              for seed in seeds]))
    assert low == pytest.approx(quantile(draws, 0.025), abs=1.5)
    assert high == pytest.approx(quantile(draws, 0.975), abs=1.5)
    assert difference_over_seeds(runs_a, runs_b, k=2) == (difference, (low, high))
    of_queries_alone = difference_over_seeds(runs_a[:1], runs_b[:1], k=1)
    expected = compare_predictions(runs_a[0], runs_b[0], recall_values=[1]).recalls[0]
    assert of_queries_alone[0] == pytest.approx(expected.difference)
    assert of_queries_alone[1] == pytest.approx(expected.interval, abs=2.6)  # a query is worth 2.5 points


def test_differences_that_cannot_be_taken_over_seeds(tmp_path):
    one, two = (write_run(tmp_path / name, first_right(1, 2, None)) for name in ("one", "two"))
    for a, b, k, message in (([one], [], 1, "1 and 0 runs; expected as many of each"),
                             ([], [], 1, "0 and 0 runs; expected as many of each"),
                             ([one], [two], 13, "predictions are kept to rank 12; expected 13")):
        with pytest.raises(ValueError, match=message):
            difference_over_seeds(a, b, k=k)
    other = write_run(tmp_path / "other", first_right(1, 2))
    with pytest.raises(ValueError, match="expected two runs on one data set"):
        difference_over_seeds([one], [other], k=1)
    with pytest.raises(ValueError, match="runs of 3, 2 queries; expected one data set"):
        difference_over_seeds([one, other], [two, other], k=1)


# --- what is counted

def test_counts_by_hand(tmp_path):
    a = write_run(tmp_path / "a", first_right(1, 1, 2, 5, 6, None, 11, None))
    b = write_run(tmp_path / "b", first_right(1, 3, 1, 1, 5, 9, None, None))
    found = compare_predictions(a, b, recall_values=(1, 5, 10, 12))
    assert (found.run_a, found.run_b) == (str(a / "predictions.npz"), str(b / "predictions.npz"))
    assert (found.dataset, found.stage, found.n_queries, found.points_per_query) == ("msls val", "final", 8, 12.5)
    assert [(row.k, row.recall_a, row.recall_b, row.difference, row.only_a, row.only_b) for row in found.recalls] == [
        (1, 25.0, 37.5, 12.5, 1, 2), (5, 50.0, 62.5, 12.5, 0, 1), (10, 62.5, 75.0, 12.5, 0, 1),
        (12, 75.0, 75.0, 0.0, 1, 1)]
    assert [row.p for row in found.recalls] == [1, 1, 1, 1]
    assert found.notes == []


def test_ranks_that_one_run_did_not_keep_are_left_out_and_named(tmp_path):
    short = write_run(tmp_path / "short", first_right(1, 4, 5, depth=5))
    long = write_run(tmp_path / "long", first_right(1, 2, 9))
    for runs in ((short, long), (long, short)):
        found = compare_predictions(*runs)
        assert [row.k for row in found.recalls] == [1, 5]
        assert found.notes == [f"R@{k} is left out: of each query, predictions are kept to rank 5." for k in (10, 100)]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Two runs as the scripts write them, two-stage and of one stage, over 130 images and 30 + 3 queries."""
    folder = tmp_path_factory.mktemp("searched")
    write_benchmark(folder / "sets", "set", "test", database=130, queries=30, unanswerable=3, first_place=0)
    dataset = BenchmarkDataset(read_folder(folder / "sets", "set", split="test"),
                               transform=evaluation_transform((56, 56)))
    model = build_model(ModelConfig(backbone="dinov2-tiny"))
    folders = []
    for seed, mode in enumerate(("rerank", "rerank", "hashing")):
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, 256, (163, 8), dtype=np.uint8)
        floating = rng.standard_normal((163, 6)).astype(np.float32)
        floating[130:160] = floating[:30] + 0.8 * rng.standard_normal((30, 6))
        codes[130:160] = codes[:30] ^ np.where(rng.random((30, 8)) < 0.7, codes[130:160], 0).astype(np.uint8)
        found = search(searchable(folder, Rows(codes, floating), 130), dataset.listing, mode=mode,
                       recall_values=(1, 5, 10, 100), rerank_num=20)
        run = Run(RunOptions(root=folder / "runs", name=str(seed), options={}), model=model.config)
        write_evaluation(run, found, model, Checkpoint(model.config, {}))
        folders.append(run.folder)
    return folders


@pytest.mark.parametrize("stage", ["first_stage", "final"])
def test_recalls_are_those_of_results_json(stage, searched):
    found = compare_predictions(*searched[:2], stage=stage)
    assert (found.dataset, found.n_queries, found.notes) == ("set test", 33, [])
    for side, folder in zip("ab", searched[:2], strict=True):
        recalls = {str(row.k): getattr(row, f"recall_{side}") for row in found.recalls}
        assert recalls == pytest.approx(results(folder)["recalls"][stage])
    for row in found.recalls:
        assert row.difference == pytest.approx(row.recall_b - row.recall_a)
    assert len({row.recall_a for row in found.recalls}) > 2
    assert compare_predictions(searched[0], searched[1], stage="first_stage").recalls != compare_predictions(
        searched[0], searched[1]).recalls


@pytest.mark.parametrize("stage", ["first_stage", "final"])
def test_identical_runs(stage, searched):
    for row in compare_predictions(searched[0], searched[0] / "predictions.npz", stage=stage).recalls:
        assert (row.difference, row.interval, row.only_a, row.only_b, row.p, row.verdict) == (
            0, (0, 0), 0, 0, 1, "noise")


def test_the_order_of_images_does_not_matter(searched, tmp_path):
    with np.load(searched[1] / "predictions.npz") as file:
        arrays = dict(file)
    queries, database = (np.random.default_rng(0).permutation(n) for n in (33, 130))
    shuffled = {name: array if name == "database_names" else array[queries] for name, array in arrays.items()}
    shuffled["database_names"] = arrays["database_names"][database]
    for stage in ("final", "first_stage"):
        shuffled[f"{stage}_ids"] = np.argsort(database)[shuffled[f"{stage}_ids"]]
    np.savez(tmp_path / "shuffled.npz", **shuffled)
    straight, other = (compare_predictions(searched[0], run) for run in (searched[1], tmp_path / "shuffled.npz"))
    assert straight.recalls == other.recalls
    assert any(row.only_a and row.only_b for row in straight.recalls)


# --- what is said

def test_noise_and_difference_on_740_queries(tmp_path, capsys):
    a, b = discordant(740, 10, 24, both=650)
    compare.main([str(write_run(tmp_path / "a", a)), str(write_run(tmp_path / "b", b))])
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == [f"A  {tmp_path}/a/predictions.npz", f"B  {tmp_path}/b/predictions.npz"]
    assert shown[2] == "msls val, final: 740 queries; one of them is worth 0.135 points"
    low, high = bootstrap_interval(10, 24, 740, seed=0, resamples=10_000)
    assert [cell.strip() for cell in shown[6].strip("|").split("|")] == [
        "1", "89.2", "91.1", "+1.89", f"{low:+.2f} .. {high:+.2f}", "10", "24", "0.0243"]
    assert {len(line) for line in shown[4:7]} == {len(shown[4])}
    assert shown[8:] == ["R@1: differs (p = 0.0243): B is better by 1.89 points.",
                         *(f"R@{k} is left out: of each query, predictions are kept to rank 1." for k in (5, 10, 100))]
    compare.main([str(tmp_path / "b"), str(tmp_path / "a")])
    assert "R@1: differs (p = 0.0243): A is better by 1.89 points.\n" in capsys.readouterr().out

    a, b = discordant(740, 12, 24, both=650)
    compare.main([str(write_run(tmp_path / "a", a)), str(write_run(tmp_path / "b", b))])
    assert ("R@1: noise (p = 0.0652): queries right in one run alone: 12 in A, 24 in B.\n"
            in capsys.readouterr().out)
    compare.main([str(tmp_path / "a"), str(tmp_path / "a")])
    assert "R@1: noise (p = 1): no query is right in one run alone.\n" in capsys.readouterr().out


def test_json_holds_the_same_numbers(searched, tmp_path, capsys):
    out = tmp_path / "out.json"
    compare.main([*map(str, searched[:2]), "--stage", "first_stage", "--seed", "4", "--json", str(out)])
    found = compare_predictions(*searched[:2], stage="first_stage", seed=4)
    assert json.loads(out.read_text()) == json.loads(json.dumps(dataclasses.asdict(found)))
    assert compare.format_comparison(found) + "\n" == capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_file_of_another_name_has_no_results_and_that_is_said(tmp_path):
    """A results.json beside it may be anybody's."""
    correct = first_right(1, 2, None)
    ours = write_run(tmp_path / "ours", correct)
    write_run(tmp_path / "theirs", correct, file="netvlad.npz", said={"dataset": "nordland"})
    theirs = tmp_path / "theirs" / "netvlad.npz"
    for runs in ((ours, theirs), (theirs, ours)):
        found = compare_predictions(*runs, recall_values=(1, 5))
        assert found.dataset == "msls val"
        assert found.notes == [f"{theirs} has no results.json: whether both runs count the same distance as right is "
                               "not checked."]
    found = compare_predictions(theirs, theirs)
    assert found.dataset is None
    assert compare.format_comparison(found).splitlines()[2].startswith("data set not named, final: 3 queries;")


@pytest.mark.slow
def test_as_a_module(searched):
    done = subprocess.run([sys.executable, "-m", "utils.compare", str(searched[0]), "nowhere"], capture_output=True,
                          text=True, cwd=Path(compare.__file__).parents[1])
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("error: nowhere: no such file; expected a run folder with a predictions.npz")


# --- more than two runs, and plots

def test_more_than_two_are_each_compared_with_the_first(searched, tmp_path, capsys):
    out = tmp_path / "out.json"
    compare.main([str(searched[2]), "--json", str(out), *map(str, searched[:2])])
    expected = [compare_predictions(searched[2], run) for run in searched[:2]]
    assert capsys.readouterr().out == "\n\n".join(map(compare.format_comparison, expected)) + "\n"
    assert json.loads(out.read_text()) == json.loads(json.dumps([dataclasses.asdict(one) for one in expected]))


def wilson(found: int, n: int) -> tuple[float, float]:
    """In percent, by the formula."""
    z, share = 1.959963984540054, found / n
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return 100 * (middle - half) / (1 + z * z / n), 100 * (middle + half) / (1 + z * z / n)


def test_the_plot_has_every_recall_and_its_interval(tmp_path):
    runs = {"_a $x": write_run(tmp_path / "a", first_right(1, 1, 2, 5, 6, None, 11, None)),
            "b": write_run(tmp_path / "b", first_right(3, None, depth=5))}
    axes, = compare.draw_recalls({name: compare.read_predictions(run, "final") for name, run in runs.items()},
                                 title="x").axes
    counts = [2, 3, 3, 3, 4, 5, 5, 5, 5, 5, 6, 6], [0, 0, 1, 1, 1]
    for found, n, line, band in zip(counts, (8, 2), axes.lines, axes.collections, strict=True):
        np.testing.assert_allclose(line.get_xydata(), [[k, 100 * count / n] for k, count in enumerate(found, 1)])
        corners = band.get_paths()[0].vertices
        for k, count in enumerate(found, 1):
            at = corners[corners[:, 0] == k][:, 1]
            assert (at.min(), at.max()) == pytest.approx(wilson(count, n), abs=1e-9)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["_a $x", "b"]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_plot_is_written_beside_the_table(suffix, searched, tmp_path, capsys):
    compare.main([str(searched[0]), str(searched[1])])
    table, out = capsys.readouterr().out, tmp_path / f"curves.{suffix}"
    compare.main([str(searched[0]), str(searched[1]), "--plot", str(out)])
    assert capsys.readouterr().out == f"{table}{out}\n"
    assert out.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[suffix])
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_trainings_are_drawn_by_their_curves(tmp_path, capsys, monkeypatch):
    drawn = {}
    monkeypatch.setattr(compare, "write_plot", lambda figure, path: drawn.update({path: figure}))
    folders = [write_metrics(tmp_path / name, epoch(1), *map(epoch, range(2, epochs + 1)))
               for name, epochs in (("x/1", 2), ("y/1", 3))]
    compare.main([*map(str, folders), "--plot", str(tmp_path / "out.png")])
    figure, = drawn.values()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x/1", "y/1"]
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [2, 3]
    assert capsys.readouterr().out == f"{tmp_path}/out.png\n"


# --- what is refused

def test_plots_that_cannot_be_drawn(searched, tmp_path, capsys):
    training = write_metrics(tmp_path / "training", epoch(1))
    out = ("--plot", tmp_path / "out.png")
    for wrong in (tmp_path / "out.gif", tmp_path, tmp_path / "nowhere" / "out.png"):
        assert refused(*searched[:2], "--plot", wrong, capsys=capsys) == (
            f"--plot {wrong}: expected the name of a file in a folder that exists, ending in .png or .svg")
    message = refused(training, searched[0], *out, capsys=capsys)
    assert message.startswith(f"--plot: {training} is a training's folder, {searched[0]} is not; expected runs of one")
    assert "given twice" in refused(training, training, *out, capsys=capsys)
    other = write_metrics(tmp_path / "other", epoch(1))
    assert "--json beside --plot of trainings" in refused(training, other, *out, "--json", tmp_path / "x.json",
                                                          capsys=capsys)
    (other / "metrics.jsonl").write_text("{")
    assert "other/metrics.jsonl: line 1 is damaged" in refused(training, other, *out, capsys=capsys)
    assert not [path for path in tmp_path.iterdir() if path.suffix]


def test_one_run_alone_is_refused(searched, capsys):
    with pytest.raises(SystemExit) as stop:
        compare.main([str(searched[0])])
    assert stop.value.code == 2 and "required: RUN (at least two)" in capsys.readouterr().err


@pytest.fixture
def good(tmp_path, monkeypatch):
    # Runs leave a log that does not propagate, to which pytest listens itself; without listeners errors are printed.
    monkeypatch.setattr(logging.getLogger("selavprpp"), "propagate", True)
    return write_run(tmp_path / "good", first_right(1, 2, None))


def refused(*argv, capsys) -> str:
    return error_of(compare.main, *argv, capsys=capsys)


def test_runs_that_are_not_there(good, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for run, named in ((tmp_path / "nowhere", "nowhere"), (tmp_path / "empty", "empty/predictions.npz")):
        for runs in ((good, run), (run, good)):
            assert refused(*runs, capsys=capsys) == (
                f"{tmp_path}/{named}: no such file; expected a run folder with a predictions.npz, or such a file")


@pytest.mark.parametrize("change, said", [
    ({"split": "test"}, "is of msls test, right within 25 m"),
    ({"dataset": "pitts30k"}, "is of pitts30k val, right within 25 m"),
    ({"threshold_m": 10}, "is of msls val, right within 10 m")])
def test_other_data_sets(change, said, good, tmp_path, capsys):
    other = write_run(tmp_path / "other", first_right(1, 2, None), said=ON_MSLS | change)
    message = refused(good, other, capsys=capsys)
    assert message == (f"{good}/predictions.npz is of msls val, right within 25 m; {other}/predictions.npz {said}; "
                       "expected two runs on one data set")


def test_other_images(good, tmp_path, capsys):
    more = write_run(tmp_path / "more", first_right(1, 2, None, 3, 4), said=None,
                     query_names=[f"queries/{i}.jpg" for i in (4, 2, 0, 1, 3)])
    expected = "lacks 2 of the other's, first 'queries/4.jpg'; expected two runs on one data set"
    assert refused(good, more, capsys=capsys) == (
        f"{good}/predictions.npz has 3 query images, {more}/predictions.npz 5; {good}/predictions.npz {expected}")
    assert refused(more, good, capsys=capsys) == (
        f"{more}/predictions.npz has 5 query images, {good}/predictions.npz 3; {good}/predictions.npz {expected}")
    other = write_run(tmp_path / "other", first_right(1, 2, None), database_names=["database/a.jpg", "database/c.jpg"])
    assert refused(good, other, capsys=capsys) == (
        f"{good}/predictions.npz has 2 database images, {other}/predictions.npz 2; {other}/predictions.npz lacks 1 "
        "of the other's, first 'database/b.jpg'; expected two runs on one data set")


def test_a_stage_that_is_not_there(searched, good, capsys):
    one_stage = searched[2] / "predictions.npz"
    assert refused(searched[0], searched[2], "--stage", "first_stage", capsys=capsys) == (
        f"{one_stage}: no first_stage in it, that search had one stage; choose --stage final")
    with pytest.raises(SystemExit) as stop:
        compare.main([str(searched[0]), str(searched[1]), "--stage", "second"])
    assert stop.value.code == 2
    assert "invalid choice: 'second'" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["text", "empty", "cut short", "an array", "wrong bytes"])
def test_damaged_predictions(damage, good, tmp_path, capsys):
    bad = write_run(tmp_path / "bad", np.random.default_rng(0).random((50, 50)) < 0.5) / "predictions.npz"
    whole = bad.read_bytes()
    if damage == "an array":
        with bad.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        half = len(whole) // 2
        bad.write_bytes({"text": b"no archive", "empty": b"", "cut short": whole[:half],
                         "wrong bytes": whole[:half] + bytes(60) + whole[half + 60:]}[damage])
    message = refused(good, bad, capsys=capsys)
    assert message.startswith(f"{bad}: damaged, or not the predictions of a run: ")


@pytest.mark.parametrize("change, said", [
    ({"query_names": None}, "no query_names in it; expected the predictions of a run"),
    ({"query_names": None, "final_correct": None}, "no query_names, final_correct in it"),
    ({"final_correct": np.ones((3, 2))}, "final_correct is float64 (3, 2), query_names (3,), database_names (2,)"),
    ({"final_correct": np.ones((2, 2), bool)}, "final_correct is bool (2, 2), query_names (3,)"),
    ({"final_correct": np.ones((3, 0), bool)}, "final_correct is bool (3, 0)"),
    ({"final_correct": np.ones(3, bool)}, "final_correct is bool (3,)"),
    ({"database_names": [["a"], ["b"]]}, "final_correct is bool (3, 12), query_names (3,), database_names (2, 1); "
                                         "expected bool (m, k), (m,) and (n,)"),
    ({"query_names": ["q", "r", "q"]}, "3 queries have 2 names; expected each name once"),
    ({"query_names": np.array(["q", "r", None])}, "damaged, or not the predictions of a run: Object arrays")])
def test_predictions_of_another_shape(change, said, good, tmp_path, capsys):
    bad = write_run(tmp_path / "bad", first_right(1, 2, None), **change)
    assert refused(bad, good, capsys=capsys).startswith(f"{bad}/predictions.npz: {said}")


@pytest.mark.parametrize("text", ["{", "[]", '{"dataset": "a"}', '{"dataset": "a", "split": "b", "threshold_m": []}',
                                  pytest.param(100_000 * "[", id="deep")])
def test_damaged_results(text, good, capsys):
    (good / "results.json").write_text(text)
    assert refused(good, good, capsys=capsys).startswith(
        f"{good}/results.json: damaged, or not the results of a run: ")


def test_options_that_make_no_sense(good, tmp_path, capsys):
    assert "seed -1" in refused(good, good, "--seed", "-1", capsys=capsys)
    for target in (tmp_path, tmp_path / "nowhere" / "out.json"):
        assert refused(good, good, "--json", target, capsys=capsys) == (
            f"--json {target}: expected the name of a file in a folder that exists")
    for wrong in ({"stage": "second"}, {"recall_values": (0, 1)}, {"recall_values": ()}, {"resamples": 0}):
        with pytest.raises(ValueError, match=r"expected a stage of \('first_stage', 'final'\), a seed of at least 0"):
            compare_predictions(good, good, **wrong)
