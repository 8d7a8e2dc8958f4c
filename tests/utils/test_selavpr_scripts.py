"""SelaVPR's scripts: training by mined triplets and by places, going on after a break, re-ranking, wrong usage."""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from images import write_benchmark, write_city
from scripts import error_of, metrics, results, run_folder

import eval_rerank
import eval_selavpr
import train
import train_selavpr
from datasets import BenchmarkDataset, evaluation_transform, read_folder
from model import BACKBONES, SelaVPRConfig, build_selavpr, load_selavpr, read_selavpr
from model.config import ViT
from utils.selavpr.training import MinedTriplets, TripletData, losses_of
from utils.training.curves import figures
from utils.training.memory import LiveBytes, step_memory

TINY = "dinov2-tiny"


@pytest.fixture(scope="module", autouse=True)
def small():
    """A backbone of two blocks, so that a training takes a second."""
    before, BACKBONES[TINY] = BACKBONES[TINY], ViT(32, 2, 2, "all", 48, None)
    yield
    BACKBONES[TINY] = before


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number, split in enumerate(("train", "val", "test")):
        write_benchmark(folder, "pitts30k", split, database=12, queries=8, unanswerable=number == 0,
                        first_place=100 * number)
    write_city(folder / "gsv_cities", "Boston", places=6)
    return folder


def evaluation(data) -> list:
    return ["--datasets_folder", data, "--resize", 56, 56, "--device", "cpu", "--num_workers", 0, "--rerank_num", 6]


def training(data, *more: object, epochs: int = 2) -> list:
    return [*evaluation(data), "--backbone", TINY, "--foundation_model_path", "random", "--lr", 0.001, "--epochs_num",
            epochs, "--queries_per_epoch", 8, "--cache_refresh_rate", 4, "--neg_samples_num", 8,
            "--train_batch_size", 2, *more]


@pytest.fixture(scope="module")
def trained(data, memory_not_measured, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.training.memory.step_memory", memory_not_measured)
        return run_folder(train_selavpr.main, *training(data), cwd=tmp_path_factory.mktemp("trained"))


def weights(folder, name="last_model.pth") -> dict[str, torch.Tensor]:
    return read_selavpr(folder / name).state_dict


def test_what_learns_moves_and_the_rest_stays(trained):
    model = load_selavpr(trained / "last_model.pth")
    first = load_selavpr(trained / "best_model.pth")
    assert read_selavpr(trained / "last_model.pth").pretrained is False
    assert [record["epoch"] for record in metrics(trained)] == [1, 2]
    for record in metrics(trained):
        assert record["loss"] == pytest.approx(record["triplet"] + record["local"], rel=1e-5)
        assert record["score"] == record["recalls"]["pitts30k"]["final"]["5"]  # R@5, re-ranked
        assert [*figures(record)["loss"]] == ["loss", "triplet", "local"]
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("adapter1.up" in name for name in learning) and "local_adapt.upconv2.weight" in learning
    frozen = {name: value for name, value in first.state_dict().items() if name not in learning}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())


def test_results_say_what_was_measured(trained):
    found = results(trained)
    assert found["protocol"] == "L2 top 6, then mutual neighbours"
    assert found["bytes_per_image"] == {"binary": None, "float": 4 * 32, "local": 2 * 13 * 13 * 128}
    assert found["model"]["backbone"] == TINY and found["model"]["pretrained"] is False
    said = found["model"]["trainings"][-1]["data"]
    assert said == {"set": "pitts30k", "queries": 8, "database": 12, "queries_without_positives": 1,
                    "positives_m": 10.0, "mining": "partial", "negatives_per_query": 2}
    log = (trained / "info.log").read_text()
    assert "1 of 9 queries have no database image within 10 m and are left out" in log
    assert ", L2: R@1" in log and "Hamming" not in log


