"""Very small sets of images in the two folder layouts, for tests that read real files."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 56  # pixels: 4 x 4 patches


def image(place: int, shot: int, *, noise: float = 0.15) -> Image.Image:
    """A texture that belongs to the place, under noise that belongs to the shot."""
    texture = np.random.default_rng(place).random((7, 7, 3)).repeat(SIDE // 7, 0).repeat(SIDE // 7, 1)
    shown = texture + noise * np.random.default_rng((place, shot)).standard_normal(texture.shape)
    return Image.fromarray((255 * shown.clip(0, 1)).astype(np.uint8))


def write_city(folder: Path, city: str, *, places: int, shots: int = 4, first_place: int = 0, kinds: int | None = None,
               apart: float = 0.0) -> None:
    """One city of a GSV-Cities layout.

    kinds  of textures, which places take in turn; None: each has its own
    apart  degrees of latitude from a place to the next
    """
    (folder / "Dataframes").mkdir(parents=True, exist_ok=True)
    (folder / "Images" / city).mkdir(parents=True)
    rows = ["place_id,year,month,northdeg,city_id,lat,lon,panoid"]
    for place in range(places):
        lat = 1.5 + apart * place
        for shot in range(shots):
            rows.append(f"{place},2018,{shot + 1},90,{city},{lat},-2.25,pano{place}x{shot}")
            name = f"{city}_{place:07d}_2018_{shot + 1:02d}_090_{lat}_-2.25_pano{place}x{shot}.jpg"
            image(first_place + place % (kinds or places), shot + shots * (place // (kinds or places))).save(
                folder / "Images" / city / name)
    (folder / "Dataframes" / f"{city}.csv").write_text("\n".join(rows) + "\n")


def write_benchmark(folder: Path, name: str, split: str, *, database: int, queries: int, first_place: int,
                    unanswerable: int = 0, noise: float = 0.15) -> None:
    """Database images 100 m apart; a query lies 10 m from its place, unanswerable ones far from all."""
    for side, count in (("database", database), ("queries", queries + unanswerable)):
        target = folder / name / "images" / split / side
        target.mkdir(parents=True)
        for i in range(count):
            north = {"database": 0, "queries": 10 if i < queries else 9000}[side]
            image(first_place + i, 0 if side == "database" else 1, noise=noise).save(
                target / f"@{1000 + 100 * i:010.2f}@{5000 + north:010.2f}@{side}.jpg")


def write_all(folder: Path) -> Path:
    """Two training cities, and the benchmark sets."""
    write_city(folder / "gsv_cities", "Boston", places=3)
    write_city(folder / "gsv_cities", "Lisbon", places=4, first_place=10)
    return write_benchmarks(folder)


def write_streets(folder: Path) -> Path:
    """Two training cities of places 89 m from one to the next, every eighth or sixth alike, and the benchmark sets."""
    write_city(folder / "gsv_cities", "Boston", places=16, shots=2, kinds=8, apart=0.0008)
    write_city(folder / "gsv_cities", "Lisbon", places=12, shots=2, kinds=6, apart=0.0008)
    return write_benchmarks(folder)


def write_benchmarks(folder: Path) -> Path:
    """Val and test of two benchmark sets; msls is hard, so that its score moves."""
    for k, split in enumerate(("val", "test")):
        write_benchmark(folder, "pitts30k", split, database=8, queries=4, unanswerable=1, first_place=100 + 50 * k)
        write_benchmark(folder, "msls", split, database=10, queries=9, first_place=300 + 50 * k, noise=0.6)
    return folder
