"""ImageD11's peak search, from its compiled parts, as its own scripts put them together."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import serving
from ImageD11 import cImageD11  # pyright: ignore[reportMissingImports]
from ImageD11.sinograms import lima_segmenter  # pyright: ignore[reportMissingImports]

Array = Any


def components(dark: Array, mask: Array) -> serving.Search:
    """Subtract the dark, take the lit pixels, label components, sum moments."""
    lit = _lit(dark, mask)

    def search(image: Array) -> serving.Found:
        row, col, value = lit(image)
        labels, n = _components(row, col, value)
        sums = cImageD11.sparse_blob2Dproperties(value, row, col, labels, n)
        return _centroids(sums[sums[:, 0] >= serving.MIN_PIXELS])

    return search


def split(dark: Array, mask: Array) -> serving.Search:
    """As `components`, but small ones are dropped and the rest is split at the maxima of a smoothed copy."""
    lit = _lit(dark, mask)

    def search(image: Array) -> serving.Found:
        row, col, value = lit(image)
        labels, n = _components(row, col, value)
        keep = np.bincount(labels, minlength=n + 1)[labels] >= serving.MIN_PIXELS
        row, col, value = row[keep], col[keep], value[keep]
        labels, n = _local_maxima(row, col, value)
        return _centroids(cImageD11.sparse_blob2Dproperties(value, row, col, labels, n))

    return search


def production(dark: Array, mask: Array) -> serving.Search:
    """What `lima_segmenter` and then `SparseScan.lmlabel` do with each frame."""
    valid = (mask == 0).astype(np.uint8)
    take = lima_segmenter.frmtosparse(valid, np.float32)
    options = SimpleNamespace(
        howmany=10**7, pixels_in_spot=serving.MIN_PIXELS, mask=valid, thresholds=serving.THRESHOLD * 2.0 ** np.arange(6)
    )

    def search(image: Array) -> serving.Found:
        sparse = lima_segmenter.clean(*take(image.astype(np.float32) - dark, serving.THRESHOLD), options)
        if sparse is None:
            return np.zeros(0), np.zeros(0), np.zeros(0)
        row, col, value = sparse.row, sparse.col, sparse.pixels["intensity"]
        labels, n = _local_maxima(row, col, value)
        weights = value.astype(np.int64)
        total, by_row, by_col = (
            np.bincount(labels, weights=each, minlength=n + 1)[1:] for each in (weights, weights * row, weights * col)
        )
        return by_row / total, by_col / total, total

    return search


def same_labels(folder: Path) -> None:
    """Label the lit pixels that the file lists, with smoothing and without."""
    given = np.load(folder / "lit.npz")
    row, col = given["row"].astype(np.uint16), given["col"].astype(np.uint16)
    value = given["value"].astype(np.float32)
    labels, _ = _local_maxima(row, col, value)
    plain, _ = _climb(row, col, value)
    np.savez(folder / "labels.npz", smooth=labels, plain=plain)


def _lit(dark: Array, mask: Array) -> Any:
    valid = (mask == 0).astype(np.uint8)
    flat = dark.astype(np.float32).ravel()
    data = np.empty(dark.shape, np.float32)
    row, col = np.empty(dark.shape, np.uint16), np.empty(dark.shape, np.uint16)
    value = np.empty(dark.shape, np.float32)

    def lit(image: Array) -> tuple[Array, Array, Array]:
        cImageD11.uint16_to_float_darksub(data.ravel(), flat, image.ravel())
        n = cImageD11.tosparse_f32(data, valid, row, col, value, serving.THRESHOLD)
        return row.ravel()[:n].copy(), col.ravel()[:n].copy(), value.ravel()[:n].copy()

    return lit


def _components(row: Array, col: Array, value: Array) -> tuple[Array, int]:
    labels = np.zeros(len(row), np.int32)
    return labels, cImageD11.sparse_connectedpixels(value, row, col, 0.0, labels)


def _local_maxima(row: Array, col: Array, value: Array) -> tuple[Array, int]:
    smooth = np.zeros(len(row), np.float32)
    cImageD11.sparse_smooth(value, row, col, smooth)
    return _climb(row, col, smooth)


def _climb(row: Array, col: Array, value: Array) -> tuple[Array, int]:
    labels, highest = np.zeros(len(row), np.int32), np.zeros(len(row), np.int32)
    n = cImageD11.sparse_localmaxlabel(value, row, col, np.zeros(len(row), np.float32), highest, labels)
    return labels, n


def _centroids(sums: Array) -> serving.Found:
    total = sums[:, cImageD11.s2D_I]
    return sums[:, cImageD11.s2D_sI] / total, sums[:, cImageD11.s2D_fI] / total, total


if __name__ == "__main__":
    serving.serve({"components": components, "split": split, "production": production}, {"same_labels": same_labels})
