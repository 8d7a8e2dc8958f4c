"""Places of the toy city by their parameters: facades in style families, trees, lamps, skyline.  Lengths in metres."""

import zlib
from typing import NamedTuple

import numpy as np

REACH = 28.0  # metres of street on either side of a place's centre


class Family(NamedTuple):
    """One building style: the choices from which its facades are drawn (colours are RGB 0..255)."""

    walls: tuple[tuple[int, int, int], ...]
    trims: tuple[tuple[int, int, int], ...]
    windows: tuple[str, ...]
    roofs: tuple[str, ...]
    grounds: tuple[str, ...]
    floors: tuple[int, int]
    bays: tuple[int, int]
    bay_width: tuple[float, float]
    texture: str


WHITE, CREAM, STONE, DARK = (232, 230, 224), (222, 210, 182), (170, 162, 148), (62, 60, 62)
BRICKS = ((150, 66, 50), (104, 60, 50), (196, 130, 84), (206, 176, 122), (86, 82, 86), (212, 206, 196), (176, 92, 58))
PAINTS = ((222, 96, 78), (236, 160, 70), (238, 214, 104), (150, 190, 96), (72, 148, 108), (84, 176, 176),
           (110, 164, 218), (64, 92, 152), (154, 112, 176), (232, 152, 172), (240, 234, 222), (214, 196, 160))
PANELS = ((176, 174, 168), (120, 124, 130), (206, 188, 146), (96, 150, 158), (190, 106, 74), (84, 104, 136),
          (150, 168, 120))
FAMILIES = {
    "terrace": Family(BRICKS, (WHITE, CREAM, STONE), ("sash", "arched"), ("parapet", "pitched"), ("doors", "shop"),
                      (2, 3), (2, 3), (2.3, 2.9), "brick"),
    "stucco": Family(PAINTS, (WHITE, STONE), ("shutters", "casement"), ("mansard", "cornice"),
                     ("shop", "doors", "arcade"), (3, 4), (2, 3), (2.1, 2.6), "plain"),
    "gable": Family(BRICKS + PAINTS, (WHITE, CREAM), ("grid", "sash"), ("gable", "stepped"), ("doors", "shop"),
                    (2, 4), (2, 3), (1.9, 2.3), "brick"),
    "timber": Family(PAINTS, (WHITE, DARK), ("sash", "casement"), ("gable", "pitched"), ("doors", "garage"),
                     (1, 2), (2, 3), (2.2, 2.7), "boards"),
    "slab": Family(PANELS, (DARK, WHITE, STONE), ("ribbon", "plain"), ("flat", "parapet"), ("garage", "shop"),
                   (3, 4), (2, 3), (2.6, 3.2), "panels"),
    "glass": Family(PANELS, (DARK, STONE, WHITE), ("curtain",), ("flat", "parapet"), ("arcade", "shop"),
                    (3, 4), (2, 3), (2.6, 3.2), "panels"),
    "warehouse": Family(BRICKS, (STONE, DARK), ("arched", "grid"), ("cornice", "parapet"), ("garage", "arcade"),
                        (2, 3), (2, 3), (2.5, 3.1), "brick"),
}
ACCENTS = ((190, 44, 40), (30, 110, 66), (36, 72, 150), (222, 170, 40), (110, 48, 110), (40, 40, 44), (224, 112, 36),
            (60, 150, 160))
ROOFS = ((92, 84, 84), (128, 70, 54), (74, 82, 92))


class Facade(NamedTuple):
    """Parameters of one facade; `key` holds the discrete ones, which no two splits share."""

    family: str
    wall: int
    trim: int
    window: str
    roof: str
    ground: str
    floors: int
    bays: int
    accent: int
    roof_colour: int
    door: int  # bay of the door
    balconies: int  # bit f: the f-th upper floor has balconies
    blanks: int  # bit b: bay b has narrow windows
    word: int  # seed of the sign's letters
    bay_width: float  # metres
    floor_height: float  # metres
    window_share: tuple[float, float]  # of bay width and of floor height
    tint: tuple[float, float, float]

    @property
    def key(self) -> tuple:
        return self[:13]

    @property
    def width(self) -> float:
        return self.bays * self.bay_width + 0.6

    @property
    def height(self) -> float:
        """Height of the wall without the roof, in metres."""
        return 3.6 + self.floors * self.floor_height


