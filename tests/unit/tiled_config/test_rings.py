"""Rings: their radii beside those of plain reflection conditions, and what is missing named."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest

from hedmlive.streaming import SettingsError
from hedmlive.tiled_config import rings
from hedmlive.tiled_config.rings import RingGeometry, annuli_of

pytest.importorskip("gemmi", reason="needs gemmi: install hedmlive[rings]")

CUBIC = (4.0, 4.0, 4.0, 90.0, 90.0, 90.0)
GEOMETRY: dict[str, Any] = {
    "energy": 61.33, "distance": 1000.0, "pixel_size": 0.2, "beam_center": (1020.5, 1030.0),
    "lattice_parameters": CUBIC, "space_group": 225,
}  # fmt: skip


def naive_radii(cell: tuple[float, ...], present: Any, n: int) -> list[float]:
    """Radii of the first rings of a cell with right angles but for gamma of 120 degrees, of all reflections present."""
    a, _, c, *_, gamma = cell
    found = set()
    for h, k, m in itertools.product(range(-12, 13), repeat=3):
        if (h, k, m) != (0, 0, 0) and present(h, k, m):
            plane = h * h + k * k if gamma == 90 else 4 / 3 * (h * h + h * k + k * k)
            found.add(round(plane / a**2 + m * m / c**2, 12))
    wavelength = 12.398419843320026 / GEOMETRY["energy"]
    angles = [2 * math.asin(wavelength * math.sqrt(each) / 2) for each in sorted(found)[:n]]
    return [GEOMETRY["distance"] * math.tan(angle) / GEOMETRY["pixel_size"] for angle in angles]


def same_parity(h: int, k: int, m: int) -> bool:
    return h % 2 == k % 2 == m % 2


CASES = {
    "Fm-3m": (225, CUBIC, same_parity),
    "Im-3m": (229, CUBIC, lambda h, k, m: (h + k + m) % 2 == 0),
    # The glide plane takes 200 away; 222 of silicon is missing because of where the atoms are, and counts.
    "Fd-3m": (227, CUBIC, lambda h, k, m: same_parity(h, k, m) and (0 not in (h, k, m) or (h + k + m) % 4 == 0)),
    # The screw axis of a close packing takes 001 away.
    "P6_3/mmc": (
        194, (2.95, 2.95, 4.68, 90.0, 90.0, 120.0),
        lambda h, k, m: m % 2 == 0 or not (h == k or 2 * h == -k or h == -2 * k),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_radii_are_those_of_the_reflection_conditions(name):
    group, cell, present = CASES[name]
    values: dict[str, Any] = GEOMETRY | {"lattice_parameters": cell, "space_group": group}
    known = RingGeometry(**values)
    expected = naive_radii(cell, present, 12)
    assert known.radii(12) == pytest.approx(expected, rel=1e-9)
    assert known.radii(3) == pytest.approx(expected[:3], rel=1e-9)


def reduction(**metadata: Any) -> Any:
    start = metadata.pop("start", {})
    return SimpleNamespace(name="reduction 0 of run abc", start=start, metadata=metadata)


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.setattr(rings, "_start", lambda reduction: reduction.start)


def test_rings_share_the_detector_halfway():
    known = RingGeometry(**GEOMETRY)
    radii = known.radii(5)
    found = annuli_of(reduction(start={"geometry": GEOMETRY}), [1, 2, 4])
    for ring, each in zip((1, 2, 4), found, strict=True):
        assert each.inner < radii[ring - 1] < each.outer
        assert each.outer == pytest.approx((radii[ring - 1] + radii[ring]) / 2)
        assert (each.row, each.col) == GEOMETRY["beam_center"]
    assert found[0].outer == found[1].inner
    (narrow,) = annuli_of(reduction(start={"geometry": GEOMETRY}), 2, width=3.0)
    assert (narrow.inner, narrow.outer) == pytest.approx((radii[1] - 3, radii[1] + 3))


def test_what_the_run_tells_is_joined_from_its_parts():
    told = reduction(
        start={"geometry": {"distance": 1000.0, "beam_center": [1020.5, 1030.0]}, "pixel_size": 0.2},
        settings='{"hedm": {"lattice_parameters": [4, 4, 4, 90, 90, 90], "space_group": 225}}',
        summary={"energy_min": 61.33, "energy_max": 61.33},
    )
    assert annuli_of(told, 3) == annuli_of(reduction(), 3, geometry=GEOMETRY)
    other = annuli_of(told, 3, geometry={"distance": 500.0})
    assert other[0].outer == pytest.approx(annuli_of(told, 3)[0].outer / 2)


@pytest.mark.parametrize(
    ("asked", "changes", "message"),
    [
        (2, {"distance": None, "space_group": None}, "the run does not tell distance, space_group; say geometry="),
        (2, {"energy": "high"}, "the geometry is no numbers"),
        (2, {"distance": -1.0}, "wanted positive numbers"),
        (2, {"beam_center": (1.0,)}, "wanted positive numbers, a row and a column"),
        (2, {"space_group": 231}, "space group 231 came; wanted a number from 1 to 230"),
        (2, {"colour": 1}, r"geometry has \['colour'\]; wanted energy, distance"),
        (0, {}, "ring=0 came; wanted whole numbers from 1"),
        ([], {}, "wanted whole numbers from 1"),
        (99999, {"energy": 6.0}, "wanted 1 to"),
    ],
)
def test_what_is_missing_or_wrong_is_named_in_one_line(asked, changes, message):
    with pytest.raises(SettingsError, match=message) as caught:
        annuli_of(reduction(), asked, geometry=GEOMETRY | changes)
    assert len(str(caught.value).splitlines()) == 1


def test_an_energy_that_moved_is_none():
    without = {name: value for name, value in GEOMETRY.items() if name != "energy"}
    with pytest.raises(SettingsError, match="does not tell energy"):
        annuli_of(reduction(summary={"energy_min": 50.0, "energy_max": 60.0}), 1, geometry=without)
    with pytest.raises(SettingsError, match="ring_width=0 came"):
        annuli_of(reduction(), 1, geometry=GEOMETRY, width=0)
