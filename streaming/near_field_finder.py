"""The peak finder ``near-field``."""

import numpy as np

from .corrections import Prepared
from .errors import FrameError, SettingsError
from .finders import options_of
from .frame import Frame, check_flood
from .medians import RunningMedian
from .near_field import NearFieldLit
from .peaks import PeakFinder, PeaksOfFrame
from .recipe import Recipe

_OPTIONS = ("filter", "sigma", "medians", "rim", "fill_holes", "fraction")


class NearFieldFinder:
    """Pixels above the background after the filters of near-field programs; options are those of `NearFieldLit`."""

    def __init__(self, recipe: Recipe, prepared: Prepared) -> None:
        options = options_of(recipe, _OPTIONS)
        if recipe.fit != "none":
            raise SettingsError("recipe: finder 'near-field' fits nothing; use finder threshold")
        if prepared.flat is not None:
            raise SettingsError("recipe: finder 'near-field' takes no flat field")
        background = recipe.background_level if prepared.dark is None else prepared.dark
        try:
            self._lit = NearFieldLit(
                **options,
                threshold=recipe.threshold,
                background=background,
                invalid=prepared.invalid,
                sentinels=recipe.sentinels,
            )
        except TypeError as error:
            raise SettingsError(f"recipe: finder_options of 'near-field': {error}") from None
        self._running: RunningMedian | None = None
        if recipe.background == "running-median":
            self._running = RunningMedian(
                np.asarray(background),
                step=recipe.background_step,
                every=recipe.background_every,
                invalid=prepared.invalid,
            )
        self._peaks = PeakFinder(recipe)
        self._edge, self._beside_mask = prepared.edge, prepared.beside_mask
        self._max_lit = recipe.max_lit

    def push(self, frame: Frame) -> PeaksOfFrame:
        """Return the peaks of one frame."""
        image = frame.image
        if not isinstance(image, np.ndarray):
            raise FrameError("a sparse image cannot be filtered; use finder threshold")
        lit, level = self._lit.push(image), self._lit.level
        check_flood(len(lit.row), self._max_lit, lit.shape)
        if self._running is not None and self._running.push(image):
            self._lit.background = self._running.background
        return self._peaks.push(
            frame.frame, frame.omega, lit, edge=self._edge, beside_mask=self._beside_mask, level=level
        )
