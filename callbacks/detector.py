"""The reduction of one detector of a run."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..streaming import (
    OPEN_TRACKS,
    Batches,
    Columns,
    Corrections,
    FrameError,
    Recipe,
    Reducer,
    finder_for,
    median_of,
    tables_with_roles,
)
from .detector_files import read_detector_files
from .pending import Held, Pending
from .readers import Image
from .settings import DetectorSettings, Settings
from .trajectory import Followed


class DetectorReduction:
    """The reduction of one detector: its background, and the reducer that is made when that is settled.

    Parameters
    ----------
    settings
        Detectors and recipe.
    number
        Number of the detector.
    make
        Makes the reducer.
    motors
        Roles that the scan moves.

    Raises
    ------
    SettingsError
        The file of the dark, flat field or mask cannot be read, or they do not fit each other; or the recipe names a
        peak finder that is not there, or does not suit it.
    """

    def __init__(
        self,
        settings: Settings,
        number: int,
        make: Callable[..., Reducer] = Reducer,
        *,
        motors: Sequence[str] = (),
    ) -> None:
        self._settings = settings
        self._detector = settings.detectors[number]
        self._make = make
        self._recipe = _with_sentinels(settings.recipe, self._detector)
        # Read in any case: a file that is not there is a mistake in the settings.
        self.files = read_detector_files(self._detector)
        "Dark, flat and mask of the settings' files, as far as they are named."
        self._corrections = _corrections(settings.recipe, self._detector, self.files)
        self._median = settings.recipe.background in ("median", "running-median")
        self._tables = tables_with_roles(
            dict.fromkeys(settings.further_roles, ""),
            fit=settings.recipe.fit != "none",
            candidates=settings.recipe.keep_candidates,
            motors=motors,
        )
        # What does not suit is to be known before the scan.
        finder_for(self._recipe, flat=self._corrections.flat is not None)
        self._dark_sum: np.ndarray | None = None
        self._n_summed = 0
        self.n_darks = 0
        "Dark frames that came, usable or not."
        self.held: list[tuple[Pending, float]] = []
        "Frames that wait for the darks, with the clock when they came."
        self.followed: Followed | None = None
        "What its frames follow; None before the first has come."
        self._reducer: Reducer | None = None
        self._next = 0
        self._taken: deque[int] = deque()
        self._refused: list[int] = []

    @property
    def waits(self) -> bool:
        """Whether the background that the recipe asks for is not known yet."""
        return self._recipe.background != "constant" and self._corrections.dark is None and self._reducer is None

    @property
    def dark(self) -> np.ndarray | None:
        """The dark that is subtracted, if it is known before the run."""
        return self._corrections.dark

    @property
    def takes_median(self) -> bool:
        """Whether the background is the median of the first frames."""
        return self._median

    @property
    def enough_held(self) -> bool:
        """Whether as many frames wait as the median is taken of."""
        return len(self.held) >= self._recipe.background_frames

    @property
    def has_darks(self) -> bool:
        """Whether at least one dark frame came."""
        return self._n_summed > 0

    @property
    def n_open(self) -> int:
        """Tracks that a frame still to come could join."""
        return 0 if self._reducer is None else self._reducer.n_open_tracks

    @property
    def shape(self) -> tuple[int, int] | None:
        """Rows and columns of a frame as it is reduced; None before the first."""
        return None if self._reducer is None else self._reducer.shape

    def open_tracks(self) -> Columns:
        """Return those tracks as they are now: rows of `OPEN_TRACKS`."""
        return OPEN_TRACKS.empty() if self._reducer is None else self._reducer.open_tracks()

    def hold(self, frame: Pending, came: float) -> None:
        """Keep a frame until the darks are complete."""
        source = frame.source.shed() if isinstance(frame.source, Held) else frame.source
        self.held.append((replace(frame, source=source), came))

    def add_dark(self, image: Image) -> None:
        """Add a dark frame to the mean."""
        array = np.asarray(image if isinstance(image, np.ndarray) else image.dense(), np.float64)
        if self._reducer is not None:
            raise FrameError("a dark frame came after the first frame was reduced; it is left out")
        if not np.isfinite(array).all():
            raise FrameError("a dark frame holds numbers that are not finite; it is left out")
        if self._dark_sum is not None and self._dark_sum.shape != array.shape:
            raise FrameError(f"a dark frame has shape {array.shape}; wanted {self._dark_sum.shape} as the one before")
        self._dark_sum = array if self._dark_sum is None else self._dark_sum + array
        self._n_summed += 1

    def settle_median(self, images: Sequence[Image]) -> bool:
        """Take the median of the first frames as background; tell whether there was one to be taken.

        Frames of another shape or type than the first, and sparse ones, are left out.
        """
        dense = [image for image in images if isinstance(image, np.ndarray)]
        dense = [image for image in dense if image.shape == dense[0].shape and image.dtype == dense[0].dtype]
        try:
            median = median_of(dense)
        except FrameError:
            return False
        # Where a pixel never held a number it has no background either.
        unknown, mask = np.isnan(median), self._corrections.mask
        mask = unknown if mask is None or mask.shape != unknown.shape else unknown | (mask != 0)
        self._corrections = replace(self._corrections, dark=np.where(unknown, 0.0, median), mask=mask)
        return True

    def reducer(self) -> Reducer:
        """Return the reducer; from the first call on, the background is settled."""
        if self._reducer is None:
            if self._recipe.background == "dark" and self._corrections.dark is None and self._dark_sum is not None:
                self._corrections = replace(self._corrections, dark=self._dark_sum / self._n_summed)
            trajectory = None if self.followed is None else self.followed.trajectory
            self._reducer = self._make(
                self._recipe, corrections=self._corrections, tables=self._tables, trajectory=trajectory
            )
        return self._reducer

    # Missing frames

    def take(self, frame: int) -> None:
        """Note that a frame has come; to be called in the order of their numbers."""
        self._taken.append(frame)

    def refuse(self, frame: int) -> None:
        """Note that a frame which has come cannot be reduced."""
        self._refused.append(frame)

    def advance(self, end: int) -> Iterator[Batches]:
        """Tell the reducer which frames before number `end` will never come, and give the new rows.

        Before there is a reducer, and as long as frames wait for it, nothing happens.
        """
        if self._reducer is None or self.held:
            return
        refused, self._refused = self._refused, []
        for frame in (*refused, *self._gone(end)):
            yield self._reducer.missing(frame)

    def _gone(self, end: int) -> Iterator[int]:
        """Give the frames before `end` that did not come, but for the middle of long gaps, over which no link leads."""
        planned = None if self.followed is None else self.followed.path
        end = end if planned is None else min(end, planned.first + len(planned))
        gaps = [max(self._recipe.max_gap, each.get("max_gap", 0)) for each in ({}, *self._recipe.along.values())]
        reach = 1 + max(gaps)
        while self._next < end:
            stop = min(self._taken[0], end) if self._taken else end
            if stop - self._next > 2 * reach and planned is None:
                yield from range(self._next, self._next + reach)
                self._next = stop - reach
            yield from range(self._next, stop)
            self._next = stop
            if self._taken and self._taken[0] == stop:
                self._taken.popleft()
                self._next += 1


def _with_sentinels(recipe: Recipe, detector: DetectorSettings) -> Recipe:
    """Return the recipe with the counts by which the detector marks pixels."""
    marks = (detector.bad_intensity, detector.gap_intensity)
    return replace(recipe, sentinels=recipe.sentinels + tuple(mark for mark in marks if mark is not None))


def _corrections(recipe: Recipe, detector: DetectorSettings, files: Mapping[str, np.ndarray]) -> Corrections:
    return Corrections(
        dark=files.get("dark") if recipe.background == "dark" else None,
        flat=files.get("flat"),
        mask=files.get("mask"),
        transforms=detector.transforms,
        panels=detector.panels,
    )
