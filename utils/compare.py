"""Do two runs differ, or is it noise? Recalls of the same queries, compared: `python -m utils.compare RUN RUN`.

A RUN is the folder of a training or evaluation script, or a predictions.npz. Intervals and p speak of the choice of
queries; how much another training seed would change is for runs with several seeds to tell. Of more than two runs each
is compared with the first. --plot draws them: evaluations by recall@k, training folders by their curves.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import binomtest

from .errors import Parser
from .evaluation.metrics import recall_curve
from .files import checked_file, write_json
from .plots import GRID, add_legend, checked_plot, draw_recall_curves, load_figure, look, write_plot
from .run import exit_with
from .sheets import drawable
from .training.curves import METRICS, draw_trainings, read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECALLS = (1, 5, 10, 100)
STAGES = ("first_stage", "final")
SIGNIFICANCE = 0.05


@dataclasses.dataclass(frozen=True)
class RecallDifference:
    """Recall@k of runs A and B over the same queries: in percent; difference and interval in points, B - A.

    interval          of 95 %, from the paired bootstrap
    only_a, only_b    discordant queries: right among the first k of one run alone
    p                 McNemar's exact test
    verdict           "noise" or "differs"
    """

    k: int
    recall_a: float
    recall_b: float
    difference: float
    interval: tuple[float, float]
    only_a: int
    only_b: int
    p: float
    verdict: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs' recalls; points_per_query is what one query is worth, notes tell what is left out or unchecked."""

    run_a: str
    run_b: str
    dataset: str | None
    stage: str
    n_queries: int
    points_per_query: float
    seed: int
    resamples: int
    recalls: list[RecallDifference]
    notes: list[str]


class Predictions(NamedTuple):
    """One stage of a run: names (m,) and (n,) text, and which of the first k images are right, (m, k) bool."""

    path: Path
    query_names: np.ndarray
    database_names: np.ndarray
    correct: np.ndarray
    ground_truth: tuple | None  # dataset, split and threshold_m of results.json, where that is there


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.compare", description=__doc__.splitlines()[0])
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+",
                        help="run folder or predictions.npz; at least two, of which the first is what others are "
                             "compared with")
    parser.add_argument("--stage", choices=STAGES, default="final", help="of two-stage retrieval; default: final")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap; default: 0")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same numbers there as well")
    parser.add_argument("--plot", type=Path, metavar="FILE",
                        help="draw the runs there (.png, .svg): recall@k; of training folders the curves, and no table")
    args = parser.parse_intermixed_args(argv)
    if len(args.runs) < 2:
        parser.error("the following arguments are required: RUN (at least two)")
    if args.json is not None:
        checked_file(args.json, "--json")
    if args.plot is not None:
        checked_plot(args.plot, "--plot")
        if are_trainings(args.runs):
            if args.json is not None:
                raise ValueError("--json beside --plot of trainings: their curves have no table; leave one of them out")
            runs = zip(labels(args.runs), map(read_metrics, args.runs), strict=True)
            write_plot(draw_trainings(dict(runs)), args.plot)
            print(args.plot)
            return
    comparisons = [compare_predictions(args.runs[0], run, stage=args.stage, seed=args.seed) for run in args.runs[1:]]
    if args.plot is not None:
        found = zip(labels(args.runs), (read_predictions(run, args.stage) for run in args.runs), strict=True)
        title = f"{comparisons[0].dataset or 'data set not named'}, {args.stage}: {comparisons[0].n_queries} queries"
        write_plot(draw_recalls(dict(found), title=title), args.plot)
    if args.json is not None:
        written = [dataclasses.asdict(comparison) for comparison in comparisons]
        write_json(written if len(written) > 1 else written[0], args.json)
    print("\n\n".join(map(format_comparison, comparisons)))
    if args.plot is not None:
        print(args.plot)


