"""Orientations the slow way: groups grown from their generators as matrices, angles taken one pair after the other."""

import itertools
import math

import numpy as np


def turn(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis) / math.sqrt(sum(each * each for each in axis))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def group(generators: list[np.ndarray]) -> list[np.ndarray]:
    """Multiply until nothing new comes."""
    found = [np.eye(3)]
    grown = True
    while grown:
        grown = False
        for a, b in itertools.product(list(found), generators):
            made = a @ b
            if not any(np.allclose(made, each) for each in found):
                found.append(made)
                grown = True
    return found


def matrix(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def misorientation(a: np.ndarray, b: np.ndarray, rotations: list[np.ndarray]) -> float:
    """The smallest angle in degrees between two orientations, symmetry considered."""
    cosines = [(np.trace(a.T @ b @ rotation) - 1) / 2 for rotation in rotations]
    return math.degrees(math.acos(min(1.0, max(cosines))))
