"""The recipe: every number that decides a reduction, in one frozen object that is written with every result."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from .errors import SettingsError

_LARGEST = sys.float_info.max

BackgroundKind = Literal["constant", "dark", "median", "running-median"]
Fit = Literal["none", "pseudo-voigt"]
LinkRule = Literal["overlap", "mutual-best-overlap", "distance", "midas-distance", "midas-overlap"]
Split = Literal["none", "local-maximum", "regional-maximum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every number that decides a reduction.

    Raises
    ------
    SettingsError
        A number is out of its range.
    """

    finder: str = "threshold"
    "Name of the peak finder: `threshold`, `noise-adaptive`, `near-field`, or another that is installed."
    finder_options: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    "What the finder takes beside these numbers: names and plain values."
    background: BackgroundKind = "constant"
    "`constant`, `dark` (mean of dark frames), `median` (of the first frames) or `running-median` (which follows them)."
    background_level: float = 0.0
    "Background with `background: constant`, counts."
    background_frames: int = 15
    "First frames whose median is the background to begin with; they are reduced with it too."
    background_step: float = 1.0
    "Counts by which a pixel of the running median moves towards a frame."
    background_every: int = 1
    "Only each so many-th frame moves the running median."
    threshold: float
    "A pixel is lit when raw > floor(background + threshold * flat), counts; 0 or more."
    max_lit: int = 2_000_000
    "A frame with more lit pixels is flooded: it is named and left out."
    min_pixels: int = 1
    "Groups of fewer lit pixels are dropped."
    split: Split = "none"
    "How groups are split into peaks: at each `local-maximum` as ImageD11, at each `regional-maximum` as MIDAS."
    smooth: bool = False
    "Whether `local-maximum` looks at intensities smoothed by 3 x 3 pixels."
    max_maxima: int = 400
    "Of more regional maxima in a group only so many count, the brightest, as MIDAS `MaxNPeaks`."
    fit: Fit = "none"
    "`pseudo-voigt`: a profile is fitted to each peak, jointly with those it touches. For replay, not for live runs."
    fit_options: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    "`beam_centre`, [row, column] of the beam, and what else `FitRecipe` takes."
    saturation: float | None = None
    "Full scale of the detector, counts: raw counts from here on are saturated. No default is known."
    sentinels: tuple[int, ...] = ()
    "Raw values that mark invalid pixels, such as -1, -2 or 4294967295."
    link: LinkRule = "overlap"
    "How peaks of neighbouring frames are linked: all that `overlap`, the `mutual-best-overlap`, the nearest by \
`distance`, or as MIDAS does, `midas-distance` and `midas-overlap`."
    link_options: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    "`beam_centre`, [row, column] of the beam, which MIDAS's rules go round."
    min_shared_pixels: int = 1
    "Common lit pixels that make a link, where links are made by overlap."
    max_distance: float | None = None
    "Centroids of linked peaks are no further apart than this, pixels; no limit when absent."
    max_distance_by_size: float | None = None
    "Nor further than this times the pixels of the larger over those of the smaller, pixels; no such limit when absent."
    max_distance_by_width: float = 0.0
    "What each pixel of the wider one's standard deviation adds to that limit."
    min_score: float = 0.0
    "Shared pixels over the pixels of the smaller peak, at least."
    max_gap: int = 0
    "Missing frames that a link may bridge."
    along: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]], hash=False)
    "Other numbers of links along one axis, by its name: `link`, `link_options`, `min_shared_pixels`, `max_distance`, \
`max_distance_by_size`, `max_distance_by_width`, `min_score`, `max_gap`."
    valley: float | None = None
    "A closed track is cut where its intensity falls below this part of the lower of two maxima; absent, nowhere."
    valley_apart: float = 0.7
    "That part rises to 1 for maxima so many pixels apart."
    valley_sigma: float = 3.0
    "A dip no deeper than so many standard deviations of counted photons is no valley."
    keep_candidates: bool = False
    "Whether `links` names the candidates that are no links too, each with the reason."
    place_tolerance: float = 1e-3
    "Frames whose dty, L1 or L2 differ by more than this (in their own unit) are never neighbours."
    wrap: bool = True
    "Whether the last and first frame of a full turn are neighbours."

    def __post_init__(self) -> None:
        wanted = (
            ("finder", _is_name(self.finder), "the name of a peak finder"),
            ("finder_options", _plain_mapping(self.finder_options), "names and plain values"),
            ("background", self.background in get_args(BackgroundKind), " or ".join(get_args(BackgroundKind))),
            ("background_level", is_number(self.background_level), "a finite number"),
            ("background_frames", _whole(self.background_frames, 1), "a whole number, 1 or more"),
            ("background_step", _above_zero(self.background_step), "more than 0"),
            ("background_every", _whole(self.background_every, 1), "a whole number, 1 or more"),
            ("threshold", is_number(self.threshold, 0), "a finite number, 0 or more"),
            ("max_lit", _whole(self.max_lit, 1) and self.max_lit < 2**31, "a whole number, 1 to 2147483647"),
            ("min_pixels", _whole(self.min_pixels, 1), "a whole number, 1 or more"),
            ("split", self.split in get_args(Split), " or ".join(get_args(Split))),
            ("smooth", self.smooth is False or self.split == "local-maximum", "false without split local-maximum"),
            ("smooth", self.smooth is True or self.smooth is False, "true or false"),
            ("max_maxima", _whole(self.max_maxima, 1), "a whole number, 1 or more"),
            ("fit", self.fit in get_args(Fit), " or ".join(get_args(Fit))),
            ("fit_options", _plain_mapping(self.fit_options), "names and plain values"),
            ("fit_options", self.fit != "none" or not self.fit_options, "nothing without fit"),
            ("saturation", self.saturation is None or is_number(self.saturation), "a finite number, or absent"),
            ("sentinels", _are_counts(self.sentinels), "whole numbers that a detector of 64 bits can give"),
            ("link", self.link in get_args(LinkRule), " or ".join(get_args(LinkRule))),
            ("link_options", self._centre_is_said(), "beam_centre: [row, column] with MIDAS's rules, else nothing"),
            ("valley", self.valley is None or (_above_zero(self.valley) and self.valley <= 1), "0 to 1, or absent"),
            ("valley_apart", is_number(self.valley_apart, 0), "a finite number, 0 or more"),
            ("valley_sigma", is_number(self.valley_sigma, 0), "a finite number, 0 or more"),
            ("max_distance", not self.link.endswith("distance") or self.max_distance is not None, "one with this link"),
            ("min_shared_pixels", _whole(self.min_shared_pixels, 1), "a whole number, 1 or more"),
            ("max_distance", self.max_distance is None or _above_zero(self.max_distance), "more than 0, or absent"),
            (
                "max_distance_by_size",
                self.max_distance_by_size is None or _above_zero(self.max_distance_by_size),
                "more than 0, or absent",
            ),
            ("max_distance_by_width", is_number(self.max_distance_by_width, 0), "a finite number, 0 or more"),
            ("min_score", is_number(self.min_score, 0) and self.min_score <= 1, "a number from 0 to 1"),
            ("along", _plain_mapping(self.along) and all(map(_numbers_of_links, self.along.values())), _ALONG),
            ("keep_candidates", self.keep_candidates is True or self.keep_candidates is False, "true or false"),
            ("max_gap", _whole(self.max_gap, 0), "a whole number, 0 or more"),
            ("place_tolerance", is_number(self.place_tolerance, 0), "a finite number, 0 or more"),
            ("wrap", self.wrap is True or self.wrap is False, "true or false"),
        )
        for name, good, want in wanted:
            if not good:
                raise SettingsError(f"recipe: {name} is {getattr(self, name)!r}; wanted {want}")
        for axis, numbers in self.along.items():
            try:
                replace(self, along={}, **numbers)
            except SettingsError as error:
                raise SettingsError(f"{error}, along {axis}") from None

    def _centre_is_said(self) -> bool:
        if not _plain_mapping(self.link_options) or not set(self.link_options) <= {"beam_centre"}:
            return False
        centre: Any = self.link_options.get("beam_centre")
        if centre is None:
            return not self.link.startswith("midas")
        return isinstance(centre, list | tuple) and len(centre) == 2 and all(map(is_number, centre))

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as plain types, to be written as JSON."""
        mappings = {name: dict(getattr(self, name)) for name in ("finder_options", "fit_options", "link_options")}
        mappings["along"] = {axis: dict(numbers) for axis, numbers in self.along.items()}
        return asdict(self) | mappings | {"sentinels": list(self.sentinels)}

    @classmethod
    def from_dict(cls, numbers: dict[str, Any]) -> "Recipe":
        """Return the recipe of these numbers: what `as_dict` wrote, or what a settings file says.

        A key `like` names one of `RECIPES`, whose numbers hold where no other is given.

        Raises
        ------
        SettingsError
            A key or the name of a recipe is unknown, or a number is missing or out of its range.
        """
        if "like" in numbers:
            name = numbers["like"]
            if not isinstance(name, str) or name not in RECIPES:
                raise SettingsError(f"recipe: like is {name!r}; wanted {' or '.join(RECIPES)}")
            numbers = RECIPES[name] | {key: each for key, each in numbers.items() if key != "like"}
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


RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    # Touching spots are split; linked are those that share a pixel and have nearly the same place, small ones beside
    # large ones rather than others; two spots that follow each other are parted. On simulated scans of 500 and 3000
    # spots a frame this finds 0.96 and 0.81 of the spots, and 0.97 and 0.95 of the tracks are one; linking whatever
    # shares a pixel finds 0.76 and 0.19.
    "ff": {
        "background": "dark",
        "min_pixels": 3,
        "split": "local-maximum",
        "smooth": True,
        "max_distance_by_size": 0.65,
        "max_distance_by_width": 0.25,
        "valley": 0.3,
    },
    # What ImageD11 makes of a sparse scan: groups of its segmenter, smoothed maxima, any common pixel, no wrap.
    "imaged11": {"background": "dark", "min_pixels": 3, "split": "local-maximum", "smooth": True, "wrap": False},
    # MIDAS without its fit: more than one pixel, every regional maximum, OverlapLength. It asks for `link_options`.
    "midas": {
        "background": "dark",
        "min_pixels": 2,
        "split": "regional-maximum",
        "link": "midas-distance",
        "max_distance": 2.0,
        "wrap": False,
    },
    # MIDAS's matched filter, which its own notes prefer for frames of few counts.
    "nf": {
        "background": "median",
        "background_frames": 45,
        "finder": "near-field",
        "finder_options": {"filter": "gaussian", "sigma": 0.7},
        "min_pixels": 4,
    },
}
"""Named recipes: numbers to begin with. A threshold belongs to a detector, and is in none of them."""


_OF_LINKS = (
    "link",
    "link_options",
    "min_shared_pixels",
    "max_distance",
    "max_distance_by_size",
    "max_distance_by_width",
    "min_score",
    "max_gap",
)
_ALONG = f"for each axis some of {', '.join(_OF_LINKS)}"


def _numbers_of_links(value: object) -> bool:
    return isinstance(value, Mapping) and set(value) <= set(_OF_LINKS)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _plain_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) and _plain(each) for key, each in value.items())


def _plain(value: object) -> bool:
    """Tell whether this is what JSON holds, and would come back from it the same."""
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | bool) or is_number(value) or _plain_mapping(value)


def is_number(value: object, least: float = -_LARGEST) -> bool:
    """Tell whether this is a finite number, `least` or more: what settings or JSON hold may be anything."""
    # A whole number may be too large for math.isfinite.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST and value >= least


def _above_zero(value: object) -> bool:
    return is_number(value, 0) and value != 0


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and is_number(value, least)


def _are_counts(values: object) -> bool:
    return isinstance(values, tuple) and all(_whole(each, -(2**63)) and each < 2**64 for each in values)
