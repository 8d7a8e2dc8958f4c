"""Triplets by weak supervision: which images are near, mining against goldens and naive loops, batches."""

import dataclasses
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image
from torch.utils.data import DataLoader

from datasets import (
    MININGS,
    BenchmarkDataset,
    TripletDataset,
    TripletMiner,
    collate_triplets,
    read_triplet_folder,
)
from datasets.training.triplets import mining as mining_module
from datasets.transforms import read_image, resize, to_uint8_tensor

DATA = ROOT / "tests" / "data"
GOLDEN = json.loads((DATA / "golden_selavpr_mining.json").read_text())
FEATURES = np.load(DATA / "golden_selavpr_mining.npz")["features"]
AS_PUBLISHED = {"negs_num_per_query": GOLDEN["parameters"]["negs_num_per_query"],
                "neg_samples_num": GOLDEN["parameters"]["neg_samples_num"],
                "cache_refresh_rate": GOLDEN["parameters"]["cache_refresh_rate"],
                "queries_per_epoch": 2 * GOLDEN["parameters"]["cache_refresh_rate"]}
NOTES = ("day_forward", "night_forward", "day_sideways", "night_sideways", "day_forward")


def touch(root, database, queries, name="city", split="train"):
    """A set of empty files: a listing reads names alone."""
    for side, names in (("database", database), ("queries", queries)):
        folder = root / name / "images" / split / side
        folder.mkdir(parents=True)
        for file in names:
            (folder / file).touch()
    return root


def drawn_names(n, *, seed, side):
    """On a strip of 150 m x 40 m, whole metres; unique, with the notes of MSLS."""
    steps = np.random.default_rng(seed).integers((0, 0), (150, 40), (n, 2))
    return [f"@{500000 + east}.00@{4000000 + north}.00@{side}{i:04d}@{NOTES[i % len(NOTES)]}@.jpg"
            for i, (east, north) in enumerate(steps)]


def metres(path):
    return tuple(map(float, path.name.split("@")[1:3]))


def renamed(names):
    """The recorded names have the image's number where others have the UTM zone; here it stands a field later."""
    return [f"{name[:21]}@{name[21:]}" for name in names]


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    paths = GOLDEN["paths"]
    root = touch(tmp_path_factory.mktemp("golden"), renamed(paths["database"]), renamed(paths["queries"]))
    return read_triplet_folder(root, "city")


@pytest.fixture(scope="module")
def strip(tmp_path_factory):
    """120 database images, 60 queries of which some have no positive."""
    root = touch(tmp_path_factory.mktemp("strip"), drawn_names(120, seed=1, side="d"),
                 [*drawn_names(60, seed=2, side="q"), "@499000.00@4000000.00@far@day_forward@.jpg",
                  "@500020.00@4900000.00@far@day_forward@.jpg"])
    return read_triplet_folder(root, "city")


def features(images, dim=16, seed=3):
    n = images.listing.n_database + images.listing.n_queries
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def describing(rows, asked=None):
    def describe(ids):
        if asked is not None:
            asked.append(ids)
        return rows[ids]
    return describe


# The listing


def test_the_listing_is_the_published_one_with_zones_shortened(golden):
    listing = golden.listing
    assert [path.name for path in listing.query_paths] == renamed(GOLDEN["kept_queries"])
    assert [path.name for path in listing.database_paths] == sorted(renamed(GOLDEN["paths"]["database"]))
    assert [ids.tolist() for ids in listing.positives] == GOLDEN["hard_positives"]
    zones = GOLDEN["soft_positives_of_all_queries"]
    assert [ids.tolist() for ids in golden.zones] == [zones[i] for i in GOLDEN["kept_query_positions"]]
    dropped = sorted(renamed(set(GOLDEN["paths"]["queries"]) - set(GOLDEN["kept_queries"])))
    assert [path.name for path in golden.dropped] == dropped
    assert len(dropped) == 7 and len(listing.query_utm) == 17 and listing.threshold_m == 10
    assert listing.warnings == (f"7 of 24 queries have no database image within 10 m and are left out: {dropped[0]}, "
                                "...",)


