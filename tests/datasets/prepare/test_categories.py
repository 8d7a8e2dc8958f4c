"""The division into categories against published values and exact numbers."""

import dataclasses
import itertools
import json
import math
import random
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from paths import DATA

from datasets.prepare.build import Images, plan
from datasets.prepare.categories import Rule, class_ids, divide, group_ids
from datasets.prepare.sources import SOURCES

GOLDEN = json.loads((DATA / "golden_places.json").read_text())["summary"]
# The golden values are of the published code, which does not take headings modulo 360.
RULES = {tag: dataclasses.replace(SOURCES[source].rule, published_headings=True)
         for tag, source in (("pitts_msls", "pitts30k"), ("sfxl", "sf_xl"))}


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "golden_places.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def golden_names(golden):
    """Names of the golden points in FORM, and the points in the order of these names."""
    names = [f"@{e:.2f}@{n:.2f}@32@N@45.00000@9.00000@pano{i:05d}@@{heading:g}@@@@202409@@.jpg".encode()
             for i, ((e, n), heading) in enumerate(zip(golden["utm"], golden["heading"], strict=True))]
    return names, sorted(range(len(names)), key=names.__getitem__)


def test_the_rules_are_the_papers():
    assert SOURCES["pitts30k"].rule == SOURCES["msls"].rule == Rule(M=15, alpha=60, N=3, L=2, groups=0, min_images=4)
    assert SOURCES["sf_xl"].rule == Rule(M=10, alpha=60, N=5, L=2, groups=1, min_images=4)


@pytest.mark.parametrize("tag", RULES)
def test_golden_classes_and_groups(tag, golden):
    classes = class_ids(*golden["utm"].T, golden["heading"], RULES[tag])
    assert np.array_equal(classes, golden[f"{tag}.class_id"])
    assert np.array_equal(group_ids(classes, RULES[tag]), golden[f"{tag}.group_id"])


@pytest.mark.parametrize("least", [4, 10])
@pytest.mark.parametrize("tag", RULES)
def test_golden_images_of_each_group_and_class(tag, least, golden, golden_names):
    names, order = golden_names
    rule = Rule(**{**vars(RULES[tag]), "min_images": least, "groups": 0})
    planned = plan(Images(name="X", folder=Path(), paths=[names[i] for i in order]), rule, numbered=True)
    division, expected = planned.division, GOLDEN[f"{tag}.min{least}"]
    assert division.groups.tolist() == expected["group_order"]
    assert division.classes + division.small_classes == expected["classes_before"]
    assert division.classes == expected["classes_kept"]
    found, wanted = {}, {}
    for group, place, row in zip(division.group, division.place, division.image, strict=True):
        found.setdefault((int(group), int(place)), set()).add(order[row])
    for group, point in golden[f"{tag}.min{least}.rows"].reshape(-1, 2).tolist():
        wanted.setdefault((group, *golden[f"{tag}.class_id"][point].tolist()), set()).add(point)
    assert sorted((group, sorted(points)) for (group, _), points in found.items()) == sorted(
        (group, sorted(points)) for (group, *_), points in wanted.items())
    for group, classes in enumerate(expected["classes_per_group"]):
        assert sorted(place for g, place in found if g == group) == list(range(classes))
        assert sum(len(points) for (g, _), points in found.items() if g == group) == expected["images_per_group"][group]


def test_golden_tables_and_file_names(golden_names):
    names, order = golden_names
    planned = plan(Images(name="Pitts30k", folder=Path(), paths=[names[i] for i in order]), RULES["pitts_msls"],
                   numbered=True)
    published, cities = GOLDEN["benchmark_py"], list(planned.cities())
    assert [len(city.images) for city in cities] == published["files_per_city"]
    assert [len(set(city.images)) for city in cities] == published["lines_per_city"]
    for city in cities[:2]:
        lines, expected = city.table.splitlines(), published["cities"][city.name]
        assert lines[0] == expected["csv_head"][0]
        place_of = {line.partition(",")[2]: line.partition(",")[0] for line in lines[1:]}
        assert len({place_of[line.partition(",")[2]] for line in expected["csv_head"][1:]}) == 1
        # the published places have other numbers, and so have the files
        anonymous = {re.sub(r"_\d{7}_", "_*_", target) for target in city.images}
        assert re.sub(r"_\d{7}_", "_*_", expected["first_file"]) in anonymous
        for line, target in zip(lines[1:], city.images, strict=True):
            place, *_, pano = line.split(",")
            assert target == f"{city.name}_{int(place):07d}_2024_09_010_45.0_9.0_{pano}.jpg"


