"""Peak finders by name: what turns a frame into peaks, found through the entry points ``hedmlive.peak_finders``."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import numpy as np

from .background import Background
from .bitshuffle import CompressedImage
from .corrections import Corrections, Prepared
from .errors import SettingsError
from .fitting import Surroundings
from .frame import Frame, SparseImage
from .peaks import PeakFinder, PeaksOfFrame
from .recipe import Recipe

GROUP = "hedmlive.peak_finders"
"""Entry points of finders: name to a `FinderMaker`."""


class Finder(Protocol):
    """Finds the peaks of the frames of one detector, which come one by one in the order of their numbers.

    One whose attribute ``takes_compressed`` is true gets a `CompressedImage` as it is, all others get its counts. One
    whose attribute ``parallel`` is true is asked for several frames at the same time, in any order, once it has found
    the peaks of a first one: what it says of a frame must not depend on the frames before.
    """

    def push(self, frame: Frame) -> PeaksOfFrame:
        """Return the peaks of one frame; its image is corrected by the transforms already.

        Raises
        ------
        FrameError
            The frame cannot be reduced; the finder goes on with the next.
        """
        ...


class FinderMaker(Protocol):
    """Makes a finder for a reduction; and beforehand one for 4 x 4 pixels, to see whether the recipe suits it."""

    def __call__(self, recipe: Recipe, prepared: Prepared) -> Finder:
        """Return a finder.

        Parameters
        ----------
        recipe
            Every number that decides; `Recipe.finder_options` holds what only this finder knows.
        prepared
            Shape of the frames, background, flat field and invalid pixels. Its dark is the background to begin with,
            whatever `Recipe.background` it comes from; none if that is ``constant``.

        Raises
        ------
        SettingsError
            The recipe does not suit this finder.
        """
        ...


def finder_maker(name: str) -> FinderMaker:
    """Return what makes the finders of this name.

    Raises
    ------
    SettingsError
        No installed package has one of this name, or it cannot be imported.
    """
    known = {each.name: each for each in entry_points(group=GROUP)}
    if name not in known:
        raise SettingsError(f"recipe: finder is {name!r}; installed are {', '.join(sorted(known)) or 'none'}")
    return _loaded(known[name])


def finder_for(recipe: Recipe, *, flat: bool) -> FinderMaker:
    """Return what makes the finders of a recipe, once it has shown on 4 x 4 pixels that the recipe suits it.

    Parameters
    ----------
    recipe
        Every number that decides.
    flat
        Whether there is a flat field.

    Raises
    ------
    SettingsError
        The recipe names a finder that is not installed, or does not suit it.
    """
    make = finder_maker(recipe.finder)
    tiny = np.ones((4, 4))
    dark = None if recipe.background == "constant" else tiny
    make(recipe, Corrections(dark=dark, flat=tiny if flat else None).prepared((4, 4)))
    return make


def _loaded(entry: EntryPoint) -> FinderMaker:
    try:
        return entry.load()
    except ImportError as error:
        raise SettingsError(
            f"recipe: finder {entry.name!r} cannot be imported: {error}; install what it needs"
        ) from None


def options_of(recipe: Recipe, known: tuple[str, ...]) -> dict[str, Any]:
    """Return `Recipe.finder_options` as keyword arguments: lists have become tuples.

    Raises
    ------
    SettingsError
        There is one that is not known.
    """
    foreign = sorted(set(recipe.finder_options) - set(known))
    if foreign:
        raise SettingsError(
            f"recipe: finder {recipe.finder!r} has no option {', '.join(foreign)}; it has {', '.join(known) or 'none'}"
        )
    return {name: tuple(each) if isinstance(each, list) else each for name, each in recipe.finder_options.items()}


class ThresholdFinder:
    """The finder ``threshold``: pixels above background + threshold."""

    takes_compressed = True

    def __init__(self, recipe: Recipe, prepared: Prepared) -> None:
        options_of(recipe, ())
        if recipe.fit != "none" and recipe.background == "running-median":
            raise SettingsError("recipe: fit needs a background that stays; use constant, dark or median")
        self._recipe, self._prepared = recipe, prepared
        self._level: float | np.ndarray = recipe.background_level
        if recipe.fit != "none" and prepared.dark is not None:
            self._level = prepared.dark.astype(np.float64, copy=False)
        self._background = Background(recipe, prepared=prepared)
        self._peaks = PeakFinder(recipe)
        self.parallel = recipe.background != "running-median"

    def push(self, frame: Frame) -> PeaksOfFrame:
        """Return the peaks of one frame."""
        image = frame.image
        lit = self._background.push(image)
        surroundings = None
        if self._recipe.fit != "none" and not isinstance(image, SparseImage):
            prepared = self._prepared
            surroundings = Surroundings(
                image=image.dense() if isinstance(image, CompressedImage) else image,
                background=self._level,
                flat=prepared.flat,
                mask=prepared.invalid,
                sentinels=self._recipe.sentinels,
            )
        found = self._peaks.push(
            frame.frame,
            frame.omega,
            lit,
            edge=self._prepared.edge,
            beside_mask=self._prepared.beside_mask,
            level=self._background.level,
            surroundings=surroundings,
        )
        self._background.take_back(lit)
        return found
