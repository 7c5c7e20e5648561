"""Numba kernels of a joint fit: the profile with its derivatives, and its optimum; validated by their caller.

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

LORENTZ = 2.0 * math.log(2.0)
"Square of the Lorentzian's half width at half maximum over the Gaussian's sigma, so that both are equally wide."

CONVERGED, ITERATION_CAP, TOO_FEW_PIXELS, AT_BOUND, SINGULAR, TOO_LARGE = range(6)
"What becomes of a peak."

_TOLERANCE = 5e-7
"A fit ends where the next step promises to lower half the deviance by less than this part of it, and of 1."

_LEAST_DAMPING, _LARGEST_DAMPING = 1e-6, 1e10

CHUNK = 128
"Pixels whose derivatives are held at a time, so that they stay in the nearest cache."


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
        du = LORENTZ + su * su
        dv = LORENTZ + sv * sv
        inverse = 1.0 / (du * dv)
        lorentz = LORENTZ * LORENTZ * inverse
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
def add_profile(parameters: Array, axes: Array, k: int, pixels: Array, total: Array, slope: Array) -> None:
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
def factor_of(matrix: Array, n: int) -> bool:
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
def solve(factor: Array, n: int, vector: Array) -> None:
    """Put the solution of factor * factor.T * x = vector into vector; factor is what `factor_of` made."""
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
        if not factor_of(system, n):
            return False
        solve(system, n, vector)
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
