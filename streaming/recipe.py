"""The recipe: every number that decides a reduction, in one frozen object that is written with every result."""

import sys
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from .errors import SettingsError

_LARGEST = sys.float_info.max


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every number that decides a reduction.

    Raises
    ------
    SettingsError
        A number is out of its range.
    """

    background: Literal["constant", "dark"] = "constant"
    "`constant`: `background_level` everywhere; `dark`: the mean of dark frames, pixel by pixel."
    background_level: float = 0.0
    "Background with `background: constant`, counts."
    threshold: float
    "A pixel is lit when raw > floor(background + threshold), counts; 0 or more."
    min_pixels: int = 1
    "Groups of fewer lit pixels are dropped."
    split: Literal["none"] = "none"
    "How touching spots are split."
    saturation: float | None = None
    "Full scale of the detector, counts: raw counts from here on are saturated. No default is known."
    sentinels: tuple[int, ...] = ()
    "Raw values that mark invalid pixels, such as -1, -2 or 4294967295."
    link: Literal["overlap"] = "overlap"
    "How peaks of neighbouring frames are linked."
    min_shared_pixels: int = 1
    "Common lit pixels that make a link."
    max_distance: float | None = None
    "Centroids of linked peaks are no further apart than this, pixels; no limit when absent."
    max_gap: int = 0
    "Missing frames that a link may bridge."
    place_tolerance: float = 1e-3
    "Frames whose dty, L1 or L2 differ by more than this (in their own unit) are never neighbours."
    wrap: bool = True
    "Whether the last and first frame of a full turn are neighbours."

    def __post_init__(self) -> None:
        wanted = (
            ("background", self.background in ("constant", "dark"), "constant or dark"),
            ("background_level", _number(self.background_level), "a finite number"),
            ("threshold", _number(self.threshold, 0), "a finite number, 0 or more"),
            ("min_pixels", _whole(self.min_pixels, 1), "a whole number, 1 or more"),
            ("split", self.split == "none", "none"),
            ("saturation", self.saturation is None or _number(self.saturation), "a finite number, or absent"),
            ("sentinels", _are_counts(self.sentinels), "whole numbers that a detector of 64 bits can give"),
            ("link", self.link == "overlap", "overlap"),
            ("min_shared_pixels", _whole(self.min_shared_pixels, 1), "a whole number, 1 or more"),
            ("max_distance", self.max_distance is None or _above_zero(self.max_distance), "more than 0, or absent"),
            ("max_gap", _whole(self.max_gap, 0), "a whole number, 0 or more"),
            ("place_tolerance", _number(self.place_tolerance, 0), "a finite number, 0 or more"),
            ("wrap", self.wrap is True or self.wrap is False, "true or false"),
        )
        for name, good, want in wanted:
            if not good:
                raise SettingsError(f"recipe: {name} is {getattr(self, name)!r}; wanted {want}")

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain types, to be written as JSON."""
        return asdict(self) | {"sentinels": list(self.sentinels)}

    @classmethod
    def from_dict(cls, numbers: dict[str, Any]) -> "Recipe":
        """Return the recipe that `as_dict` wrote.

        Raises
        ------
        SettingsError
            A key is unknown, or a number is missing or out of its range.
        """
        known = {each.name for each in fields(cls)}
        foreign = sorted(set(numbers) - known)
        if foreign:
            raise SettingsError(f"recipe: unknown keys {foreign}; known are {sorted(known)}")
        given: dict[str, Any] = dict(numbers)
        # JSON and YAML have lists only.
        if isinstance(given.get("sentinels"), list):
            given["sentinels"] = tuple(given["sentinels"])
        try:
            return cls(**given)
        except TypeError as error:
            raise SettingsError(f"recipe: {error}") from None


def _number(value: object, least: float = -_LARGEST) -> bool:
    """Tell whether this is a finite number, `least` or more: what settings or JSON hold may be anything."""
    # A whole number may be too large for math.isfinite.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST and value >= least


def _above_zero(value: object) -> bool:
    return _number(value, 0) and value != 0


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and _number(value, least)


def _are_counts(values: object) -> bool:
    return isinstance(values, tuple) and all(_whole(each, -(2**63)) and each < 2**64 for each in values)
