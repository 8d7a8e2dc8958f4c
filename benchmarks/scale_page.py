"""The curves and the tables of scale.md from what scale.py measured."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from utils.files import temporary_path

from .report import table

FITTED_FROM = 100_000  # images: below, costs that do not grow show
BLUE, ORANGE, GREEN, GREY = "#1f5fa8", "#d95f02", "#2a8f57", "#666666"
GIB = 2**30
WIDE = 2048  # dimensions of the floats whose re-ranking is drawn and fitted; the table has it of others too


def ms(name: str) -> Callable[[dict], float]:
    return lambda size: size["ms"][name] if "rerank" not in name or size["float_dim"] == WIDE else float("nan")


# Label, how to read it from a size, colour, line.
LATENCY = (
    ("exact, one query", ms("exact one"), BLUE, "-"),
    ("exact, batched", ms("exact batched"), BLUE, "--"),
    ("inverted file, one query", ms("ivf one"), ORANGE, "-"),
    ("inverted file, batched", ms("ivf batched"), ORANGE, "--"),
    ("re-ranking one, in RAM", ms("rerank one"), GREEN, "-"),
    ("re-ranking one, cold", ms("rerank cold"), GREEN, ":"),
    ("the same, the index", ms("rerank cold, index"), GREEN, "--"),
)


def pages(way: str) -> Callable[[dict], float]:
    return lambda size: size["ram"][way]["mapped"] / GIB


def growth(sizes: Sequence[dict]) -> dict[str, float]:
    """Exponents of the power laws that fit latency, RAM and disk."""
    curves = {name: read for name, read, *_ in LATENCY} | {
        "RAM of the codes": pages("exact"), "RAM of the inverted file": pages("ivf"),
        "training and filling the inverted file": lambda s: s["build_s"]}
    return {name: fit(sizes, read)[0] for name, read in curves.items()}


def fit(sizes: Sequence[dict], read: Callable[[dict], float]) -> tuple[float, float]:
    """(exponent, factor) of factor * n ** exponent by least squares of the logarithms of the large sizes."""
    points = np.log([(size["images"], read(size)) for size in large([s for s in sizes if np.isfinite(read(s))])])
    if len(points) < 2:
        return float("nan"), float("nan")
    exponent, constant = np.polyfit(*points.T, 1)
    return float(exponent), float(np.exp(constant))


def large(sizes: Sequence[dict]) -> Sequence[dict]:
    """From FITTED_FROM images on, where there are two."""
    found = [size for size in sizes if size["images"] >= FITTED_FROM]
    return found if len(found) > 1 else sizes


def tables(sizes: Sequence[dict]) -> str:
    lines = {
        "float part": lambda s: f"{s['float_dim']}-d {s['store']}",
        "exact, one query / batched, ms": lambda s: pair(s, "exact"),
        "inverted file, one query / batched, ms": lambda s: pair(s, "ivf"),
        "lists, of them probed": lambda s: f"{s['lists']}, {s['probes']}",
        "re-ranking 100, one query / batched, ms": lambda s: pair(s, "rerank"),
        "re-ranking 100, one query, no page in RAM, plain map / index, ms": lambda s: (
            f"{s['ms']['rerank cold']:.2f} / {s['ms']['rerank cold, index']:.2f}"),
        "opening the index, warm / no page in RAM, ms": lambda s: (
            f"{s['ms']['open warm']:.1f} / {s['ms']['open cold']:.1f}"),
        "RAM, opening the index, own + mapped, MiB": lambda s: ram(s, "opened"),
        "RAM, exact search of 200 queries, own + mapped, MiB": lambda s: ram(s, "exact"),
        "RAM, inverted file and 200 queries, own + mapped, MiB": lambda s: ram(s, "ivf"),
        "RAM, re-ranking 200 x 100, own + mapped, MiB": lambda s: ram(s, "rerank"),
        "disk: index / inverted file, GB": lambda s: f"{s['disk']['index'] / 1e9:.2f} / {s['disk']['ivf'] / 1e9:.3f}",
        "disk with 2048-d / 4096-d fp16 floats, GB, computed": lambda s: " / ".join(
            f"{disk(s, dim) / 1e9:.2f}" for dim in (2048, 4096)),
        "exact: recall@1 / @5 / @10 / @100": lambda s: recall(s, "exact"),
        "inverted file: recall@1 / @5 / @10 / @100": lambda s: recall(s, "ivf"),
        "its recall@100 over the exact one; same images": lambda s: (
            f"{100 * kept(s):.2f} %; {s['same_images']:.1f} %"),
        "re-ranked recall@1, exact / inverted file": lambda s: " / ".join(
            f"{s['recall'][way]['reranked 1']:.1f}" for way in ("exact", "ivf")),
        "lists to probe for 99 % of the same images": lambda s: f"{s['probes_for_same_images']}",
        "writing the index / building the inverted file, s": lambda s: f"{s['write_s']:.1f} / {s['build_s']:.1f}",
    }
    measured = table(("images", *(f"{s['images']:,}" for s in sizes)),
                     ((name, *map(cell, sizes)) for name, cell in lines.items()))
    fitted = table((f"growth with n, fitted from {FITTED_FROM:,} images on", "power"),
                   ((name, f"n^{exponent:.2f}") for name, exponent in growth(sizes).items()))
    return f"{measured}\n{fitted}"


def pair(size: dict, way: str) -> str:
    return f"{size['ms'][f'{way} one']:.3f} / {size['ms'][f'{way} batched']:.3f}"


def ram(size: dict, way: str) -> str:
    return " + ".join(f"{size['ram'][way][kind] / 2**20:.0f}" for kind in ("own", "mapped"))


def recall(size: dict, way: str) -> str:
    return " / ".join(f"{size['recall'][way][k]:.1f}" for k in ("1", "5", "10", "100"))


def disk(size: dict, dim: int) -> int:
    """Bytes of the index with fp16 floats of `dim` dimensions: all else as measured."""
    return size["disk"]["index"] + 2 * (dim - size["float_dim"]) * size["images"]


def kept(size: dict) -> float:
    return size["recall"]["ivf"]["100"] / size["recall"]["exact"]["100"]


def draw(sizes: Sequence[dict], path: Path) -> None:
    """Four panels: points are measured, lines through them fitted or computed, as their labels say."""
    n = np.array([size["images"] for size in sizes])
    figure = Figure(figsize=(9, 9), dpi=100, layout="constrained")
    (time, memory), (space, correct) = figure.subplots(2, 2)
    for name, read, colour, line in LATENCY:
        curve(time, sizes, read, name, colour, line)
    for name, way, colour in (("exact", "exact", BLUE), ("inverted file", "ivf", ORANGE)):
        curve(memory, sizes, pages(way), name, colour, "-")
        for k, line, what in (("100", "-", "first stage, R@100"), ("reranked 1", ":", "re-ranked, R@1"),
                              ("1", "--", "first stage, R@1")):
            correct.plot(n, [s["recall"][way][k] for s in sizes], line, marker="o", color=colour, markersize=4,
                         label=f"{name}: {what}")
    memory.plot(n, 64 * n / GIB, ":", color=GREY, label="64 B an image (computed)")
    curve(space, sizes, lambda s: s["disk"]["ivf"] / 1e9, "inverted file", ORANGE, "-")
    for dim, line in ((256, ":"), (2048, "-"), (4096, "--")):
        space.plot(n, [disk(s, dim) / 1e9 for s in sizes], line, color=BLUE, label=f"index, {dim}-d fp16 (computed)")
    space.plot(n, [s["disk"]["index"] / 1e9 for s in sizes], "o", color=BLUE, markersize=5, label="index (measured)")
    for axes, title, unit in ((time, "Time", "ms a query"), (space, "Disk", "GB"), (correct, "Recall", "% of queries"),
                              (memory, "RAM: pages of codes that a search touches", "GiB")):
        axes.set(title=title, ylabel=unit, xlabel="database images", xscale="log",
                 yscale="linear" if axes is correct else "log")
        axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    with temporary_path(path) as temporary:
        figure.savefig(temporary, format="png")


def curve(axes, sizes: Sequence[dict], read: Callable[[dict], float], name: str, colour: str, line: str) -> None:
    """Measured points and the power law fitted to them."""
    exponent, factor = fit(sizes, read)
    law = "" if np.isnan(exponent) else f": $n^{{{exponent:.2f}}}$"
    axes.plot([size["images"] for size in sizes], [read(size) for size in sizes], "o", color=colour,
              markerfacecolor=colour if line == "-" else "white", markersize=5)
    fitted = np.array([size["images"] for size in large(sizes)])
    axes.plot(fitted, factor * fitted**exponent, line, color=colour, linewidth=1.2, label=name + law)
