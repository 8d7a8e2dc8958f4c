"""The simulated city and the figures of the benchmark of scale."""

import json

import numpy as np
import pytest
import torch

from benchmarks import scale, scale_page
from benchmarks.report import Report, machine
from benchmarks.simulated import PER_PLACE, PER_STREET, REACH, City
from utils.evaluation.metrics import recall_at_k
from utils.search import rerank_l2, search_hamming

N = 18 * PER_STREET + 38 * PER_PLACE


@pytest.fixture(scope="module")
def city():
    return City(N, queries=300, float_dim=128)


@pytest.fixture(scope="module")
def database(city):
    codes, floats = zip(*city.blocks(), strict=True)
    return np.concatenate(codes), np.concatenate(floats)


def hamming(a, b):
    return np.unpackbits(a ^ b, axis=-1).sum(axis=-1)


def test_blocks_hold_all_images_in_order(city, database):
    codes, floats = zip(*city.blocks(), strict=True)
    assert len(codes) == 19 and [len(block) for block in codes] == [len(block) for block in floats]
    assert (database[0].shape, database[0].dtype) == ((N, 64), np.uint8)
    assert (database[1].shape, database[1].dtype) == ((N, 128), np.float32)
    np.testing.assert_allclose(np.linalg.norm(database[1], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 1500, 3 * PER_STREET, 16 * PER_STREET, 17 * PER_STREET - 5])
def test_a_smaller_set_is_the_beginning_of_a_larger(n, database):
    codes, floats = zip(*City(n, queries=5, float_dim=128).blocks(), strict=True)
    np.testing.assert_array_equal(np.concatenate(codes), database[0][:n])
    np.testing.assert_array_equal(np.concatenate(floats), database[1][:n])