def are_trainings(runs: Sequence[Path]) -> bool:
    """Whether these are folders of training scripts. ValueError where only some of them are."""
    found = [(run / METRICS).is_file() for run in runs]
    if any(found) and not all(found):
        training, other = (runs[found.index(kind)] for kind in (True, False))
        raise ValueError(f"--plot: {training} is a training's folder, {other} is not; expected runs of one kind (a "
                         "training's test set is its predictions.npz: name that file)")
    return all(found)


def labels(runs: Sequence[Path]) -> list[str]:
    """What legends call them: their folders, without what is above all of them. ValueError where one is given twice."""
    folders = [(run.parent if run.name == "predictions.npz" else run).resolve() for run in runs]
    if (twice := next((run for run in runs if folders.count(folders[runs.index(run)]) > 1), None)) is not None:
        raise ValueError(f"--plot: {twice} is given twice; expected different runs")
    above = Path(os.path.commonpath([folder.parent for folder in folders]))
    return [str(folder.relative_to(above)) for folder in folders]


def draw_recalls(runs: Mapping[str, Predictions], *, title: str) -> "Figure":
    """Recall@k of each run by name, in percent, to the rank that its predictions are kept to, and a band of 95 %."""
    figure = load_figure()(figsize=(7, 5), dpi=100, layout="constrained")
    axes = figure.add_subplot(ylabel="recall@k in percent, and 95 % intervals")
    axes.set_title(drawable(title), fontsize=10, parse_math=False)
    lines = draw_recall_curves(axes, [(*recall_curve(run.correct), look(number))
                                      for number, run in enumerate(runs.values())])
    axes.grid(**GRID)
    add_legend(axes, lines, list(runs), loc="lower right")
    return figure


def compare_predictions(run_a: Path | str, run_b: Path | str, *, stage: str = "final",
                        recall_values: Sequence[int] = RECALLS, seed: int = 0, resamples: int = 10_000) -> Comparison:
    """Compares two runs query by query; recall values beyond the predictions that both keep are left out.

    As in recall_at_k all queries count, those without positives as missed. Queries are matched by name, in any order.
    Raises FileNotFoundError without predictions, ValueError where they are damaged, lack the stage, or are of
    different data sets, queries or thresholds.
    """
    if stage not in STAGES or seed < 0 or resamples < 1 or min(recall_values, default=0) < 1:
        raise ValueError(f"stage {stage!r}, seed {seed}, resamples {resamples}, recall values {list(recall_values)}: "
                         f"expected a stage of {STAGES}, a seed of at least 0, and the others of at least 1")
    a, b = (read_predictions(Path(run), stage) for run in (run_a, run_b))
    _check_same_set(a, b)
    correct_a, correct_b = (run.correct[np.argsort(run.query_names)] for run in (a, b))
    depth = min(correct_a.shape[1], correct_b.shape[1])
    recalls = [recall_difference(k, correct_a[:, :k].any(axis=1), correct_b[:, :k].any(axis=1), seed=seed,
                                 resamples=resamples) for k in recall_values if k <= depth]
    notes = [f"R@{k} is left out: of each query, predictions are kept to rank {depth}."
             for k in recall_values if k > depth]
    notes += [f"{run.path} has no results.json: whether both runs count the same distance as right is not checked."
              for run in (a, b) if run.ground_truth is None]
    dataset = next((f"{run.ground_truth[0]} {run.ground_truth[1]}" for run in (a, b) if run.ground_truth), None)
    return Comparison(str(a.path), str(b.path), dataset, stage, len(correct_a), 100 / len(correct_a), seed, resamples,
                      recalls, notes)


