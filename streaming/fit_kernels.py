"""Numba kernels that fit the peaks of groups: starts, clusters that are fitted jointly, and what is reported.

Parameters and axes are those of `fit_profile`. Validated by their caller.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled
from .fit_pixels import MOST_PIXELS
from .fit_profile import (
    AT_BOUND,
    CHUNK,
    CONVERGED,
    LORENTZ,
    OF_A_PEAK,
    SINGULAR,
    TOO_FEW_PIXELS,
    TOO_LARGE,
    add_profile,
    factor_of,
    minimise,
    solve,
)
from .vectors import kernel

Array = NDArray[Any]

MOST_PEAKS = 500
"Of a group that is fitted: what is larger is a flooded frame, and must not hang it."

_LEAST_CURVED_RADIUS = 20.0
"A circle about the beam centre that is smaller than this, px, has a spot's size: its axes are taken as straight."

_LEAST_SIGMA = 0.5
"Pixels cannot tell narrower profiles apart, and between them a fit would find many optima, px."

_CLOSE = 1.5
"Peaks nearer than this times the sum of their sizes are fitted jointly: further ones change each other too little."

_SWEEPS = 2


@kernel()
def _start(
    of: int,
    slot: int,
    pixels: Array,
    value: Array,
    owner: Array,
    n_lit: int,
    parameters: Array,
    low: Array,
    high: Array,
    axes: Array,
) -> bool:
    """Start one peak from the moments of its own lit pixels, and bound it by them; tell whether it has any."""
    total = x = y = 0.0
    largest = 0.0
    own = 0
    for i in range(n_lit):
        if owner[i] == of and value[i] > 0.0:
            own += 1
            total += value[i]
            x += value[i] * pixels[0, i]
            y += value[i] * pixels[1, i]
            largest = max(largest, value[i])
    if own < OF_A_PEAK:
        return False
    x /= total
    y /= total
    radius = math.hypot(x, y)
    axes[slot, 0] = radius
    axes[slot, 1] = math.atan2(y, x)
    axes[slot, 2] = x / radius if radius > 0.0 else 1.0
    axes[slot, 3] = y / radius if radius > 0.0 else 0.0
    axes[slot, 4] = radius > _LEAST_CURVED_RADIUS
    uu = vv = 0.0
    u_low = u_high = v_low = v_high = 0.0
    for i in range(n_lit):
        if owner[i] == of and value[i] > 0.0:
            u = (pixels[0, i] - x) * axes[slot, 2] + (pixels[1, i] - y) * axes[slot, 3]
            v = (pixels[1, i] - y) * axes[slot, 2] - (pixels[0, i] - x) * axes[slot, 3]
            uu += value[i] * u * u
            vv += value[i] * v * v
            u_low = min(u_low, u)
            u_high = max(u_high, u)
            v_low = min(v_low, v)
            v_high = max(v_high, v)
    at = 1 + OF_A_PEAK * slot
    low[at] = 0.0
    parameters[at] = largest
    high[at] = 10.0 * largest
    low[at + 1] = max(radius + u_low - 0.5, 0.5 * axes[slot, 4] * _LEAST_CURVED_RADIUS)
    parameters[at + 1] = radius
    high[at + 1] = radius + u_high + 0.5
    low[at + 2] = v_low - 0.5
    parameters[at + 2] = 0.0
    high[at + 2] = v_high + 0.5
    low[at + 3] = low[at + 4] = _LEAST_SIGMA
    high[at + 3] = u_high - u_low + 1.0
    high[at + 4] = v_high - v_low + 1.0
    parameters[at + 3] = min(max(math.sqrt(uu / total), 2.0 * _LEAST_SIGMA), high[at + 3])
    parameters[at + 4] = min(max(math.sqrt(vv / total), 2.0 * _LEAST_SIGMA), high[at + 4])
    low[at + 5] = 0.0
    parameters[at + 5] = 0.2
    high[at + 5] = 1.0
    return True


@compiled()
def fit_groups(
    first: int,
    end: int,
    centre: Array,
    row: Array,
    col: Array,
    value: Array,
    usable: Array,
    peak: Array,
    order: Array,
    start: Array,
    near_row: Array,
    near_col: Array,
    near_value: Array,
    near_owner: Array,
    near_start: Array,
    peak_order: Array,
    peak_start: Array,
    noise: float,
    gain: float,
    most_peaks: int,
    max_steps: int,
    found: Array,
    status: Array,
) -> None:
    """Fit groups first ... end - 1, each on its own, and write the rows of their peaks.

    found (n_peaks, 12): row, col, amplitude, sigma_radial, sigma_tangential, mixing, background, sum, rms, errors of
    row, col and amplitude.
    """
    most = 1
    peaks = 1
    for g in range(first, end):
        if not _too_large(g, start, peak_start):
            most = max(most, start[g + 1] - start[g] + near_start[g + 1] - near_start[g])
            peaks = max(peaks, peak_start[g + 1] - peak_start[g])
    size = 1 + OF_A_PEAK * peaks
    pixels = np.empty((4, most))
    counts = np.empty(most)
    owner = np.empty(most, np.int32)
    parameters = np.empty(size)
    low = np.empty(size)
    high = np.empty(size)
    axes = np.empty((peaks, 5))
    names = np.empty(peaks, np.int32)
    slot = np.full(len(status), -1, np.int32)
    for g in range(first, end):
        if _too_large(g, start, peak_start):
            for one in peak_order[peak_start[g] : peak_start[g + 1]]:
                status[one] = TOO_LARGE
            continue
        n = 0
        for i in order[start[g] : start[g + 1]]:
            if usable[i]:
                _place(pixels, n, row[i] - centre[0], col[i] - centre[1])
                counts[n] = value[i]
                owner[n] = peak[i]
                n += 1
        n_lit = n
        least = math.inf
        for i in range(n_lit):
            least = min(least, counts[i])
        for i in range(near_start[g], near_start[g + 1]):
            _place(pixels, n, near_row[i] - centre[0], near_col[i] - centre[1])
            counts[n] = near_value[i]
            owner[n] = near_owner[i]
            n += 1
        k = 0
        for one in peak_order[peak_start[g] : peak_start[g + 1]]:
            if _start(one, k, pixels, counts, owner, n_lit, parameters, low, high, axes):
                names[k] = one
                slot[one] = k
                k += 1
            else:
                status[one] = TOO_FEW_PIXELS
        if k == 0:
            continue
        for i in range(n):
            owner[i] = slot[owner[i]]
        # What is not lit is darker than what is. The mean of the shifted counts must stay above 0.
        offset = noise * noise / gain
        high[0] = max(least, noise)
        low[0] = -min(high[0], 0.9 * offset)
        parameters[0] = 0.0
        _fit_group(
            k,
            names,
            parameters,
            low,
            high,
            axes,
            n,
            pixels,
            counts,
            owner,
            offset,
            gain,
            most_peaks,
            max_steps,
            centre,
            found,
            status,
        )


@compiled()
def _too_large(g: int, start: Array, peak_start: Array) -> bool:
    return start[g + 1] - start[g] > MOST_PIXELS or peak_start[g + 1] - peak_start[g] > MOST_PEAKS


@kernel()
def _place(pixels: Array, n: int, x: float, y: float) -> None:
    pixels[0, n] = x
    pixels[1, n] = y
    pixels[2, n] = math.sqrt(x * x + y * y)
    pixels[3, n] = math.atan2(y, x)


@compiled()
def _fit_group(
    n_peaks: int,
    names: Array,
    parameters: Array,
    low: Array,
    high: Array,
    axes: Array,
    n: int,
    pixels: Array,
    counts: Array,
    owner: Array,
    offset: float,
    gain: float,
    most_peaks: int,
    max_steps: int,
    centre: Array,
    found: Array,
    status: Array,
) -> None:
    """Fit all peaks at once; if they are too many, clusters of them by turns, twice, the others held."""
    width = min(n_peaks, most_peaks)
    size = 1 + OF_A_PEAK * width
    curvature = np.empty((size, size))
    some = np.empty(size)
    some_low = np.empty(size)
    some_high = np.empty(size)
    some_axes = np.empty((width, 5))
    some_pixels = np.empty((4, n))
    some_counts = np.empty(n)
    held = np.zeros(n)
    rows = np.empty((OF_A_PEAK, CHUNK))
    power = np.empty(CHUNK, np.int64)
    cluster = np.empty(n_peaks, np.int64)
    n_clusters = _clusters(n_peaks, most_peaks, parameters, axes, cluster)
    for sweep in range(1 if n_clusters == 1 else _SWEEPS):
        for c in range(n_clusters):
            k = 0
            some[0], some_low[0], some_high[0] = parameters[0], low[0], high[0]
            for p in range(n_peaks):
                if cluster[p] == c:
                    a, b = 1 + OF_A_PEAK * k, 1 + OF_A_PEAK * p
                    some[a : a + OF_A_PEAK] = parameters[b : b + OF_A_PEAK]
                    some_low[a : a + OF_A_PEAK] = low[b : b + OF_A_PEAK]
                    some_high[a : a + OF_A_PEAK] = high[b : b + OF_A_PEAK]
                    some_axes[k] = axes[p]
                    k += 1
            m = 0
            for i in range(n):
                if owner[i] < 0 or cluster[owner[i]] != c:
                    continue
                for a in range(4):
                    some_pixels[a, m] = pixels[a, i]
                some_counts[m] = counts[i]
                m += 1
            held[:m] = 0.0
            for p in range(n_peaks):
                if cluster[p] < c or (sweep > 0 and cluster[p] > c):
                    add_profile(parameters, axes, p, some_pixels, held[:m], rows, power)
            if m <= 1 + OF_A_PEAK * k:
                for p in range(n_peaks):
                    if cluster[p] == c:
                        status[names[p]] = TOO_FEW_PIXELS
                continue
            outcome, cost = minimise(
                some,
                some_low,
                some_high,
                some_axes,
                k,
                some_pixels,
                some_counts[:m],
                held[:m],
                offset,
                max_steps,
                curvature,
            )
            k = 0
            for p in range(n_peaks):
                if cluster[p] == c:
                    a, b = 1 + OF_A_PEAK * k, 1 + OF_A_PEAK * p
                    parameters[b : b + OF_A_PEAK] = some[a : a + OF_A_PEAK]
                    k += 1
            if sweep < _SWEEPS - 1 and n_clusters > 1:
                continue
            _report(
                c,
                cluster,
                n_peaks,
                names,
                some,
                some_low,
                some_high,
                some_axes,
                k,
                some_pixels,
                some_counts[:m],
                held[:m],
                gain,
                outcome,
                cost,
                curvature,
                centre,
                found,
                status,
            )


@compiled()
def _clusters(n_peaks: int, most_peaks: int, parameters: Array, axes: Array, cluster: Array) -> int:
    """Number the clusters that are fitted jointly; return how many.

    The brightest peak without a cluster founds one; as long as there is room, the nearest peak without one joins it, if
    it is closer to a member than `_CLOSE` times the sum of their sizes.
    """
    cluster[:] = -1
    members = np.empty(most_peaks, np.int64)
    n = 0
    while True:
        best = -1
        for p in range(n_peaks):
            if cluster[p] < 0 and (best < 0 or parameters[1 + OF_A_PEAK * p] > parameters[1 + OF_A_PEAK * best]):
                best = p
        if best < 0:
            return n
        members[0] = best
        held = 1
        cluster[best] = n
        while held < most_peaks:
            best = -1
            nearest = _CLOSE
            for p in range(n_peaks):
                if cluster[p] >= 0:
                    continue
                for q in members[:held]:
                    far = _apart(parameters, axes, p, q)
                    if far < nearest:
                        nearest = far
                        best = p
            if best < 0:
                break
            members[held] = best
            held += 1
            cluster[best] = n
        n += 1


@kernel()
def _apart(parameters: Array, axes: Array, p: int, q: int) -> float:
    """Return the distance of two starting points over the sum of the sizes there."""
    a, b = 1 + OF_A_PEAK * p, 1 + OF_A_PEAK * q
    x = axes[p, 0] * axes[p, 2] - axes[q, 0] * axes[q, 2]
    y = axes[p, 0] * axes[p, 3] - axes[q, 0] * axes[q, 3]
    size = math.hypot(parameters[a + 3], parameters[a + 4]) + math.hypot(parameters[b + 3], parameters[b + 4])
    return math.hypot(x, y) / size


@compiled()
def _report(
    c: int,
    cluster: Array,
    n_all: int,
    names: Array,
    parameters: Array,
    low: Array,
    high: Array,
    axes: Array,
    n_peaks: int,
    pixels: Array,
    counts: Array,
    held: Array,
    gain: float,
    outcome: int,
    cost: float,
    curvature: Array,
    centre: Array,
    found: Array,
    status: Array,
) -> None:
    """Write the rows of one joint fit."""
    m = 1 + OF_A_PEAK * n_peaks
    rows = np.empty((OF_A_PEAK, CHUNK))
    power = np.empty(CHUNK, np.int64)
    for k in range(n_peaks):
        add_profile(parameters, axes, k, pixels, held, rows, power)
    squares = 0.0
    for i in range(len(counts)):
        squares += (counts[i] - parameters[0] - held[i]) ** 2
    free = np.empty(m, np.int64)
    place = np.full(m, -1)
    n = 0
    for i in range(m):
        # A peak of height 0 says nothing about its place and width.
        if low[i] < parameters[i] < high[i] and curvature[i, i] > 0.0:
            free[n] = i
            place[i] = n
            n += 1
    system = np.empty((m, m))
    for a in range(n):
        for b in range(a + 1):
            system[a, b] = curvature[free[a], free[b]]
    regular = factor_of(system, n)
    # What the noise does not explain makes the errors larger, never smaller.
    scale = gain * max(1.0, 2.0 * cost / gain / max(len(counts) - n, 1))
    unit = np.empty(m)
    covariance = np.empty((3, 3))
    k = -1
    for p in range(n_all):
        if cluster[p] != c:
            continue
        k += 1
        at = 1 + OF_A_PEAK * k
        for a in range(3):
            covariance[a, :] = math.nan
            if not regular or place[at + a] < 0:
                continue
            unit[:n] = 0.0
            unit[place[at + a]] = 1.0
            solve(system, n, unit)
            for b in range(3):
                if place[at + b] >= 0:
                    covariance[a, b] = scale * unit[place[at + b]]
        height, radial, su, sv, mixing = (
            parameters[at],
            parameters[at + 1],
            parameters[at + 3],
            parameters[at + 4],
            parameters[at + 5],
        )
        if axes[k, 4] != 0.0:
            eta = axes[k, 1] + parameters[at + 2] / axes[k, 0]
            cos, sin = math.cos(eta), math.sin(eta)
            x, y = radial * cos, radial * sin
            stretch = radial / axes[k, 0]
        else:
            cos, sin = axes[k, 2], axes[k, 3]
            x = radial * cos - parameters[at + 2] * sin
            y = radial * sin + parameters[at + 2] * cos
            stretch = 1.0
        uu, uv, vv = covariance[1, 1], covariance[1, 2] * stretch, covariance[2, 2] * stretch * stretch
        one = found[names[p]]
        one[0] = centre[0] + x
        one[1] = centre[1] + y
        one[2] = height
        one[3] = su
        one[4] = sv
        one[5] = mixing
        one[6] = parameters[0]
        one[7] = height * su * sv * (2.0 * math.pi * (1.0 - mixing) + math.pi * math.pi * LORENTZ * mixing)
        one[8] = math.sqrt(squares / len(counts))
        one[9] = math.sqrt(cos * cos * uu - 2.0 * cos * sin * uv + sin * sin * vv)
        one[10] = math.sqrt(sin * sin * uu + 2.0 * cos * sin * uv + cos * cos * vv)
        one[11] = math.sqrt(covariance[0, 0])
        at_bound = False
        for a in range(OF_A_PEAK - 1):
            at_bound |= place[at + a] < 0
        finite = outcome != SINGULAR
        for a in range(9):
            finite &= math.isfinite(one[a])
        if not finite or not regular:
            one[:] = math.nan
            status[names[p]] = SINGULAR
        elif outcome == CONVERGED and at_bound:
            status[names[p]] = AT_BOUND
        else:
            status[names[p]] = outcome