@pytest.mark.parametrize("mining", ["partial", "full"])
def test_resumed_after_an_epoch_it_is_the_training_that_was_never_stopped(mining, data, tmp_path):
    whole = run_folder(train_selavpr.main, *training(data, "--mining", mining, epochs=3), cwd=tmp_path)
    part = run_folder(train_selavpr.main, *training(data, "--mining", mining, epochs=1), cwd=tmp_path)
    options = training(data, "--mining", mining, epochs=3)
    at = options.index("--foundation_model_path")
    resumed = run_folder(train_selavpr.main, *options[:at], *options[at + 2:], "--resume", part / "last_model.pth",
                         cwd=tmp_path)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert [record["loss"] for record in metrics(resumed)] == [record["loss"] for record in metrics(whole)]
    if mining == "full":  # without what was chosen before, the second epoch's candidates would be others
        state = torch.load(part / "last_model.pth", weights_only=True)["training"]["mined"]["chosen"]
        assert (state >= 0).all(dim=1).sum() >= 4


def test_the_workers_change_nothing(data, tmp_path, trained):
    options = training(data)
    options[options.index("--num_workers") + 1] = 2
    again = run_folder(train_selavpr.main, *options, cwd=tmp_path)
    assert all(torch.equal(value, weights(trained)[name]) for name, value in weights(again).items())


def test_mining_sees_the_model_as_it_is_now(data):
    mined = MinedTriplets(TripletData(
        datasets_folder=data, dataset_name="pitts30k", size=(56, 56), neg_samples_num=8, cache_refresh_rate=8,
        queries_per_epoch=8, triplets_per_batch=2))
    mined.model = build_selavpr(SelaVPRConfig(backbone=TINY), seed=0)
    assert len(mined) == 4 == len(list(mined))
    ids = np.array([3, 14])
    listing = mined.dataset.listing
    dataset = BenchmarkDataset(listing, transform=evaluation_transform((56, 56)))
    images = torch.stack([dataset[3][0], dataset[14][0]])
    with torch.no_grad():
        expected = mined.model(images).floating.numpy()
    assert mined.model.training
    assert np.allclose(mined.describe(ids), expected, atol=1e-6)
    with torch.no_grad():
        mined.model.backbone.blocks[0].adapter1.up.weight.normal_()
    assert np.abs(mined.describe(ids) - expected).max() > 1e-5


def test_learning_from_places(data, tmp_path):
    options = [*evaluation(data), "--backbone", TINY, "--foundation_model_path", "random", "--lr", 0.001,
               "--epochs_num", 2, "--training_dataset", "gsv_cities", "--train_batch_size", 3]
    folder = run_folder(train_selavpr.main, *options, cwd=tmp_path)
    assert results(folder)["model"]["trainings"][-1]["data"]["places"] == 6
    assert metrics(folder)[1]["loss"] != metrics(folder)[0]["loss"]


# --- evaluation

def test_evaluation_repeats_what_the_training_found(trained, data, tmp_path):
    options = [*evaluation(data), "--resume", trained / "best_model.pth"]
    expected = results(trained)["recalls"]
    index = tmp_path / "index"
    for more in ([], ["--recompute"], ["--index", index], ["--index", index], ["--infer_batch_size", 1]):
        found = results(run_folder(eval_selavpr.main, *options, *more, cwd=tmp_path))
        assert found["recalls"] == expected, more
        assert found["bytes_per_image"]["local"] == (0 if "--recompute" in more else 2 * 13 * 13 * 128)
    assert len([*index.glob("local-*.npy")]) == 1
    assert not [*tmp_path.glob("test/default/*/local-*")]


def test_the_order_is_that_of_the_counts_in_naive_loops(trained, data, tmp_path):
    folder = run_folder(eval_selavpr.main, *evaluation(data), "--resume", trained / "best_model.pth", cwd=tmp_path)
    model = load_selavpr(trained / "best_model.pth")
    dataset = BenchmarkDataset(read_folder(data, "pitts30k", split="test"), transform=evaluation_transform((56, 56)))
    with torch.inference_mode():
        maps = [model(dataset[number][0][None]).local[0].flatten(0, 1).half().float().numpy() for number in range(12)]
        queries = [model(dataset[12 + number][0][None]).local[0].flatten(0, 1).numpy() for number in range(8)]
    with np.load(folder / "predictions.npz") as file:
        first, final, scores = (file[name] for name in ("first_stage_ids", "final_ids", "final_distances"))
    for query, candidates, ids, found in zip(queries, first, final, scores, strict=True):
        counts = []
        for candidate in candidates[:6]:
            similarity = query @ maps[candidate].T
            there, back = similarity.argmax(axis=1), similarity.argmax(axis=0)
            counts.append(sum(back[there[j]] == j for j in range(len(query))))
        order = sorted(range(6), key=lambda place: -counts[place])  # stable: ties by the first stage
        assert np.abs(np.array([counts[place] for place in order]) - found[:6]).max() <= 2  # products are rounded
        if len(set(counts)) == 6 and np.diff(sorted(counts)).min() > 2:
            assert [candidates[place] for place in order] == ids[:6].tolist()
        assert sorted(ids.tolist()) == sorted(candidates.tolist())
        assert ids[6:].tolist() == candidates[6:].tolist()


