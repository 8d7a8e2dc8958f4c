"""A report: sections of tables, charts and galleries, put into one HTML file that needs nothing else.

One more section is a function of the runs that returns a Section, and a place for it in `_page`.
"""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..confidence import held_out, signals_of
from ..errors import named
from ..evaluation.metrics import recall_curve, recall_interval
from ..files import temporary_path
from . import charts
from .charts import Chart
from .pictures import Thumbnails, bits_of, pictured
from .runs import HURT, KINDS, RESCUED, UNANSWERABLE, WRONG, EvaluatedRun, read_runs, said_of

NAME = "report.html"
PAGE_BYTES = 9_500_000  # which pictures fill at most
FEWEST_BYTES = 1_000_000  # for pictures, where all else is larger than that
NAMED = 10  # missing files that are named
_HERE = Path(__file__).parent
_LABELS = {WRONG: "Wrong at rank 1", RESCUED: "Rescued by re-ranking", HURT: "Hurt by re-ranking",
           UNANSWERABLE: "No right answer in the database"}


_METHODS = {"fitted": "fitted probability", "distance": "distance d1", "PA": "d1 / d2",
            "SUE": "SUE, the spread of the first ten"}


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text cells, each behind its own heading; what follows a line break in a cell is small."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Queries with what was found: the run's number in the page's data, and of each filter (bit, label, count)."""

    run: int
    filters: Sequence[tuple[int, str, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page, under its own heading; what it lacks is not drawn."""

    name: str  # of its anchor
    title: str
    notes: Sequence[str] = ()
    table: Table | None = None
    charts: Sequence[Chart] = ()
    gallery: Gallery | None = None


def write_report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Writes the report of finished runs, side by side, and returns its path.

    output  default: report.html, in the run's folder where there is one run
    Raises ValueError where a library is missing, and FileNotFoundError and ValueError for what is no run.
    """
    charts.check_libraries()
    runs = read_runs(folders)
    path = output or (folders[0] / NAME if len(folders) == 1 else Path(NAME))
    page = _page(runs).encode(errors="replace")  # names of files need not be text
    with named(path), temporary_path(path) as temporary:
        temporary.write_bytes(page)
    return path


def _page(runs: Sequence[EvaluatedRun]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    before = [_evaluated(runs), _recalls(runs), _costs(runs)]
    behind = [_maps(runs), _distances(runs), _bits(runs), _confidence(runs)]
    lists = [{"queries": _listed(run)} for run in runs]
    drawn = sum(len(chart.svg) for section in (*before, *behind) for chart in section.charts)
    room = max(FEWEST_BYTES, PAGE_BYTES - drawn - len(json.dumps(lists)))
    thumbnails = Thumbnails()
    for run, listed in zip(runs, lists, strict=True):
        listed["shown"] = pictured(run, thumbnails, budget=room // len(runs))
    galleries = [_gallery(run, number, len(lists[number]["shown"]), len(runs)) for number, run in enumerate(runs)]

    files = {kind: (_HERE / f"page.{kind}").read_text() for kind in ("css", "js")}
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html.jinja").render(
        title=f"Evaluation on {', '.join(dict.fromkeys(run.data_set for run in runs))}",
        warnings=[*said_of(runs), *_missing(thumbnails)], sections=[*before, *galleries, *behind],
        data={"runs": lists, "pictures": thumbnails.urls},
        style=Markup(files["css"]), script=Markup(files["js"]),
        script_hash=base64.b64encode(hashlib.sha256(files["js"].encode()).digest()).decode())


def _missing(thumbnails: Thumbnails) -> list[str]:
    unread = list(thumbnails.unread.values())
    if not unread:
        return []
    more = f" and {len(unread) - NAMED} more" if len(unread) > NAMED else ""
    return [f"{len(unread)} pictures could not be read, and are blank: {'; '.join(unread[:NAMED])}{more}"]


def _listed(run: EvaluatedRun) -> list[list]:
    """Of each query: its name, its kinds, the rank of its first right answer in each stage that there is (0: none was
    kept, None: not known), metres to its first answer, and how many right answers there are (None: not known)."""
    ranks, metres = [run.ranks(stage) for stage in run.stages], run.metres(1)
    positives = run.arrays.get("query_positives")
    columns = [run.arrays["query_names"].tolist(), bits_of(run),
               *([None] * run.n_queries if rank is None else rank.tolist() for rank in ranks),
               [None] * run.n_queries if metres is None else [
                   None if np.isnan(away) else round(away, 1) for away in metres[:, 0].tolist()],
               [None] * run.n_queries if positives is None else positives.tolist()]
    return [list(row) for row in zip(*columns, strict=True)]


def _evaluated(runs: Sequence[EvaluatedRun]) -> Section:
    """What was evaluated, a column for each run."""
    rows = []
    for name, of_run in (
            ("data set", lambda run: run.data_set),
            ("protocol", lambda run: run.results["benchmark"]["protocol"] or "no named protocol"),
            ("right answers", lambda run: run.results["benchmark"]["rule"]),
            ("database images", lambda run: f"{run.results['n_database']:,}"),
            ("queries", _queries_said),
            ("search", lambda run: run.results["protocol"]),
            ("model", _model_said),
            ("weights", lambda run: str(run.results["model"].get("checkpoint"))),
            ("learnt from", _trainings_said),
            ("image size", lambda run: " x ".join(map(str, run.results["options"].get("resize") or ["as they are"]))),
            ("run folder", lambda run: str(run.folder))):
        rows.append([name, *map(of_run, runs)])
    return Section(name="evaluated", title="What was evaluated", table=Table(["", *(run.name for run in runs)], rows))


def _queries_said(run: EvaluatedRun) -> str:
    none = run.results.get("n_queries_without_positives")
    return f"{run.n_queries:,}" + (f"\n{none:,} of them without a right answer, which count as missed" if none else "")


def _model_said(run: EvaluatedRun) -> str:
    model = run.results["model"]
    config = model.get("config") or {}
    words = [model.get("backbone") or "another repository's", config.get("aggregation"),
             " and ".join(config.get("branches") or ())]
    return ", ".join(filter(None, words)) + f"\n{model.get('fingerprint', '')[:16]}"


def _trainings_said(run: EvaluatedRun) -> str:
    said = []
    for training in run.results["model"].get("trainings") or ():
        data = training.get("data", {})
        seen = f"{data['places']:,} places" if "places" in data else (
            f"{data['images']:,} images without labels, taught by {data['teacher']['name']} "
            f"{data['teacher']['fingerprint'][:12]}" if "teacher" in data else None)
        if seen:
            said.append(f"{Path(data['set']).name}, {seen} ({training['script']}, epoch {training['epoch']}, chosen by "
                        f"{training['selected_by']})")
    return "; ".join(said) or "not known"


def _recalls(runs: Sequence[EvaluatedRun]) -> Section:
    """Recall@k of each stage, and of parts of a set."""
    rows, curves, intervals = [], [], []
    ks = list(dict.fromkeys(k for run in runs for k in (run.results["recalls"]["final"] or {})))
    for number, run in enumerate(runs):
        rows += [_recall_row(_of(run, runs) + label, recalls, n, ks) for label, recalls, n in run.counted()]
        for stage in run.stages:
            correct = run.arrays.get(f"{stage}_correct")
            if correct is not None:
                recall, between = recall_curve(correct)
                short = run.stage_name(stage) if len(runs) == 1 else f"{_letter(number)} {run.stage_name(stage)}"
                curves.append((short, number, stage, recall))
                intervals.append(between)
    notes = [] if curves else ["No labels: recalls are not known."]
    if len(runs) > 1:
        notes.append("; ".join(f"{_letter(number)}: {run.name}" for number, run in enumerate(runs)))
    table = Table(["search", *(f"R@{k}" for k in ks)], rows) if rows else None
    return Section(name="recall", title="Recall", notes=notes, table=table,
                   charts=[charts.recall_curve(curves, intervals)] if curves else ())


def _recall_row(label: str, recalls: dict[str, float], n: int, ks: Sequence[str]) -> list[str]:
    """Percent, and the 95 % interval below."""
    def cell(k: str) -> str:
        if k not in recalls:
            return ""
        return "{:.1f}\n{:.1f} to {:.1f}".format(recalls[k], *recall_interval(round(recalls[k] * n / 100), n))

    return [label, *map(cell, ks)]


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def _costs(runs: Sequence[EvaluatedRun]) -> Section:
    """Time and bytes, a column for each run."""
    kinds = list(dict.fromkeys(kind for run in runs for kind in run.results["bytes_per_image"]))
    rows = []
    for name, of_run in (
            ("search, ms a query", lambda run: _number(run.results["latency_ms"].get("search"), "{:.3f}")),
            ("re-ranking, ms a query", lambda run: _number(run.results["latency_ms"].get("rerank"), "{:.3f}")),
            ("read by a search, bytes a query",
             lambda run: _number(run.results.get("bytes_read_per_query"), "{:,}")),
            *((f"{kind}, bytes an image", lambda run, kind=kind: _number(
                run.results["bytes_per_image"].get(kind), "{:,}")) for kind in kinds),
            ("images extracted a second", lambda run: _number(_extraction(run).get("images_per_second"), "{:.1f}")),
            ("extraction, store", lambda run: f"{_extraction(run).get('precision')}, {_extraction(run).get('store')}"),
            ("machine", _machine)):
        rows.append([name, *map(of_run, runs)])
    return Section(name="costs", title="Time and bytes", table=Table(["", *(run.name for run in runs)], rows),
                   notes=["Of a search for all queries at once; a query alone takes longer."])


def _extraction(run: EvaluatedRun) -> dict:
    return run.results["extraction"] or {}


def _machine(run: EvaluatedRun) -> str:
    hardware = run.results["hardware"]
    return hardware.get("gpu") or f"{hardware.get('cpu')}, {hardware.get('threads')} of {hardware.get('cores')} cores"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _gallery(run: EvaluatedRun, number: int, shown: int, of: int) -> Section:
    filters = [(0, "All", run.n_queries)]
    filters += [(1 << i, _LABELS[kind], int(run.kinds[kind].sum())) for i, kind in enumerate(KINDS)
                if kind in run.kinds]
    notes = [f"Pictures of {shown:,} of {run.n_queries:,} queries, taken in turns from the kinds below; the others are "
             "listed without." if shown < run.n_queries else f"All {shown:,} queries."]
    if not run.labelled:
        notes.append("No labels: frames are grey.")
    elif "first_stage" not in run.stages:
        notes.append("One stage: nothing was re-ranked.")
    if run.labelled and UNANSWERABLE not in run.kinds:
        notes.append("An earlier version evaluated: which queries have no right answer in the database is not known.")
    return Section(name=f"queries-{number}", title="Queries" if of == 1 else f"Queries of {run.name}", notes=notes,
                   gallery=Gallery(number, filters))


def _maps(runs: Sequence[EvaluatedRun]) -> Section:
    drawn, notes = [], []
    for run in runs:
        if run.metres(1) is None or not np.isfinite(run.arrays["query_utm"]).all(axis=1).any():
            notes.append(f"{_of(run, runs)}no coordinates are known, so there is no map.")
            continue
        chart, left_out = charts.query_map(run)
        drawn.append(_titled(chart, run, runs))
        notes += [f"{_of(run, runs)}{note}" for note in left_out]
    return Section(name="map", title="Where queries were taken", charts=drawn, notes=notes)


def _distances(runs: Sequence[EvaluatedRun]) -> Section:
    return _of_codes(runs, "hamming", "Hamming distances", charts.hamming_histogram)


def _bits(runs: Sequence[EvaluatedRun]) -> Section:
    return _of_codes(runs, "bits", "Bits of the code", charts.bit_balance, charts.bit_correlation)


def _of_codes(runs: Sequence[EvaluatedRun], name: str, title: str, *kinds) -> Section:
    drawn, notes = [], []
    for run in runs:
        if "codes_ones" in run.arrays:
            drawn += [_titled(kind(run), run, runs) for kind in kinds]
        elif run.results["bytes_per_image"]["binary"] is None:
            notes.append(f"{_of(run, runs)}no binary codes were searched.")
        else:
            notes.append(f"{_of(run, runs)}an earlier version evaluated, and kept nothing of the codes.")
    return Section(name=name, title=title, charts=drawn, notes=notes)


def _confidence(runs: Sequence[EvaluatedRun]) -> Section:
    """Whether one can tell that the first answer is right: a fitted probability beside distances."""
    rows, drawn, notes = [], [], []
    for run in runs:
        try:
            told = held_out(signals_of(run.arrays))
        except ValueError as error:
            notes.append(f"{_of(run, runs)}{error}.")
            continue
        for method, measures in told["methods"].items():
            rows.append([_of(run, runs) + _METHODS[method], *(
                "" if found is None else "{:.2f}\n{:.2f} to {:.2f}".format(*found) for found in measures.values())])
        drawn.append(_titled(charts.reliability(told["bins"]), run, runs))
        notes.append(f"{_of(run, runs)}{told['right']} of {told['queries']} queries are answered right. What is fitted "
                     f"on one half is judged on the other: means and 5th to 95th percentiles of {told['halves']} "
                     f"halves. Coverage: what can be answered with at most {100 * told['risk']:.0f} % wrong. No index "
                     "keeps this fit; python -m utils.localize INDEX --fit_confidence makes one that it keeps.")
    header = ["", "AUC-PR", "coverage", "recall at 100 % precision", "calibration error"]
    return Section(name="confidence", title="Can it tell when it is right?", notes=notes, charts=drawn,
                   table=Table(header, rows) if rows else None)


def _of(run: EvaluatedRun, runs: Sequence[EvaluatedRun]) -> str:
    return "" if len(runs) == 1 else f"{run.name}: "


def _titled(chart: Chart, run: EvaluatedRun, runs: Sequence[EvaluatedRun]) -> Chart:
    return dataclasses.replace(chart, caption=_of(run, runs) + chart.caption)