def test_positives_and_zones_are_those_of_naive_loops(strip):
    assert [path.name.split("@")[3] for path in strip.dropped if "far" in path.name] == ["far", "far"]
    for query, path in enumerate(strip.listing.query_paths):
        away = [math.dist(metres(path), metres(other)) for other in strip.listing.database_paths]
        assert strip.listing.positives[query].tolist() == [i for i, m in enumerate(away) if m <= 10]
        assert strip.zones[query].tolist() == [i for i, m in enumerate(away) if m <= 25]
    for path in strip.dropped:
        assert min(math.dist(metres(path), metres(other)) for other in strip.listing.database_paths) > 10


def test_both_distances_are_inclusive(tmp_path):
    touch(tmp_path, [f"@5000{east}.00@4000000.00@.jpg" for east in (10, 11, 25, 26)], ["@500000.00@4000000.00@.jpg"])
    images = read_triplet_folder(tmp_path, "city")
    assert images.listing.positives[0].tolist() == [0] and images.zones[0].tolist() == [0, 1, 2]
    assert images.dropped == [] and images.listing.warnings == ()
    images = read_triplet_folder(tmp_path, "city", positives_m=11, zone_m=26)
    assert images.listing.positives[0].tolist() == [0, 1] and images.zones[0].tolist() == [0, 1, 2, 3]
    assert (images.listing.rule, images.zone_m) == ("within 11 m", 26)


def test_metres_of_another_utm_zone_are_not_near(tmp_path):
    touch(tmp_path, ["@500000.00@4000000.00@31@S@.jpg", "@500000.00@4000001.00@33@S@.jpg"],
          ["@500000.00@4000002.00@33@S@.jpg"])
    images = read_triplet_folder(tmp_path, "city")
    assert images.listing.positives[0].tolist() == images.zones[0].tolist() == [1]


def test_mistakes_in_the_listing(tmp_path):
    touch(tmp_path, ["@500000.00@4000000.00@.jpg"], ["@500011.00@4000000.00@.jpg"])
    with pytest.raises(ValueError, match=r"train: none of the 1 queries has a database image within 10 m; expected"):
        read_triplet_folder(tmp_path, "city")
    for distances in ((26, 25), (-1, 25), (10, math.inf), (math.nan, 25)):
        with pytest.raises(ValueError, match="positives within .* m, none of the negatives within .*: expected"):
            read_triplet_folder(tmp_path, "city", positives_m=distances[0], zone_m=distances[1])
    with pytest.raises(FileNotFoundError, match=r"val/database: no such folder"):
        read_triplet_folder(tmp_path, "city", split="val")


# Mining


@pytest.mark.parametrize("mining", ["partial", "full", "random"])
def test_two_rounds_are_the_recorded_ones(golden, mining):
    """As the published code mines once its zones belong to their queries, and, given the wrong zones, as it does."""
    of_all = [np.array(ids, dtype=np.int64) for ids in GOLDEN["soft_positives_of_all_queries"]]
    shifted = dataclasses.replace(golden, zones=of_all[:golden.listing.n_queries])
    before = np.random.get_state()[1].tolist()
    for images, recorded in ((golden, GOLDEN["aligned"]), (shifted, GOLDEN["published"])):
        miner, rng = TripletMiner(images, mining=mining, **AS_PUBLISHED), np.random.RandomState(0)
        assert miner.n_rounds == 2
        rounds = [miner.mine(describing(FEATURES), round_number=i, rng=rng) for i in range(2)]
        assert [triplets.tolist() for triplets in rounds] == recorded[mining]
        assert {triplets.dtype for triplets in rounds} == {np.dtype(np.int64)}
    assert np.random.get_state()[1].tolist() == before


def naive_weights(paths):
    n, night, sideways = len(paths), 0, 0
    for path in paths:
        night += "@night_" in path.name
        sideways += "_sideways@" in path.name
    weights = [1 + (n / night if "@night_" in path.name else 0) + (n / sideways if "_sideways@" in path.name else 0)
               for path in paths]
    return np.array(weights) / sum(weights)


