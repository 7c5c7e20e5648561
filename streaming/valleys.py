"""Valleys: where a track's intensity falls and rises again, it holds two spots, and is cut.

Spots that follow each other at nearly the same place share pixels, and no rule that looks at two frames can part them:
their intensities along the scan can. A rocking curve is rough, though, in a crystal that is not perfect; what tells two
spots from a rough one is that their maxima have not quite the same place.
"""

import numpy as np

from . import valley_kernels


def valley_cuts(
    intensity: np.ndarray,
    row: np.ndarray,
    col: np.ndarray,
    member_a: np.ndarray,
    member_b: np.ndarray,
    distance: np.ndarray,
    *,
    fraction: float = 0.3,
    apart: float = 0.7,
    n_sigma: float = 3.0,
) -> np.ndarray:
    """Return which links are to be cut, so that no valley is left inside a track.

    Any number of tracks may come together, of any shape: chains along one axis, grids along several, with branches.
    Each maximum of the intensity is a spot, unless the way from it to a brighter one leads through no valley: one is
    left out where the lowest member of the highest way is not far enough below the lower maximum. Members between go
    with their nearest brighter neighbour. What is not cut connects every spot, and the outcome for a track depends on
    nothing but itself.

    Parameters
    ----------
    intensity
        Sum of the counts of each member, finite, 0 or more, shape (members,). Members of a track are in the order of
        (frame, peak): of equals the first is taken to be brighter.
    row, col
        Centroid of each member, pixels, shape (members,).
    member_a, member_b
        The members that each link joins, as indices, shape (links,).
    distance
        Distance of their centroids, pixels; of equals the first link counts as the shorter.
    fraction
        A dip between maxima at the same place is a valley where its lowest intensity is below this part of the lower
        maximum, 0 to 1.
    apart
        The part rises to 1 with the distance of the maxima: from so many pixels on, each dip that noise does not
        explain is a valley. 0 or more; infinity if the distance is to tell nothing.
    n_sigma
        A dip is noise up to so many standard deviations of the difference, sqrt(maximum + lowest) for counts of
        photons (Poisson).

    Returns
    -------
    :
        Bool, shape (links,).
    """
    n = len(intensity)
    start, link = np.zeros(n + 1, np.int64), np.empty(2 * len(member_a), np.int64)
    valley_kernels.list_neighbours(member_a, member_b, start, link)
    order = np.argsort(-intensity, kind="stable")
    top = np.full(n, -1, np.int64)
    links = (member_a, member_b, distance, start, link)
    valley_kernels.flood(intensity, row, col, order, *links, float(fraction), float(apart), float(n_sigma), top)
    return top[member_a] != top[member_b]
