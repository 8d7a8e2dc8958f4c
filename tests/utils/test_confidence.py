import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler

from utils import confidence
from utils.confidence import Confidence, Signals


def made_up(n: int, seed: int = 0, *, shift: float = 0.0) -> Signals:
    """Queries of which the wrong ones are farther from what they find, which lies scattered."""
    random = np.random.default_rng(seed)
    right = random.random(n) < 0.7
    base = np.where(right, 0.5, 0.8) + 0.12 * random.standard_normal(n) + shift
    distances = np.sort(base[:, None] + 0.2 * random.random((n, 12)), axis=1)
    positions = random.standard_normal((n, 12, 2)) * np.where(right, 20, 300)[:, None, None] + 5e6
    bits = np.sort(random.integers(40, 200, (n, 30)), axis=1)
    return Signals(distances, positions, bits, random.integers(0, 30, n), right)


def test_signals_are_what_loops_say():
    signals, slope = made_up(7), 3.0
    found = confidence.features(signals, slope=slope)
    for i, (distances, places) in enumerate(zip(signals.distances[:, :10], signals.positions[:, :10], strict=True)):
        weights = [np.exp(-slope * (distance - distances[0])) for distance in distances]
        centre = sum(w * p for w, p in zip(weights, places, strict=True)) / sum(weights)
        variance = sum(w * ((p - centre) ** 2).sum() for w, p in zip(weights, places, strict=True)) / sum(weights)
        assert confidence.sue(signals, slope=slope)[i] == pytest.approx(variance, rel=1e-6)
        assert found["ratio"][i] == distances[0] / distances[1]
        assert found["margin"][i] == pytest.approx(distances[0] / (sum(distances) / 10))
        assert found["bits"][i] == signals.bits[i, signals.ranks[i]]
    assert confidence.pa(Signals(np.zeros((1, 2)))).tolist() == [1.0]


@pytest.mark.parametrize("seed", range(4))
def test_measures_are_what_loops_over_thresholds_say(seed):
    random = np.random.default_rng(seed)
    score, right = random.integers(0, 12, 40) / 12, random.random(40) < 0.6  # with equal scores
    full = cover = 0.0
    for threshold in score:
        answered = score >= threshold
        wrong = (answered & ~right).sum()
        cover = max(cover, answered.mean()) if wrong <= 0.3 * answered.sum() else cover
        full = max(full, (answered & right).sum() / right.sum()) if wrong == 0 else full
    assert confidence.coverage(score, right, risk=0.3) == cover
    assert confidence.recall_at_full_precision(score, right) == full
    precision, recall, _ = precision_recall_curve(right, score)
    assert confidence.auc_pr(score, right) == pytest.approx(-(np.diff(recall) * precision[:-1]).sum())
    error = 0.0
    for low in np.arange(10) / 10:
        some = (score >= low) & ((score < low + 0.1) | (low == 0.9))
        error += abs(score[some].sum() - right[some].sum()) / 40
    told = confidence.judged(score, right, probability=True)
    assert told["ece"] == pytest.approx(error)
    assert sum(one["queries"] for one in told["bins"]) == 40


def test_a_fit_predicts_what_the_regression_does_and_survives_json():
    signals = made_up(300)
    fitted = confidence.fit(signals, signals.right, set="here")
    half = np.random.default_rng(0).permutation(300)[:150]
    values = fitted.features(signals)
    scaler = StandardScaler().fit(values[half])
    oracle = min((LogisticRegression(C=c) for c in confidence.PENALTIES), key=lambda model: -cross_val_score(
        model, scaler.transform(values[half]), signals.right[half], scoring="neg_log_loss").mean())
    oracle.fit(scaler.transform(values[half]), signals.right[half])
    again = Confidence.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again.predict(signals) == pytest.approx(oracle.predict_proba(scaler.transform(values))[:, 1], abs=1e-6)
    assert again.fitted_on == {"queries": 300, "right": int(signals.right.sum()), "set": "here"}
    assert again.least == pytest.approx(values.min(axis=0))
    assert np.isnan(again.predict(signals._replace(positions=None))).all()