def naive_round(images, mining, rows, rng, *, k, pool_size, n_queries, chosen):
    """One round in loops over single images, by section 4 of the published protocol's description."""
    listing = images.listing
    weights = naive_weights(listing.query_paths) if mining == "msls_weighted" else None
    queries = rng.choice(listing.n_queries, n_queries, replace=False, p=weights).tolist()
    pool = None
    if mining in ("partial", "msls_weighted"):
        pool = rng.choice(listing.n_database, pool_size, replace=False).tolist()

    triplets = []
    for query in queries:
        def distance(image, query=query):
            return math.dist(rows[image].tolist(), rows[listing.n_database + query].tolist())

        away = [math.dist(metres(listing.query_paths[query]), metres(path)) for path in listing.database_paths]
        positive = min((i for i, m in enumerate(away) if m <= 10), key=distance)
        if mining == "random":
            drawn = rng.choice(listing.n_database, k + sum(m <= 25 for m in away), replace=False).tolist()
            negatives = [i for i in drawn if away[i] > 25][:k]
        else:
            drawn = pool
            if mining == "full":
                drawn = {*rng.choice(listing.n_database, pool_size, replace=False).tolist(), *chosen.get(query, ())}
            negatives = sorted((i for i in drawn if away[i] > 25), key=distance)[:k]
            chosen[query] = negatives
        triplets.append([query, positive, *negatives])
    return triplets


@pytest.mark.parametrize("mining", MININGS)
def test_rounds_are_those_of_naive_loops(strip, mining):
    rows, chosen = features(strip), {}
    miner = TripletMiner(strip, mining=mining, negs_num_per_query=4, neg_samples_num=70, cache_refresh_rate=20,
                         queries_per_epoch=50)
    assert miner.n_rounds == 3
    ours, naive = np.random.RandomState(5), np.random.RandomState(5)
    for number in range(3):
        found = miner.mine(describing(rows), round_number=number, rng=ours)
        assert found.tolist() == naive_round(strip, mining, rows, naive, k=4, pool_size=70, n_queries=20, chosen=chosen)
    assert ours.randint(2**31) == naive.randint(2**31)  # nothing more was drawn


@pytest.mark.parametrize("mining", MININGS)
def test_no_negative_lies_within_25_m(strip, mining):
    listing = strip.listing
    miner = TripletMiner(strip, mining=mining, neg_samples_num=60, cache_refresh_rate=20, queries_per_epoch=100)
    for number in range(miner.n_rounds):
        triplets = miner.mine(describing(features(strip)), round_number=number)
        assert triplets.shape == (20, 4) and len(set(triplets[:, 0])) == 20
        for query, positive, *negatives in triplets.tolist():
            here = metres(listing.query_paths[query])
            assert math.dist(here, metres(listing.database_paths[positive])) <= 10
            assert min(math.dist(here, metres(listing.database_paths[i])) for i in negatives) > 25
            assert len(set(negatives)) == 2


def test_queries_by_night_and_to_the_side_are_drawn_more_often(strip):
    miner = TripletMiner(strip, mining="msls_weighted", neg_samples_num=60, cache_refresh_rate=4,
                         queries_per_epoch=1200)
    counts = np.zeros(strip.listing.n_queries)
    for number in range(300):
        counts[miner.mine(describing(features(strip)), round_number=number)[:, 0]] += 1
    rare = [any(word in path.name for word in ("night", "sideways")) for path in strip.listing.query_paths]
    assert counts[rare].mean() > 2 * counts[np.invert(rare)].mean()


def test_weights_need_the_notes_of_msls(golden, tmp_path):
    with pytest.raises(ValueError, match=r"@018@.jpg: no <day or night>_<direction> in front of the last @; mining"):
        TripletMiner(golden, mining="msls_weighted", **AS_PUBLISHED)
    touch(tmp_path, ["@500000.00@4000000.00@.jpg", "@500100.00@4000000.00@.jpg", "@500200.00@4000000.00@.jpg"],
          ["@500000.00@4000000.00@night_forward@.jpg"])
    with pytest.raises(ValueError, match="none of 1 queries is noted as sideways; mining 'msls_weighted' expects"):
        TripletMiner(read_triplet_folder(tmp_path, "city"), mining="msls_weighted")


