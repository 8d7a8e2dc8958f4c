"""Hard places: what is noted of a step, what looks alike, how hard batches are, and a training by them."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from scripts import HARD, RANDOM, error_of, metrics, run_folder, training_options
from test_between_steps import broken_off, compare, gone_on

import train
import train_hashing
import train_rerank
from datasets import CityBatchSampler, PlaceDataset
from utils.data import TrainingData, training_loader
from utils.training.places import PlaceTraining, look_alikes, nearest_bits


def papers_batches(streets, epoch):
    """Of the commands below: their sampler's without look-alikes."""
    data = PlaceDataset(streets / "gsv_cities", cities=["Boston", "Lisbon"], images_per_place=2, transform=None)
    return CityBatchSampler(data, places_per_batch=8).batches(epoch)


# --- a training

@pytest.mark.parametrize(("script", "more"), [
    (train, ()), pytest.param(train_hashing, (), marks=pytest.mark.slow),
    pytest.param(train_rerank, ["--variant", "joint"], marks=pytest.mark.slow)], ids=["float", "binary", "joint"])
def test_from_the_second_epoch_on_batches_are_harder(script, more, streets, tmp_path, monkeypatch):
    seen, told = PlaceTraining.seen, {0: [], 1: []}

    def telling(training, descriptors, labels):
        told[training.epoch].append(labels[::2].tolist())
        seen(training, descriptors, labels)

    monkeypatch.setattr(PlaceTraining, "seen", telling)
    hard = run_folder(script.main, *training_options(streets), *HARD, *RANDOM, *more, "--epochs_num", 2, cwd=tmp_path)
    papers = [papers_batches(streets, epoch) for epoch in (0, 1)]
    assert told[0] == papers[0]
    assert sorted(itertools.chain(*told[1])) == list(range(28))  # each place once
    assert [len(batch) for batch in told[1]] == [len(batch) for batch in papers[1]]
    assert [set(batch) for batch in told[1]] != [set(batch) for batch in papers[1]]
    first, second = metrics(hard)
    assert "hard_places" not in first
    figures = second["hard_places"]
    assert 0 < figures["nearest_bits"] < figures["papers_nearest_bits"] <= 512
    places, codes = torch.load(hard / "last_model.pth", weights_only=True)["training"]["places"]["before"]
    codes = codes[places.argsort()].numpy()  # of the first epoch
    assert [figures["nearest_bits"], figures["papers_nearest_bits"]] == [
        nearest_bits(batches, codes) for batches in (told[1], papers[1])]
    assert figures["share_of_epoch"] == pytest.approx(figures["seconds"] / second["seconds"])
    log = (hard / "info.log").read_text()
    assert "epoch 1: the paper's batches" in log and "epoch 2: look-alikes of 28 places found in " in log
    assert "epoch 2: mining took " in log


@pytest.mark.parametrize("city", ["cph", "SF12", "Copenhagen0", "sanfrancisco3"])
def test_validation_cities_are_refused(city, streets, tmp_path):
    (tmp_path / "Dataframes").mkdir()
    (tmp_path / "Dataframes" / f"{city}.csv").symlink_to(streets / "gsv_cities" / "Dataframes" / "Lisbon.csv")
    (tmp_path / "Images").symlink_to(streets / "gsv_cities" / "Images")
    data = TrainingData(training_dataset=str(tmp_path), datasets_folder=tmp_path, images_per_place=2)
    with pytest.raises(ValueError, match=f"^places=hard with {city}: MSLS-val, by which "):
        training_loader(data, device=torch.device("cpu"), places="hard")
    assert training_loader(data, device=torch.device("cpu")).dataset.n_places == 12  # the paper's take any city


