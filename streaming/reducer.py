"""The reducer: frames in, column batches out. It composes background, peaks, links and tracks."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import DTypeLike

from .bitshuffle import CompressedImage, stored
from .corrections import Corrections
from .errors import FrameError, SettingsError
from .finders import Finder, finder_for
from .frame import Frame, SparseImage
from .link_kernels import LONGEST
from .linking import Linker, Position
from .peaks import PeaksOfFrame
from .recipe import Recipe
from .tables import TRACK_BASE, Batches, Columns, Table, join, tables_with_roles
from .tracks import Tracker
from .trajectory import FromPositions, Trajectory


class Reducer:
    """Reduces the frames of one detector, one by one.

    The rows that come out are a pure function of the frames, their motors, the recipe and the trajectory: not of the
    order in which frames come, unless the background follows them.

    Parameters
    ----------
    recipe
        Every number that decides.
    corrections
        What is known of the detector. Its dark is the background to begin with, and wanted exactly where
        `Recipe.background` is not ``constant``: the mean dark frame, or the median of the first frames.
    tables
        The schema, as `tables_with_roles` makes it.
    trajectory
        Says which frames are neighbours. Without one they follow each other in the order of their numbers (`Linker`).

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
        trajectory: Trajectory | FromPositions | None = None,
    ) -> None:
        self._tables = tables or tables_with_roles({}, fit=recipe.fit != "none", candidates=recipe.keep_candidates)
        self._recipe = recipe
        self._corrections = corrections or Corrections()
        if (recipe.background == "constant") != (self._corrections.dark is None):
            given = "no" if self._corrections.dark is None else "a"
            raise SettingsError(f"recipe: background is {recipe.background!r} and {given} dark frame was given")
        self._make_finder = finder_for(recipe, flat=self._corrections.flat is not None)
        self._finder: Finder | None = None
        self.shape: tuple[int, int] | None = None
        "Rows and columns of a transformed frame; None before the first."
        self._waiting: dict[int, tuple[Position, PeaksOfFrame]] = {}
        self._n_waiting_peaks = 0
        self._from_positions = trajectory if isinstance(trajectory, FromPositions) else None
        self._follow(None if isinstance(trajectory, FromPositions) else trajectory)
        self._newest = -1

    def _follow(self, trajectory: Trajectory | None) -> None:
        self._linker = Linker(self._recipe, trajectory)
        self._tracker = Tracker(self._recipe, self._linker.trajectory, self._tables["tracks"])

    @property
    def n_open_tracks(self) -> int:
        """Tracks that a frame still to come could join."""
        return self._tracker.n_open + self._n_waiting_peaks

    @property
    def n_waiting_frames(self) -> int:
        """Frames whose lit pixels are kept, for a neighbour of theirs may still come."""
        return self._linker.n_held + len(self._waiting)

    def open_tracks(self) -> Columns:
        """Return the tracks that a frame still to come could join, as they are now: rows of `OPEN_TRACKS`."""
        return self._tracker.open_tracks()

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
        self._check(frame)
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
        """Link the peaks of one frame with those of its neighbours, and return the new rows of each table.

        A frame that is not part of the trajectory, such as a settling frame, has peaks, but they are in no track.

        Raises
        ------
        FrameError
            The frame came before, or was said to be missing.
        """
        self._check(frame)
        self._newest = max(self._newest, frame.frame)
        position = Position.of(frame)
        batches = {"frames": self._frame_row(frame, found), "peaks": found.peaks, "pixels": found.pixels}
        if self._from_positions is not None:
            # What links are made from, and no more: it waits to the end.
            kept = found if found.runs is None else replace(found, pixels={})
            self._waiting[frame.frame] = (position, kept)
            self._n_waiting_peaks += len(found.peaks["peak"])
        elif self._linker.trajectory.contains(frame.frame):
            batches |= self._linked(position, found)
        else:
            self._linker.set_aside(frame.frame)
        return _filled(batches)

    def missing(self, frame: int) -> Batches:
        """Take in that a frame will never come: what waits for it can be linked, or closed.

        Raises
        ------
        FrameError
            The frame came before, or was said to be missing.
        """
        if self._from_positions is not None or not self._linker.trajectory.contains(frame):
            return {}
        linked = self._linker.missing(frame)
        return _filled(self._tracker.follow(linked))

    def flush(self) -> Batches:
        """Close every track and return the last rows; nothing may be pushed after it."""
        parts: list[Batches] = []
        if self._from_positions is not None:
            waiting, self._waiting = self._waiting, {}
            self._n_waiting_peaks = 0
            self._follow(self._from_positions.planned({n: position.motors() for n, (position, _) in waiting.items()}))
            # One by one, and each dropped when it is linked: what waits is much.
            parts = [self._linked(*waiting.pop(number)) for number in sorted(waiting)]
        linked = self._linker.flush()
        return _filled(join([*parts, self._tracker.follow(linked)]))

    def _linked(self, position: Position, found: PeaksOfFrame) -> Batches:
        linked = self._linker.push(position, found)
        return self._tracker.push(position, found, linked)

    @staticmethod
    def warm(dtype: DTypeLike, recipe: Recipe | None = None) -> None:
        """Compile what frames of one type need, so that the first frame does not wait for the compiler.

        They may be compressed (bitshuffle-lz4) or not. No reducer is touched: this may run in any thread, before there
        is one.

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
        # In one a peak is too small: lists that have room left are other arrays to the compiler.
        image = np.full((4, 4), 100, dtype)
        with_speck = image.copy()
        with_speck[0, 1:] = with_speck[1] = 0
        # Files hold them compressed as a rule. The first one's lit pixels are listed from what lies there; many are, so
        # the next is decompressed.
        images = (image, with_speck, image, *map(stored, (image, image)))
        # Whole backgrounds and others take different ways. The mean of darks is hardly ever whole, the median of counts
        # is whole or half, and what is compiled for nothing costs the first start seconds, as a sparse image would,
        # which no detector gives.
        whole, half, third = np.zeros((4, 4)), np.full((4, 4), 0.5), np.full((4, 4), 1 / 3)
        darks = {"constant": [None], "dark": [third]}.get(recipe.background, [whole, half])
        recipe = replace(recipe, threshold=0, max_lit=100, sentinels=())
        for dark in darks:
            reducer = Reducer(recipe, corrections=Corrections(dark=dark))
            for number, each in enumerate(images):
                reducer.push(Frame(frame=number, point=number, image=each, omega_start=number, omega_end=number + 1))
            reducer.flush()
            reducer._tracker.sweep()

    def _check(self, frame: Frame) -> None:
        if frame.frame < 0:
            raise FrameError(f"frame {frame.frame} came; wanted a number from 0 on")
        if frame.frame <= self._newest and self._finder is not None and not self.parallel:
            raise FrameError(
                f"frame {frame.frame} came after frame {self._newest}; wanted them in order, for the background follows"
            )
        if frame.frame in self._waiting:
            raise FrameError(f"frame {frame.frame} came twice; the first counts")
        self._linker.check(frame.frame)

    def _make(self, frame: Frame) -> Finder:
        shape = tuple(frame.image.shape)
        if len(shape) != 2 or 0 in shape:
            raise FrameError(f"the image has shape {shape}; wanted (rows, columns), each 1 or more")
        if max(shape) > LONGEST:
            raise FrameError(f"the image has shape {shape}; wanted {LONGEST} rows and columns at most")
        prepared = self._corrections.prepared((int(shape[0]), int(shape[1])))
        self.shape = prepared.shape
        return self._make_finder(self._recipe, prepared)

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
        names = self._tables["frames"].names
        return self._tables["frames"].batch(
            {name: np.array([values[name] if name in values else frame.roles.get(name, math.nan)]) for name in names}
        )


def _filled(batches: Batches) -> Batches:
    return {name: columns for name, columns in batches.items() if len(next(iter(columns.values())))}