@pytest.mark.parametrize("mining", MININGS)
def test_a_set_smaller_than_a_round_is_taken_whole(strip, mining):
    """In the published code NumPy refuses to draw more than there is."""
    miner = TripletMiner(strip, mining=mining)
    n, rows = strip.listing.n_queries, features(strip)
    triplets = miner.mine(describing(rows))
    assert sorted(triplets[:, 0]) == list(range(n)) and miner.n_rounds == 5
    if mining != "random":  # all database images are candidates: the nearest of all beyond the zone
        for query, _, *negatives in triplets.tolist():
            away = np.linalg.norm(rows[:120].astype(np.float64) - rows[120 + query], axis=1)
            away[strip.zones[query]] = np.inf
            assert negatives == np.argsort(away)[:2].tolist()


@pytest.mark.parametrize("mining", ["partial", "full", "random"])
def test_too_few_negatives_are_an_error_before_anything_is_described(tmp_path, mining):
    """In the published code index -1 takes the last candidate."""
    touch(tmp_path, ["@500000.00@4000000.00@.jpg", "@500020.00@4000000.00@.jpg", "@500100.00@4000000.00@.jpg"],
          ["@500000.00@4000000.00@q@.jpg"])
    images = read_triplet_folder(tmp_path, "city")
    message = (r"@q@.jpg: 1 of 3 database images lie beyond 25 m of it; expected at least negs_num_per_query = 2; "
               "lower it or add database images")
    with pytest.raises(ValueError, match=message):
        TripletMiner(images, mining=mining)
    rows = np.eye(4, dtype=np.float32)
    assert TripletMiner(images, mining=mining, negs_num_per_query=1).mine(describing(rows)).tolist() == [[0, 0, 2]]


def test_a_pool_with_too_few_negatives_is_an_error(tmp_path):
    near = [f"@500000.00@40000{i:02d}.00@.jpg" for i in range(20)]
    touch(tmp_path, [*near, "@500100.00@4000000.00@.jpg", "@500200.00@4000000.00@.jpg"],
          ["@500000.00@4000000.00@q@.jpg"])
    images = read_triplet_folder(tmp_path, "city")
    for mining in ("partial", "full"):
        miner = TripletMiner(images, mining=mining, neg_samples_num=2)
        with pytest.raises(ValueError, match=r"@q@.jpg: [01] of 2 database images lie beyond 25 m of it; .* = 2; raise "
                                             r"neg_samples_num \(2\)"):
            miner.mine(lambda ids: pytest.fail("nothing is described"))


def test_equal_distances_keep_the_order_drawn(golden):
    miner = TripletMiner(golden, **AS_PUBLISHED)
    found = miner.mine(lambda ids: np.ones((len(ids), 3), dtype=np.float32), rng=np.random.RandomState(0))
    rng = np.random.RandomState(0)
    queries, pool = rng.choice(17, 8, replace=False), rng.choice(60, 40, replace=False)
    expected = [[query, golden.listing.positives[query][0], *[i for i in pool if i not in golden.zones[query]][:3]]
                for query in queries]
    assert found.tolist() == expected


@pytest.mark.parametrize("mining", MININGS)
def test_what_is_described_is_needed_and_described_once(strip, mining):
    asked = []
    miner = TripletMiner(strip, mining=mining, neg_samples_num=50, cache_refresh_rate=10)
    triplets = miner.mine(describing(features(strip), asked))
    asked = np.concatenate(asked)
    assert len(set(asked)) == len(asked) and asked.dtype == np.int64
    assert set(asked[asked >= 120] - 120) == set(triplets[:, 0])
    near = set(np.concatenate([strip.listing.positives[query] for query in triplets[:, 0]]))
    database = set(asked[asked < 120])
    assert near <= database and set(triplets[:, 1]) <= near
    if mining == "random":
        assert database == near
    elif mining == "full":
        assert len(database) > 110  # ten times 50 of 120
    else:
        assert len(database - near) <= 50