def test_confidence_is_calibrated_and_better_than_the_distance():
    told = confidence.held_out(made_up(800), halves=5)
    methods = told["methods"]
    assert methods["fitted"]["ece"][0] < 0.06
    assert methods["fitted"]["auc_pr"][0] > methods["distance"]["auc_pr"][0] > 0.7
    assert methods["distance"]["ece"] is None
    json.dumps(told)


def test_the_threshold_keeps_its_promise():
    """Of many labelled sets at most `delta` choose a threshold whose true share of wrong answers exceeds the risk."""
    risk, delta, random = 0.22, 0.05, np.random.default_rng(0)
    candidates = np.arange(10) / 10
    broken = found = greedy = 0
    for _ in range(500):
        score = random.random(300)
        right = random.random(300) < score  # so that 1 - t / 2 - 1 / 2 of those above t are wrong
        threshold = confidence.learn_then_test(score, right, candidates=candidates, risk=risk, delta=delta)
        found += threshold is not None
        broken += threshold is not None and (1 - threshold) / 2 > risk
        # What looks right without a test:
        kept = [t for t in candidates if (~right[score >= t]).sum() <= risk * (score >= t).sum()]
        greedy += bool(kept) and (1 - min(kept)) / 2 > risk
    assert broken <= delta * 500
    assert found > 250 and greedy > delta * 500  # it is a test that can fail


def test_nothing_is_promised_of_too_few():
    assert confidence.learn_then_test(np.ones(20), np.ones(20, bool), candidates=np.zeros(10), risk=0.1,
                                      delta=0.1) is None
    with pytest.raises(ValueError, match="9 labelled queries are answered right and 31 wrong; .* at least 10 of each"):
        confidence.fit(made_up(40), np.arange(40) < 9)


def test_queries_unlike_the_fitted_ones_are_told():
    signals = made_up(300)
    fitted = confidence.fit(signals, signals.right)
    assert fitted.warning(made_up(100, 1)) is None
    assert "100 of 100 queries look unlike the 300" in fitted.warning(made_up(100, 2, shift=3.0))
    assert fitted.unlike(made_up(1000, 3)).mean() < 0.02


@pytest.mark.parametrize("change", [{"mean": [1]}, {"bias": "x"}, {"more": 1}, {"scale": None}, {"slope": np.nan}])
def test_what_is_no_confidence_is_refused(change):
    signals = made_up(100)
    with pytest.raises(ValueError, match="damaged; fit it again"):
        Confidence.from_dict(confidence.fit(signals, signals.right).to_dict() | change)


@pytest.mark.parametrize("stages", [1, 2])
def test_signals_of_a_run(stages):
    random, signals = np.random.default_rng(0), made_up(120)
    ids = np.argsort(random.random((120, 50)), axis=1)[:, :12]
    arrays = {"final_ids": ids, "final_distances": signals.distances if stages == 2 else signals.distances**2,
              "final_correct": np.repeat(signals.right[:, None], 12, axis=1), "database_utm": random.random((50, 2))}
    if stages == 2:
        arrays |= {"first_stage_ids": ids[:, ::-1], "first_stage_distances": np.sort(random.integers(9, 99, (120, 12)))}
    found = confidence.signals_of(arrays)
    assert found.distances == pytest.approx(signals.distances)
    assert (found.positions == arrays["database_utm"][ids[:, :10]]).all()
    assert found.ranks is None if stages == 1 else (found.ranks == 11).all()
    told = confidence.held_out(found, halves=2)
    json.dumps(told)
    assert told["methods"].keys() == {"fitted", "distance", "PA", "SUE"}
    assert told["right"] == signals.right.sum() and sum(one["queries"] for one in told["bins"]) == 120
    with pytest.raises(ValueError, match="which answers are right is not known"):
        confidence.signals_of({name: array for name, array in arrays.items() if name != "final_correct"})
