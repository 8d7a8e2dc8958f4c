"""Latency, RAM, disk and recall from 10,000 images on: `python -m benchmarks.scale [--images N] [--work DIR]`.

For each size a simulated city (simulated.py) is written as an index on disk and searched, exactly and through an
inverted file. Writes every figure into scale.json, the curves into scale.png and the tables into scale.md.
"""

import argparse
import functools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch

from utils.evaluation.metrics import correctness, recall_at_k
from utils.run import exit_with
from utils.search import IndexWriter, ModelIdentity, StoredRows, TwoStageIndex, rerank_l2, search_hamming

from . import scale_page, sublinear
from .report import PAGES, Report, command_parser, machine, new_folder, stored, write_section
from .simulated import BITS, PER_PLACE, PER_STREET, SPACING, City

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
WIDE = 1_000_000  # images up to which floats have 2048 dimensions, those of DINOv2-base; beyond, 256
QUERIES = 4000
DEPTH = 100
BATCH = 512
REPEATS = 5
COLD = 20  # queries re-ranked after the pages were dropped
GOAL = 0.99
CHOSEN_FOR = 0.995  # on half of the queries, whose share of missed ones is known to a third of a percent


def rows(report: Report, *, images: int = 1_000_000, work: Path | None = None, out: Path = PAGES) -> None:
    """Measures all sizes up to `images`; writes scale.json, scale.png and this machine's section of scale.md into
    `out`. Larger sizes that were measured on this machine before stay: ten million images are not for every run.

    work  a folder on the disk to be measured, for files that are deleted afterwards: 4.4 GB for a million images,
          6.9 GB for ten million; None: the system's for temporary files
    """
    started, processor, page = time.perf_counter(), torch.device("cpu"), out / "scale.md"
    sizes = []
    for n in (n for n in SIZES if n <= images):
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            sizes.append(measure(n, Path(scratch), report))
        add_goals(report, sizes[-1])
    before = stored(page).get(machine(processor), {"sizes": []})["sizes"]
    sizes += [size for size in before if size["images"] > sizes[-1]["images"]]
    scale_page.draw(sizes, out / "scale.png")
    tables = scale_page.tables(sizes)
    print(tables)
    write_section(page, tables, {"sizes": sizes, "growth": scale_page.growth(sizes)}, device=processor,
                  seconds=time.perf_counter() - started)


def measure(n: int, folder: Path, report: Report) -> dict:
    """Everything about one size; times in ms a query or s, sizes in bytes, recalls in percent."""
    city = City(n, queries=QUERIES, float_dim=2048 if n <= WIDE else 256)
    started = time.perf_counter()
    write_index(city, folder / "index")
    written = time.perf_counter()
    codes, floats = mapped(folder / "index", city)
    ivf = sublinear.build(codes)
    built = time.perf_counter()
    recall = recalls(city, codes, floats, ivf)
    faiss.write_index_binary(ivf, str(folder / "ivf"))
    ivf = open_inverted(folder)
    ms = latencies(city, codes, floats, ivf, report)
    candidates = search_hamming(codes, city.query_codes[-COLD * REPEATS:], DEPTH)[1]
    del codes, floats  # what is mapped cannot be dropped from the page cache
    ms |= cold(city, candidates, folder / "index", report)
    some = city.query_codes[:200], city.query_floats[:200]
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process that holds nothing else
        held = pool.apply(ram, (folder, *some))
    disk = {"index": sum(file.stat().st_size for file in (folder / "index").iterdir()),
            "ivf": (folder / "ivf").stat().st_size}
    return {"images": n, "float_dim": city.float_dim, "store": "fp16", "lists": ivf.nlist, "probes": ivf.nprobe,
            "write_s": written - started, "build_s": built - written, "ms": ms, "ram": held, "disk": disk, **recall}


