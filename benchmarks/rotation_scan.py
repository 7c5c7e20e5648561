"""A rotation scan with known truth: what the measurements of the peak search look at.

A detector of 16 bits with a dark of about 100 counts (fixed pattern and hot pixels), read noise, a background that
falls off with the radius and holds weak rings, a beam stop, dead pixels, single-pixel hits, and spots on rings:
elliptical pseudo-Voigts, Gaussian in omega, of log-normal height, with Poisson noise. They stay in their place, or move
with omega along their ring. The same numbers give the same frames, whatever the number of threads.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

DARK, PATTERN, HOT_PIXELS, READ_NOISE = 100.0, 3.0, 300, 3.0
RINGS, DEAD_PIXELS, HITS = 16, 60, 5
HEIGHT_MEDIAN, HEIGHT_SPREAD, LEAST_HEIGHT, MOST_HEIGHT = 600.0, 0.8, 50.0, 20_000.0
MUST_FIND = 50.0
"Height above the background from which a spot of a frame has to be found, counts."
MAY_FIND = 10.0
"Height from which finding a spot is no mistake, counts."
_REACH = 15  # px: what a spot adds further from its centre than this is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Crystal:
    """How spots differ from those of small, perfect grains that rotate about their own middle."""

    drift: float = 0.0
    "Spots move along their ring by up to so many px a frame, either way."
    scale: float = 1.0
    "They are so many times as large."
    widen: float = 1.0
    "They are so many times as wide in omega."
    rough: float = 0.0
    "Standard deviation of the logarithm of their intensity in a frame over that of a smooth rocking curve."


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The spots of one frame, the brightest first."""

    row: Array
    "Centre, px, shape (n,)."
    col: Array
    "Centre, px, shape (n,)."
    height: Array
    "Highest expected count above the background in this frame, shape (n,)."
    intensity: Array
    "Expected counts of the whole spot in this frame, shape (n,)."


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationScan:
    """Frames, what is known of the detector, and the truth."""

    frames: Array
    "Raw counts, uint16, shape (frames, rows, columns)."
    dark: Array
    "Mean dark, counts, float32, shape (rows, columns)."
    mask: Array
    "0 where a pixel is valid, uint8, shape (rows, columns)."
    truth: tuple[Truth, ...]
    "For each frame."
    spots: "Spots"
    "All of them, those beside the scan too."

    def save(self, folder: Path) -> None:
        """Write what another process needs to search the same frames."""
        np.save(folder / "frames.npy", self.frames)
        np.save(folder / "dark.npy", self.dark)
        np.save(folder / "mask.npy", self.mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spots:
    """Spots of a scan, each over all of its frames."""

    row: Array
    "Centre at the frame where the spot is brightest, px, shape (n,)."
    col: Array
    "The same, px."
    eta: Array
    "Direction of the radius, radians."
    sigma_r: Array
    "Width along the radius, px."
    sigma_t: Array
    "Width across the radius, px."
    mixing: Array
    "Part of the Lorentzian."
    height: Array
    "At the frame where the spot is brightest, counts."
    omega: Array
    "Where the spot is brightest, frames."
    width: Array
    "Standard deviation in omega, frames."
    drift: Array
    "Way of the centre along the ring, px a frame."

    def half_length(self, height: float) -> Array:
        """Return how many frames before and after its brightest one a spot is higher than this; NaN if never."""
        with np.errstate(invalid="ignore"):
            return self.width * np.sqrt(2 * np.log(self.height / height))


def simulate(
    n_visible: int, *, n_frames: int = 20, size: int = 2048, seed: int = 7, crystal: Crystal | None = None
) -> RotationScan:
    """Return a scan with about `n_visible` spots a frame that have to be found."""
    crystal = crystal or Crystal()
    rng = np.random.default_rng([seed, n_visible])
    dark, mask, background = _detector(rng, size)
    spots = _draw(rng, n_visible, n_frames, size, crystal)
    detector = {"dark": dark, "background": background, "mask": mask}
    one = partial(_frame, spots=spots, **detector, rough=crystal.rough, seed=(seed, n_visible))
    with ThreadPoolExecutor(2) as pool:
        images, truth = zip(*pool.map(one, range(n_frames)), strict=True)
    return RotationScan(frames=np.stack(images), dark=dark, mask=mask, truth=truth, spots=spots)


def _detector(rng: np.random.Generator, size: int) -> tuple[Array, Array, Array]:
    """Return the dark, the mask, and the expected counts without any spot."""
    dark = rng.normal(DARK, PATTERN, (size, size))
    hot = rng.integers(0, size, (2, HOT_PIXELS))
    dark[hot[0], hot[1]] += rng.uniform(100, 3000, HOT_PIXELS)
    away = np.arange(size) - size / 2
    radius = np.hypot(away[:, None], away)
    background = 3 + 12 * np.exp(-radius / (0.2 * size))
    for each in _ring_radii(size):
        background += rng.uniform(0.5, 2.5) * np.exp(-0.5 * ((radius - each) / 2.5) ** 2)
    mask = np.zeros((size, size), np.uint8)
    stop = (radius < 0.03 * size) | ((np.abs(away[:, None]) < 0.006 * size) & (away < 0))
    mask[stop] = 1
    background[stop] = 0
    dead = rng.integers(0, size, (2, DEAD_PIXELS))
    mask[dead[0], dead[1]] = 1
    return dark.astype(np.float32), mask, background


def _ring_radii(size: int) -> Array:
    """Return the rings of a cubic crystal, as far as they fit: radius as the root of a whole number."""
    return 0.47 * size * np.sqrt(np.arange(3, 3 + RINGS) / (2 + RINGS))


def _draw(rng: np.random.Generator, n_visible: int, n_frames: int, size: int, crystal: Crystal) -> Spots:
    margin = 4

    def heights(n: int) -> Array:
        drawn = HEIGHT_MEDIAN * np.exp(HEIGHT_SPREAD * rng.standard_normal(n))
        return np.clip(drawn, LEAST_HEIGHT, MOST_HEIGHT)

    # How many frames a spot is seen in follows from its height and width: this many spots give n_visible a frame.
    seen = 2 * rng.uniform(0.35, 1.1, 100_000) * np.sqrt(2 * np.log(heights(100_000) / MUST_FIND))
    n = round(n_visible * (n_frames + 2 * margin) / float(crystal.widen * seen.mean()))
    eta = rng.uniform(-np.pi, np.pi, n)
    radius = rng.choice(_ring_radii(size), n) + rng.normal(0, 0.8, n)
    return Spots(
        row=size / 2 + radius * np.sin(eta),
        col=size / 2 + radius * np.cos(eta),
        eta=eta,
        sigma_r=crystal.scale * rng.uniform(1.0, 1.7, n),
        sigma_t=crystal.scale * rng.uniform(1.0, 3.0, n),
        mixing=rng.uniform(0.0, 0.4, n),
        height=heights(n),
        omega=rng.uniform(-margin, n_frames + margin, n),
        width=crystal.widen * rng.uniform(0.35, 1.1, n),
        # Drawn last, so that spots that stay and spots that move are the same otherwise.
        drift=rng.uniform(-crystal.drift, crystal.drift, n),
    )


def _frame(
    number: int, *, spots: Spots, dark: Array, background: Array, mask: Array, rough: float, seed: tuple[int, int]
) -> tuple[Array, Truth]:
    rng = np.random.default_rng([*seed, number + 1])
    height = spots.height * np.exp(-0.5 * ((number - spots.omega) / spots.width) ** 2)
    height *= np.exp(rough * np.random.default_rng([*seed, number + 1, 1]).standard_normal(len(height)))
    order = np.argsort(-height, kind="stable")
    order = order[height[order] > 0.5]
    way = (spots.drift * (number - spots.omega))[order]
    row = spots.row[order] + way * np.cos(spots.eta[order])
    col = spots.col[order] - way * np.sin(spots.eta[order])
    expected = background.copy()
    intensity = np.empty(len(order))
    _add_spots(
        expected,
        row,
        col,
        spots.eta[order],
        spots.sigma_r[order],
        spots.sigma_t[order],
        spots.mixing[order],
        height[order],
        intensity,
    )
    expected[mask != 0] = 0
    counts = rng.poisson(expected) + dark + rng.normal(0, READ_NOISE, dark.shape)
    hit = rng.integers(0, len(dark), (2, HITS))
    counts[hit[0], hit[1]] += rng.uniform(200, 5000, HITS)
    image = np.rint(counts).clip(0, 65535).astype(np.uint16)
    clear = mask[np.rint(row).astype(int), np.rint(col).astype(int)] == 0
    keep = (height[order] > MAY_FIND) & clear
    return image, Truth(row=row[keep], col=col[keep], height=height[order][keep], intensity=intensity[keep])


@njit(nogil=True, cache=True)
def _add_spots(
    image: Array,
    row: Array,
    col: Array,
    eta: Array,
    sigma_r: Array,
    sigma_t: Array,
    mixing: Array,
    height: Array,
    intensity: Array,
) -> None:
    """Add the expected counts of each spot; both parts of the pseudo-Voigt have the same full width at half maximum."""
    for i in range(len(row)):
        cos, sin = np.cos(eta[i]), np.sin(eta[i])
        r0, c0 = round(row[i]), round(col[i])
        total = 0.0
        for r in range(r0 - _REACH, r0 + _REACH + 1):
            for c in range(c0 - _REACH, c0 + _REACH + 1):
                dr, dc = r - row[i], c - col[i]
                along, across = dr * sin + dc * cos, dr * cos - dc * sin
                q = (along / sigma_r[i]) ** 2 + (across / sigma_t[i]) ** 2
                # (1 + k q)^-1.5 is half at q = 2 ln 2, where the Gaussian is.
                lorentz = (1.0 + 0.4237 * q) ** -1.5
                value = height[i] * (mixing[i] * lorentz + (1.0 - mixing[i]) * np.exp(-0.5 * q))
                total += value
                if 0 <= r < image.shape[0] and 0 <= c < image.shape[1]:
                    image[r, c] += value
        intensity[i] = total
