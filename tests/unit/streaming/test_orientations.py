"""Seed orientations: their groups, that they leave no gap, that no two are the same, and how many there are."""

import naive_orientations as naive
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hedmlive.streaming import SettingsError
from hedmlive.streaming.orientations import (
    LAUE_CLASSES,
    laue_class,
    multiply,
    quaternions,
    reduce_to_zone,
    seed_orientations,
    symmetry_rotations,
)

X, Y, Z, DIAGONAL = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)
BETWEEN = (np.cos(np.pi / 6), np.sin(np.pi / 6), 0.0)

CASES = [
    # space group, Laue class, rotations, generators: axis and fold
    (2, "-1", 1, []),
    (14, "2/m", 2, [(Y, 2)]),
    (62, "mmm", 4, [(X, 2), (Y, 2)]),
    (88, "4/m", 4, [(Z, 4)]),
    (141, "4/mmm", 8, [(Z, 4), (X, 2)]),
    (148, "-3", 3, [(Z, 3)]),
    (167, "-3m", 6, [(Z, 3), (X, 2)]),
    (162, "-3m", 6, [(Z, 3), (BETWEEN, 2)]),
    (176, "6/m", 6, [(Z, 6)]),
    (194, "6/mmm", 12, [(Z, 6), (X, 2)]),
    (205, "m-3", 12, [(X, 2), (Z, 2), (DIAGONAL, 3)]),
    (225, "m-3m", 24, [(Z, 4), (DIAGONAL, 3)]),
]
each_class = pytest.mark.parametrize(("number", "laue", "order", "generators"), CASES)


def angles_to_seeds(orientations: np.ndarray, seeds: np.ndarray, number: int) -> np.ndarray:
    """The angle between each orientation and the seed nearest to it, degrees."""
    best = np.zeros(len(orientations))
    for rotation in symmetry_rotations(number):
        best = np.maximum(best, np.abs(multiply(orientations, rotation) @ seeds.T).max(axis=1))
    return np.degrees(2 * np.arccos(np.minimum(best, 1)))


@each_class
def test_rotations_are_the_group_of_the_class(number: int, laue: str, order: int, generators: list) -> None:
    rotations = symmetry_rotations(number)
    wanted = naive.group([naive.turn(axis, 360 / fold) for axis, fold in generators])
    assert (laue_class(number), len(rotations), len(wanted)) == (laue, order, order)
    assert rotations[0].tolist() == [1, 0, 0, 0]
    for rotation in rotations:
        assert sum(np.allclose(naive.matrix(rotation), each) for each in wanted) == 1
    # Each once, and every product is one of them.
    same = np.abs(rotations @ rotations.T) > 1 - 1e-9
    assert (same == np.eye(order, dtype=bool)).all()
    products = multiply(rotations[:, None], rotations[None, :]).reshape(-1, 4)
    assert (np.abs(products @ rotations.T) > 1 - 1e-9).any(axis=1).all()


def test_every_space_group_has_a_class() -> None:
    classes = [laue_class(number) for number in range(1, 231)]
    assert sorted(set(classes)) == sorted(LAUE_CLASSES)
    assert [classes.count(each) for each in LAUE_CLASSES] == [2, 13, 59, 14, 54, 6, 19, 9, 18, 12, 24]


@each_class
def test_no_orientation_is_further_away_than_the_resolution(
    number: int, laue: str, order: int, generators: list
) -> None:
    for resolution in (9.0, 20.0):
        seeds = seed_orientations(number, resolution)
        drawn = Rotation.random(500, random_state=number).as_quat(scalar_first=True)
        drawn = np.concatenate([drawn, [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]], symmetry_rotations(number)])
        angles = angles_to_seeds(drawn, seeds, number)
        assert angles.max() <= resolution
        # Nor are there many more than it takes: the farthest is not much nearer.
        assert angles.max() > 0.7 * resolution


@each_class
def test_seeds_lie_in_the_zone_and_no_two_are_the_same(number: int, laue: str, order: int, generators: list) -> None:
    resolution = 12.0
    seeds, rotations = seed_orientations(number, resolution), symmetry_rotations(number)
    np.testing.assert_allclose(np.linalg.norm(seeds, axis=1), 1, atol=1e-12)
    assert (seeds[:, 0] >= 0).all()
    for rotation in rotations:
        cosines = np.abs(multiply(seeds, rotation) @ seeds.T)
        # The angle of rotation is the smallest among equivalent ones.
        assert (np.abs(multiply(seeds, rotation)[:, 0]) <= seeds[:, 0] + 1e-9).all()
        if rotation[0] == 1:
            np.fill_diagonal(cosines, 0)
        assert np.degrees(2 * np.arccos(min(1.0, cosines.max()))) > 0.2 * resolution


@each_class
def test_number_of_seeds_goes_with_the_cube_of_the_resolution(
    number: int, laue: str, order: int, generators: list
) -> None:
    for resolution, within in ((8.0, 1.35), (4.0, 1.25)):
        expected = 3 * np.sqrt(3) * np.pi**2 / np.radians(resolution) ** 3 / order
        assert expected <= len(seed_orientations(number, resolution)) < within * expected


def test_seeds_against_the_slow_way() -> None:
    number = 167
    rotations = naive.group([naive.turn(Z, 120), naive.turn(X, 180)])
    seeds = seed_orientations(number, 40.0)
    matrices = [naive.matrix(seed) for seed in seeds]
    drawn = Rotation.random(30, random_state=1)
    fast = angles_to_seeds(drawn.as_quat(scalar_first=True), seeds, number)
    slow = [min(naive.misorientation(each, seed, rotations) for seed in matrices) for each in drawn.as_matrix()]
    np.testing.assert_allclose(fast, slow, atol=1e-6)
    np.testing.assert_allclose(quaternions(np.array(matrices)), seeds, atol=1e-12)
    zone = reduce_to_zone(drawn.as_quat(scalar_first=True), symmetry_rotations(number))
    for one, before in zip(zone, drawn.as_matrix(), strict=True):
        assert naive.misorientation(naive.matrix(one), before, rotations) < 1e-5
        assert 2 * np.degrees(np.arccos(one[0])) == pytest.approx(
            min(naive.misorientation(before @ rotation, np.eye(3), [np.eye(3)]) for rotation in rotations)
        )


@pytest.mark.parametrize(
    ("number", "resolution", "says"),
    [
        (0, 5.0, "space group 0 does not exist; wanted a number from 1 to 230"),
        (231, 5.0, "space group 231"),
        (225, 0.0, "wanted more than 0"),
        (225, -1.0, "wanted more than 0"),
        (225, float("nan"), "wanted more than 0"),
        (225, 91.0, "at most 90"),
        (1, 0.05, "wanted a coarser one"),
    ],
)
def test_what_cannot_be_is_refused(number: int, resolution: float, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        seed_orientations(number, resolution)
