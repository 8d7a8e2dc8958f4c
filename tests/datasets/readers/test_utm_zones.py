"""Whole arrays of degrees against utm, point by point."""

import numpy as np
import utm

from datasets.readers.utm_zones import to_utm, unit_vectors, zone_letters, zone_numbers


def test_degrees_to_metres_agree_with_utm():
    draw = np.random.default_rng(3)
    lat = np.r_[draw.uniform(-80, 84, 300), draw.uniform(55, 84, 300), 0.0, -1e-9, 84, 83.9, 56, 64, 72]
    lon = np.r_[draw.uniform(-180, 180, 300), draw.uniform(-1, 43, 300), 6.0, 3.0, 9, 180, 3, 12, -180]
    expected = [utm.from_latlon(a, b) for a, b in zip(lat, lon, strict=True)]
    east, north, zones = to_utm(lat, lon)
    assert np.allclose(east, [e for e, *_ in expected], rtol=0, atol=1e-6)
    assert np.allclose(north + 1e7 * (lat < 0), [n for _, n, *_ in expected], rtol=0, atol=1e-6)
    assert zones.tolist() == zone_numbers(lat, lon).tolist() == [zone for _, _, zone, _ in expected]
    assert zone_letters(lat).tolist() == [letter for *_, letter in expected]
    assert zone_letters(lat[:0]).tolist() == zone_numbers(lat[:0], lon[:0]).tolist() == []


def test_another_zone_may_be_asked_for():
    east, north, zones = to_utm(np.array([50.0, -50.0]), np.array([13.0, 13.0]), np.array([32, 33]))
    assert (east[0], north[0]) == utm.from_latlon(50.0, 13.0, force_zone_number=32)[:2]
    assert (east[1], north[1] + 10_000_000) == utm.from_latlon(-50.0, 13.0)[:2]
    assert zones.tolist() == [32, 33]


def test_unit_vectors():
    found = unit_vectors(np.array([0.0, 0.0, 90.0, -30.0]), np.array([0.0, 90.0, 7.0, 180.0]))
    assert np.allclose(found, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [-(0.75**0.5), 0, -0.5]], atol=1e-15)