def test_a_batch_without_room_for_a_family_is_refused(streets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    message = error_of(train.main, *training_options(streets), *RANDOM, *HARD, "--train_batch_size", 3, capsys=capsys)
    assert message.startswith("places=hard with --train_batch_size 3: expected at least 4")


# --- going on

@pytest.mark.slow
@pytest.mark.parametrize("after", [2, 6])
def test_broken_off_in_an_epoch_and_gone_on(after, streets, hard_run, tmp_path, monkeypatch):
    """Four batches an epoch: in the first, of whose codes a part is there; in the second, whose batches are found anew
    by the codes of the first."""
    words = [*training_options(streets), *HARD, *RANDOM, "--epochs_num", 3]
    code, line = broken_off("train.py", words, after=after, cwd=tmp_path, monkeypatch=monkeypatch)
    assert code == 143
    compare(gone_on(line, cwd=tmp_path), hard_run)


@pytest.mark.slow
def test_other_places_have_no_codes_yet(streets, hard_run, tmp_path):
    words = [word for word in training_options(streets) if word != "Lisbon"]
    again = run_folder(train.main, *words, *HARD, "--resume", hard_run, "--epochs_num", 5, cwd=tmp_path)
    assert "the resumed run had other places: the paper's batches, until each" in (again / "info.log").read_text()
    assert ["hard_places" in record for record in metrics(again)] == [False, True, True, False, True]


@pytest.mark.slow
def test_a_training_that_becomes_hard(data, float_run, tmp_path):
    again = run_folder(train.main, *training_options(data), "--resume", float_run, "--set", "places=hard",
                       "--train_batch_size", 4, "--epochs_num", 4, cwd=tmp_path)
    assert "places was paper in " in (again / "info.log").read_text()
    assert ["hard_places" in record for record in metrics(again)] == [False, False, False, True]


def test_damaged_codes_are_one_line(streets, hard_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(hard_run / "last_model.pth", "last_model.pth")
    content = torch.load("last_model.pth", weights_only=True)
    labels, codes = content["training"]["places"]["noted"]
    for damage in ({"noted": [labels.float(), codes], "before": None}, {"noted": [labels[1:], codes], "before": None},
                   {"noted": 3, "before": None}, {"noted": None}, []):
        content["training"]["places"] = damage
        torch.save(content, "last_model.pth")
        message = error_of(train.main, *training_options(streets), *HARD, "--resume", "last_model.pth", capsys=capsys)
        assert message.startswith("last_model.pth: its training state cannot be used: ")


# --- the measures

def naive_bits(one, other):
    return int.from_bytes((one ^ other).tobytes(), "big").bit_count()


def test_look_alikes_are_the_nearest_codes_of_the_city_more_than_100_m_away():
    rng = np.random.default_rng(0)
    cities = [range(40), range(40, 41), range(41, 90)]
    codes = rng.integers(0, 256, (90, 2), np.uint8)  # few bits: many equal distances
    positions = np.pad(rng.uniform(0, 400, (90, 2)), ((0, 0), (0, 1)))
    found = look_alikes(codes, positions, cities, k=7)
    assert found.shape == (90, 7)
    near = 0
    for places in cities:
        for place in places:
            apart = [other for other in places if np.linalg.norm(positions[other] - positions[place]) > 100]
            near += len(places) - 1 - len(apart)
            apart.sort(key=lambda other: (naive_bits(codes[place], codes[other]), other))
            assert found[place].tolist() == apart[:7] + [-1] * (7 - len(apart))
    assert near > 100


def test_the_nearest_of_a_batch():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (30, 3), np.uint8)
    codes[7] = codes[3]
    batches = [[3, 7, 8, 9], [0, 1], [5], list(range(10, 30))]
    expected = [min(naive_bits(codes[place], codes[other]) for other in batch if other != place)
                for batch in batches if len(batch) > 1 for place in batch]
    assert expected[:2] == [0, 0] and nearest_bits(batches, codes) == pytest.approx(np.mean(expected))
    assert nearest_bits([[1], [2]], codes) == 0


def made(places, *, images=4):
    """A PlaceTraining without a model."""
    training = object.__new__(PlaceTraining)
    training.hard, training.noted, training.mined = places != "paper", [], {"seconds": 0.1}
    training.data = type("", (), {"images_per_place": images})
    training.model = type("", (), {"config": type("", (), {"places": places})})
    return training


@pytest.mark.parametrize("width", [512, 700, 20, 5])
def test_a_code_is_of_the_sum_of_a_places_images(width):
    training, values = made("hard", images=3), torch.randn(6, width, generator=torch.Generator().manual_seed(0))
    for part, labels in ((values[:3], [9]), (values[3:], [4])):
        training.seen(part, torch.tensor(labels).repeat_interleave(3))
    (first, one), (second, other) = training.noted
    assert (first.tolist(), second.tolist(), one.dtype) == ([9], [4], torch.uint8)
    signs = [part.sum(0)[:512] >= 0 for part in (values[:3], values[3:])]
    assert one.shape == other.shape == (1, -(-min(width, 512) // 8))
    assert naive_bits(one.numpy(), other.numpy()) == int((signs[0] ^ signs[1]).sum()) > 0
    paper = made("paper")
    paper.seen(values, torch.zeros(6))
    assert paper.noted == []
