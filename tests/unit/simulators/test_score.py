"""The score of tracks beside a known truth."""

from dataclasses import fields

import numpy as np
import pytest

from hedmlive.simulators import Truth, score_tracks


def truth(row: list[float], col: list[float], omega: list[float]) -> Truth:
    n = len(row)
    columns = {field.name: np.zeros(n, np.int64) for field in fields(Truth)}
    columns |= {"row": np.array(row, float), "col": np.array(col, float), "omega": np.array(omega, float)}
    return Truth(**columns)  # pyright: ignore[reportArgumentType]


def tracks(row: list[float], col: list[float], omega: list[float]) -> dict[str, np.ndarray]:
    return {"row": np.array(row, float), "col": np.array(col, float), "omega": np.array(omega, float)}


def test_each_spot_has_a_track_of_its_own() -> None:
    spots = truth([10, 20], [10, 20], [1, 2])
    score = score_tracks(tracks([10.3, 20.0], [10.4, 20.0], [1.0, 2.2]), spots, spots, degrees=0.5)
    assert (score.n_found, score.n_false, score.recall) == (2, 0, 1.0)
    assert score.centroid_error == pytest.approx(0.25)
    assert score.omega_error == pytest.approx(0.1)


def test_one_track_for_two_spots_finds_one() -> None:
    spots = truth([10, 11], [10, 10], [1, 1])
    score = score_tracks(tracks([10.4], [10], [1]), spots, spots, degrees=0.5)
    assert (score.n_found, score.n_true, score.n_false) == (1, 2, 0)


def test_a_faint_spot_is_not_wanted_and_not_false() -> None:
    bright, all_spots = truth([10], [10], [1]), truth([10, 50], [10, 50], [1, 1])
    score = score_tracks(tracks([10, 50, 90], [10, 50, 90], [1, 1, 1]), bright, all_spots, degrees=0.5)
    assert (score.n_found, score.n_true, score.n_false, score.n_tracks) == (1, 1, 1, 3)


def test_the_ends_of_a_turn_are_near_each_other() -> None:
    spots = truth([10], [10], [359.9])
    score = score_tracks(tracks([10], [10], [-0.1]), spots, spots, degrees=0.5)
    assert score.n_found == 1
    assert score.omega_error == pytest.approx(0.0)


def test_nothing_found_has_no_error() -> None:
    score = score_tracks(tracks([], [], []), truth([1], [1], [1]), truth([1], [1], [1]), degrees=0.5)
    assert score.recall == 0.0
    assert np.isnan(score.centroid_error)