def oracle(points, rule):
    """Group -> place -> images by equation 17 as it stands, with exact numbers and in the order of appearance.

    The circle is closed for doubles, of which 360 - 1e-20 is none: what is nearest to it is 360, hence 0.
    """
    classes = {}
    for i, (east, north, heading) in enumerate(points):
        steps = (rule.M, rule.M, rule.alpha)
        if not rule.published_headings:
            heading = float(Fraction(heading) % 360) % 360
        key = tuple(math.floor(Fraction(float(x)) / step) * step
                    for x, step in zip((east, north, heading), steps, strict=True))
        classes.setdefault(key, []).append(i)
    groups = {}
    for (e, n, h), members in classes.items():
        if len(members) >= rule.min_images:
            group = (e % (rule.M * rule.N) // rule.M, n % (rule.M * rule.N) // rule.M,
                     h % (rule.alpha * rule.L) // rule.alpha)
            groups.setdefault(group, []).append(members)
    return groups


@pytest.mark.parametrize("rule", [
    Rule(M=15, alpha=60, N=3, L=2, min_images=2, published_headings=True), Rule(M=15, alpha=60, N=3, L=2),
    Rule(M=10, alpha=60, N=5, L=2), Rule(M=10, alpha=50, N=5, L=1, min_images=2),
    Rule(M=7, alpha=45, N=2, L=3, min_images=1, published_headings=True)], ids=str)
def test_division_agrees_with_loops_over_fractions(rule):
    draw = random.Random(5)
    multiples = [k * rule.M for k in (-2, -1, 0, 1, 2, 39000)]
    edges = [x for k in multiples for x in (k, math.nextafter(k, -math.inf), math.nextafter(k, math.inf), k + 0.01)]
    turns = [-725.5, -360.0, -60.0, -1.0, -1e-20, -0.0, 0.0, 59.0, math.nextafter(60, 0), 60.0, 359.99, 360.0, 361.0,
             719.5]
    points = [(draw.choice(edges), draw.choice(edges), draw.choice(turns)) for _ in range(3000)]
    expected = oracle(points, rule)
    division = divide(class_ids(*np.array(points).T, rule), rule)
    assert division.groups.tolist() == [list(group) for group in expected]
    rows = zip(division.group.tolist(), division.place.tolist(), division.image.tolist(), strict=True)
    assert list(rows) == [(g, p, i) for g, places in enumerate(expected.values())
                          for p, members in enumerate(places) for i in members]
    assert len(division.image) + division.small_class_images == len(points)


@pytest.mark.parametrize("source", SOURCES)
def test_5_and_360_degrees_at_one_spot_are_one_class(source):
    spot = np.zeros(4)
    classes = class_ids(spot, spot, np.array([5.0, 360.0, 365.0, -355.0]), SOURCES[source].rule)
    assert np.array_equal(classes, np.zeros((4, 3)))


def test_headings_are_taken_modulo_360_unless_as_published():
    headings, zeros = np.array([-1.0, 360.0, 725.0, -1e-20, 59.0, 300.0]), np.zeros(6)
    rule = Rule(M=15, alpha=60, N=3, L=2)
    assert class_ids(zeros, zeros, headings, rule)[:, 2].tolist() == [300, 0, 0, 0, 0, 300]
    published = class_ids(zeros, zeros, headings, dataclasses.replace(rule, published_headings=True))
    assert published[:, 2].tolist() == [-60, 360, 720, -60, 0, 300]
    assert headings[0] == -1.0


def sectors_apart(rule):
    """The nearest two sectors of one group, on the circle."""
    headings = np.arange(0, 360, rule.alpha)
    zeros = np.zeros(len(headings))
    groups = group_ids(class_ids(zeros, zeros, headings, rule), rule)[:, 2]
    return min((min((a - b) % len(headings), (b - a) % len(headings))
                for a, b in itertools.permutations(range(len(headings)), 2) if groups[a] == groups[b]),
               default=len(headings))


def test_classes_of_a_group_are_l_sectors_apart_across_0_too():
    """For every source, and every rule that is accepted; what is refused would bring some nearer, or has fewer
    sectors than L."""
    for source in SOURCES.values():
        assert sectors_apart(source.rule) == source.rule.L == 2
    for alpha, sectors in itertools.product((10, 30, 36, 40, 45, 60, 72, 90, 120, 180, 360), range(1, 7)):
        options = {"M": 15, "alpha": alpha, "N": 3, "L": sectors}
        try:
            rule = Rule(**options)
        except ValueError as error:
            assert str(error).startswith(f"alpha {alpha} and L {sectors}: expected alpha * L to divide 360, or L 1; ")
            assert sectors_apart(Rule(**options, published_headings=True)) < sectors or sectors > 360 // alpha
        else:
            assert sectors_apart(rule) >= sectors


def test_a_last_sector_that_is_narrower_is_refused():
    with pytest.raises(ValueError, match=r"^alpha 100 and L 2: expected alpha \* L to divide 360"):
        Rule(M=15, alpha=100, N=3, L=2)


def test_only_some_groups_and_none():
    classes = np.repeat([[0, 0, 0], [15, 0, 0], [45, 0, 0], [30, 0, 0]], [2, 3, 2, 1], axis=0)
    division = divide(classes, Rule(M=15, alpha=60, N=3, L=2, groups=1, min_images=2))
    assert division.groups.tolist() == [[0, 0, 0]]
    assert (division.place.tolist(), division.image.tolist()) == ([0, 0, 1, 1], [0, 1, 5, 6])
    assert (division.unused_groups, division.unused_group_images) == (1, 3)
    assert (division.small_classes, division.small_class_images, division.classes) == (1, 1, 2)
    for empty in (classes[:0], classes[-1:]):
        division = divide(empty, Rule(M=15, alpha=60, N=3, L=2))
        assert len(division.image) == len(division.groups) == division.classes == 0


@pytest.mark.parametrize("field, value", [("M", 0), ("alpha", -1), ("N", 0), ("L", 0), ("min_images", 0),
                                          ("groups", -1)])
def test_rules_that_divide_nothing(field, value):
    with pytest.raises(ValueError, match=f"^{field} {value}: expected at least"):
        Rule(**{**vars(RULES["sfxl"]), field: value})
