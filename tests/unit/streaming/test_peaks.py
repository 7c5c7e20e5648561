"""Peaks of one frame, by exact numbers."""

from dataclasses import replace

import numpy as np
import pytest

from hedmlive.streaming import Background, PeakFinder, PeaksOfFrame, Recipe


def peaks_of(image, **numbers) -> PeaksOfFrame:
    recipe = replace(Recipe(threshold=0), **numbers)
    return PeakFinder(recipe).push(7, 1.5, Background(recipe).push(np.asarray(image, np.uint16)))


def test_one_peak_in_full():
    image = np.zeros((6, 8))
    image[2, 3], image[2, 4], image[3, 5] = 10, 30, 20
    found = peaks_of(image, saturation=20)
    wanted = {
        "frame": 7, "peak": 0, "n_pixels": 3, "sum_intensity": 60.0, "max_intensity": 30.0,
        "row": 2 + 20 / 60, "col": 3 + 70 / 60, "row_max": 2, "col_max": 4,
        "var_row": 20 / 60 - (20 / 60) ** 2, "var_col": 110 / 60 - (70 / 60) ** 2,
        "cov_row_col": 40 / 60 - (20 / 60) * (70 / 60),
        "row_min": 2, "row_end": 4, "col_min": 3, "col_end": 6, "n_maxima": 1, "n_saturated": 2,
        "on_edge": False, "omega": 1.5, "on_mask": False,
    }  # fmt: skip
    assert {name: values.tolist() for name, values in found.peaks.items()} == {k: [v] for k, v in wanted.items()}
    assert found.pixels["intensity"].tolist() == [10, 30, 20]
    assert (found.n_lit, found.n_dropped, found.n_saturated) == (3, 0, 2)


def test_no_full_scale_is_said_by_minus_one():
    found = peaks_of([[5, 0, 5]])
    assert found.n_saturated == -1
    assert found.peaks["n_saturated"].tolist() == [-1, -1]


def test_small_groups_are_dropped_and_the_others_numbered_without_gaps():
    found = peaks_of([[1, 0, 2, 2, 0, 1, 0, 3, 3]], min_pixels=2)
    assert found.n_dropped == 2
    assert found.peaks["peak"].tolist() == [0, 1]
    assert found.pixels["peak"].tolist() == [0, 0, 1, 1]
    assert found.n_lit == 6


@pytest.mark.parametrize("shape", [(1, 1), (5, 5)])
def test_all_lit_is_one_peak_on_the_edge(shape):
    found = peaks_of(np.ones(shape))
    assert found.peaks["n_pixels"].tolist() == [shape[0] * shape[1]]
    assert found.peaks["on_edge"].tolist() == [True]
    assert found.peaks["n_maxima"].tolist() == [1]


@pytest.mark.parametrize(
    ("pixel", "edge"), [((0, 2), True), ((4, 2), True), ((2, 0), True), ((2, 4), True), ((1, 3), False)]
)
def test_on_edge_at_each_side(pixel, edge):
    image = np.zeros((5, 5))
    image[pixel] = 1
    assert peaks_of(image).peaks["on_edge"].tolist() == [edge]


def test_none_lit_is_no_peak():
    found = peaks_of(np.zeros((4, 4)))
    assert {len(values) for values in (*found.peaks.values(), *found.pixels.values())} == {0}


def test_corners_touch_and_a_ring_is_one_peak():
    assert len(peaks_of([[1, 0], [0, 1]]).peaks["peak"]) == 1
    ring = np.ones((5, 5))
    ring[1:4, 1:4] = 0
    assert len(peaks_of(ring).peaks["peak"]) == 1


def test_numbers_go_by_the_first_pixel_in_raster_order():
    assert peaks_of([[0, 0, 0, 2], [1, 0, 0, 2], [1, 0, 0, 2]]).peaks["col_max"].tolist() == [3, 0]
    # The arms of a U meet only in the last row: one peak, and it comes before the dot between them.
    assert peaks_of([[1, 0, 0, 0, 1], [1, 0, 5, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]).peaks[
        "n_pixels"
    ].tolist() == [11, 1]


def test_equal_maxima_count_once_the_first_is_the_brightest():
    found = peaks_of([[3, 3, 1, 3]])
    assert found.peaks["n_maxima"].tolist() == [2]
    assert found.peaks["col_max"].tolist() == [0]
