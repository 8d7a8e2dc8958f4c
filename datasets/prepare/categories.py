"""Categories of equation 17: square cells and sectors of heading, in groups of cells that do not touch."""

import dataclasses

import numpy as np


def _means(text: str, default: object = dataclasses.MISSING) -> dataclasses.Field:
    return dataclasses.field(default=default, metadata={"means": text})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """Equation 17's parameters (section III-E): groups of classes that are N cells or L sectors apart at least."""

    M: int = _means("side of a cell in metres")
    alpha: int = _means("width of a sector of heading in degrees")
    N: int = _means("cells between two classes of a group")
    L: int = _means("sectors of heading between two classes of a group")
    groups: int = _means("how many of the N x N x L groups to use, 0: all", 0)
    min_images: int = _means("images that a class must have", 4)
    # The published code does not, so that headings of 360 and -1 have classes of their own.
    wrap_headings: bool = _means("take headings modulo 360", False)

    def __post_init__(self):
        for name in ("M", "alpha", "N", "L", "min_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")
        if self.groups < 0:
            raise ValueError(f"groups {self.groups}: expected at least 1, or 0 for all")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Division:
    """The kept images, ordered by group, place and then as they came, in three arrays (k,) int64; what was left out."""

    image: np.ndarray  # index of the image
    group: np.ndarray  # number of its group
    place: np.ndarray  # number of its class in the group
    groups: np.ndarray  # (g, 3) int64: equation 17's group of each number
    images: int  # before anything was left out, and so the next
    classes: int
    used_classes: int
    small_classes: int  # with fewer than min_images images
    small_class_images: int
    unused_groups: int  # beyond the `rule.groups` that are used
    unused_group_images: int


def class_ids(east: np.ndarray, north: np.ndarray, heading: np.ndarray, rule: Rule) -> np.ndarray:
    """(n,) metres, metres, degrees -> (n, 3) int64: each rounded down to a multiple of M, M, alpha."""
    if rule.wrap_headings:
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
    n = len(classes)
    order = np.lexsort(classes.T[::-1])  # stable: the images of a class stay in their order
    in_order = classes[order]
    starts = np.flatnonzero(np.r_[True, (in_order[1:] != in_order[:-1]).any(axis=1)]) if n else np.zeros(0, np.int64)
    counts = np.diff(np.r_[starts, n])
    large = counts >= rule.min_images
    by_appearance = np.argsort(order[starts[large]])
    starts, kept_counts = starts[large][by_appearance], counts[large][by_appearance]
    groups, number = _numbered(group_ids(in_order[starts], rule))
    used = len(groups) if not rule.groups else min(rule.groups, len(groups))
    unused = number >= used
    starts, used_counts, number = starts[~unused], kept_counts[~unused], number[~unused]
    by_group = np.argsort(number, kind="stable")
    starts, used_counts, number = starts[by_group], used_counts[by_group], number[by_group]
    place = np.arange(len(number)) - np.searchsorted(number, number)
    first_row = np.cumsum(used_counts) - used_counts
    rows = np.arange(used_counts.sum()) + np.repeat(starts - first_row, used_counts)
    return Division(
        image=order[rows], group=np.repeat(number, used_counts), place=np.repeat(place, used_counts),
        groups=groups[:used], images=n, classes=len(counts), used_classes=len(number),
        small_classes=int((~large).sum()), small_class_images=int(counts[~large].sum()),
        unused_groups=len(groups) - used, unused_group_images=int(kept_counts[unused].sum()))


def _numbered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of (n, 3) in the order of their first appearance, and which of them each row is."""
    distinct, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    by_appearance = np.argsort(first)
    number = np.empty(len(distinct), np.int64)
    number[by_appearance] = np.arange(len(distinct))
    return distinct[by_appearance], number[which.reshape(-1)]
