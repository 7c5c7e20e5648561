"""connected-components-3d: label an image of flags, then sums by label."""

from typing import Any

import cc3d  # pyright: ignore[reportMissingImports]
import numpy as np
import serving

Array = Any


def label_and_bincount(dark: Array, mask: Array) -> serving.Search:
    valid = mask == 0

    def search(image: Array) -> serving.Found:
        above = image - dark
        lit = (above > serving.THRESHOLD) & valid
        labels, n = cc3d.connected_components(lit.view(np.uint8), connectivity=8, return_N=True)
        return serving.sums_by_label(above, labels, n)

    return search


if __name__ == "__main__":
    serving.serve({"cc3d": label_and_bincount})
