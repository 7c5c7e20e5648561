"""scipy: label an image of flags, then sums by label."""

from typing import Any

import numpy as np
import serving
from scipy import ndimage

Array = Any


def label_and_bincount(dark: Array, mask: Array) -> serving.Search:
    valid = mask == 0

    def search(image: Array) -> serving.Found:
        above = image - dark
        labels, n = ndimage.label((above > serving.THRESHOLD) & valid, structure=np.ones((3, 3)))
        return serving.sums_by_label(above, labels, n)

    return search


if __name__ == "__main__":
    serving.serve({"scipy": label_and_bincount})
