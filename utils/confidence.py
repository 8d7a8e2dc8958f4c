"""How likely a search's best answer is right, told from what the search found; and a threshold with a guarantee.

    known = signals_of(np.load("run/predictions.npz"))       # or Signals(...) of arrays
    fitted = fit(known, known.right)                          # plain numbers; to_dict and from_dict keep them as JSON
    probability = fitted.predict(signals)                     # of each query, NaN where a signal is missing
    unlike = fitted.unlike(signals)                           # which queries lie outside of what it was fitted on
    table = held_out(known)                                   # beside plain distance, d1/d2 and SUE

A logistic regression on a few signals, whose loss is least where probabilities are true; how far its weights are held
small is chosen by that loss on folds that it did not see (PENALTIES), for labelled queries are few. Calibrating its
scores once more (Platt) made it worse on 55 queries. The threshold is chosen by Learn Then Test (Angelopoulos et al.,
2021) with Bonferroni's correction, on labelled queries that the regression did not see. scikit-learn fits and judges;
to predict takes NumPy alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .ranks import progress

DEPTH = 10  # of the ranked answers: as many as SUE looks at
LEAST = 10  # right and wrong queries, of each, to fit on
PENALTIES, FOLDS = (0.03, 0.1, 0.3, 1, 3, 10), 5  # scikit-learn's C: the less, the smaller the weights
SLACK = 0.1  # of a signal's range on either side, before a query counts as unlike the fitted ones
UNLIKE_SHARE = 0.05  # of answered queries; more where so few were fitted that chance alone may leave more outside
RISK, DELTA = 0.1, 0.1  # of the threshold: false discoveries, and the chance to exceed them
CANDIDATES = np.arange(10) / 20 + 0.5  # thresholds that are tried: what is rather wrong is never sure
SLOPES = np.geomspace(0.1, 1000, 25)  # of SUE, by the set's median distance
BINS = 10  # of the reliability
HALVES = 20  # random ones, of a held-out measurement


class Signals(NamedTuple):
    """What a search found for m queries, best first.

    distances  (m, k) of the final stage, L2 or Hamming
    positions  (m, k, 2) metres of the found images, NaN where unknown; None: of none
    bits       (m, k') Hamming distances of the first of two stages; ranks (m,) the answer's place in it, from 0;
               None: there is one stage
    right      (m,) bool, whether the answer is right; None: not known
    """

    distances: np.ndarray
    positions: np.ndarray | None = None
    bits: np.ndarray | None = None
    ranks: np.ndarray | None = None
    right: np.ndarray | None = None

    def of(self, rows: np.ndarray) -> "Signals":
        """Those of some queries."""
        return Signals(*(None if part is None else part[rows] for part in self))


def joined(parts: Sequence[Signals]) -> Signals:
    """Of all their queries."""
    return Signals(*(None if some[0] is None else np.concatenate(some) for some in zip(*parts, strict=True)))


@dataclasses.dataclass(frozen=True)
class Confidence:
    """A fitted probability that the best answer is right: plain numbers.

    names       of the features, and for each mean, scale, weight, least and greatest value of the fitted queries
    bias        of the score sum(weight * (feature - mean) / scale) + bias; the probability is 1 / (1 + exp(-score))
    slope       of SUE's weights exp(-slope * distance)
    threshold   of the probability, above which at most `risk` of the answers are wrong, with probability 1 - `delta`
                over the choice of labelled queries; None: no threshold could be shown to keep that
    fitted_on   queries, right ones among them, and what else is known of them
    """

    names: Sequence[str]
    mean: Sequence[float]
    scale: Sequence[float]
    weight: Sequence[float]
    least: Sequence[float]
    greatest: Sequence[float]
    bias: float
    slope: float
    threshold: float | None
    risk: float
    delta: float
    fitted_on: dict

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping) -> "Confidence":
        """Raises ValueError for what is no fitted confidence."""
        try:
            found = cls(**content)
            numbers = [found.mean, found.scale, found.weight, found.least, found.greatest]
            plain = np.array([*np.ravel(numbers), found.bias, found.slope, found.risk, found.delta,
                              0 if found.threshold is None else found.threshold], np.float64)
            if (np.shape(numbers) == (5, len(found.names))
                    and np.isfinite(plain).all() and min(found.scale) > 0 and isinstance(found.fitted_on, dict)):
                return found
        except (TypeError, ValueError):
            pass
        raise ValueError("the confidence that was fitted is damaged; fit it again")

    def features(self, signals: Signals) -> np.ndarray:
        """(m, features) float64, NaN where a signal is missing."""
        found = features(signals, slope=self.slope)
        unknown = np.full(len(signals.distances), np.nan)
        return np.stack([found.get(name, unknown) for name in self.names], axis=1)

    def predict(self, signals: Signals) -> np.ndarray:
        """(m,) float64: the probability that each answer is right; NaN where a signal is missing."""
        scaled = (self.features(signals) - self.mean) / np.array(self.scale)
        with np.errstate(over="ignore"):  # exp(1000) is infinite, and the probability 0
            return 1 / (1 + np.exp(-(scaled @ np.array(self.weight) + self.bias)))

    def unlike(self, signals: Signals) -> np.ndarray:
        """(m,) bool: queries of which a feature lies farther outside of the fitted queries' than SLACK of their range;
        what is missing is not looked at."""
        values, slack = self.features(signals), SLACK * np.subtract(self.greatest, self.least)
        return ((values < self.least - slack) | (values > self.greatest + slack)).any(axis=1)

    def sure(self, signals: Signals) -> np.ndarray | None:
        """(m,) bool: whose probability reaches the threshold, and which are not `unlike`; None without a threshold."""
        if self.threshold is None:
            return None
        return (self.predict(signals) >= self.threshold) & ~self.unlike(signals)

    def warning(self, signals: Signals) -> str | None:
        """What a reader must know of these queries' probabilities: more than UNLIKE_SHARE of them are `unlike`, and
        more than the 2 in n + 1 that lie beyond n fitted values of a feature by chance, for each feature."""
        unlike, n = self.unlike(signals), self.fitted_on.get("queries", 0)
        if unlike.mean() <= max(UNLIKE_SHARE, 2 * len(self.names) / (n + 1)):
            return None
        return (f"{unlike.sum()} of {len(unlike)} queries look unlike the {n} that the "
                "confidence was fitted on: do not rely on it here; fit it on queries like these")


def features(signals: Signals, *, slope: float) -> dict[str, np.ndarray]:
    """By name, (m,) float64 each; those of missing signals are left out.

    distance   of the answer; ratio, margin: d1/d2, and d1 over the mean of the first DEPTH
    spread     log10 of SUE in metres
    bits       Hamming distance of the answer, and bits_margin: the least of the first stage less its DEPTH-th
    rank       log of 1 + the answer's place in the first stage

    Raises ValueError for fewer than two answers a query.
    """
    distances = signals.distances[:, :DEPTH].astype(np.float64)
    if distances.shape[1] < 2:
        raise ValueError("confidence needs at least 2 images in the database")
    first = distances[:, 0]
    mean = distances.mean(axis=1)
    found = {"distance": first, "ratio": pa(signals), "margin": first / np.where(mean > 0, mean, 1)}
    if signals.positions is not None:
        found["spread"] = np.log10(1 + sue(signals, slope=slope) ** 0.5)
    if signals.bits is not None and signals.ranks is not None:
        bits = signals.bits.astype(np.float64)
        found["bits"] = bits[np.arange(len(bits)), signals.ranks]
        found["bits_margin"] = bits[:, 0] - bits[:, min(DEPTH, bits.shape[1]) - 1]
        found["rank"] = np.log1p(signals.ranks.astype(np.float64))
    return found


def pa(signals: Signals) -> np.ndarray:
    """(m,) float64: d1 / d2 of the final stage, 1 where both are 0; the less, the more certain."""
    first, second = signals.distances[:, :2].T.astype(np.float64)
    return np.divide(first, second, out=np.ones_like(first), where=second > 0)


def sue(signals: Signals, *, slope: float) -> np.ndarray:
    """(m,) float64, square metres: the variance of the first DEPTH positions, weighted by exp(-slope * distance); the
    less, the more certain. NaN where a position is unknown."""
    distances = signals.distances[:, :DEPTH].astype(np.float64)
    weights = np.exp(-slope * (distances - distances[:, :1]))
    weights /= weights.sum(axis=1, keepdims=True)
    positions = signals.positions[:, :distances.shape[1]]
    positions = positions - positions[:, :1]  # UTM's norths are large beside what they differ by
    centre = (weights[..., None] * positions).sum(axis=1, keepdims=True)
    return (weights[..., None] * (positions - centre) ** 2).sum(axis=(1, 2))


def best_slope(signals: Signals, right: np.ndarray) -> float:
    """Of SLOPES, by the median distance, the one whose SUE has the largest AUC-PR; 0 without positions or answers of
    both kinds."""
    if signals.positions is None or right.all() or not right.any():
        return 0.0
    slopes = SLOPES / max(float(np.median(signals.distances[:, 0])), 1e-9)
    return float(max(slopes, key=lambda slope: auc_pr(-sue(signals, slope=slope), right)))


def fit(signals: Signals, right: np.ndarray, *, risk: float = RISK, delta: float = DELTA, seed: int = 0,
        **fitted_on: object) -> Confidence:
    """Fits on one half of the labelled queries, drawn by `seed`, and chooses the threshold by the other half.

    right  (m,) bool, whether each query's answer is right
    fitted_on  what to tell of the queries beside their number
    Raises ValueError for fewer than LEAST right or wrong queries: nothing could be told apart; for a query with a
    missing signal.
    """
    right = _told_apart(right)
    one, other = _halves(len(right), seed)
    fitted = _regression(signals.of(one), right[one])
    threshold = learn_then_test(fitted.predict(signals.of(other)), right[other], candidates=CANDIDATES, risk=risk,
                                delta=delta)
    values = fitted.features(signals)
    return dataclasses.replace(
        fitted, least=values.min(axis=0).tolist(), greatest=values.max(axis=0).tolist(), threshold=threshold,
        risk=risk, delta=delta, fitted_on={"queries": len(right), "right": int(right.sum()), **fitted_on})


def _told_apart(right: np.ndarray) -> np.ndarray:
    right = np.asarray(right, bool)
    if min(right.sum(), (~right).sum()) < LEAST:
        raise ValueError(f"{right.sum()} labelled queries are answered right and {(~right).sum()} wrong; a confidence "
                         f"needs at least {LEAST} of each: give more queries, also of places that the map lacks")
    return right


def _halves(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Drawn without a look at the labels, so that what holds of the second holds of queries to come."""
    order = np.random.default_rng(seed).permutation(n)
    return order[:(n + 1) // 2], order[(n + 1) // 2:]


def _regression(signals: Signals, right: np.ndarray) -> Confidence:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.preprocessing import StandardScaler

    folds = min(FOLDS, int(right.sum()), int((~right).sum()))
    if folds < 2:
        raise ValueError(f"of {len(right)} labelled queries, one half of all, {right.sum()} are answered right; "
                         "expected at least 2 right and 2 wrong ones: give more")
    slope = best_slope(signals, right)
    by_name = features(signals, slope=slope)
    by_name = {name: values for name, values in by_name.items() if not np.isnan(values).all()}
    values = np.stack([*by_name.values()], axis=1)
    if np.isnan(values).any():
        name = [*by_name][int(np.isnan(values).any(axis=0).argmax())]
        raise ValueError(f"{np.isnan(values).any(axis=1).sum()} labelled queries lack the signal {name!r}: some of the "
                         "images they found have no coordinates; expected all or none")
    scaler = StandardScaler().fit(values)
    search = GridSearchCV(LogisticRegression(), {"C": PENALTIES}, cv=folds, scoring="neg_log_loss")
    regression = search.fit(scaler.transform(values), right).best_estimator_
    return Confidence(
        names=[*by_name], mean=scaler.mean_.tolist(), scale=scaler.scale_.tolist(),
        weight=regression.coef_[0].tolist(), least=values.min(axis=0).tolist(),
        greatest=values.max(axis=0).tolist(), bias=float(regression.intercept_[0]),
        slope=slope, threshold=None, risk=RISK, delta=DELTA,
        fitted_on={"queries": len(right), "right": int(right.sum())})


def learn_then_test(score: np.ndarray, right: np.ndarray, *, candidates: np.ndarray, risk: float, delta: float
                    ) -> float | None:
    """The least of some thresholds of a score of which it can be said that, of the queries that reach it, at most
    `risk` are wrong: that holds with probability 1 - delta over the choice of these queries, if those to come are
    drawn like them. None where it can be said of none.

    candidates  of thresholds, chosen without these queries. Each is one test, a binomial one of the hypothesis that it
    exceeds the risk; Bonferroni shares delta among them.
    """
    from scipy.stats import binom

    reached = score[:, None] >= candidates
    p = binom.cdf((reached & ~right[:, None]).sum(axis=0), reached.sum(axis=0), risk)
    return min(candidates[p <= delta / len(candidates)].tolist(), default=None)


def auc_pr(score: np.ndarray, right: np.ndarray) -> float:
    """Area under precision and recall of "the answer is right", as average precision; NaN where none is right."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(right, score)) if right.any() else float("nan")


def coverage(score: np.ndarray, right: np.ndarray, *, risk: float = RISK) -> float:
    """The largest share of queries that a threshold of the score answers with at most `risk` of the answers wrong."""
    answered, wrong = _answered(score, right)
    return float(max(answered[wrong <= risk * answered], default=0) / len(score))


def recall_at_full_precision(score: np.ndarray, right: np.ndarray) -> float:
    """The share of right answers that a threshold of the score answers before the first wrong one; NaN where none is
    right."""
    answered, wrong = _answered(score, right)
    return float(max(answered[wrong == 0], default=0) / right.sum()) if right.any() else float("nan")


def _answered(score: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each different threshold how many queries reach it and how many of these are wrong."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=-np.inf) < 0)  # of equal scores: all or none
    return last + 1, np.cumsum(~right[order])[last]


def reliability(probability: np.ndarray, right: np.ndarray) -> list[dict]:
    """Of BINS equal intervals of the probability those that hold queries: from, to, queries, their mean probability
    ("said") and the share that is right ("true")."""
    number = np.minimum((probability * BINS).astype(int), BINS - 1)
    return [{"from": i / BINS, "to": (i + 1) / BINS, "queries": int((number == i).sum()),
             "said": float(probability[number == i].mean()), "true": float(right[number == i].mean())}
            for i in np.unique(number).tolist()]


def judged(score: np.ndarray, right: np.ndarray, *, probability: bool = False, risk: float = RISK) -> dict:
    """What a score is worth: auc_pr, coverage, recall_at_full_precision, and of a probability its expected calibration
    error (ece) and the reliability's bins, else None."""
    bins = reliability(score, right) if probability else None
    error = bins and sum(one["queries"] * abs(one["said"] - one["true"]) for one in bins) / len(right)
    return {"auc_pr": auc_pr(score, right), "coverage": coverage(score, right, risk=risk),
            "recall_at_full_precision": recall_at_full_precision(score, right), "ece": error, "bins": bins}


def baselines(signals: Signals, *, slope: float) -> dict[str, np.ndarray]:
    """Scores (m,), larger where more certain: of "distance", "PA" and, where positions are known, "SUE"."""
    found = {"distance": -signals.distances[:, 0].astype(np.float64), "PA": -pa(signals)}
    if signals.positions is not None and not np.isnan(signals.positions[:, :DEPTH]).any():
        found["SUE"] = -sue(signals, slope=slope)
    return found


def held_out(signals: Signals, *, halves: int = HALVES, risk: float = RISK) -> dict:
    """Fits on one half of the queries and judges on the other, over some random halves.

    Returns {"queries", "right", "halves", "risk", "methods": {"fitted", "distance", "PA"[, "SUE"]: {measure: [mean,
    5th, 95th percentile over the halves]}}, "bins": reliability of all held-out probabilities}. SUE's slope is fitted
    on the same half. Raises ValueError as `fit` does.
    """
    right = _told_apart(signals.right)
    measured: dict[str, list[dict]] = {}
    said, true = [], []
    for seed in progress(range(halves), "halves of the queries", delay=3):
        one, other = _halves(len(right), seed)
        fitted = _regression(signals.of(one), right[one])
        probability = fitted.predict(signals.of(other))
        scores: dict[str, np.ndarray] = {"fitted": probability, **baselines(signals.of(other), slope=fitted.slope)}
        for name, score in scores.items():
            measured.setdefault(name, []).append(
                judged(score, right[other], probability=name == "fitted", risk=risk))
        said.append(probability)
        true.append(right[other])
    return {"queries": len(right), "right": int(right.sum()), "halves": halves, "risk": risk,
            "methods": {name: {measure: _interval([one[measure] for one in rows]) for measure in
                               ("auc_pr", "coverage", "recall_at_full_precision", "ece")}
                        for name, rows in measured.items()},
            "bins": reliability(np.concatenate(said), np.concatenate(true))}


def _interval(values: Sequence[float | None]) -> list[float] | None:
    if None in values:
        return None
    return [float(np.mean(values)), *np.percentile(values, (5, 95)).tolist()]


def signals_of(arrays: Mapping[str, np.ndarray]) -> Signals:
    """What the arrays of a run's predictions.npz tell; float distances of a single stage are squared L2, and become L2.
    Raises ValueError where they have no labels."""
    if "final_correct" not in arrays:
        raise ValueError("which answers are right is not known: confidence is of queries with labels")
    ids, distances, first = arrays["final_ids"], arrays["final_distances"], arrays.get("first_stage_ids")
    if first is None and distances.dtype.kind == "f":
        distances = np.sqrt(np.maximum(distances, 0))
    places = arrays.get("database_utm")
    depth = min(DEPTH, distances.shape[1])
    return signals_from(ids, distances, positions=None if places is None else places[ids[:, :depth]], first_ids=first,
                        bits=arrays.get("first_stage_distances"), right=arrays["final_correct"][:, 0])


def signals_from(ids: np.ndarray, distances: np.ndarray, *, positions: np.ndarray | None,
                 first_ids: np.ndarray | None, bits: np.ndarray | None, right: np.ndarray | None = None) -> Signals:
    """Of database ids (m, k) and their distances, and of the first stage's (None: there is one stage)."""
    ranks = None
    if first_ids is not None and bits is not None and np.issubdtype(bits.dtype, np.integer):
        same = first_ids == ids[:, :1]
        ranks = np.where(same.any(axis=1), same.argmax(axis=1), bits.shape[1] - 1)
    return Signals(distances, positions, None if ranks is None else bits, ranks, right)