class Place(NamedTuple):
    """A stretch of street: facades from left to right, and what stands before and behind them (metres)."""

    facades: tuple[Facade, ...]
    left: float  # X of the left edge of the first facade
    trees: tuple[tuple[float, float, int], ...]  # X, height, seed of the crown
    lamps: tuple[float, ...]
    furniture: tuple[tuple[float, str, int], ...]  # X, kind, accent
    skyline: tuple[tuple[float, float, float], ...]  # X, width, height, 60 m behind the facades
    paving: tuple[int, int, int]
    seed: int


def split_of(key: tuple) -> str:
    """The only split in which facades with these discrete parameters may be drawn (half of them train)."""
    return ("train", "train", "val", "test")[zlib.crc32(repr(key).encode()) % 4]


def draw_facade(rng: np.random.Generator, family: str, split: str) -> Facade:
    """Draw a facade of the family among the parameters that belong to the split."""
    style = FAMILIES[family]
    while True:
        facade = Facade(  # in the order of the draws
            family=family, wall=int(rng.integers(len(style.walls))), trim=int(rng.integers(len(style.trims))),
            window=str(rng.choice(style.windows)), roof=str(rng.choice(style.roofs)),
            ground=str(rng.choice(style.grounds)), floors=int(rng.integers(style.floors[0], style.floors[1] + 1)),
            bays=(bays := int(rng.integers(style.bays[0], style.bays[1] + 1))), accent=int(rng.integers(len(ACCENTS))),
            roof_colour=int(rng.integers(len(ROOFS))), door=int(rng.integers(bays)),
            balconies=int(rng.choice([0, 0, 1, 2, 3, 7])), blanks=int(rng.choice([0, 0, 0, 1, 2, 4])),
            word=int(rng.integers(2**31)), bay_width=float(rng.uniform(*style.bay_width)),
            floor_height=float(rng.uniform(2.8, 3.3)),
            window_share=(float(rng.uniform(0.42, 0.6)), float(rng.uniform(0.5, 0.66))),
            tint=tuple(float(t) for t in rng.normal(1.0, 0.12, 3)))
        if split_of(facade.key) == split:
            return facade


def draw_details(rng: np.random.Generator, facade: Facade, split: str) -> Facade:
    """The same building with other details, among those that belong to the split: door, signs, balconies, windows."""
    while True:
        other = facade._replace(
            accent=int(rng.integers(len(ACCENTS))), door=int(rng.integers(facade.bays)),
            balconies=int(rng.choice([0, 0, 1, 2, 3, 7])), blanks=int(rng.choice([0, 0, 0, 1, 2, 4])),
            word=int(rng.integers(2**31)))
        if split_of(other.key) == split:
            return other


def draw_place(rng: np.random.Generator, split: str) -> Place:
    """Draw a place: neighbours are often of one family, so that streets resemble each other."""
    families = rng.choice(list(FAMILIES), 3, replace=False)
    left = -REACH - float(rng.uniform(0, 6))
    facades, edge = [], left
    while edge < REACH:
        facades.append(draw_facade(rng, str(families[rng.choice(3, p=(0.5, 0.3, 0.2))]), split))
        edge += facades[-1].width
    trees = [(float(x + rng.uniform(-2, 2)), float(rng.uniform(4, 6.5)), int(rng.integers(2**31)))
             for x in np.arange(-24, 25, 9.0) if rng.random() < 0.3]
    start = float(rng.uniform(-24, -10))
    kinds = ("bench", "box", "bollards", "sign", "kiosk")
    return Place(
        facades=tuple(facades), left=left, trees=tuple(trees), lamps=tuple(start + 15.0 * i for i in range(3)),
        furniture=tuple((float(rng.uniform(-20, 20)), str(rng.choice(kinds)), int(rng.integers(len(ACCENTS))))
                        for _ in range(4)),
        skyline=tuple((float(rng.uniform(-90, 90)), float(rng.uniform(8, 26)), float(rng.uniform(14, 44)))
                      for _ in range(int(rng.integers(4, 12)))),
        paving=tuple(int(c) for c in rng.integers(-14, 15, 3) + rng.integers(120, 170)), seed=int(rng.integers(2**31)))
