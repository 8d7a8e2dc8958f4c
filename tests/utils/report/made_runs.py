"""Folders of runs as an evaluation leaves them, made up: which queries are right is drawn here."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

HOSTILE = ("<img src=x onerror=alert(1)>.jpg", "</script><script>alert(2)</script>.jpg", "{{ 7 * 7 }} & \"'.jpg")
N_DATABASE, DEPTH = 30, 12


def write_pictures(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        colour = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(colour).resize((80, 60), Image.Resampling.NEAREST).save(folder / name, "jpeg")


def write_run(folder: Path, *, images: Path | None, n_queries: int = 25, stages: int = 2, labelled: bool = True,
              utm: bool = True, codes: bool = True, warnings: tuple[str, ...] = (), dataset: str = "hill",
              hostile: bool = False, seed: int = 0, **results) -> dict[str, np.ndarray]:
    """A run folder; returns the arrays of its predictions.npz. Every fifth query has no right answer. Of the others a
    query's right answers are the images 3 q and 3 q + 1, modulo those that there are."""
    rng = np.random.default_rng(seed)
    arrays = {"query_names": np.array([_query_name(q, hostile) for q in range(n_queries)]),
              "database_names": np.array([f"database/d{i:04d}.jpg" for i in range(N_DATABASE)])}
    positives = [[] if q % 5 == 4 else [3 * q % N_DATABASE, (3 * q + 1) % N_DATABASE] for q in range(n_queries)]
    for stage in ("first_stage", "final")[2 - stages:]:
        ids = np.stack([rng.permutation(N_DATABASE)[:DEPTH] for _ in range(n_queries)])
        for q in range(n_queries):  # every second one is found at once
            if positives[q] and rng.random() < 0.5:
                ids[q] = [positives[q][0], *[i for i in ids[q] if i != positives[q][0]][:DEPTH - 1]]
        arrays |= {f"{stage}_ids": ids, f"{stage}_distances": np.sort(rng.random(ids.shape), axis=1)}
        if labelled:
            arrays[f"{stage}_correct"] = np.array([[i in positives[q] for i in row] for q, row in enumerate(ids)])
    if labelled:
        arrays["query_positives"] = np.array([len(ids) for ids in positives])
    if utm:
        north = 300 * rng.random(N_DATABASE)
        arrays["database_utm"] = np.stack([500_000 + 40.0 * np.arange(N_DATABASE), north], axis=1)
        arrays["query_utm"] = arrays["database_utm"][3 * np.arange(n_queries) % N_DATABASE] + 3
    if codes:
        arrays |= {"codes_negatives": rng.integers(0, 50, 65), "codes_ones": rng.random(64).astype(np.float32),
                   "codes_correlations": rng.integers(0, 9, 201)}
        arrays |= {"codes_positives": rng.integers(0, 9, 65)} if labelled else {}
    folder.mkdir(parents=True)
    np.savez(folder / "predictions.npz", **arrays)
    recalls = {stage: {str(k): 100 * float(arrays[f"{stage}_correct"][:, :k].any(axis=1).mean()) for k in (1, 5, 10)}
               if f"{stage}_correct" in arrays else None for stage in ("first_stage", "final")}
    written = {
        "schema": 2, "dataset": dataset, "split": "test", "folder": None if images is None else str(images),
        "protocol": "Hamming top 9, then L2" if stages == 2 else "Hamming",
        "benchmark": {"protocol": None, "rule": "within 25 m", "files_sha256": dataset, "warnings": [*warnings]},
        "n_database": N_DATABASE, "n_queries": n_queries,
        "n_queries_without_positives": n_queries // 5 if labelled else None, "threshold_m": 25.0, "recalls": recalls,
        "parts": {}, "latency_ms": {"search": 0.25, "rerank": 0.5 if stages == 2 else None},
        "bytes_per_image": {"binary": 8, "float": 2048 if stages == 2 else None},
        "extraction": {"precision": "fp32", "store": "fp32", "rounding": None, "images_per_second": 40.0},
        "model": {"backbone": "dinov2-base", "pretrained": True, "licence": "Apache-2.0", "checkpoint": "best.pth",
                  "fingerprint": "f" * 64, "config": {"aggregation": "gem", "branches": ["float", "binary"]},
                  "trainings": []},
        "training": None, "options": {"rerank_num": 9, "resize": [112, 112], "test_method": "hard_resize"},
        "hardware": {"cpu": "a processor", "cores": 2, "threads": 1}, **results}
    (folder / "results.json").write_text(json.dumps(written))
    return arrays


def _query_name(query: int, hostile: bool) -> str:
    return f"queries/{HOSTILE[query]}" if hostile and query < len(HOSTILE) else f"queries/q{query:04d}.jpg"
