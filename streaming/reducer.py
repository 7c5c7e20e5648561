"""The reducer: frames in, column batches out. It composes background, peaks, links and tracks."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import DTypeLike

from .bitshuffle import CompressedImage
from .corrections import Corrections
from .errors import FrameError, SettingsError
from .finders import Finder, finder_for
from .frame import Frame, SparseImage
from .linking import OverlapLinker, Position
from .peaks import PeaksOfFrame
from .recipe import Recipe
from .tables import TABLES, TRACK_BASE, Batches, Columns, Table
from .tracks import Tracker


class Reducer:
    """Reduces the frames of one detector, one by one, in the order of their numbers.

    The rows that come out are a pure function of the frames, their motors and the recipe.

    Parameters
    ----------
    recipe
        Every number that decides.
    corrections
        What is known of the detector. Its dark is the background to begin with, and wanted exactly where
        `Recipe.background` is not ``constant``: the mean dark frame, or the median of the first frames.
    tables
        The schema, as `tables_with_roles` makes it.

    Raises
    ------
    SettingsError
        The recipe names a finder that is not installed, or does not suit it.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        corrections: Corrections | None = None,
        tables: dict[str, Table] | None = None,
    ) -> None:
        self._frames_table = (tables or TABLES)["frames"]
        self._recipe = recipe
        self._corrections = corrections or Corrections()
        if (recipe.background == "constant") != (self._corrections.dark is None):
            given = "no" if self._corrections.dark is None else "a"
            raise SettingsError(f"recipe: background is {recipe.background!r} and {given} dark frame was given")
        self._make_finder = finder_for(recipe, flat=self._corrections.flat is not None)
        self._finder: Finder | None = None
        self._linker = OverlapLinker(recipe)
        self._tracker = Tracker(wrap=recipe.wrap)
        self._newest = -1

    @property
    def n_open_tracks(self) -> int:
        """Tracks that a frame still to come could join."""
        return self._tracker.n_open

    @property
    def parallel(self) -> bool:
        """Whether `find` may be called in several threads at the same time, in any order of frames."""
        return self._finder is not None and bool(getattr(self._finder, "parallel", False))

    def push(self, frame: Frame) -> Batches:
        """Reduce one frame and return the new rows of each table: `find` and `link` in one.

        Raises
        ------
        FrameError
            The frame cannot be reduced; the reducer goes on with the next as if this one were missing.
        """
        self._check_order(frame)
        return self.link(frame, self.find(frame))

    def find(self, frame: Frame) -> PeaksOfFrame:
        """Return the peaks of one frame.

        Raises
        ------
        FrameError
            The frame cannot be reduced; the reducer goes on with the next as if this one were missing.
        """
        finder = self._finder or self._make(frame)
        found = finder.push(self._turned(frame, keep=getattr(finder, "takes_compressed", False)))
        # A first frame that is refused must not decide for those that follow.
        self._finder = finder
        if len(found.peaks["peak"]) > TRACK_BASE:
            raise FrameError(f"frame {frame.frame} has more than {TRACK_BASE} peaks; raise the threshold")
        return found

    def link(self, frame: Frame, found: PeaksOfFrame) -> Batches:
        """Link the peaks of the next frame with those before, and return the new rows of each table.

        Raises
        ------
        FrameError
            A later frame came before.
        """
        self._check_order(frame)
        self._newest = frame.frame
        position = Position.of(frame)
        links = self._linker.push(position, found)
        closed = self._tracker.push(position, found, links)
        row = self._frame_row(frame, found)
        return _filled({"frames": row, "peaks": found.peaks, "links": links, **closed, "pixels": found.pixels})

    def flush(self) -> Batches:
        """Close every track and return the last rows; nothing may be pushed after it."""
        direction = self._linker.direction
        links = self._linker.flush()
        closed = self._tracker.flush(links, direction)
        return _filled({"links": links, **closed})

    @staticmethod
    def warm(dtype: DTypeLike, recipe: Recipe | None = None) -> None:
        """Compile what dense frames of one type need, so that the first frame does not wait for the compiler.

        No reducer is touched: this may run in any thread, before there is one.

        Parameters
        ----------
        dtype
            Type of a count.
        recipe
            What they are reduced with; none stands for the plainest.

        Raises
        ------
        FrameError
            Frames of this type cannot be reduced.
        SettingsError
            The recipe names a finder that is not installed, or does not suit it.
        """
        recipe = recipe or Recipe(threshold=0)
        image = np.full((4, 4), 100, dtype)
        # Whole backgrounds and others take different ways. The mean of darks is hardly ever whole, and what is compiled
        # for nothing costs the first start seconds, as a sparse image would, which no detector gives.
        whole, part = np.zeros((4, 4)), np.full((4, 4), 0.5)
        darks = {"constant": [None], "dark": [part]}.get(recipe.background, [whole, part])
        recipe = replace(recipe, threshold=0, max_lit=100, sentinels=())
        for dark in darks:
            reducer = Reducer(recipe, corrections=Corrections(dark=dark))
            for number in range(3):
                reducer.push(Frame(frame=number, point=number, image=image, omega_start=number, omega_end=number + 1))
            reducer.flush()

    def _check_order(self, frame: Frame) -> None:
        if frame.frame <= self._newest:
            raise FrameError(f"frame {frame.frame} came after frame {self._newest}; wanted them in order, each once")

    def _make(self, frame: Frame) -> Finder:
        shape = tuple(frame.image.shape)
        if len(shape) != 2 or 0 in shape:
            raise FrameError(f"the image has shape {shape}; wanted (rows, columns), each 1 or more")
        return self._make_finder(self._recipe, self._corrections.prepared((int(shape[0]), int(shape[1]))))

    def _turned(self, frame: Frame, *, keep: bool) -> Frame:
        """Return the frame with its image transformed, and decompressed unless it may be kept as it is."""
        image, corrections = frame.image, self._corrections
        if isinstance(image, CompressedImage) and (corrections.transforms or not keep):
            image = image.dense()
            frame = replace(frame, image=image)
        if not corrections.transforms or isinstance(image, CompressedImage):
            return frame
        if isinstance(image, SparseImage):
            return replace(frame, image=corrections.transformed_sparse(image))
        return replace(frame, image=corrections.transformed(image))

    def _frame_row(self, frame: Frame, found: PeaksOfFrame) -> Columns:
        values: dict[str, float] = {
            "frame": frame.frame,
            "point": frame.point,
            "seq_num": frame.seq_num,
            "detector": frame.detector,
            "omega_start": frame.omega_start,
            "omega_end": frame.omega_end,
            "time": frame.time,
            "n_lit": found.n_lit,
            "n_peaks": len(found.peaks["peak"]),
            "n_dropped": found.n_dropped,
            "n_saturated": found.n_saturated,
            "max_intensity": found.max_intensity,
            "sum_intensity": math.fsum(found.peaks["sum_intensity"].tolist()),
            "background_level": found.background_level,
        }
        names = self._frames_table.names
        return self._frames_table.batch(
            {name: np.array([values[name] if name in values else frame.roles.get(name, math.nan)]) for name in names}
        )


def _filled(batches: Batches) -> Batches:
    return {name: columns for name, columns in batches.items() if len(next(iter(columns.values())))}