def test_positives_are_the_images_within_25_metres(city):
    assert all(np.array_equal(p, np.arange(p[0], p[-1] + 1)) and p[-1] < N for p in city.positives)
    places = np.array([sorted({*p // PER_PLACE})[:1] for p in city.positives]).ravel()
    assert np.all(np.diff(places) >= 0) and places[-1] > 0.98 * (N // PER_PLACE) - REACH
    assert {len(p) for p in city.positives} == {3 * PER_PLACE, 4 * PER_PLACE, 5 * PER_PLACE}
    assert all(p[0] // PER_STREET == p[-1] // PER_STREET for p in city.positives)


def test_neighbours_are_near_as_in_a_real_set(city, database):
    """The statistics that scale.md states: what an image's own place, a near one and a random one look like."""
    codes, floats = database
    nearest = np.array([hamming(codes[p], q).min() for p, q in zip(city.positives, city.query_codes, strict=True)])
    random = hamming(codes[np.random.default_rng(0).integers(N, size=(300, 20))], city.query_codes[:, None])
    assert 230 < random.mean() < 244 and 24 < random.std() < 34
    assert 85 < nearest.mean() < 115 and 25 < nearest.std() < 45
    _, ids = search_hamming(codes, city.query_codes, 100)
    recalls = recall_at_k(ids, city.positives, (1, 100))
    assert 86 < recalls[1] < 95 and recalls[100] > 98
    reranked = recall_at_k(rerank_l2(floats, city.query_floats, ids, 100)[0], city.positives, (1,))[1]
    assert recalls[1] + 1 < reranked < 98
    bits = np.unpackbits(codes, axis=1).mean(axis=0)
    assert 0.07 < np.abs(bits - 0.5).mean() < 0.15  # not balanced, as trained bits are not


def test_floats_and_codes_agree_on_the_angle(city, database):
    codes, floats = database[0][::40], database[1][::40]
    angle = np.arccos(np.clip(city.query_floats[:50] @ floats.T, -1, 1))
    bits = hamming(codes, city.query_codes[:50, None])
    np.testing.assert_allclose(bits.mean(), 512 / np.pi * angle.mean(), rtol=0.03)
    assert np.corrcoef(bits.ravel(), angle.ravel())[0, 1] > 0.9


def test_too_few_images_are_refused(capsys):
    with pytest.raises(SystemExit):
        scale.main(["--images", "9999"])
    assert "argument --images: 9999: expected at least 10000" in capsys.readouterr().err


def size(n: int) -> dict:
    """A measured size whose exact search grows as n and whose inverted file as its root."""
    recall = {"1": 90.0, "5": 95.0, "10": 97.0, "100": 99.0, "reranked 1": 94.0}
    linear = ("exact one", "exact batched", "rerank one", "rerank batched", "rerank cold", "rerank cold, index",
              "open warm", "open cold")
    ms = dict.fromkeys(linear, 2e-6 * n) | dict.fromkeys(("ivf one", "ivf batched"), 3e-4 * n ** 0.5)
    held = {"own": 10 * n, "mapped": 64 * n}
    return {"images": n, "float_dim": 2048 if n < 1_000_000 else 256, "store": "fp16", "lists": 9, "probes": 3,
            "probes_for_same_images": 5, "same_images": 97.0, "write_s": 1.0, "build_s": 1.0,
            "ms": ms, "recall": {"exact": recall, "ivf": recall},
            "ram": dict.fromkeys(("opened", "exact", "ivf", "rerank"), held),
            "disk": {"index": (64 + 60 + (4096 if n < 1_000_000 else 512)) * n, "ivf": 72 * n}}


@pytest.mark.slow
def test_a_measured_size_has_all_that_the_page_shows(tmp_path, monkeypatch):
    for name, value in (("QUERIES", 400), ("BATCH", 20), ("COLD", 3), ("REPEATS", 1)):
        monkeypatch.setattr(scale, name, value)
    report = Report()
    found = scale.measure(3000, tmp_path, report)
    scale.add_goals(report, found)
    assert found.keys() == size(3000).keys() and found["ms"].keys() == size(3000)["ms"].keys()
    first, exact = (found["recall"][way]["100"] for way in ("ivf", "exact"))
    assert exact > 98 and first >= 0.96 * exact
    assert found["disk"]["index"] > 3000 * (64 + 2 * 2048) and found["disk"]["ivf"] > 3000 * 72
    assert min(found["ms"].values()) > 0
    assert "| 3,000 |" in scale_page.tables([found])


def test_growth_is_a_power_law_by_least_squares():
    sizes = [size(n) for n in (10_000, 100_000, 1_000_000)]
    sizes[0]["ms"]["exact one"] = 5.0  # which does not count: costs that do not grow show there
    exponents = scale_page.growth(sizes)
    assert exponents["exact, one query"] == pytest.approx(1)
    assert exponents["inverted file, one query"] == pytest.approx(0.5)
    assert scale_page.fit(sizes, lambda s: s["ms"]["ivf one"])[1] == pytest.approx(3e-4)
    assert scale_page.fit([size(10_000), size(100_000)], lambda s: s["ms"]["exact one"]) == pytest.approx((1, 2e-6))
    sizes[2]["ms"]["rerank one"] = 1e9  # of floats with fewer dimensions: another curve
    assert exponents["re-ranking one, in RAM"] == pytest.approx(1) == scale_page.growth(sizes)["re-ranking one, in RAM"]


@pytest.mark.slow
def test_the_page_gets_its_tables_and_larger_sizes_stay(tmp_path, monkeypatch):
    this = machine(torch.device("cpu"))
    page = tmp_path / "scale.md"
    page.write_text(f"# Scale\n\nabout\n\n## {this}\n\nstale\n\n## Another machine\n\nkept\n")
    monkeypatch.setattr(scale, "measure", lambda n, folder, report: size(n))
    draw = scale_page.draw
    monkeypatch.setattr(scale_page, "draw", lambda *_: None)
    scale.rows(Report(), images=1_000_000, out=tmp_path)
    monkeypatch.setattr(scale_page, "draw", draw)
    report = Report()
    scale.rows(report, images=100_000, out=tmp_path)
    assert [row["met"] for row in report.rows] == 2 * [True, True, None]
    text = page.read_text()
    assert text.startswith("# Scale\n\nabout\n\n## Another machine\n\nkept\n") and "stale" not in text
    assert text.count(f"\n## {this}\n") == 1
    assert "| images | 10,000 | 100,000 | 1,000,000 |" in text and "| exact, one query | n^1.00 |" in text
    assert "| 0.020 / 0.020 | 0.200 / 0.200 | 2.000 / 2.000 |" in text
    # Computed from what was measured with 256-d: 2048-d and 4096-d, two bytes a value.
    assert "| 0.04 / 0.08 | 0.42 / 0.83 | 4.22 / 8.32 |" in text
    stored = json.loads((tmp_path / "scale.json").read_text())[this]
    assert [s["images"] for s in stored["sizes"]] == [10_000, 100_000, 1_000_000]
    assert stored["growth"]["exact, one query"] == pytest.approx(1)
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
