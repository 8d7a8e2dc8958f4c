"""What is told of binary codes, against loops over pairs and numpy's own correlation."""

from types import SimpleNamespace

import numpy as np
import pytest

from utils.evaluation import codes
from utils.evaluation.codes import summarised_codes
from utils.search import ModelIdentity, Searchable, TwoStageIndex


def listing(n_database, positives):
    return SimpleNamespace(n_database=n_database, positives=positives)


@pytest.fixture
def small():
    """40 database and 9 query codes of 16 bits, of which bit 3 never changes and bit 5 is bit 4's opposite."""
    bits = np.random.default_rng(1).random((49, 16)) < np.linspace(0.2, 0.9, 16)
    bits[:, 3], bits[:, 5] = True, ~bits[:, 4]
    positives = [np.array([q, q + 1, q + 7]) for q in range(8)] + [np.array([], np.int64)]
    return bits[:40].astype(int), bits[40:].astype(int), positives


def packed(bits):
    return np.packbits(bits.astype(bool), axis=1)


@pytest.mark.parametrize("block", [1, 7, 8192])
def test_distances_and_bits(small, block, monkeypatch, tmp_path):
    monkeypatch.setattr(codes, "BLOCK", block)
    database, queries, positives = small
    index = TwoStageIndex.build(tmp_path / "index", model=ModelIdentity("", "made up"), codes=packed(database),
                                names=map(str, range(40)))
    found = summarised_codes(index, packed(queries), listing(40, positives))
    right, others = [0] * 17, [0] * 17
    for q, query in enumerate(queries):
        for i, image in enumerate(database):
            counts = right if i in positives[q] else others
            counts[sum(a != b for a, b in zip(query, image, strict=True))] += 1
    assert (found["codes_positives"].tolist(), found["codes_negatives"].tolist()) == (right, others)
    assert found["codes_ones"] == pytest.approx(database.mean(axis=0))
    counts = [0] * 201
    for a in range(16):
        for b in range(a):
            if 3 not in (a, b):
                counts[round(100 * np.corrcoef(database[:, a], database[:, b])[0, 1]) + 100] += 1
    assert found["codes_correlations"].tolist() == counts
    assert counts[0] == 1  # bits 4 and 5


def test_of_many_pairs_some_are_drawn_evenly_and_alike_each_time(small, monkeypatch):
    database, queries, positives = small
    whole = summarised_codes(Searchable(packed(database), None), packed(queries), listing(40, positives))
    monkeypatch.setattr(codes, "PAIRS", 20)
    drawn = []
    for seed in range(400):
        found, again = (summarised_codes(Searchable(packed(database), None), packed(queries), listing(40, positives),
                                         seed=seed) for _ in range(2))
        assert all((found[name] == again[name]).all() for name in found)
        assert found["codes_positives"].sum() == 20 and 10 <= found["codes_negatives"].sum() <= 20
        drawn.append([found["codes_positives"], found["codes_negatives"]])
    for kind, name in enumerate(("codes_positives", "codes_negatives")):
        share = np.sum(drawn, axis=0)[kind] / np.sum(drawn, axis=0)[kind].sum()
        assert np.abs(share - whole[name] / whole[name].sum()).max() < 0.02


def test_of_a_large_database_evenly_spread_rows_are_read(monkeypatch):
    monkeypatch.setattr(codes, "ROWS", 5)
    bits = np.zeros((13, 8), bool)
    bits[[0, 3, 6, 9, 12], 2] = True
    found = summarised_codes(Searchable(packed(bits), None), packed(bits[:1]), listing(13, [np.array([0])]))
    assert found["codes_ones"].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_without_labels_any_pair_is_drawn(small):
    database, queries, _ = small
    found = summarised_codes(Searchable(packed(database), None), packed(queries), listing(40, None))
    assert sorted(found) == ["codes_correlations", "codes_negatives", "codes_ones"]
    assert found["codes_negatives"].sum() == 9 * 40