def write_index(city: City, folder: Path) -> None:
    with IndexWriter(folder, n=city.n, identity={}, code_bytes=BITS // 8, float_dim=city.float_dim,
                     store="fp16") as writer:
        for street, (codes, floats) in enumerate(city.blocks()):
            writer.write(street * PER_STREET, codes=codes, floats=floats)
        places = np.arange(city.n) // PER_PLACE
        coordinates = np.column_stack([500_000.0 + SPACING * places, np.full(city.n, 5_000_000.0)])
        names = (f"database/street {i // PER_STREET:06}/image {i % PER_STREET:04}.jpg" for i in range(city.n))
        writer.finish(names=names, model=ModelIdentity("0" * 64, "simulated"), coordinates=coordinates)


def mapped(index: Path, city: City) -> tuple[np.ndarray, StoredRows]:
    """Codes and floats of an index as it holds them: memory maps."""
    codes, floats = (np.asarray(np.memmap(index / name, dtype, "r", shape=(city.n, width))) for name, dtype, width in (
        ("codes", np.uint8, BITS // 8), ("floats", np.float16, city.float_dim)))
    return codes, StoredRows(floats)


def open_inverted(folder: Path) -> faiss.IndexBinaryIVF:
    """Its lists stay on disk, as a memory map."""
    return faiss.read_index_binary(str(folder / "ivf"), faiss.IO_FLAG_MMAP_IFC)


def recalls(city: City, codes: np.ndarray, floats: StoredRows, ivf: faiss.IndexBinaryIVF) -> dict:
    """Recalls of both first stages on every second query; the others choose how many lists are probed."""
    exact = search_hamming(codes, city.query_codes, DEPTH)[1]
    sample, rest = slice(0, None, 2), slice(1, None, 2)
    same = sublinear.choose_probes(ivf, city.query_codes[sample], exact[sample], goal=GOAL)
    ivf.nprobe = sublinear.choose_probes(ivf, city.query_codes[sample], exact[sample], goal=CHOSEN_FOR,
                                         positives=city.positives[sample])
    exact, positives = exact[rest], city.positives[rest]
    found = sublinear.search(ivf, city.query_codes[rest], DEPTH)[1]
    recall = {}
    for name, ids in (("exact", exact), ("ivf", found)):
        reranked = rerank_l2(floats, city.query_floats[rest], ids, DEPTH)[0]
        recall[name] = {str(k): value for k, value in recall_at_k(ids, positives, (1, 5, 10, DEPTH)).items()}
        recall[name]["reranked 1"] = recall_at_k(reranked, positives, (1,))[1]
    return {"recall": recall, "same_images": 100 * float(correctness(found, list(exact)).mean()),
            "probes_for_same_images": same}


def latencies(city: City, codes: np.ndarray, floats: StoredRows, ivf: faiss.IndexBinaryIVF, report: Report
              ) -> dict[str, float]:
    """ms a query with everything in RAM, all ways taking turns: BATCH queries at once, and one at a time."""
    queries, described = city.query_codes[:BATCH], city.query_floats[:BATCH]
    candidates = search_hamming(codes, queries, DEPTH)[1]
    ways = {"exact": lambda of: search_hamming(codes, queries[of], DEPTH),
            "ivf": lambda of: sublinear.search(ivf, queries[of], DEPTH),
            "rerank": lambda of: rerank_l2(floats, described[of], candidates[of], DEPTH)}
    alone = [slice(i, i + 1) for i in range(0, BATCH, 2 if city.n <= WIDE else 20)]
    medians = {}
    for kind, parts in (("batched", [slice(0, BATCH)]), ("one", alone)):
        calls = {f"{name} {kind}": way for name, way in ways.items()}
        medians |= report.per_query(f"{city.n} images, ms a query", calls, parts, repeats=REPEATS)
    return medians


def cold(city: City, candidates: np.ndarray, folder: Path, report: Report) -> dict[str, float]:
    """ms of opening the index, and of re-ranking one query at a time, with none of its pages in RAM: through a plain
    map, around whose touched pages the system reads others, and through the index, which asks for rows one by one."""
    described = city.query_floats[-len(candidates):]
    samples: dict[str, list[float]] = {"open cold": [], "open warm": [], "rerank cold": [], "rerank cold, index": []}
    for turn in range(REPEATS):
        for name in ("rerank cold", "rerank cold, index"):
            drop_pages(folder)
            rerank = (TwoStageIndex.open(folder).rerank if name.endswith("index")
                      else functools.partial(rerank_l2, mapped(folder, city)[1]))
            started = time.perf_counter()
            for i in range(turn * COLD, (turn + 1) * COLD):
                rerank(described[i:i + 1], candidates[i:i + 1], DEPTH)
            samples[name].append(1000 * (time.perf_counter() - started) / COLD)
            del rerank  # what is mapped would stay
        drop_pages(folder)
        for name in ("open cold", "open warm"):
            started = time.perf_counter()
            TwoStageIndex.open(folder)
            samples[name].append(1000 * (time.perf_counter() - started))
    return report.keep(f"{city.n} images, ms", samples)


def drop_pages(folder: Path) -> None:
    """Takes a folder's files out of the page cache, but for what some process has mapped."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages that are not on the disk yet would stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ram(folder: Path, codes: np.ndarray, floats: np.ndarray) -> dict[str, dict[str, int]]:
    """Bytes that searching adds to a process: `own` memory, and `mapped` pages of files, which processes share and the
    system can take back; of the exact first stage, of the inverted file in its place, and of re-ranking."""
    def added(step: Callable[[], object]) -> dict[str, int]:
        before = resident()
        kept.append(step())
        return dict(zip(("own", "mapped"), np.subtract(resident(), before).tolist(), strict=True))

    def first_stage() -> faiss.IndexBinaryIVF:
        ivf = open_inverted(folder)
        sublinear.search(ivf, codes, DEPTH)
        return ivf

    kept: list = []  # until all is measured
    return {"ivf": added(first_stage),
            "opened": added(lambda: TwoStageIndex.open(folder / "index")),
            "exact": added(lambda: kept[1].search_codes(codes, DEPTH)),
            "rerank": added(lambda: kept[1].search(codes, floats, k=1, depth=DEPTH))}


def resident() -> tuple[int, int]:
    """RssAnon and RssFile of this process in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssFile"))


def add_goals(report: Report, size: dict) -> None:
    """The rows with goals; the others stand in scale.md alone."""
    name, kept, ms = f"{size['images']:,} images", scale_page.kept(size), size["ms"]
    report.add(f"{name}, inverted file's recall@100 over the exact search's", f"{100 * kept:.2f} %",
               f"{size['probes']} of {size['lists']} lists; exact {size['recall']['exact']['100']:.2f}",
               goal=f">= {100 * GOAL:.0f} %", met=kept >= GOAL)
    report.add(f"{name}, opening the index", f"{ms['open warm'] / 1000:.3f} s",
               f"{ms['open cold'] / 1000:.3f} s with no page in RAM", goal="< 2 s", met=ms["open warm"] < 2000)
    held = sum(sum(size["ram"][stage].values()) for stage in ("opened", "exact"))
    report.add(f"{name}, RAM of opening and exact search, an image", f"{held / size['images']:.0f} B",
               f"{size['ram']['exact']['own'] / 2**20:.0f} MiB of it grow with the queries, not with n",
               goal="about 64 B")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=image_count, default=1_000_000,
                        help="largest database of the curves, one of 10,000 ... 10,000,000 (1000000)")
    parser.add_argument("--work", type=new_folder, help="folder on the disk to be measured, 4.4 GB for a million "
                                                        "images (default: the system's for temporary files)")


def image_count(text: str) -> int:
    if int(text) < SIZES[0]:
        raise argparse.ArgumentTypeError(f"{text}: expected at least {SIZES[0]}")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__spec__.name, __doc__)
    add_options(parser)
    args = parser.parse_args(argv)
    rows(Report(), images=args.images, work=args.work, out=args.out)


if __name__ == "__main__":
    exit_with(main)
