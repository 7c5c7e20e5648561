"""The reduction of one detector of a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..streaming import FrameError, Reducer, SettingsError, tables_with_roles
from .pending import Held, Pending
from .readers import Image
from .settings import Settings


class DetectorReduction:
    """The reduction of one detector: its darks, and the reducer that is made when they are settled.

    Parameters
    ----------
    settings
        Detectors and recipe.
    number
        Number of the detector.
    make
        Makes the reducer.

    Raises
    ------
    SettingsError
        The file of the dark or the mask cannot be read.
    """

    def __init__(self, settings: Settings, number: int, make: Callable[..., Reducer] = Reducer) -> None:
        self._settings = settings
        self._detector = settings.detectors[number]
        self._make = make
        self._mask = None if self._detector.mask is None else _load(self._detector.mask)
        self._dark = None if self._detector.dark is None else _load(self._detector.dark)
        self._dark_sum: np.ndarray | None = None
        self._n_summed = 0
        self.n_darks = 0
        "Dark frames that came, usable or not."
        self.held: list[tuple[Pending, float]] = []
        "Frames that wait for the darks, with the clock when they came."
        self._reducer: Reducer | None = None

    @property
    def waits_for_darks(self) -> bool:
        """Whether no dark is known yet that the recipe asks for."""
        return self._settings.recipe.background == "dark" and self._dark is None and self._reducer is None

    @property
    def has_darks(self) -> bool:
        """Whether at least one dark frame came."""
        return self._n_summed > 0

    @property
    def n_open(self) -> int:
        """Tracks that a frame still to come could join."""
        return 0 if self._reducer is None else self._reducer.n_open_tracks

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

    def reducer(self) -> Reducer:
        """Return the reducer; from the first call on, darks are settled."""
        if self._reducer is None:
            dark = self._dark
            if self._settings.recipe.background == "dark" and dark is None and self._dark_sum is not None:
                dark = self._dark_sum / self._n_summed
            wanted = self._settings.recipe.background == "dark"
            tables = tables_with_roles(dict.fromkeys(self._settings.further_roles, ""))
            self._reducer = self._make(
                self._settings.recipe, dark=dark if wanted else None, mask=self._mask, tables=tables
            )
        return self._reducer


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise SettingsError(f"detectors: {path} cannot be read ({why}); wanted a .npy file") from None
