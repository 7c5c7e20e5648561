"""Numba kernels that fit two-dimensional pseudo-Voigt profiles: validated by their caller, nothing else in this file.

Parameters of a joint fit: ``[background, amplitude, radial, tangential, sigma_radial, sigma_tangential, mixing, ...]``,
the last six of each peak. `axes`, one row a peak: ``radius, eta, cos(eta), sin(eta), curved`` of its starting point
about the beam centre. ``radial`` is its distance from the beam centre, ``tangential`` what it has moved along the
circle through its starting point, both px. Where that circle is too small to be a useful axis (``curved`` 0) both are
straight.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

OF_A_PEAK = 6
"Parameters of a peak; there is one more, the background, for the whole group."

_LORENTZ = 2.0 * math.log(2.0)
"Square of the Lorentzian's half width at half maximum over the Gaussian's sigma, so that both are equally wide."

CONVERGED, ITERATION_CAP, TOO_FEW_PIXELS, AT_BOUND, SINGULAR, TOO_LARGE = range(6)
"What becomes of a peak."

MOST_PIXELS, MOST_PEAKS = 50_000, 500
"Of a group that is fitted: what is larger is a flooded frame, and must not hang it."

_LEAST_CURVED_RADIUS = 20.0
"A circle about the beam centre that is smaller than this, px, has a spot's size: its axes are taken as straight."

_LEAST_SIGMA = 0.5
"Pixels cannot tell narrower profiles apart, and between them a fit would find many optima, px."

_CLOSE = 1.5
"Peaks nearer than this times the sum of their sizes are fitted jointly: further ones change each other too little."

_SWEEPS = 2
_TOLERANCE = 5e-7
"A fit ends where the next step promises to lower half the deviance by less than this part of it, and of 1."

_LEAST_DAMPING, _LARGEST_DAMPING = 1e-6, 1e10

CHUNK = 128
"Pixels whose derivatives are held at a time, so that they stay in the nearest cache."


@njit(nogil=True, cache=True)
def by_label(labels: Array, start: Array, order: Array) -> None:
    """Sort indices by label, in their order within a label; labels below 0 are left out.

    start (n + 1) gets where each label begins in order.
    """
    start[:] = 0
    for each in labels:
        if each >= 0:
            start[each + 1] += 1
    for k in range(len(start) - 1):
        start[k + 1] += start[k]
    place = start[:-1].copy()
    for i in range(len(labels)):
        if labels[i] >= 0:
            order[place[labels[i]]] = i
            place[labels[i]] += 1


@njit(nogil=True, cache=True)
def surround(
    row: Array,
    col: Array,
    group: Array,
    peak: Array,
    order: Array,
    start: Array,
    image: Array,
    background: Array,
    flat: Array,
    mask: Array,
    sentinels: Array,
    width: int,
    of_pixel: Array,
    out_row: Array,
    out_col: Array,
    out_value: Array,
    out_owner: Array,
    out_start: Array,
) -> int:
    """List the unlit pixels within width of each group, nearest first; return how many, though only len(out_row) fit.

    of_pixel (rows, columns), all 0, is scratch: -1 - group where a pixel is lit, 1 + group where one was listed last.
    A pixel beside a lit pixel of another group belongs to no group's surroundings: that peak's tail lies on it.
    """
    for i in range(len(row)):
        of_pixel[row[i], col[i]] = -1 - group[i]
    n_groups = len(start) - 1
    most = 0
    for g in range(n_groups):
        if start[g + 1] - start[g] <= MOST_PIXELS:
            most = max(most, start[g + 1] - start[g])
    reach = most * (2 * width + 1) ** 2
    near_row = np.empty(reach, np.int32)
    near_col = np.empty(reach, np.int32)
    near_owner = np.empty(reach, np.int32)
    n = 0
    for g in range(n_groups):
        out_start[g] = n
        if start[g + 1] - start[g] > MOST_PIXELS:
            continue
        end = 0
        for i in order[start[g] : start[g + 1]]:
            near_row[end] = row[i]
            near_col[end] = col[i]
            near_owner[end] = peak[i]
            end += 1
        first = 0
        for _ in range(width):
            last = end
            for j in range(first, last):
                for r in range(max(near_row[j] - 1, 0), min(near_row[j] + 2, of_pixel.shape[0])):
                    for c in range(max(near_col[j] - 1, 0), min(near_col[j] + 2, of_pixel.shape[1])):
                        if of_pixel[r, c] < 0 or of_pixel[r, c] == g + 1:
                            continue
                        of_pixel[r, c] = g + 1
                        near_row[end] = r
                        near_col[end] = c
                        near_owner[end] = near_owner[j]
                        end += 1
                        if mask[r, c] or _touches_another(of_pixel, r, c, g):
                            continue
                        raw = float(image[r, c])
                        usable = math.isfinite(raw) and flat[r, c] > 0.0
                        for s in sentinels:
                            if raw == s:
                                usable = False
                        if usable:
                            if n < len(out_row):
                                out_row[n] = r
                                out_col[n] = c
                                out_value[n] = (raw - background[r, c]) / flat[r, c]
                                out_owner[n] = near_owner[j]
                            n += 1
            first = last
    out_start[n_groups] = n
    return n


@njit(nogil=True, cache=True)
def _touches_another(of_pixel: Array, row: int, col: int, group: int) -> bool:
    for r in range(max(row - 1, 0), min(row + 2, of_pixel.shape[0])):
        for c in range(max(col - 1, 0), min(col + 2, of_pixel.shape[1])):
            if of_pixel[r, c] < 0 and of_pixel[r, c] != -1 - group:
                return True
    return False


@njit(nogil=True, cache=True)
def profile(
    parameters: Array, axes: Array, k: int, pixels: Array, first: int, n: int, total: Array, slope: Array, to: int
) -> None:
    """Add peak k at pixels first ... first + n - 1 to total; write its derivatives in slope[to : to + 6].

    pixels (4, ...): x, y, radius, eta about the beam centre. Loops over pixels that hold no branch and no call but exp
    are six times as fast as one that does everything for a pixel.
    """
    at = 1 + OF_A_PEAK * k
    height = parameters[at]
    radial = parameters[at + 1]
    mixing = parameters[at + 5]
    iu = 1.0 / parameters[at + 3]
    iv = 1.0 / parameters[at + 4]
    value = slope[to]
    of_radial = slope[to + 1]
    of_tangential = slope[to + 2]
    of_sigma_u = slope[to + 3]
    of_sigma_v = slope[to + 4]
    of_mixing = slope[to + 5]
    stretch = 1.0
    if axes[k, 4] != 0.0:
        stretch = radial / axes[k, 0]
        start = axes[k, 1]
        moved = parameters[at + 2] / axes[k, 0]
        radius, eta = pixels[2], pixels[3]
        for i in range(n):
            turn = eta[first + i] - start
            turn = turn - 2.0 * math.pi if turn > math.pi else turn
            turn = turn + 2.0 * math.pi if turn < -math.pi else turn
            turn -= moved
            of_radial[i] = turn
            of_sigma_u[i] = (radius[first + i] - radial) * iu
            of_sigma_v[i] = radial * turn * iv
    else:
        cos, sin, tangential = axes[k, 2], axes[k, 3], parameters[at + 2]
        x, y = pixels[0], pixels[1]
        for i in range(n):
            of_radial[i] = 0.0
            of_sigma_u[i] = (x[first + i] * cos + y[first + i] * sin - radial) * iu
            of_sigma_v[i] = (y[first + i] * cos - x[first + i] * sin - tangential) * iv
    for i in range(n):
        of_mixing[i] = math.exp(-0.5 * (of_sigma_u[i] * of_sigma_u[i] + of_sigma_v[i] * of_sigma_v[i]))
    for i in range(n):
        su = of_sigma_u[i]
        sv = of_sigma_v[i]
        gauss = of_mixing[i]
        du = _LORENTZ + su * su
        dv = _LORENTZ + sv * sv
        inverse = 1.0 / (du * dv)
        lorentz = _LORENTZ * _LORENTZ * inverse
        gaussian = (1.0 - mixing) * gauss
        twice = 2.0 * mixing * lorentz * inverse
        along_u = height * su * iu * (gaussian + twice * dv)
        along_v = height * sv * iv * (gaussian + twice * du)
        one = gaussian + mixing * lorentz
        value[i] = one
        of_radial[i] = along_u - along_v * of_radial[i]
        of_tangential[i] = along_v * stretch
        of_sigma_u[i] = along_u * su
        of_sigma_v[i] = along_v * sv
        of_mixing[i] = height * (lorentz - gauss)
        total[i] += height * one


@njit(nogil=True, cache=True)
def _add_profile(parameters: Array, axes: Array, k: int, pixels: Array, total: Array, slope: Array) -> None:
    """Add peak k at the first len(total) pixels to total."""
    for first in range(0, len(total), CHUNK):
        n = min(CHUNK, len(total) - first)
        profile(parameters, axes, k, pixels, first, n, total[first : first + n], slope, 0)


@njit(nogil=True, cache=True)
def normal_equations(
    parameters: Array,
    axes: Array,
    n_peaks: int,
    pixels: Array,
    value: Array,
    fixed: Array,
    offset: float,
    slope: Array,
    gradient: Array,
    curvature: Array,
) -> float:
    """Return half the deviance of the shifted counts; write its gradient and its expected curvature (lower half).

    ``value + offset`` is taken for a Poisson variable of mean ``fixed + model + offset``. slope (m + 3, CHUNK) is
    scratch, m parameters.
    """
    m = 1 + OF_A_PEAK * n_peaks
    gradient[:m] = 0.0
    for a in range(m):
        for b in range(a + 1):
            curvature[a, b] = 0.0
    mean = np.empty(CHUNK)
    weight = np.empty(CHUNK)
    pull = np.empty(CHUNK)
    cost = 0.0
    for first in range(0, len(value), CHUNK):
        n = min(CHUNK, len(value) - first)
        for i in range(n):
            mean[i] = parameters[0] + fixed[first + i] + offset
            slope[0, i] = 1.0
        for k in range(n_peaks):
            profile(parameters, axes, k, pixels, first, n, mean, slope, 1 + OF_A_PEAK * k)
        for i in range(n):
            counts = max(value[first + i] + offset, 0.0)
            weight[i] = 1.0 / mean[i]
            pull[i] = 1.0 - counts * weight[i]
            cost += mean[i] - counts
            if counts > 0.0:
                cost += counts * math.log(counts * weight[i])
        _add_products(slope, weight, pull, m, n, gradient, curvature)
    return cost


@njit(nogil=True, cache=True)
def _add_products(slope: Array, weight: Array, pull: Array, m: int, n: int, gradient: Array, curvature: Array) -> None:
    """Add slope . pull to gradient and the lower half of slope . weight . slope to curvature, rows of n pixels."""
    scaled = np.empty(CHUNK)
    for a in range(m):
        along = slope[a]
        total = 0.0
        for i in range(n):
            scaled[i] = weight[i] * along[i]
        for i in range(n):
            total += pull[i] * along[i]
        gradient[a] += total
        # Four sums at once: one alone would wait for each addition before the next.
        for b in range(0, a + 1, 4):
            one, two, three, four = slope[b], slope[b + 1], slope[b + 2], slope[b + 3]
            t1 = t2 = t3 = t4 = 0.0
            for i in range(n):
                t1 += scaled[i] * one[i]
                t2 += scaled[i] * two[i]
                t3 += scaled[i] * three[i]
                t4 += scaled[i] * four[i]
            curvature[a, b] += t1
            if b + 1 <= a:
                curvature[a, b + 1] += t2
            if b + 2 <= a:
                curvature[a, b + 2] += t3
            if b + 3 <= a:
                curvature[a, b + 3] += t4


@njit(nogil=True, cache=True)
def _factor(matrix: Array, n: int) -> bool:
    """Cholesky in place of the lower half; tell whether the matrix is positive definite."""
    for j in range(n):
        pivot = matrix[j, j]
        for k in range(j):
            pivot -= matrix[j, k] * matrix[j, k]
        if not pivot > 0.0 or not math.isfinite(pivot):
            return False
        pivot = math.sqrt(pivot)
        matrix[j, j] = pivot
        for i in range(j + 1, n):
            rest = matrix[i, j]
            for k in range(j):
                rest -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = rest / pivot
    return True


@njit(nogil=True, cache=True)
def _solve(factor: Array, n: int, vector: Array) -> None:
    for i in range(n):
        for k in range(i):
            vector[i] -= factor[i, k] * vector[k]
        vector[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            vector[i] -= factor[k, i] * vector[k]
        vector[i] /= factor[i, i]


@njit(nogil=True, cache=True)
def _bounded_step(
    parameters: Array,
    low: Array,
    high: Array,
    gradient: Array,
    curvature: Array,
    damping: float,
    free: Array,
    n: int,
    step: Array,
    system: Array,
    vector: Array,
) -> bool:
    """Solve for the step of the free parameters; those that would leave their bounds go to them, and it starts anew."""
    m = len(gradient)
    while n > 0:
        for a in range(n):
            i = free[a]
            vector[a] = -gradient[i]
            for j in range(m):
                if step[j] != 0.0:
                    vector[a] -= (curvature[i, j] if j <= i else curvature[j, i]) * step[j]
            for b in range(a + 1):
                system[a, b] = curvature[i, free[b]]
            system[a, a] *= 1.0 + damping
        if not _factor(system, n):
            return False
        _solve(system, n, vector)
        kept = 0
        for a in range(n):
            i = free[a]
            goal = parameters[i] + vector[a]
            if goal < low[i]:
                step[i] = low[i] - parameters[i]
            elif goal > high[i]:
                step[i] = high[i] - parameters[i]
            else:
                vector[kept] = vector[a]
                free[kept] = i
                kept += 1
        if kept == n:
            for a in range(n):
                step[free[a]] = vector[a]
            return True
        n = kept
    return True


@njit(nogil=True, cache=True)
def minimise(
    parameters: Array,
    low: Array,
    high: Array,
    axes: Array,
    n_peaks: int,
    pixels: Array,
    value: Array,
    fixed: Array,
    offset: float,
    max_steps: int,
    curvature: Array,
) -> tuple[int, float]:
    """Levenberg-Marquardt between bounds: parameters that press against one are held for that step.

    Returns CONVERGED, ITERATION_CAP or SINGULAR, and half the deviance.
    """
    m = 1 + OF_A_PEAK * n_peaks
    slope = np.zeros((m + 3, CHUNK))
    gradient = np.empty(m)
    new_gradient = np.empty(m)
    new_curvature = np.empty((m, m))
    system = np.empty((m, m))
    step = np.empty(m)
    trial = np.empty(m)
    vector = np.empty(m)
    free = np.empty(m, np.int64)
    cost = normal_equations(parameters, axes, n_peaks, pixels, value, fixed, offset, slope, gradient, curvature)
    if not math.isfinite(cost):
        return SINGULAR, cost
    damping = 1e-3
    growth = 2.0
    for _ in range(max_steps):
        n = 0
        for i in range(m):
            step[i] = 0.0
            at_low = parameters[i] <= low[i] and gradient[i] > 0.0
            at_high = parameters[i] >= high[i] and gradient[i] < 0.0
            if not (at_low or at_high) and curvature[i, i] > 0.0:
                free[n] = i
                n += 1
        if not _bounded_step(parameters, low, high, gradient, curvature, damping, free, n, step, system, vector):
            damping *= growth
            growth *= 2.0
            if damping > _LARGEST_DAMPING:
                return SINGULAR, cost
            continue
        for i in range(m):
            trial[i] = min(max(parameters[i] + step[i], low[i]), high[i])
            step[i] = trial[i] - parameters[i]
        promised = 0.0
        for a in range(m):
            along = 0.5 * curvature[a, a] * step[a]
            for b in range(a):
                along += curvature[a, b] * step[b]
            promised -= step[a] * (gradient[a] + along)
        if abs(promised) <= _TOLERANCE * (1.0 + cost) and (damping <= 1e-2 or promised == 0.0):
            return CONVERGED, cost
        new_cost = normal_equations(
            trial, axes, n_peaks, pixels, value, fixed, offset, slope, new_gradient, new_curvature
        )
        if new_cost < cost:
            gain = (cost - new_cost) / promised
            cost = new_cost
            for i in range(m):
                parameters[i] = trial[i]
                gradient[i] = new_gradient[i]
                for j in range(i + 1):
                    curvature[i, j] = new_curvature[i, j]
            damping = max(damping * max(1.0 / 3.0, 1.0 - (2.0 * gain - 1.0) ** 3), _LEAST_DAMPING)
            growth = 2.0
        else:
            damping *= growth
            growth *= 2.0
            if damping > _LARGEST_DAMPING:
                return CONVERGED, cost
    return ITERATION_CAP, cost


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _too_large(g: int, start: Array, peak_start: Array) -> bool:
    return start[g + 1] - start[g] > MOST_PIXELS or peak_start[g + 1] - peak_start[g] > MOST_PEAKS


@njit(nogil=True, cache=True)
def _place(pixels: Array, n: int, x: float, y: float) -> None:
    pixels[0, n] = x
    pixels[1, n] = y
    pixels[2, n] = math.sqrt(x * x + y * y)
    pixels[3, n] = math.atan2(y, x)


@njit(nogil=True, cache=True)
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
    slope = np.empty((OF_A_PEAK, CHUNK))
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
                some_pixels[:, m] = pixels[:, i]
                some_counts[m] = counts[i]
                m += 1
            held[:m] = 0.0
            for p in range(n_peaks):
                if cluster[p] < c or (sweep > 0 and cluster[p] > c):
                    _add_profile(parameters, axes, p, some_pixels, held[:m], slope)
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


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _apart(parameters: Array, axes: Array, p: int, q: int) -> float:
    """Return the distance of two starting points over the sum of the sizes there."""
    a, b = 1 + OF_A_PEAK * p, 1 + OF_A_PEAK * q
    x = axes[p, 0] * axes[p, 2] - axes[q, 0] * axes[q, 2]
    y = axes[p, 0] * axes[p, 3] - axes[q, 0] * axes[q, 3]
    size = math.hypot(parameters[a + 3], parameters[a + 4]) + math.hypot(parameters[b + 3], parameters[b + 4])
    return math.hypot(x, y) / size


@njit(nogil=True, cache=True)
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
    slope = np.empty((OF_A_PEAK, CHUNK))
    for k in range(n_peaks):
        _add_profile(parameters, axes, k, pixels, held, slope)
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
    regular = _factor(system, n)
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
            _solve(system, n, unit)
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
        one[7] = height * su * sv * (2.0 * math.pi * (1.0 - mixing) + math.pi * math.pi * _LORENTZ * mixing)
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
