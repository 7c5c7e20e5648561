"""The peak finder ``noise-adaptive``."""

from typing import Any

import numpy as np

from .adaptive import AdaptiveLit
from .corrections import Prepared
from .errors import FrameError, SettingsError
from .finders import options_of
from .frame import Frame, check_flood
from .peaks import PeakFinder, PeaksOfFrame
from .recipe import Recipe

_OPTIONS = ("n_sigma", "beam_centre", "n_bins", "window", "cycles", "noise")


class AdaptiveFinder:
    """Pixels above their surroundings by so many standard deviations, and by the recipe's threshold at least.

    Options are those of `AdaptiveLit`; n_sigma is 5 unless it is given.
    """

    def __init__(self, recipe: Recipe, prepared: Prepared) -> None:
        options: dict[str, Any] = {"n_sigma": 5.0, **options_of(recipe, _OPTIONS)}
        if recipe.fit != "none":
            raise SettingsError("recipe: finder 'noise-adaptive' fits nothing; use finder threshold")
        if prepared.flat is not None:
            raise SettingsError("recipe: finder 'noise-adaptive' takes no flat field: it measures the level itself")
        try:
            self._lit = AdaptiveLit(
                **options,
                min_counts=recipe.threshold,
                invalid=prepared.invalid,
                sentinels=recipe.sentinels,
                dark=prepared.dark,
            )
        except TypeError as error:
            raise SettingsError(f"recipe: finder_options of 'noise-adaptive': {error}") from None
        self._peaks = PeakFinder(recipe)
        self._edge, self._beside_mask = prepared.edge, prepared.beside_mask
        self._max_lit = recipe.max_lit

    def push(self, frame: Frame) -> PeaksOfFrame:
        """Return the peaks of one frame."""
        image = frame.image
        if not isinstance(image, np.ndarray):
            raise FrameError("a sparse image has no surroundings to measure; use finder threshold")
        lit = self._lit.push(image)
        check_flood(len(lit.row), self._max_lit, lit.shape)
        return self._peaks.push(
            frame.frame, frame.omega, lit, edge=self._edge, beside_mask=self._beside_mask, level=self._lit.level
        )
