"""Categories of equation 17: square cells and sectors of heading, in groups of cells that do not touch."""

import dataclasses
from typing import NamedTuple

import numpy as np


def _means(text: str, default: object = dataclasses.MISSING) -> dataclasses.Field:
    return dataclasses.field(default=default, metadata={"means": text})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """Equation 17's parameters (section III-E): groups of classes that are N cells or L sectors apart at least.

    Headings are taken modulo 360.  The published code does not: with `published_headings` 360 and -1 have classes of
    their own, beside those of 0 and 359.

    Raises ValueError for a number out of range, and for sectors that do not close the circle: where alpha * L does not
    divide 360, some classes of a group are nearer than L sectors across 0.
    """

    M: int = _means("side of a cell in metres")
    alpha: int = _means("width of a sector of heading in degrees")
    N: int = _means("cells between two classes of a group")
    L: int = _means("sectors of heading between two classes of a group")
    groups: int = _means("how many of the N x N x L groups to use, 0: all", 0)
    min_images: int = _means("images that a class must have", 4)
    published_headings: bool = _means("do not take headings modulo 360", False)

    def __post_init__(self):
        for name in ("M", "alpha", "N", "L", "min_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")
        if self.groups < 0:
            raise ValueError(f"groups {self.groups}: expected at least 1, or 0 for all")
        if not self.published_headings and self.L > 1 and 360 % (self.alpha * self.L):
            raise ValueError(f"alpha {self.alpha} and L {self.L}: expected alpha * L to divide 360, or L 1; else "
                             "classes of one group may be nearer than L sectors across 0 degrees")


class Division(NamedTuple):
    """The kept images, ordered by group, place and then as they came, in three arrays (k,) int64; what was left out."""

    image: np.ndarray  # index of the image
    group: np.ndarray  # number of its group
    place: np.ndarray  # number of its class in the group
    groups: np.ndarray  # (g, 3) int64: equation 17's group of each number
    classes: int  # in these groups
    small_classes: int  # with fewer than min_images images
    small_class_images: int
    unused_groups: int  # beyond the `rule.groups` that are used
    unused_group_images: int


def class_ids(east: np.ndarray, north: np.ndarray, heading: np.ndarray, rule: Rule) -> np.ndarray:
    """(n,) metres, metres, degrees -> (n, 3) int64: each rounded down to a multiple of M, M, alpha."""
    if not rule.published_headings:
        heading = np.mod(heading, 360.0)
        heading[heading == 360.0] = 0.0  # what a tiny negative angle is rounded to
    # floor_divide and not floor(x / M), whose division may round up to the next cell
    return np.stack([np.floor_divide(values, step).astype(np.int64) * step
                     for values, step in ((east, rule.M), (north, rule.M), (heading, rule.alpha))], axis=1)


def group_ids(classes: np.ndarray, rule: Rule) -> np.ndarray:
    """(n, 3) classes -> (n, 3) int64 groups, 0..N-1, 0..N-1, 0..L-1."""
    steps = np.array([rule.M, rule.M, rule.alpha])
    return classes // steps % np.array([rule.N, rule.N, rule.L])


def divide(classes: np.ndarray, rule: Rule) -> Division:
    """Classes (n, 3) of images in their order -> the kept ones by group and place.

    Groups are numbered in the order in which the first image of a kept class appears, as in the published code, and
    so are the classes of a group: there the published code follows the order of a Python set, which depends on the
    interpreter.  Groups and classes are the same sets of images; the numbers of the places differ.
    """
    distinct, class_of = _numbered(classes)
    counts = np.bincount(class_of, minlength=len(distinct))
    large = np.flatnonzero(counts >= rule.min_images)
    groups, number = _numbered(group_ids(distinct[large], rule))
    used = min(rule.groups or len(groups), len(groups))
    by_group = np.argsort(number, kind="stable")
    by_group = by_group[number[by_group] < used]
    kept, number = large[by_group], number[by_group]
    place = np.arange(len(kept)) - np.searchsorted(number, number)
    rank = np.full(len(distinct), -1)  # of a class among the kept ones
    rank[kept] = np.arange(len(kept))
    ranks = rank[class_of]
    image = np.argsort(ranks, kind="stable")[np.count_nonzero(ranks < 0):]
    in_large = int(counts[large].sum())
    return Division(
        image=image, group=number[ranks[image]], place=place[ranks[image]], groups=groups[:used], classes=len(kept),
        small_classes=len(distinct) - len(large), small_class_images=len(classes) - in_large,
        unused_groups=len(groups) - used, unused_group_images=in_large - len(image))


def _numbered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of (n, 3) in the order of their first appearance, and which of them each row is."""
    order = np.lexsort(keys.T)  # stable: the first of equal rows stays the first.  np.unique is slower by far
    begins = np.r_[True, (np.diff(keys[order], axis=0) != 0).any(axis=1)][:len(keys)]
    first = order[begins]
    number = np.empty(len(keys), np.int64)
    number[order] = np.argsort(np.argsort(first))[np.cumsum(begins) - 1]
    return keys[np.sort(first)], number
