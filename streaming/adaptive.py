"""Lit pixels by the noise around them: no dark frame and no threshold in counts is needed."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from . import filter_kernels
from .background import LitPixels
from .errors import FrameError, SettingsError
from .filters import FAINT, ImageForm, is_whole, level_image, mean_level
from .frame import SparseImage

# Of each zone so many pixels, evenly spread, tell its level and noise: the noise is then known to 4 %.
_SAMPLE = 256
# Fewer pixels tell no noise: nothing is lit there.
_FEWEST = 16
_FIRST_CAPACITY = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Zones:
    """Which pixels share a level and a noise."""

    zone: np.ndarray
    "Zone of each pixel, `n` where it is masked, uint32, shape (rows, columns)."
    tiles: tuple[int, int] | None
    "Rows and columns of tiles; None for rings."
    weight: np.ndarray
    "Valid pixels of each zone, float64, shape (n,)."
    place: np.ndarray
    "Indices of the sampled pixels in the flat image, zone by zone."
    start: np.ndarray
    "First of each zone in `place`, and the end, shape (n + 1,)."


class AdaptiveLit:
    """Turns images into lit pixels: lit where ``raw - dark > level + max(n_sigma * noise, min_counts)``.

    Level and noise are estimated in each image, in zones: rings of equal width around the beam's centre where that is
    known, else square tiles, between whose centres they are interpolated. In a zone they are mean and standard
    deviation of an evenly spread sample, without the values that Chauvenet's criterion rejects: starting from the
    median and the spread below it (spots only ever add counts), up to `cycles` times. `noise` is added to the standard
    deviation in quadrature, as pyFAI's peakfinder does.

    Parameters
    ----------
    n_sigma
        How many standard deviations above its surroundings a pixel is lit.
    beam_centre
        Row and column of the beam, pixels (centres at integers); it may lie outside the image.
    n_bins
        Rings, from the nearest to the furthest valid pixel; one of fewer than 16 valid pixels is joined with the next.
    window
        Side of a tile, pixels, without `beam_centre`.
    cycles
        At most so often values are rejected.
    noise
        Standard deviation that is there even where the sample shows none, counts, 0 or more.
    min_counts
        A lit pixel is always more than this above the level, counts, 0 or more: for photon-starved images, in which
        nearly all pixels are 0 and the noise of a zone may be exactly 0.
    invalid
        True where a pixel never counts, shape (rows, columns).
    sentinels
        Raw values that mark invalid pixels.
    dark
        Mean dark frame, counts, shape (rows, columns); it takes out fixed patterns and hot pixels.

    Raises
    ------
    SettingsError
        A number is out of its range, or the dark is of another shape than the mask or not finite.
    """

    def __init__(
        self,
        *,
        n_sigma: float,
        beam_centre: tuple[float, float] | None = None,
        n_bins: int = 800,
        window: int = 48,
        cycles: int = 5,
        noise: float = 1.0,
        min_counts: float = 3.0,
        invalid: np.ndarray | None = None,
        sentinels: tuple[int, ...] = (),
        dark: np.ndarray | None = None,
    ) -> None:
        centred = beam_centre is None or (len(beam_centre) == 2 and bool(np.isfinite(beam_centre).all()))
        wanted = (
            ("n_sigma", n_sigma, 0 < n_sigma < np.inf, "a finite number above 0"),
            ("beam_centre", beam_centre, centred, "row and column, finite"),
            ("n_bins", n_bins, is_whole(n_bins, 1, 1_000_000), "a whole number, 1 to 1000000"),
            ("window", window, is_whole(window, 4, 4096), "a whole number, 4 to 4096"),
            ("cycles", cycles, is_whole(cycles, 0, 100), "a whole number, 0 to 100"),
            ("noise", noise, 0 <= noise < np.inf, "a finite number, 0 or more"),
            ("min_counts", min_counts, 0 <= min_counts < np.inf, "a finite number, 0 or more"),
        )
        for name, value, good, want in wanted:
            if not good:
                raise SettingsError(f"adaptive finder: {name} is {value!r}; wanted {want}")
        self._n_sigma, self._noise, self._min_counts = float(n_sigma), float(noise), float(min_counts)
        self._beam_centre, self._n_bins, self._window, self._cycles = beam_centre, n_bins, window, cycles
        self._form = ImageForm(invalid=invalid, sentinels=sentinels)
        self._dark = level_image(0.0 if dark is None else dark, self._form.invalid)
        self._dark_level = mean_level(self._dark, self._form.invalid)
        self._level = float("nan")
        self._zones: _Zones | None = None
        self._capacity = _FIRST_CAPACITY

    @property
    def level(self) -> float:
        """Mean of dark and level over the valid pixels of the newest image, counts; NaN before the first."""
        return self._level

    def push(self, image: np.ndarray | SparseImage) -> LitPixels:
        """Return the lit pixels of one image; the first good image fixes shape and type of all that follow.

        Raises
        ------
        FrameError
            The image is not two-dimensional, has another shape or type than the first, or holds nothing but NaN; or it
            is sparse and lists a pixel outside.
        """
        if self._dark.ndim and self._dark.shape != tuple(image.shape):
            raise FrameError(f"the image has shape {image.shape}, but the dark frame has {self._dark.shape}")
        raw = self._form.plain(image)
        if self._zones is None:
            self._zones = self._make_zones((raw.shape[0], raw.shape[1]))
        level, sigma = self._levels(raw, self._zones)
        cut = level + np.maximum(self._n_sigma * np.sqrt(sigma * sigma + self._noise**2), self._min_counts)
        row, col, below = self._lit(raw, self._zones, level, cut)
        self._level = self._dark_level + _mean(level, self._zones.weight)
        values = raw[row, col]
        return LitPixels(
            shape=(raw.shape[0], raw.shape[1]),
            row=row,
            col=col,
            raw=values,
            # Rounding can take away all that a pixel has more than a level without noise.
            intensity=np.maximum(values.astype(np.float64) - below, FAINT),
        )

    def _levels(self, raw: np.ndarray, zones: _Zones) -> tuple[np.ndarray, np.ndarray]:
        n = len(zones.weight)
        level, sigma = np.empty(n), np.empty(n)
        filter_kernels.zone_levels(
            raw.reshape(-1),
            self._dark.reshape(-1),
            self._sentinels(raw),
            zones.place,
            zones.start,
            _FEWEST,
            self._cycles,
            self._noise,
            np.empty(_SAMPLE),
            level,
            sigma,
        )
        return level, sigma

    def _lit(
        self, raw: np.ndarray, zones: _Zones, level: np.ndarray, cut: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        dark = self._dark if self._dark.ndim else self._dark.reshape(1, 1)
        sentinels = self._sentinels(raw)
        while True:
            row, col = np.empty(self._capacity, np.int32), np.empty(self._capacity, np.int32)
            below = np.empty(self._capacity)
            if zones.tiles is None:
                # One zone more, of the masked pixels: nothing is above NaN.
                levels, cuts = np.append(level, np.nan), np.append(cut, np.nan)
                n = filter_kernels.lit_by_zone(raw, dark, sentinels, zones.zone, levels, cuts, row, col, below)
            else:
                levels, cuts = (_without_gaps(each.reshape(zones.tiles)) for each in (level, cut))
                n = filter_kernels.lit_by_tile(
                    raw, dark, sentinels, zones.zone, len(level), self._window, levels, cuts, row, col, below
                )
            if n <= self._capacity:
                return row[:n].copy(), col[:n].copy(), below[:n].copy()
            self._capacity = 2 * n

    def _sentinels(self, raw: np.ndarray) -> np.ndarray:
        if raw.dtype.kind == "f":
            return np.array(self._form.sentinels, raw.dtype)
        info = np.iinfo(raw.dtype)
        # The others cannot occur.
        return np.array([each for each in self._form.sentinels if info.min <= each <= info.max], raw.dtype)

    def _make_zones(self, shape: tuple[int, int]) -> _Zones:
        row, col = np.indices(shape, np.int32)
        valid = np.ones(shape, np.bool_) if self._form.invalid is None else ~self._form.invalid
        if self._beam_centre is None:
            tiles = (-(-shape[0] // self._window), -(-shape[1] // self._window))
            zone, n = row // self._window * tiles[1] + col // self._window, tiles[0] * tiles[1]
        else:
            tiles = None
            zone, n = _rings(row - self._beam_centre[0], col - self._beam_centre[1], valid, self._n_bins)
        zone = np.where(valid, zone, n).astype(np.uint32)
        weight = np.bincount(zone.reshape(-1), minlength=n + 1)[:n]
        place, start = _samples(zone, weight)
        return _Zones(zone=zone, tiles=tiles, weight=weight.astype(np.float64), place=place, start=start)


def _rings(row: np.ndarray, col: np.ndarray, valid: np.ndarray, n_bins: int) -> tuple[np.ndarray, int]:
    """Return the ring of each pixel, from 0, and how many there are; row and col are counted from the beam."""
    radius = np.sqrt(row * row + col * col)
    if not valid.any():
        return np.zeros(radius.shape, np.int64), 1
    low, high = radius[valid].min(), radius[valid].max()
    width = (high - low) / n_bins if high > low else 1.0
    narrow = np.clip((radius - low) / width, 0, n_bins - 1).astype(np.int64)
    count = np.bincount(narrow[valid], minlength=n_bins)
    joined = np.empty(n_bins, np.int64)
    ring = held = 0
    for k in range(n_bins):
        if held >= _FEWEST:
            ring, held = ring + 1, 0
        joined[k] = ring
        held += int(count[k])
    if ring and held < _FEWEST:
        joined[joined == ring] = ring - 1
        ring -= 1
    return joined[narrow], ring + 1


def _samples(zone: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `place` and `start` of `_Zones`: of each zone every k-th pixel in raster order, at most `_SAMPLE`."""
    first = np.concatenate(([0], np.cumsum(weight)))
    order = np.argsort(zone.reshape(-1), kind="stable")[: first[-1]]
    step = np.maximum(1, -(-weight // _SAMPLE))
    taken = (np.arange(len(order)) - np.repeat(first[:-1], weight)) % np.repeat(step, weight) == 0
    start = np.concatenate(([0], np.cumsum(-(-weight // step))))
    return order[taken], start


def _without_gaps(tiles: np.ndarray) -> np.ndarray:
    """Return tiles with what the nearest has where one has nothing: neighbours are interpolated towards it."""
    empty = np.isnan(tiles)
    if empty.all() or not empty.any():
        return tiles
    nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    return tiles[tuple(nearest)]


def _mean(level: np.ndarray, weight: np.ndarray) -> float:
    known = ~np.isnan(level)
    if not known.any():
        return float("nan")
    # Added one after the other: a pairwise sum depends on the machine.
    return float(np.cumsum(level[known] * weight[known])[-1] / np.cumsum(weight[known])[-1])
