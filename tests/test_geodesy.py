"""Distances and displacements on the sphere: known pairs, the date line, both hemispheres."""

import numpy as np
import pytest

from seqlab.geodesy import (
    EARTH_RADIUS_KM,
    KM_PER_DEGREE,
    destination,
    displacement_km,
    great_circle_km,
    wrap_longitude,
)

QUARTER = EARTH_RADIUS_KM * np.pi / 2


@pytest.mark.parametrize(
    ("one", "other", "km"),
    [
        ((0, 0), (0, 90), QUARTER),
        ((90, 17), (0, -60), QUARTER),
        ((0, 10), (0, -170), 2 * QUARTER),  # antipodes
        ((90, 0), (-90, 0), 2 * QUARTER),
        ((30, 179.5), (30, -179.5), None),  # across the date line: as far as from 0 to 1 degrees
        ((12, 34), (12, 34), 0.0),
        ((36.12, -86.67), (33.94, -118.40), 2886.444),  # Nashville, Los Angeles: Rosetta Code's
        ((60, 0), (60, 180), 2 * EARTH_RADIUS_KM * np.radians(30)),  # over the pole
    ],
)
def test_known_distances(one, other, km):
    if km is None:
        km = great_circle_km(30, 0, 30, 1)
    np.testing.assert_allclose(great_circle_km(*one, *other), km, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(great_circle_km(*other, *one), km, rtol=1e-6, atol=1e-9)


def test_near_places_lose_no_digits():
    np.testing.assert_allclose(
        great_circle_km(20, 0, 20 + 1e-8, 0), 1e-8 * KM_PER_DEGREE, rtol=1e-6
    )
    away = displacement_km(20, 150, 20 + 1e-8, 150)
    np.testing.assert_allclose(away, [0, 1e-8 * KM_PER_DEGREE], rtol=1e-6, atol=1e-15)


def test_displacements_point_where_they_should():
    np.testing.assert_allclose(displacement_km(0, 179, 0, -179), [2 * KM_PER_DEGREE, 0], atol=1e-9)
    np.testing.assert_allclose(displacement_km(0, -179, 0, 179), [-2 * KM_PER_DEGREE, 0], atol=1e-9)
    np.testing.assert_allclose(
        displacement_km(-20, 60, -25, 60), [0, -5 * KM_PER_DEGREE], atol=1e-9
    )
    # A mirror in the equator turns north round and nothing else.
    north, south = displacement_km(20, 130, 25, 138), displacement_km(-20, 130, -25, 138)
    np.testing.assert_allclose(south, north * [1, -1], rtol=1e-13)
    assert displacement_km(10, 10, 10, 10).tolist() == [0, 0]


def test_destination_undoes_displacement_everywhere():
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(-89, 89, 2000), rng.uniform(-180, 180, 2000)
    moves = rng.normal(size=(2000, 2))
    moves *= (rng.uniform(0, 19_000, 2000) / np.hypot(*moves.T))[:, None]
    there = destination(lat, lon, moves)
    np.testing.assert_allclose(displacement_km(lat, lon, *there), moves, atol=1e-7)
    lengths = np.hypot(moves[:, 0], moves[:, 1])
    np.testing.assert_allclose(great_circle_km(lat, lon, *there), lengths, atol=1e-7)
    assert ((there[1] >= -180) & (there[1] < 180)).all()


def test_longitudes_wrap():
    assert wrap_longitude([180, -180, 359, -359, 190, 540]).tolist() == [
        -180,
        -180,
        -1,
        1,
        -170,
        -180,
    ]
