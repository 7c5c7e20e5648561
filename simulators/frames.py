"""From spots to frames, one at a time, each a pure function of its omega interval, its index and the seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from ..streaming.errors import SettingsError
from .beam import PencilBeam
from .crystal import Array, Integers
from .forward import Spots
from .kernels import add_boxes, fill_boxes, lay_noise
from .truth import Truth, make_truth

Frame = NDArray[np.uint16]

# Standard deviations from its centre up to which a spot is drawn: 6e-5 of its counts lie beyond, in all.
_REACH = 4.5
# Rows of the noise pool begin anywhere within this many samples: two rows of a run start alike once in a million.
_POOL_EXTRA = 1 << 20
_FRAME_STREAM, _DARK_STREAM, _FIXED_STREAM = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorNoise:
    """What the detector adds to the spots."""

    background: float = 10.0
    "scattered photons in every pixel of every exposure [counts]"
    dark_level: float = 50.0
    "mean of the dark pattern [counts]"
    dark_spread: float = 3.0
    "standard deviation of the dark pattern from pixel to pixel, the same in every frame [counts]"
    read_noise: float = 2.0
    "standard deviation from frame to frame [counts]"
    n_hot: int = 20
    "pixels that always read `hot_level` more"
    hot_level: int = 2000
    "[counts]"
    full_scale: int = 65535
    "no pixel reads more [counts]; at most 65535"

    def __post_init__(self) -> None:
        """Refuse what a uint16 frame cannot hold."""
        if not 0 < self.full_scale <= 65535:
            raise SettingsError(f"full_scale {self.full_scale} does not fit uint16: give 1 to 65535")
        if min(self.background, self.dark_level, self.dark_spread, self.read_noise, self.n_hot) < 0:
            raise SettingsError(f"{self} has a negative entry: levels, spreads and numbers of pixels are 0 or more")
        if self.background > 10_000:
            raise SettingsError(f"background {self.background} counts is more than the noise pool holds: at most 10000")


NOISELESS = DetectorNoise(background=0.0, dark_level=0.0, dark_spread=0.0, read_noise=0.0, n_hot=0)


class FrameSimulator:
    """Draws the frames of one sample on one detector.

    A frame is the dark pattern, plus background with its Poisson and read noise, plus Poisson counts of each spot,
    cut off at full scale. Spots are elliptical Gaussians, sampled at the pixels' centres and integrated exactly over
    the frame's omega interval. Poisson counts of a sum are the sum of Poisson counts, so the spots are drawn in
    their own boxes alone, exactly; the noise of the rest comes from a pool of samples drawn once, each row
    from a place of its own, which is what makes a frame cheap.

    Parameters
    ----------
    shape
        Rows, columns.
    spots
        What to draw.
    noise
        What the detector adds.
    seed
        Equal seeds give equal frames.
    poisson
        Without it a spot's counts are its expected counts, rounded.
    beam
        What lights only a part of the sample at a time; without it all grains are lit, wherever dty is. Spots stay
        where they meet the detector with dty at 0.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        spots: Spots,
        *,
        noise: DetectorNoise | None = None,
        seed: int = 0,
        poisson: bool = True,
        beam: PencilBeam | None = None,
    ) -> None:
        self.shape = shape
        self.spots = spots
        self.noise = noise or DetectorNoise()
        self.seed = seed
        self._poisson = poisson
        self._beam = beam
        self._terms, self._heights, self._boxes = _spot_shapes(spots, shape)
        self._pattern, self._pool, self._dark_pool = self._fixed_parts()

    def frame(self, omega_start: float, omega_end: float, index: int, *, dty: float = 0.0) -> Frame:
        """One exposure while the stage turns from `omega_start` to `omega_end` [degrees], shape (rows, columns).

        A beam narrower than the sample lights what it lights at the middle of the interval, with dty [mm] where it is.

        Raises
        ------
        SettingsError
            The interval is empty or longer than a turn, or `index` is negative.
        """
        rng = self._generator(_FRAME_STREAM, index)
        frame = self._blank(self._pool, rng)
        values, boxes, starts = self._signal(omega_start, omega_end, dty)
        counts = rng.poisson(values) if self._poisson else np.rint(values).astype(np.int64)
        add_boxes(counts, boxes, starts, self.noise.full_scale, frame)
        return frame

    def dark_frame(self, index: int) -> Frame:
        """One exposure with the shutter closed: dark pattern, hot pixels and read noise, shape (rows, columns)."""
        return self._blank(self._dark_pool, self._generator(_DARK_STREAM, index))

    def expected(self, omega_start: float, omega_end: float, *, dty: float = 0.0) -> Array:
        """Mean counts of the spots alone in a frame: no background, no dark, no full scale, shape (rows, columns)."""
        image = np.zeros(self.shape)
        values, boxes, starts = self._signal(omega_start, omega_end, dty)
        for box, start in zip(boxes.tolist(), starts.tolist(), strict=True):
            rows, cols = box[1] - box[0], box[3] - box[2]
            image[box[0] : box[1], box[2] : box[3]] += values[start : start + rows * cols].reshape(rows, cols)
        return image

    def truth(
        self,
        scan: Sequence[tuple[float, float]] | NDArray[Any],
        *,
        min_height: float = 0.0,
        dty: Sequence[float] | NDArray[Any] | None = None,
    ) -> Truth:
        """What a perfect reduction of a scan would find.

        Parameters
        ----------
        scan
            Start and end of omega of each frame [degrees], shape (n, 2).
        dty
            Translation across the beam in each frame [mm], shape (n,); 0 without it.
        min_height
            A spot counts, and a frame counts as touched, where the expected counts of its brightest pixel reach this.
        """
        intervals = np.asarray(scan, dtype=np.float64).reshape(-1, 2)
        places = [0.0] * len(intervals) if dty is None else np.asarray(dty, np.float64).tolist()
        fractions = np.column_stack(
            [self.fractions(*each, dty=place) for each, place in zip(intervals.tolist(), places, strict=True)]
        )
        return make_truth(self.spots, intervals, fractions, self._brightest(), min_height)

    def fractions(self, omega_start: float, omega_end: float, *, dty: float = 0.0) -> Array:
        """Part of each spot's counts that falls into an omega interval [degrees] at a dty [mm], shape (spots,)."""
        low, high = min(omega_start, omega_end), max(omega_start, omega_end)
        if not 0 < high - low <= 360:
            raise SettingsError(
                f"a frame from {omega_start} to {omega_end} degrees sweeps {high - low}: more than 0 and at most 360"
                " are wanted; set the rotation's step"
            )
        middle = (low + high) / 2
        offset = middle + (self.spots.omega - middle + 180.0) % 360.0 - 180.0
        width = np.sqrt(2.0) * self.spots.sigma_omega
        fractions = 0.5 * (erf((high - offset) / width) - erf((low - offset) / width))
        return fractions if self._beam is None else fractions * self._beam.fractions(middle, dty)[self.spots.grain]

    def _signal(self, omega_start: float, omega_end: float, dty: float) -> tuple[Array, Integers, Integers]:
        fractions = self.fractions(omega_start, omega_end, dty=dty)
        # Less than a hundredth of a count in its brightest pixel: nobody will see it.
        lit = np.flatnonzero(fractions * self._heights > 0.01)
        boxes = self._boxes[lit]
        sizes = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
        starts = np.cumsum(sizes) - sizes
        values = np.empty(int(sizes.sum()))
        amplitude = fractions[lit] * self._heights[lit]
        fill_boxes(self.spots.row[lit], self.spots.col[lit], amplitude, self._terms[lit], boxes, starts, values)
        return values, boxes, starts

    def _brightest(self) -> Array:
        """Counts of each spot's brightest pixel were its whole intensity in one frame, shape (spots,)."""
        dr = np.clip(np.rint(self.spots.row), 0, self.shape[0] - 1) - self.spots.row
        dc = np.clip(np.rint(self.spots.col), 0, self.shape[1] - 1) - self.spots.col
        a, b, c = self._terms.T
        return self._heights * np.exp(-(a * dr * dr + b * dr * dc + c * dc * dc))

    def _generator(self, stream: int, index: int) -> np.random.Generator:
        if index < 0:
            raise SettingsError(f"frame {index} cannot be simulated: frames are numbered from 0")
        return np.random.default_rng((self.seed, stream, index))

    def _blank(self, pool: NDArray[np.int16], rng: np.random.Generator) -> Frame:
        frame = np.empty(self.shape, dtype=np.uint16)
        offsets = rng.integers(0, _POOL_EXTRA, size=self.shape[0])
        lay_noise(self._pattern, pool, offsets, self.noise.full_scale, frame)
        return frame

    def _fixed_parts(self) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.int16]]:
        noise, rng = self.noise, self._generator(_FIXED_STREAM, 0)
        pattern = np.rint(rng.normal(noise.dark_level, noise.dark_spread, self.shape)).astype(np.int32)
        hot = rng.permutation(pattern.size)[: noise.n_hot]
        pattern.reshape(-1)[hot] += noise.hot_level
        size = _POOL_EXTRA + self.shape[1]
        read = rng.normal(0.0, noise.read_noise, size)
        light = rng.poisson(noise.background, size)
        return np.maximum(pattern, 0), np.rint(light + read).astype(np.int16), np.rint(read).astype(np.int16)