def test_many_descriptors_lie_in_a_file_that_is_gone_afterwards(strip, tmp_path, monkeypatch):
    plain = TripletMiner(strip, mining="full", neg_samples_num=60).mine(describing(features(strip)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mining_module, "AT_ONCE", 7)
    seen = []

    def describe(ids):
        assert len(ids) <= 7
        seen.extend(path.stat().st_size for path in tmp_path.glob("descriptors-*/rows"))
        return features(strip)[ids]

    rows = 120 + strip.listing.n_queries  # each is needed
    for memory_bytes, size in ((4 * 16 * rows - 1, {4 * 16 * rows}), (4 * 16 * rows, set())):
        seen.clear()
        miner = TripletMiner(strip, mining="full", neg_samples_num=60, memory_bytes=memory_bytes)
        assert np.array_equal(miner.mine(describe), plain)
        assert set(seen) == size and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("describe", "message"), [
    (lambda ids: np.ones((len(ids), 4)), r"shape \(\d+, 4\), float64, for \d+ images; expected \(\d+, 4\)"),
    (lambda ids: np.ones((3, 4), dtype=np.float32), r"shape \(3, 4\), float32, for \d+ images"),
    (lambda ids: np.ones(len(ids), dtype=np.float32), r"shape \(\d+,\), float32"),
    (lambda ids: np.full((len(ids), 4), np.nan, dtype=np.float32), "not finite; lower the learning rate")])
def test_descriptors_that_do_not_fit(golden, describe, message):
    with pytest.raises(ValueError, match=message):
        TripletMiner(golden).mine(describe)


@pytest.mark.parametrize(("parameters", "message"), [
    ({"mining": "hard"}, "mining 'hard': expected one of partial, full, random, msls_weighted"),
    ({"negs_num_per_query": 0}, "negs_num_per_query 0: expected at least 1"),
    ({"neg_samples_num": 1}, "neg_samples_num 1: expected at least 2"),
    ({"cache_refresh_rate": 0}, "cache_refresh_rate 0: expected at least 1"),
    ({"queries_per_epoch": 0}, "queries_per_epoch 0: expected at least 1"),
    ({"seed": -1}, "seed -1: expected at least 0")])
def test_bad_arguments(golden, parameters, message):
    with pytest.raises(ValueError, match=message):
        TripletMiner(golden, **parameters)


def test_a_round_that_there_is_not(golden):
    for number in (-1, 2):
        with pytest.raises(ValueError, match=f"round {number} of an epoch of 2: expected 0 to 1"):
            TripletMiner(golden, **AS_PUBLISHED).mine(describing(FEATURES), round_number=number)


# Resuming


def epochs(miner, rows, numbers):
    found = []
    for epoch in numbers:
        miner.set_epoch(epoch)
        found.append([miner.mine(describing(rows), round_number=i).tolist() for i in range(miner.n_rounds)])
    return found


@pytest.mark.parametrize("mining", MININGS)
def test_a_resumed_training_meets_the_same_triplets(strip, mining, tmp_path):
    def miner(seed=0):
        return TripletMiner(strip, mining=mining, neg_samples_num=40, cache_refresh_rate=15, queries_per_epoch=30,
                            seed=seed)

    rows, whole = features(strip), miner()
    first = epochs(whole, rows, range(2))
    torch.save(whole.state_dict(), tmp_path / "state.pth")
    rest = epochs(whole, rows, range(2, 4))
    resumed = miner()
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert epochs(resumed, rows, range(2, 4)) == rest
    rounds = [str(triplets) for epoch in first + rest for triplets in epoch]
    assert len(set(rounds)) == 8  # no round is another's
    assert epochs(miner(seed=1), rows, range(2)) != first
    if mining != "full":  # no round needs the one before
        again = miner()
        again.set_epoch(3)
        assert again.mine(describing(rows), round_number=1).tolist() == rest[1][1]


def test_a_state_is_a_copy_and_fits_its_own_mining(strip):
    miner = TripletMiner(strip, mining="full")
    before = miner.state_dict()
    miner.mine(describing(features(strip)))
    assert (before["chosen"] == -1).all() and (miner.state_dict()["chosen"] >= 0).all()
    partial = TripletMiner(strip)
    assert partial.state_dict()["chosen"].shape == (0, 2)
    with pytest.raises(ValueError, match=r"negatives chosen before: shape \(\d+, 2\); expected \(0, 2\), ids of 120"):
        partial.load_state_dict(before)
    with pytest.raises(ValueError, match="the same data, mining and negs_num_per_query"):
        miner.load_state_dict({"chosen": torch.full_like(before["chosen"], 120)})


# Images


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Six places 100 m apart, a query at each; images of several sizes and random pixels."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for side in ("database", "queries"):
        folder = root / "city" / "images" / "train" / side
        folder.mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (20 + i, 30 - i, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"@{500000 + 100 * i}.00@4000000.00@{side}@.png")
    return read_triplet_folder(root, "city")


