"""What the tests of streaming draw: small frames of every type and layout, sweeps with gaps, recipes."""

import numpy as np
from hypothesis import strategies as st

from hedmlive.streaming import Frame, Recipe, SparseImage

DTYPES = ("uint8", "uint16", "uint32", "uint64", "int16", "int32", "int64", "float32", "float64")


@st.composite
def shapes(draw):
    return draw(st.integers(1, 7)), draw(st.integers(1, 7))


@st.composite
def images(draw, shape, dtype="uint16", top=9):
    """Counts of 0 ... top, some of them far more often lit than not."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lit = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]))
    return np.where(lit, rng.integers(1, top + 1, shape), 0).astype(dtype)


def in_layout(image, layout: str):
    """The same numbers elsewhere in memory."""
    if layout == "strided":
        wide = np.zeros((2 * image.shape[0], 3 * image.shape[1]), image.dtype)
        wide[::2, ::3] = image
        return wide[::2, ::3]
    if layout == "fortran":
        return np.asfortranarray(image)
    if layout == "swapped":
        return image.astype(image.dtype.newbyteorder("S"))
    if layout == "read-only":
        image = image.copy()
        image.flags.writeable = False
    return image


LAYOUTS = ("plain", "strided", "fortran", "swapped", "read-only")


def sparse(image) -> SparseImage:
    row, col = np.nonzero(image)
    return SparseImage(shape=image.shape, row=row, col=col, value=image[row, col])


SPLITS = (
    {"split": "none"},
    {"split": "local-maximum"},
    {"split": "local-maximum", "smooth": True},
    {"split": "regional-maximum"},
    {"split": "regional-maximum", "max_maxima": 2},
)


LINKS = (
    {},
    {},
    {"link": "mutual-best-overlap"},
    {"link": "distance", "max_distance": 1.5},
    {"min_score": 0.5},
    {"keep_candidates": True},
    {"link": "mutual-best-overlap", "keep_candidates": True, "min_score": 0.4},
    {"valley": 0.9, "valley_sigma": 0.0},
    {"max_distance_by_size": 0.5, "max_distance_by_width": 0.3},
    {"max_distance_by_size": 0.3, "valley": 0.5, "valley_sigma": 0.0, "keep_candidates": True},
    {"valley": 0.8, "valley_apart": 0.5, "valley_sigma": 0.5, "keep_candidates": True},
    {"along": {"dty": {"link": "distance", "max_distance": 2.0}, "omega": {"max_gap": 1}}},
)


@st.composite
def recipes(draw, **fixed):
    drawn = {
        "threshold": draw(st.sampled_from([0, 1, 2.5])),
        "min_pixels": draw(st.integers(1, 3)),
        **draw(st.sampled_from(SPLITS)),
        "saturation": draw(st.sampled_from([None, 5.0, 7])),
        "sentinels": draw(st.sampled_from([(), (9,), (3, 4294967295, -1)])),
        "min_shared_pixels": draw(st.integers(1, 2)),
        "max_distance": draw(st.sampled_from([None, 1.0])),
        "max_gap": draw(st.integers(0, 2)),
        "wrap": draw(st.booleans()),
        **draw(st.sampled_from(LINKS)),
    }
    return Recipe(**drawn | fixed)


@st.composite
def sweeps(draw, top=9):
    """Frames of one sweep: up or down, a turn or less, with or without width, some missing, some without omega."""
    shape = draw(shapes())
    n = draw(st.integers(1, 8))
    step = draw(st.sampled_from([1.0, 360.0 / n, -360.0 / n]))
    wide = draw(st.sampled_from([0.0, 1.0]))
    missing = draw(st.sets(st.integers(0, n - 1), max_size=2))
    lost = draw(st.sets(st.integers(0, n - 1), max_size=1)) if draw(st.booleans()) else set()
    places = draw(st.sampled_from([None, None, (0.0, 0.0), (0.0, 1.0)]))
    frames = []
    for k in range(n):
        start = float("nan") if k in lost else -50.0 + k * step
        if k not in missing:
            roles = {} if places is None else {"dty": places[k >= n // 2], "monitor": float(k)}
            ends = start + wide * step
            image = draw(images(shape, top=top))
            frames.append(Frame(frame=k, point=k, image=image, omega_start=start, omega_end=ends, roles=roles))
    return frames