def _spot_shapes(spots: Spots, shape: tuple[int, int]) -> tuple[Array, Array, Integers]:
    """Quadratic form (n, 3), height were all counts in one frame (n,), box on the detector (n, 4) of each spot."""
    # The radial direction, away from the beam's centre, is (rows, columns) = (cos eta, -sin eta).
    cosine, sine = np.cos(np.radians(spots.eta)), np.sin(np.radians(spots.eta))
    radial, azimuthal = spots.sigma_radial**2, spots.sigma_azimuthal**2
    terms = np.column_stack(
        [
            0.5 * (cosine**2 / radial + sine**2 / azimuthal),
            cosine * sine * (1.0 / azimuthal - 1.0 / radial),
            0.5 * (sine**2 / radial + cosine**2 / azimuthal),
        ]
    )
    heights = spots.intensity / (2.0 * np.pi * spots.sigma_radial * spots.sigma_azimuthal)
    half_row = _REACH * np.sqrt(cosine**2 * radial + sine**2 * azimuthal)
    half_col = _REACH * np.sqrt(sine**2 * radial + cosine**2 * azimuthal)
    boxes = np.column_stack(
        [
            np.clip(np.ceil(spots.row - half_row), 0, shape[0]),
            np.clip(np.floor(spots.row + half_row) + 1, 0, shape[0]),
            np.clip(np.ceil(spots.col - half_col), 0, shape[1]),
            np.clip(np.floor(spots.col + half_col) + 1, 0, shape[1]),
        ]
    )
    return terms, heights, boxes.astype(np.int64)
