"""Real photographs, on drawn ones: frozen descriptors, verdicts over seeds, and the command from end to end."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from backbones import official
from images import write_benchmark, write_city
from scipy.stats import ttest_rel
from scripts import error_of

from benchmarks.real_sets import __main__ as command
from benchmarks.real_sets import page
from benchmarks.real_sets.frozen import POOLED, backbone_of, described, search_frozen
from benchmarks.real_sets.measure import Row, mean, spread
from benchmarks.real_sets.plan import (
    BACKBONE,
    CURVE,
    DRAWN,
    FILE,
    HASHED_MODELS,
    OURS,
    OURS_BINARY,
    PLACED_MODELS,
    SELAVPR,
    STARTS,
    TUNED_MODELS,
    Place,
    subset_folder,
    write_subset,
)
from benchmarks.real_sets.sections import WORDS
from benchmarks.report import PAGES, RESULTS
from datasets import BenchmarkDataset, evaluation_transform, read_folder
from datasets.transforms import read_image
from model import BACKBONES, ModelConfig
from utils.cli.selavpr import training_parser
from utils.cli.variants import chosen_fields


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    for city, first in (("SpedA", 0), ("SpedB", 50)):
        write_city(folder / "gsv_real_mini", city, places=3, first_place=first)
    for split, first in (("val", 100), ("test", 150)):
        write_benchmark(folder, "sped_thumbs", split, database=6, queries=4, first_place=first)
    write_benchmark(folder, "held_out", "test", database=5, queries=3, first_place=200)
    (folder / "notes").mkdir()
    return folder


@pytest.fixture(scope="module")
def place(real, tmp_path_factory):
    return Place(real, tmp_path_factory.mktemp("out"))


# --- what is trained

def test_every_test_set_of_the_folder_is_taken(place):
    assert place.test_sets == ["sped_thumbs", "held_out"]
    assert place.telling_sets == []  # of so few queries


@pytest.mark.parametrize("models", [TUNED_MODELS, PLACED_MODELS, HASHED_MODELS, CURVE, STARTS])
def test_models_that_are_different_trainings_and_what_the_scripts_take(models, place):
    commands = set()
    for model in models.values():
        step = model.training(0, place)
        commands.add(step.command)
        words = list(step.command)
        variant = words[words.index("--variant") + 1] if "--variant" in words else None
        fields = chosen_fields(variant, words[words.index("--set") + 1:words.index("--training_dataset")])
        branches = ("binary",) if model.script == "train_hashing.py" else ("float",)
        ModelConfig(backbone=BACKBONE, branches=branches, **fields)
    assert len(commands) == len(models)
    everything = {model.name: model for model in (*TUNED_MODELS.values(), *PLACED_MODELS.values(), *CURVE.values(),
                                                  *HASHED_MODELS.values(), *STARTS.values())}
    assert all(everything[model.name] == model for model in models.values())  # no folder of two models


@pytest.mark.parametrize("model", [SELAVPR, SELAVPR.moved(DRAWN)])
def test_the_predecessor_s_script_takes_its_words(model, place):
    step = model.training(2, place)
    args = training_parser("").parse_args([str(word) for word in step.command[1:]])
    root = place.toy_city if model.world is DRAWN else place.real
    assert (args.datasets_folder, args.training_dataset) == (root, str(root / model.world.training_set))
    assert (args.val_dataset, args.dataset_name, args.seed) == (model.world.val, model.world.test, 2)
    assert (args.epochs_num, args.train_batch_size, args.resize) == (OURS.epochs, 30, [160, 160])


def test_on_the_toy_city_everything_is_drawn(place):
    step = OURS_BINARY.moved(DRAWN).evaluation(0, "pitts30k", place)
    assert step == OURS_BINARY.moved(DRAWN).training(0, place)
    assert [one.name for one in step.chain] == ["toy-city-float/seed0/train", "toy-city-rerank/seed0/train"]
    assert all(str(place.toy_city / "gsv_cities") in one.command and "--cities" not in one.command
               for one in step.chain)
    assert all(str(place.real) not in one.command for one in step.chain)


def test_placements_are_the_paper_s_shares_of_half_as_many_blocks():
    taps = {}
    for name, model in PLACED_MODELS.items():
        words = [*model.fields, *("placement=none" for _ in range(name == "Freezing"))]
        taps[name] = list(ModelConfig(backbone=BACKBONE, branches=("float",), **chosen_fields(None, words)).taps)
    last = range(1, 13)
    assert taps == {"Freezing": [], "All": [*last], "Every 2": [2, 4, 6, 8, 10, 12], "Every 3": [3, 6, 9, 12],
                    "Every 6": [6, 12], "Last 16": [*last[4:]], "Last 12": [*last[6:]], "Last 8": [*last[8:]],
                    "Last 4": [11, 12]}


def test_a_training_evaluates_its_own_test_set(place):
    assert OURS.evaluation(1, "sped_thumbs", place) == OURS.training(1, place)
    other = OURS_BINARY.evaluation(1, "held_out", place)
    assert other.command[:3] == ("eval_rerank.py", "--resume", str(OURS_BINARY.training(1, place).best_model))
    assert [step.command[0] for step in other.chain] == ["train.py", "train_rerank.py", "eval_rerank.py"]


def test_subsets_are_whole_places_of_both_cities(place):
    kept = []
    for seed in (0, 0, 1):
        write_subset(place, 4, seed)
        folder = subset_folder(place, 4, seed)
        assert len([*(folder / "Images" / "SpedA").iterdir()]) == 12
        rows = [row for city in ("SpedA", "SpedB")
                for row in csv.DictReader((folder / "Dataframes" / f"{city}.csv").open(newline=""))]
        places = [(row["city_id"], row["place_id"]) for row in rows]
        assert len(places) == 16 and len({*places}) == 4
        assert len({place for place in places if place[0] == "SpedA"}) == 2
        kept.append({*places})
    assert kept[0] == kept[1]


# --- descriptors without training

@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    file = tmp_path_factory.mktemp("deit") / "deit.pth"
    torch.save({"model": official(BACKBONES[BACKBONE])}, file)
    return backbone_of(file)


@torch.no_grad()
def test_frozen_descriptors_against_loops(real, backbone):
    dataset = BenchmarkDataset(read_folder(real, "sped_thumbs", split="test"), transform=evaluation_transform((64, 64)))
    paths = dataset.listing.database_paths
    found = {(block, name): described(backbone, dataset, paths, block=block, pool=pool)
             for block in (6, 12) for name, pool in POOLED.items()}
    tokens = [*backbone.stream_tokens(torch.stack([dataset.transform(read_image(path)) for path in paths]))]
    for block in (6, 12):
        for row, image in enumerate(backbone.norm(tokens[block]).double().numpy()):
            assert np.allclose(found[block, "class token"][row], image[0], atol=1e-4)
            assert np.allclose(found[block, "all patches in a row"][row], image[1:].ravel(), atol=1e-4)
            unit = [np.maximum(patch / np.linalg.norm(patch), 1e-6) ** 3 for patch in image[1:]]
            assert np.allclose(found[block, "GeM"][row], np.mean(unit, axis=0) ** (1 / 3), atol=1e-4)
    searched = dict(search_frozen(backbone, dataset, recall_values=(1,)))
    assert set(searched) == {f"frozen block {block}, {name}" for block in (6, 12) for name in POOLED}
    database, queries = (described(backbone, dataset, side, block=6, pool=POOLED["class token"]).astype(np.float64)
                         for side in (paths, dataset.listing.query_paths))
    centre = database.mean(axis=0)
    right = 0
    for query, positives in zip(queries - centre, dataset.listing.positives, strict=True):
        scores = [query @ (row - centre) / np.linalg.norm(row - centre) for row in database]
        right += int(np.argmax(scores)) in positives
    assert searched["frozen block 6, class token"].final_recalls((1,))[1] == 100 * right / len(queries)


# --- figures over seeds

class MadeUp:
    """A trainer whose runs are predictions written by the test."""

    def __init__(self, folder, right):
        """right: name of a row -> by seed, by query, whether the first image is right."""
        self.place, self.folder, self.right = Place(folder, folder), folder, right
        write_benchmark(folder, "sped_thumbs", "test", database=1, queries=50, first_place=0)

    def runs(self, row, seeds, of):
        made = []
        for seed in seeds:
            folder = self.folder / f"{row.name}-{seed}".replace(" ", "_")
            folder.mkdir(exist_ok=True)
            correct = np.array(self.right[row.name][seed], bool)[:, None]
            np.savez(folder / "predictions.npz", query_names=[f"q{i}" for i in range(len(correct))],
                     database_names=["d"], final_correct=correct)
            made.append(folder)
        return made

    def recalls(self, row, seed, of):
        score = 100 * float(np.mean(self.right[row.name][seed]))
        return [score, score, 100.0]


def made_up(tmp_path) -> tuple[MadeUp, list[Row]]:
    """A hundred queries, two seeds: good is right on 80, as_good on 80 others in part, bad on 20."""
    def of(*first):
        return [[start <= i < start + count for i in range(100)] for start, count in first]

    right = {"bad": of((0, 20), (0, 21)), "as good": of((2, 80), (1, 80)), "good": of((0, 80), (0, 81))}
    return MadeUp(tmp_path, right), [Row(name, OURS) for name in right]


def test_orders_of_the_paper_hold_are_reversed_or_cannot_be_told(tmp_path):
    trainer, rows = made_up(tmp_path)
    line, = page.orders(rows, {"bad": 50.0, "as good": 49.0, "good": 60.0}, trainer, [0, 1])
    assert line == ("* sped_thumbs: of the paper's 3 orders 1 hold (good > bad); 1 are reversed (bad > as good); "
                    "1 cannot be told.")
    text = page.beside_the_paper(rows, {"bad": 50.0, "good": 60.0}, trainer, [0, 1])
    assert "| bad | 20.5 +- 0.7 / 20.5 / 100.0 | -60.0 (" in text
    assert text.splitlines()[4].startswith("| good | 80.5 +- 0.7 / 80.5 / 100.0 |  | 60.0 |")
    assert text.splitlines()[3].endswith("| - |")  # no figure of the paper's
    assert text.endswith("of the paper's 1 orders 1 hold (good > bad); 0 are reversed; 0 cannot be told.")


def test_beside_the_predecessor(tmp_path):
    """Differences to the second row, SelaVPR re-ranked, on photographs and on the toy city; none of a first stage."""
    trainer, (bad, as_good, good) = made_up(tmp_path)
    rows = [dataclasses.replace(bad, stage="first_stage"), as_good, good]
    lines = page.predecessor(rows, trainer, [0, 1]).splitlines()
    assert lines[0] == "| row | sped_thumbs | R@1 - SelaVPR's | toy city | R@1 - SelaVPR's |"
    assert lines[2] == "| bad | 20.5 +- 0.7 / 20.5 / 100.0 |  | 20.5 +- 0.7 / 20.5 / 100.0 |  |"
    assert lines[3] == "| as good | 80.0 +- 0.0 / 80.0 / 100.0 |  | 80.0 +- 0.0 / 80.0 / 100.0 |  |"
    assert lines[4].count("| +0.5 (") == 2


def test_intervals_over_paired_seeds_are_those_of_the_t_test(tmp_path):
    first, second = [50.0, 52.5, 51.0, 49.0, 55.0], [53.0, 52.0, 55.5, 50.0, 57.0]
    expected = ttest_rel(second, first).confidence_interval(0.95)
    changes = [b - a for a, b in zip(first, second, strict=True)]
    assert page.t_interval(changes) == pytest.approx((expected.low, expected.high))
    assert np.isnan(page.t_interval([1.0])).all()
    trainer, rows = made_up(tmp_path)
    text = page.starts([rows[2], rows[0]], trainer, [0, 1])
    assert "| sped_thumbs | good | 160.0 162.0 | 161.0 |  |" in text
    assert "| sped_thumbs | bad | 40.0 42.0 | 41.0 | -120.0 (-120.0 .. -120.0) |" in text


def test_means_and_deviations():
    recalls = [[10.0, 20.0, 30.0], [20.0, 40.0, 30.0]]
    assert (mean(recalls), mean(recalls, 1)) == (15.0, 30.0)
    assert spread(recalls) == pytest.approx(50**0.5)
    assert spread(recalls[:1]) is None
    assert page.recalls_text(recalls) == "15.0 +- 7.1 / 30.0 / 30.0"
    assert page.recalls_text(recalls[:1]) == "10.0 / 20.0 / 30.0"


def test_the_paper_s_mean_recalls():
    assert command.printed("IV")["Freezing"] == pytest.approx((91.0 + 87.2 + 94.0 + 53.2) / 4)
    assert command.printed("XI")["STE"] == pytest.approx((88.9 + 88.5 + 88.9 + 58.6) / 4)


def test_the_page_has_the_means_of_what_was_measured():
    """docs/benchmarks/real_sets.md against the recalls of every seed in benchmarks/results."""
    text, samples = (PAGES / "real_sets.md").read_text(), json.loads((RESULTS / "real_sets.json").read_text())
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines() if line.startswith("| ")}
    assert len(samples) > 150
    for row in (*command.RANDOM_ROWS, *command.ROWS):
        for place, of in enumerate(("sped_thumbs", "corridor", "sf_toy"), start=1):
            seeds = [samples[f"{row.model.name}/seed{seed}/{of}"][row.stage] for seed in range(3)]
            assert rows[row.name][place].removesuffix(" |") == page.recalls_text(seeds)
    for row in command.PREDECESSOR_ROWS:
        for place, (of, model) in {1: ("sped_thumbs", row.model), 3: ("corridor", row.model),
                                   5: ("toy_city/pitts30k", row.model.moved(DRAWN))}.items():
            seeds = [samples[f"{model.name}/seed{seed}/{of}"][row.stage] for seed in range(3)]
            assert rows[row.name][place].removesuffix(" |") == page.recalls_text(seeds)
    for name, model in STARTS.items():
        for of in page.START_SETS:
            scores = [sum(samples[f"{model.name}/seed{seed}/{of}"]["final"][:2]) for seed in range(5)]
            assert f"| {of} | {name} | {' '.join(f'{score:.1f}' for score in scores)} |" in text


# --- the command

@pytest.mark.slow
def test_without_the_pretrained_file_and_again(place, capsys, monkeypatch):
    """Trains from random weights; the second call finds everything done and keeps the words below."""
    monkeypatch.setattr(command, "RANDOM_ROWS", command.RANDOM_ROWS[:1])

    def run():
        with pytest.raises(SystemExit) as stop:
            command.main([str(place.real), "--out", str(place.out), "--seeds", "0", "--jobs", "1"])
        assert stop.value.code == 0
        return capsys.readouterr()

    err = run().err
    assert f"{place.pretrained}: no such file; only rows without it are measured" in err
    assert err.count("train.py") > 0
    written = place.out / "real_sets.md"
    text = written.read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert {"raw grey 32x32", "HOG", "random backbone, float"} < set(rows)
    assert not any(name.startswith(("frozen", "side network")) for name in rows)
    found = json.loads(next(place.out.glob("random-float/seed0/train-*/logs/*/*/results.json")).read_text())
    recalls = found["recalls"]["final"]
    assert rows["random backbone, float"].split(" | ")[1] == " / ".join(f"{recalls[k]:.1f}" for k in ("1", "5", "10"))
    assert found["model"]["pretrained"] is False
    samples = json.loads((place.out / "real_sets.json").read_text())
    assert samples["random-float/seed0/sped_thumbs"] == {"final": [recalls[k] for k in ("1", "5", "10")]}
    assert set(samples) == {"random-float/seed0/sped_thumbs", "random-float/seed0/held_out"}
    written.write_text(text + f"\n{WORDS}\n\nBy hand.\n")
    again = run()
    assert "train.py" not in again.err
    assert written.read_text().endswith(f"{WORDS}\n\nBy hand.\n")
    assert written.read_text().startswith(text)


def test_a_wrong_folder_is_one_line(real, tmp_path, capsys):
    assert error_of(command.main, tmp_path, "--out", tmp_path / "out", capsys=capsys) == (
        f"{tmp_path / 'gsv_real_mini' / 'Dataframes'}: not there; expected FOLDER to hold gsv_real_mini/Dataframes, "
        "sped_thumbs/images")
    assert not (tmp_path / "out").exists()
    assert "--jobs 0: expected at least 1" in error_of(command.main, real, "--out", tmp_path / "out", "--jobs", 0,
                                                       capsys=capsys)
    assert (real / FILE).exists() is False