def difference_over_seeds(runs_a: Sequence[Path], runs_b: Sequence[Path], *, k: int, stage: str = "final",
                          seed: int = 0, resamples: int = 10_000) -> tuple[float, tuple[float, float]]:
    """Recall@k of B - A in points: the mean over pairs of runs with the same training seed, and its 95 % percentile
    interval over resamples of both seeds and queries.

    Few seeds resampled vary less than fresh ones would: of three, the interval is somewhat too narrow.
    Raises what compare_predictions does, and ValueError for unequal numbers of runs, or where predictions are not kept
    to rank k.
    """
    if not runs_a or len(runs_a) != len(runs_b):
        raise ValueError(f"{len(runs_a)} and {len(runs_b)} runs; expected as many of each, at least one")
    rows = []
    for run_a, run_b in zip(runs_a, runs_b, strict=True):
        a, b = (read_predictions(run, stage) for run in (run_a, run_b))
        _check_same_set(a, b)
        for run in (a, b):
            if run.correct.shape[1] < k:
                raise ValueError(f"{run.path}: predictions are kept to rank {run.correct.shape[1]}; expected {k}")
        found_a, found_b = (run.correct[np.argsort(run.query_names), :k].any(axis=1) for run in (a, b))
        rows.append(found_b.astype(np.float64) - found_a)
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"runs of {', '.join(str(len(row)) for row in rows)} queries; expected one data set")
    change = np.stack(rows)  # (seeds, queries)
    generator, (n_seeds, n_queries) = np.random.default_rng(seed), change.shape
    # How often each is drawn, with replacement, is a multinomial: no index is drawn.
    of_seeds, of_queries = (generator.multinomial(n, [1 / n] * n, size=resamples) for n in change.shape)
    drawn = np.einsum("rs,rs->r", of_queries @ change.T, of_seeds) / (n_seeds * n_queries)
    low, high = np.quantile(100 * drawn, [0.025, 0.975])
    return 100 * float(change.mean()), (float(low), float(high))


def recall_difference(k: int, found_a: np.ndarray, found_b: np.ndarray, *, seed: int,
                      resamples: int) -> RecallDifference:
    """One line of the comparison; found_a and found_b (m,) bool tell which queries have a right image by rank k."""
    only_a, only_b, n = int((found_a & ~found_b).sum()), int((found_b & ~found_a).sum()), len(found_a)
    p = mcnemar(only_a, only_b)
    return RecallDifference(
        k, 100 * float(found_a.mean()), 100 * float(found_b.mean()), 100 * (only_b - only_a) / n,
        bootstrap_interval(only_a, only_b, n, seed=seed, resamples=resamples), only_a, only_b, p,
        "differs" if p < SIGNIFICANCE else "noise")


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p that so uneven discordant counts arise where each side is equally likely (McNemar's test)."""
    n = only_a + only_b
    return float(binomtest(min(only_a, only_b), n).pvalue) if n else 1.0


def bootstrap_interval(only_a: int, only_b: int, n_queries: int, *, seed: int, resamples: int) -> tuple[float, float]:
    """95 % percentile interval, in points, of recall B - A over resamples of the queries.

    A query moves the difference by -1, 0 or +1. Of n drawn with replacement, how many are of each kind is a
    multinomial: drawn directly it gives the distribution of resampled queries without n * resamples indices.
    """
    shares = np.array([only_a, only_b, n_queries - only_a - only_b]) / n_queries
    counts = np.random.default_rng(seed).multinomial(n_queries, shares, size=resamples)
    low, high = np.quantile(100 * (counts[:, 1] - counts[:, 0]) / n_queries, [0.025, 0.975])
    return float(low), float(high)


def read_predictions(run: Path, stage: str) -> Predictions:
    """Reads a run folder's predictions.npz, or such a file. Raises FileNotFoundError, and ValueError for any other."""
    path = run / "predictions.npz" if run.is_dir() else run
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a run folder with a predictions.npz, or such a file")
    names = ("query_names", "database_names", f"{stage}_correct")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in names if name in file]
            missing = [name for name in names if name not in file]
    except Exception as error:  # what is wrong with an archive shows in many ways
        raise ValueError(f"{path}: damaged, or not the predictions of a run: {error}") from error
    if missing == ["first_stage_correct"]:
        raise ValueError(f"{path}: no first_stage in it, that search had one stage; choose --stage final")
    if missing:
        raise ValueError(f"{path}: no {', '.join(missing)} in it; expected the predictions of a run")
    queries, database, correct = arrays
    if (correct.dtype != bool or correct.ndim != 2 or not correct.size
            or queries.shape != correct.shape[:1] or database.ndim != 1):
        raise ValueError(f"{path}: {stage}_correct is {correct.dtype} {correct.shape}, query_names {queries.shape}, "
                         f"database_names {database.shape}; expected bool (m, k), (m,) and (n,)")
    if (n_names := len(np.unique(queries))) < len(queries):
        raise ValueError(f"{path}: {len(queries)} queries have {n_names} names; expected each name once")
    return Predictions(path, queries, database, correct, _ground_truth(path))


