"""Reflections, cells and orientations."""

import itertools

import numpy as np
import pytest

from hedmlive.simulators import (
    GOLD,
    Crystal,
    random_grains,
    random_orientations,
    reciprocal_basis,
    reflections,
)
from hedmlive.streaming.errors import SettingsError

TRICLINIC = (4.9, 5.7, 7.1, 83.0, 97.0, 104.0)


def _cubic(centring: str) -> Crystal:
    return Crystal(lattice=(4.0, 4.0, 4.0, 90.0, 90.0, 90.0), centring=centring)


def _naive(centring: str, most: int) -> set[tuple[int, ...]]:
    allowed = {
        "P": lambda h, k, m: True,
        "I": lambda h, k, m: (h + k + m) % 2 == 0,
        "F": lambda h, k, m: len({h % 2, k % 2, m % 2}) == 1,
        "C": lambda h, k, m: (h + k) % 2 == 0,
    }[centring]
    cube = itertools.product(range(-most, most + 1), repeat=3)
    return {hkl for hkl in cube if any(hkl) and sum(i * i for i in hkl) <= most**2 and allowed(*hkl)}


@pytest.mark.parametrize("centring", ["P", "I", "F", "C"])
def test_reflections_are_those_of_the_centring(centring: str) -> None:
    found = reflections(_cubic(centring), max_length=1.0 + 1e-9)
    assert {tuple(hkl) for hkl in found.tolist()} == _naive(centring, 4)


def test_fcc_families_in_order() -> None:
    found = reflections(GOLD, max_length=np.sqrt(12.1) / 4.0782)
    squares = (found**2).sum(axis=1)
    assert squares.tolist() == [3] * 8 + [4] * 6 + [8] * 12 + [11] * 24 + [12] * 8
    assert found[0].tolist() == [1, 1, 1]


def test_listed_reflections_are_used_as_they_are() -> None:
    listed = Crystal(lattice=GOLD.lattice, centring="F", hkls=((1, 0, 0), (2, 0, 0), (9, 9, 9)))
    assert reflections(listed, max_length=1.0).tolist() == [[1, 0, 0], [2, 0, 0]]


def test_reciprocal_basis_of_a_triclinic_cell() -> None:
    basis = reciprocal_basis(TRICLINIC)
    a, b, c = np.linalg.inv(basis)  # rows: the direct vectors
    lengths = [np.linalg.norm(v) for v in (a, b, c)]
    angles = [np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))) for u, v in ((b, c), (a, c), (a, b))]
    np.testing.assert_allclose([*lengths, *angles], TRICLINIC, rtol=1e-12)
    assert np.abs(np.tril(basis, -1)).max() < 1e-15


def test_orientations_are_rotations_and_follow_the_seed() -> None:
    matrices = random_orientations(50, np.random.default_rng(3))
    identity = np.broadcast_to(np.eye(3), (50, 3, 3))
    np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), identity, atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0)
    np.testing.assert_array_equal(matrices, random_orientations(50, np.random.default_rng(3)))


def test_grains_lie_in_their_cylinder() -> None:
    grains = random_grains(200, 5, radius=100.0, height=40.0, size=(20.0, 30.0), mosaic=(0.1, 0.2))
    x, y, z = np.array([grain.position for grain in grains]).T
    assert np.hypot(x, y).max() <= 100
    assert np.abs(z).max() <= 20
    assert all(20 <= grain.size <= 30 and 0.1 <= grain.mosaic <= 0.2 for grain in grains)
    assert grains == random_grains(200, 5, radius=100.0, height=40.0, size=(20.0, 30.0), mosaic=(0.1, 0.2))


def test_bad_crystals_are_refused() -> None:
    with pytest.raises(SettingsError, match="'X' is unknown"):
        _cubic("X")
    with pytest.raises(SettingsError, match="six positive"):
        Crystal(lattice=(0.0, 1.0, 1.0, 90.0, 90.0, 90.0))
    with pytest.raises(SettingsError, match="angles cannot meet"):
        reciprocal_basis((4.0, 4.0, 4.0, 10.0, 20.0, 100.0))
