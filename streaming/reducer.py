"""The reducer: frames in, column batches out. It composes background, peaks, links and tracks."""

import math

import numpy as np
from numpy.typing import DTypeLike

from .background import Background
from .errors import FrameError
from .frame import Frame, SparseImage
from .linking import OverlapLinker, Position
from .peaks import PeakFinder, PeaksOfFrame
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
    dark
        Mean dark frame, counts, shape (rows, columns), with ``background: dark``.
    mask
        0 where a pixel is valid, shape (rows, columns).
    tables
        The schema, as `tables_with_roles` makes it.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        dark: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        tables: dict[str, Table] | None = None,
    ) -> None:
        self._frames_table = (tables or TABLES)["frames"]
        self._background = Background(recipe, dark=dark, mask=mask)
        self._finder = PeakFinder(recipe)
        self._linker = OverlapLinker(recipe)
        self._tracker = Tracker(wrap=recipe.wrap)
        self._newest = -1

    @property
    def n_open_tracks(self) -> int:
        """Tracks that a frame still to come could join."""
        return self._tracker.n_open

    def push(self, frame: Frame) -> Batches:
        """Reduce one frame and return the new rows of each table.

        Raises
        ------
        FrameError
            The frame cannot be reduced; the reducer goes on with the next as if this one were missing.
        """
        if frame.frame <= self._newest:
            raise FrameError(f"frame {frame.frame} came after frame {self._newest}; wanted them in order, each once")
        lit = self._background.push(frame.image)
        found = self._finder.push(frame.frame, frame.omega, lit)
        if len(found.peaks["peak"]) > TRACK_BASE:
            raise FrameError(f"frame {frame.frame} has more than {TRACK_BASE} peaks; raise the threshold")
        self._newest = frame.frame
        position = Position.of(frame)
        links = self._linker.push(position, found)
        closed = self._tracker.push(position, found, links)
        row = self._frame_row(frame, found, float(lit.intensity.max()) if found.n_lit else 0.0)
        return _filled({"frames": row, "peaks": found.peaks, "links": links, **closed, "pixels": found.pixels})

    def flush(self) -> Batches:
        """Close every track and return the last rows; nothing may be pushed after it."""
        direction = self._linker.direction
        links = self._linker.flush()
        closed = self._tracker.flush(links, direction)
        return _filled({"links": links, **closed})

    @staticmethod
    def warm(dtype: DTypeLike) -> None:
        """Compile everything for frames of one type, so that the first frame does not wait for the compiler.

        No reducer is touched: this may run in any thread, before there is one.

        Parameters
        ----------
        dtype
            Type of a count.

        Raises
        ------
        FrameError
            Frames of this type cannot be reduced.
        """
        image = np.ones((2, 2), dtype)
        some = np.arange(2, dtype=np.int32)
        sparse = SparseImage(shape=(2, 2), row=some, col=some, value=image[0])
        for each in (image, sparse):
            reducer = Reducer(Recipe(threshold=0))
            for number in range(3):
                reducer.push(Frame(frame=number, point=number, image=each, omega_start=number, omega_end=number + 1))
            reducer.flush()

    def _frame_row(self, frame: Frame, found: PeaksOfFrame, max_intensity: float) -> Columns:
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
            "max_intensity": max_intensity,
            "sum_intensity": math.fsum(found.peaks["sum_intensity"].tolist()),
            "background_level": self._background.level,
        }
        names = self._frames_table.names
        return self._frames_table.batch(
            {name: np.array([values[name] if name in values else frame.roles.get(name, math.nan)]) for name in names}
        )


def _filled(batches: Batches) -> Batches:
    return {name: columns for name, columns in batches.items() if len(next(iter(columns.values())))}