TRIPLETS = np.array([[5, 5, 0, 3], [0, 0, 4, 2], [2, 2, 1, 5], [1, 1, 3, 0], [3, 3, 0, 1]])


def test_images_to_describe_are_those_of_a_benchmark_dataset(photographs):
    """The numbers that are asked for are its own: its items feed a model."""
    listing = photographs.listing
    dataset = BenchmarkDataset(listing, transform=to_uint8_tensor)
    asked = []

    def describe(ids):
        asked.extend(ids.tolist())
        return np.stack([dataset[i][0].float().mean((1, 2)).numpy() for i in ids])

    queries, database = (np.array([np.asarray(read_image(path)).mean((0, 1)) for path in paths])
                         for paths in (listing.query_paths, listing.database_paths))
    for query, positive, *negatives in TripletMiner(photographs, mining="full").mine(describe).tolist():
        away = np.linalg.norm(database - queries[query], axis=1)
        away[query] = np.inf
        assert (positive, negatives) == (query, np.argsort(away)[:2].tolist())
    assert sorted(asked) == list(range(12))


def test_an_item_is_query_positive_and_negatives(photographs):
    dataset = TripletDataset(photographs.listing, TRIPLETS, size=(14, 28))
    assert len(dataset) == 5
    for item, triplet in zip(dataset, TRIPLETS, strict=True):
        paths = [photographs.listing.query_paths[triplet[0]],
                 *(photographs.listing.database_paths[i] for i in triplet[1:])]
        expected = [to_uint8_tensor(resize(read_image(path), (14, 28))) for path in paths]
        assert item.dtype == torch.uint8 and torch.equal(item, torch.stack(expected))
    with pytest.raises(IndexError, match="triplet 5 of 5"):
        dataset[5]


def test_a_batch_tells_its_triplets(photographs):
    dataset = TripletDataset(photographs.listing, TRIPLETS, size=(14, 14))
    images, triplets = collate_triplets([dataset[i] for i in range(3)])
    assert images.shape == (12, 3, 14, 14) and images.dtype == torch.uint8
    assert triplets.dtype == torch.int64
    assert triplets.tolist() == [[0, 1, 2], [0, 1, 3], [4, 5, 6], [4, 5, 7], [8, 9, 10], [8, 9, 11]]
    for b in range(3):
        for j in range(2):
            query, positive, negative = triplets[2 * b + j]
            for row, place in ((query, 0), (positive, 1), (negative, 2 + j)):
                assert torch.equal(images[row], dataset[b][place])


def test_batches_do_not_depend_on_the_workers(photographs):
    dataset = TripletDataset(photographs.listing, TRIPLETS, size=(14, 14))
    loaded = [list(DataLoader(dataset, 2, num_workers=workers, collate_fn=collate_triplets, drop_last=True))
              for workers in (0, 1, 2)]
    assert [len(batches) for batches in loaded] == [2, 2, 2]
    for batches in loaded[1:]:
        for (images, triplets), (expected, rows) in zip(batches, loaded[0], strict=True):
            assert torch.equal(images, expected) and torch.equal(triplets, rows)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    touch(tmp_path, ["@500000.00@4000000.00@.jpg", "@500100.00@4000000.00@.jpg"], ["@500000.00@4000000.00@.jpg"])
    listing = read_triplet_folder(tmp_path, "city").listing
    dataset = TripletDataset(listing, np.array([[0, 0, 1]]), size=(14, 14))
    with pytest.raises(ValueError, match=r"queries/@500000.00@4000000.00@.jpg: not a readable image"):
        dataset[0]
    Path(listing.query_paths[0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"queries/@500000.00@4000000.00@.jpg: no such image"):
        dataset[0]


@pytest.mark.parametrize(("triplets", "message"), [
    ([[0, 1]], r"triplets of shape \(1, 2\): expected \(n, 2 \+ negatives\)"),
    ([[6, 0, 1]], "query image 6 in a triplet: expected 0 to 5"),
    ([[0, 0, -1]], "database image -1 in a triplet: expected 0 to 5")])
def test_triplets_that_do_not_fit(photographs, triplets, message):
    with pytest.raises(ValueError, match=message):
        TripletDataset(photographs.listing, np.array(triplets), size=(14, 14))
