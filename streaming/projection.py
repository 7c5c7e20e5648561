"""The maximum projection of a reduction: a picture of where anything was ever lit."""

import numpy as np

from .tables import Columns

MAX_PROJECTION = "max_projection"
"""What it is called in archives and catalogues."""

MAX_PROJECTION_MEANING = "largest raw count of a pixel among the frames in which it is part of a peak, else 0"


class MaxProjection:
    """The largest raw count of each pixel among the frames in which it was part of a peak; 0 where it never was.

    Made of the table of lit pixels: a pass over whole frames would cost as much as the search for peaks.

    Parameters
    ----------
    shape
        Rows and columns of a frame.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.image = np.zeros(shape, np.float32)
        "Raw counts, shape (rows, columns); float32 holds them exactly up to 2^24."

    def push(self, pixels: Columns) -> None:
        """Take in rows of the table ``pixels``."""
        place = pixels["row"].astype(np.intp) * self.image.shape[1] + pixels["col"]
        np.maximum.at(self.image.reshape(-1), place, pixels["intensity"].astype(np.float32))