def _ground_truth(predictions: Path) -> tuple | None:
    results = predictions.with_name("results.json")
    if predictions.name != "predictions.npz" or not results.is_file():
        return None  # beside a file of another name lie the results of who knows what
    try:
        written = json.loads(results.read_text())
        return written["dataset"], written["split"], float(written["threshold_m"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{results}: damaged, or not the results of a run: {error!r}") from error


def _check_same_set(a: Predictions, b: Predictions) -> None:
    if a.ground_truth and b.ground_truth and a.ground_truth != b.ground_truth:
        said = [f"{run.path} is of {{}} {{}}, right within {{:g}} m".format(*run.ground_truth) for run in (a, b)]
        raise ValueError(f"{'; '.join(said)}; expected two runs on one data set")
    for side in ("query", "database"):
        names_a, names_b = (getattr(run, f"{side}_names") for run in (a, b))
        for run, names, others in ((b, names_b, names_a), (a, names_a, names_b)):
            absent = others[~np.isin(others, names)]
            if len(absent):
                raise ValueError(
                    f"{a.path} has {len(names_a)} {side} images, {b.path} {len(names_b)}; {run.path} lacks "
                    f"{len(absent)} of the other's, first {str(absent[0])!r}; expected two runs on one data set")


def format_comparison(comparison: Comparison) -> str:
    """Header, Markdown table, a sentence for each k, notes."""
    lines = [f"A  {comparison.run_a}", f"B  {comparison.run_b}",
             f"{comparison.dataset or 'data set not named'}, {comparison.stage}: {comparison.n_queries} queries; "
             f"one of them is worth {comparison.points_per_query:.3f} points", "",
             "|   k | R@k A | R@k B |  B - A | 95 % interval    | only A right | only B right | McNemar p |",
             "|----:|------:|------:|-------:|-----------------:|-------------:|-------------:|----------:|"]
    for row in comparison.recalls:
        low, high = row.interval
        lines.append(f"| {row.k:3} | {row.recall_a:5.1f} | {row.recall_b:5.1f} | {row.difference:+6.2f} | "
                     f"{f'{low:+.2f} .. {high:+.2f}':>16} | {row.only_a:12} | {row.only_b:12} | {row.p:9.3g} |")
    return "\n".join([*lines, "", *(sentence(row) for row in comparison.recalls), *comparison.notes])


def sentence(row: RecallDifference) -> str:
    """What a line of the table says."""
    p, points = f"(p = {row.p:.3g})", f"{abs(row.difference):.2f} points"
    if row.verdict == "differs":
        better = "B" if row.difference > 0 else "A"
        return f"R@{row.k}: differs {p}: {better} is better by {points}."
    if row.only_a == row.only_b == 0:
        return f"R@{row.k}: noise {p}: no query is right in one run alone."
    return f"R@{row.k}: noise {p}: queries right in one run alone: {row.only_a} in A, {row.only_b} in B."


if __name__ == "__main__":
    exit_with(main)
