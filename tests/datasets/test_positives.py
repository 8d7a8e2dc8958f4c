"""Rules for right answers against naive loops, at their boundaries."""

import math

import numpy as np
import pytest

from datasets.positives import within_degrees, within_frames, within_metres

# Differences of these are exact in float64 and squares are not: a search that expands the square loses pairs at 25 m.
EAST, NORTH = 548273 + 778 / 1024, 4180999 + 401 / 1024


def points(n, *, seed):
    steps = np.random.default_rng(seed).integers(-60, 60, (n, 2))
    exact = [(0, 0), (25, 0), (15, 20), (0, -25), (7, 24), (25, 1)]
    return np.array([EAST, NORTH]) + np.concatenate([np.array(exact), steps])[:n].astype(np.float64)


def apart(first, second):
    """Degrees between two headings, both whole numbers."""
    return min(abs(int(first) - int(second) + 360 * turns) for turns in range(-5, 6))


def check(found, expected):
    assert [ids.tolist() for ids in found] == expected
    assert {ids.dtype for ids in found} <= {np.dtype(np.int64)}
    assert any(expected)  # the case asks something


@pytest.mark.parametrize("n_database", [6, 300])  # scikit-learn would search 6 by brute force, 300 by a tree
@pytest.mark.parametrize("m", [25.0, 10.0, 0.0])
def test_metres_are_those_of_naive_loops(n_database, m):
    database, queries = points(n_database, seed=1), points(40, seed=2)
    check(within_metres(database, queries, m),
          [[i for i, place in enumerate(database) if math.dist(place, query) <= m] for query in queries])
    boundary = within_metres(database, queries[:1], m)[0].tolist()
    assert [i for i in boundary if i < 6] == ([0, 1, 2, 3, 4] if m == 25 else [0])


def test_metres_compare_inside_a_group_alone():
    database, queries = points(200, seed=3), points(30, seed=4)
    rng = np.random.default_rng(5)
    zones, query_zones = rng.integers(31, 34, 200), rng.integers(31, 35, 30)  # no image of zone 34
    found = within_metres(database, queries, 25.0, groups=(zones, query_zones))
    check(found, [[i for i, place in enumerate(database) if zones[i] == zone and math.dist(place, query) <= 25]
                  for query, zone in zip(queries, query_zones, strict=True)])
    assert sum(map(len, found)) < sum(map(len, within_metres(database, queries, 25.0)))
    assert (query_zones == 34).any()


def test_metres_of_nothing():
    nothing = np.zeros((0, 2))
    assert within_metres(points(3, seed=0), nothing, 25.0) == []
    assert [ids.tolist() for ids in within_metres(nothing, points(2, seed=0), 25.0)] == [[], []]


@pytest.mark.parametrize("degrees", [0.0, 40.0, 179.0, 180.0])
def test_metres_and_degrees_are_those_of_naive_loops(degrees):
    database, queries = points(300, seed=6), points(60, seed=7)
    rng = np.random.default_rng(8)
    headings, query_headings = rng.integers(-400, 800, 300), rng.integers(-400, 800, 60)
    headings[:8], query_headings[:8] = np.arange(8) * 45, np.arange(8) * 45 + 40
    near = within_metres(database, queries, 25.0)
    found = within_degrees(near, headings.astype(float), query_headings.astype(float), degrees)
    check(found, [[i for i, place in enumerate(database)
                   if math.dist(place, query) <= 25 and apart(headings[i], heading) <= degrees]
                  for query, heading in zip(queries, query_headings, strict=True)])


@pytest.mark.parametrize(("heading", "right"), [
    (30.0, [0, 1, 2, 3]),  # 350 and -10 are 40 away across north, 70 is 40 away, 710 is 350 once more
    (30.5, [2]), (29.5, [0, 1, 3]), (390.0, [0, 1, 2, 3]), (-330.0, [0, 1, 2, 3]), (250.0, []), (171.0, [4]),
])
def test_headings_are_wrapped_and_the_angle_belongs(heading, right):
    found = within_degrees([np.arange(5)], np.array([350.0, -10.0, 70.0, 710.0, 180.0]), np.array([heading]), 40.0)
    assert found[0].tolist() == right


def test_degrees_keep_the_groups():
    here, facing = np.full((2, 2), [EAST, NORTH]), np.zeros(2)
    near = within_metres(here, here, 25.0, groups=(np.array(["sf", "cph"]), np.array(["cph", "cph"])))
    assert [ids.tolist() for ids in within_degrees(near, facing, facing, 40.0)] == [[1], [1]]


@pytest.mark.parametrize(("n_database", "n_queries", "frames"), [
    (40, 40, 10), (40, 40, 0), (5, 5, 10), (100, 10, 7), (6, 20, 2), (0, 3, 10)])
def test_frames_are_those_of_naive_loops(n_database, n_queries, frames):
    found = within_frames(n_database, n_queries, frames)
    assert [ids.tolist() for ids in found] == [
        [j for j in range(n_database) if abs(j - i) <= frames] for i in range(n_queries)]
    assert {ids.dtype for ids in found} == {np.dtype(np.int64)}


def test_frames_by_hand():
    found = [ids.tolist() for ids in within_frames(6, 6, 2)]
    assert found == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5], [3, 4, 5]]
    assert within_frames(6, 0, 2) == []


def test_the_largest_benchmark_has_all_its_right_answers():
    found = within_frames(27592, 27592, 10)
    assert sum(map(len, found)) == 21 * 27592 - 2 * sum(range(1, 11))
    assert found[27591].tolist() == list(range(27581, 27592))


PLACE, NEAR = np.array([[EAST, NORTH]]), [np.arange(1)]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: within_metres(PLACE, PLACE, -1.0), "threshold -1.0 m: expected a finite"),
    (lambda: within_metres(PLACE, PLACE, math.nan), "threshold nan m"),
    (lambda: within_metres(PLACE, PLACE, math.inf), "threshold inf m"),
    (lambda: within_degrees(NEAR, np.array([math.nan]), np.zeros(1), 40),
     "^database image 0: heading nan; expected degrees for every image"),
    (lambda: within_degrees(NEAR, np.zeros(1), np.array([math.inf]), 40), "query image 0"),
    (lambda: within_degrees(NEAR, np.full(3, math.nan), np.zeros(1), 40), r"^database image 0.*\(and 2 more like it\)"),
])
def test_senseless_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_metres_that_are_not_finite_are_refused(bad):
    for database, query in ((PLACE, PLACE + bad), (PLACE + bad, PLACE)):
        with pytest.raises(ValueError, match="NaN|infinity"):
            within_metres(database, query, 25.0)
