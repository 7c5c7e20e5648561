"""scikit-image: label, then a table of region properties."""

from typing import Any

import numpy as np
import serving
from skimage.measure import label, regionprops_table  # pyright: ignore[reportMissingImports]

Array = Any
PROPERTIES = ("num_pixels", "intensity_mean", "centroid_weighted")


def regions(dark: Array, mask: Array) -> serving.Search:
    valid = mask == 0

    def search(image: Array) -> serving.Found:
        above = image - dark
        labels = label((above > serving.THRESHOLD) & valid, connectivity=2)
        table = regionprops_table(labels, intensity_image=above, properties=PROPERTIES)
        keep = table["num_pixels"] >= serving.MIN_PIXELS
        total = np.asarray(table["intensity_mean"] * table["num_pixels"])
        return table["centroid_weighted-0"][keep], table["centroid_weighted-1"][keep], total[keep]

    return search


if __name__ == "__main__":
    serving.serve({"skimage": regions})