def test_the_weight_of_global_descriptors(trained, data, tmp_path):
    options = [*evaluation(data), "--resume", trained / "best_model.pth"]
    alone, fused = (run_folder(eval_selavpr.main, *options, "--global_weight", weight, cwd=tmp_path)
                    for weight in (1, 0.5))
    with np.load(alone / "predictions.npz") as file:
        assert np.array_equal(file["first_stage_ids"], file["final_ids"])  # the cosine's order is that of L2
    assert 0 <= results(fused)["recalls"]["final"]["1"] <= 100
    found = results(run_folder(eval_selavpr.main, *options, "--matching", "bf16", cwd=tmp_path))
    assert found["options"]["matching"] == "bf16"


# --- memory

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_step_takes_what_is_told_before_it(dtype):
    """8 images as 4 triplets, two losses with matching of all locations: the allocations of a step with values."""
    model, images, size = build_selavpr(SelaVPRConfig(backbone=TINY), seed=0).train(), 8, 98
    forward = functools.partial(losses_of, triplets_per_image=0.5)
    told = step_memory(model, images=images, size=(size, size), dtype=dtype, device=torch.device("cpu"),
                       forward=forward)
    batch = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(0))
    with model.backbone.rounded(dtype):
        weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
        with LiveBytes() as live, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            sum(forward(model, batch)).backward()
    held = weights + 2 * sum(p.numel() * 4 for p in model.parameters() if p.requires_grad)
    assert told.peak == pytest.approx(live.peak + held + batch.nbytes, rel=0.05)
    assert told.kept > images * 25 * 25 * 128 * 4  # local features alone


def test_memory_is_told_before_a_training(trained):
    assert "memory: a step of 8 images takes about" in (trained / "info.log").read_text()


# --- wrong usage

def test_wrong_usage_is_one_line(trained, data, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    train_error = lambda *more: error_of(train_selavpr.main, *training(data), *more, capsys=capsys)  # noqa: E731
    assert "contradicts" in error_of(eval_selavpr.main, *evaluation(data), "--resume", trained / "best_model.pth",
                                     "--backbone", "dinov2-small", capsys=capsys)
    assert "--foundation_model_path beside --resume" in train_error("--resume", trained / "last_model.pth")
    assert "--mining beside --training_dataset" in train_error("--training_dataset", "gsv_cities", "--mining", "full")
    assert "unrecognized arguments: --global_weight" in train_error("--global_weight", 2)
    assert "images/train/database: no such folder" in train_error("--dataset_name", "sped")
    assert "images/train/database: no such folder" in error_of(  # before a backbone is fetched
        train_selavpr.main, *evaluation(data), "--dataset_name", "sped", capsys=capsys)
    assert "is not in" in error_of(eval_selavpr.main, *evaluation(data), capsys=capsys)  # the published file
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun: SelaVPR's scripts run in one process; start them with python" in train_error()
    assert "run in one process" in error_of(
        eval_selavpr.main, *evaluation(data), "--resume", trained / "best_model.pth", capsys=capsys)


def test_files_of_the_two_models_are_told_apart(trained, data, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = error_of(eval_rerank.main, *evaluation(data), "--resume", trained / "best_model.pth", capsys=capsys)
    assert "a SelaVPR model, expected a SelaVPR++ one" in message
    shutil.copy(trained / "last_model.pth", tmp_path / "other.pth")
    assert "a SelaVPR model" in error_of(
        train.main, "--datasets_folder", data, "--device", "cpu", "--resume", tmp_path / "other.pth", capsys=capsys)
    assert json.loads((trained / "config.json").read_text())["model"] == {"backbone": TINY}
