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
from numpy.typing import NDArray

from .compiled import compiled
from .fit_functions import exp_of, log_of
from .vectors import kernel, sum_products

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

RADIAL, TANGENTIAL, SIGMA_U, SIGMA_V, MIXING = (CHUNK * k for k in range(1, 6))

SCRATCH = 5
"Rows of `normal_equations` beside those of the derivatives."


@kernel(error_model="numpy")
def profile(
    parameters: Array,
    axes: Array,
    k: int,
    pixels: Array,
    first: int,
    n: int,
    total: Array,
    rows: Array,
    to: int,
    power: Array,
) -> None:
    """Add peak k at pixels first ... first + n - 1 to total[:n]; write its derivatives in rows[to : to + 6].

    pixels (4, ...): x, y, radius, eta about the beam centre. power int64 (CHUNK) is scratch. Loops over pixels that
    hold no branch and no call are six times as fast as one that does everything for a pixel.
    """
    at = 1 + OF_A_PEAK * k
    height = parameters[at]
    radial = parameters[at + 1]
    mixing = parameters[at + 5]
    iu = 1.0 / parameters[at + 3]
    iv = 1.0 / parameters[at + 4]
    # Rows at known distances of one array: of eight arrays that could overlap the compiler makes no vectors.
    block = rows[to : to + OF_A_PEAK].reshape(OF_A_PEAK * CHUNK)
    stretch = 1.0
    if axes[k, 4] != 0.0:
        stretch = radial / axes[k, 0]
        start = axes[k, 1]
        moved = parameters[at + 2] / axes[k, 0]
        for i in range(n):
            turn = pixels[3, first + i] - start
            turn = turn - 2.0 * math.pi if turn > math.pi else turn
            turn = turn + 2.0 * math.pi if turn < -math.pi else turn
            turn -= moved
            block[RADIAL + i] = turn
            block[SIGMA_U + i] = (pixels[2, first + i] - radial) * iu
            block[SIGMA_V + i] = radial * turn * iv
    else:
        cos, sin, tangential = axes[k, 2], axes[k, 3], parameters[at + 2]
        for i in range(n):
            x, y = pixels[0, first + i], pixels[1, first + i]
            block[RADIAL + i] = 0.0
            block[SIGMA_U + i] = (x * cos + y * sin - radial) * iu
            block[SIGMA_V + i] = (y * cos - x * sin - tangential) * iv
    for i in range(n):
        su = block[SIGMA_U + i]
        sv = block[SIGMA_V + i]
        block[MIXING + i] = -0.5 * (su * su + sv * sv)
    exp_of(block[MIXING:], n, power)
    for i in range(n):
        su = block[SIGMA_U + i]
        sv = block[SIGMA_V + i]
        gauss = block[MIXING + i]
        du = LORENTZ + su * su
        dv = LORENTZ + sv * sv
        inverse = 1.0 / (du * dv)
        lorentz = LORENTZ * LORENTZ * inverse
        gaussian = (1.0 - mixing) * gauss
        twice = 2.0 * mixing * lorentz * inverse
        along_u = height * su * iu * (gaussian + twice * dv)
        along_v = height * sv * iv * (gaussian + twice * du)
        one = gaussian + mixing * lorentz
        block[i] = one
        block[RADIAL + i] = along_u - along_v * block[RADIAL + i]
        block[TANGENTIAL + i] = along_v * stretch
        block[SIGMA_U + i] = along_u * su
        block[SIGMA_V + i] = along_v * sv
        block[MIXING + i] = height * (lorentz - gauss)
        total[i] += height * one


@kernel()
def add_profile(parameters: Array, axes: Array, k: int, pixels: Array, total: Array, rows: Array, power: Array) -> None:
    """Add peak k at the first len(total) pixels to total."""
    for first in range(0, len(total), CHUNK):
        n = min(CHUNK, len(total) - first)
        profile(parameters, axes, k, pixels, first, n, total[first : first + n], rows, 0, power)


@kernel(error_model="numpy")
def normal_equations(
    parameters: Array,
    axes: Array,
    n_peaks: int,
    pixels: Array,
    value: Array,
    fixed: Array,
    offset: float,
    rows: Array,
    power: Array,
    gradient: Array,
    curvature: Array,
) -> float:
    """Return half the deviance of the shifted counts; write its gradient and its expected curvature (lower half).

    ``value + offset`` is taken for a Poisson variable of mean ``fixed + model + offset``. rows (m + SCRATCH, CHUNK),
    m parameters, and power int64 (CHUNK) are scratch; the first m rows get the derivatives.
    """
    m = 1 + OF_A_PEAK * n_peaks
    gradient[:m] = 0.0
    for a in range(m):
        for b in range(a + 1):
            curvature[a, b] = 0.0
    flat = rows.reshape(rows.size)
    # The products below take rows in pairs, and m is odd.
    rows[m, :] = 0.0
    mean, weight, pull, ratio = rows[m + 1], rows[m + 2], rows[m + 3], rows[m + 4]
    cost = 0.0
    for first in range(0, len(value), CHUNK):
        n = min(CHUNK, len(value) - first)
        for i in range(n):
            mean[i] = parameters[0] + fixed[first + i] + offset
            rows[0, i] = 1.0
        for k in range(n_peaks):
            profile(parameters, axes, k, pixels, first, n, mean, rows, 1 + OF_A_PEAK * k, power)
        for i in range(n):
            weight[i] = 1.0 / mean[i]
            ratio[i] = max(value[first + i] + offset, 0.0) * weight[i]
            pull[i] = 1.0 - ratio[i]
        log_of(ratio, n, power)
        for i in range(n):
            counts = max(value[first + i] + offset, 0.0)
            ratio[i] = mean[i] - counts + counts * ratio[i]
        cost += sum_products(flat, (m + 4) * CHUNK, 0, 0, 0, 0, n)[0]
        _add_products(flat, m, n, gradient, curvature)
    return cost


@kernel()
def _add_products(flat: Array, m: int, n: int, gradient: Array, curvature: Array) -> None:
    """Add rows . pull to gradient and the lower half of rows . weight . rows to curvature, rows of n pixels.

    Two rows with two at a time: four sums for four numbers read. The first row is of ones.
    """
    weight, pull = (m + 2) * CHUNK, (m + 3) * CHUNK
    for a in range(0, m, 2):
        x, y = a * CHUNK, (a + 1) * CHUNK
        t1, _, t3, _ = sum_products(flat, pull, x, y, 0, 0, n)
        gradient[a] += t1
        if a + 1 < m:
            gradient[a + 1] += t3
        for b in range(0, a + 1, 2):
            t1, t2, t3, t4 = sum_products(flat, weight, x, y, b * CHUNK, (b + 1) * CHUNK, n)
            curvature[a, b] += t1
            if b < a:
                curvature[a, b + 1] += t2
            if a + 1 < m:
                curvature[a + 1, b] += t3
                curvature[a + 1, b + 1] += t4


@kernel(error_model="numpy")
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


@kernel(error_model="numpy")
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


@kernel()
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


@compiled()
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
    rows = np.empty((m + SCRATCH, CHUNK))
    power = np.empty(CHUNK, np.int64)
    gradient = np.empty(m)
    new_gradient = np.empty(m)
    new_curvature = np.empty((m, m))
    system = np.empty((m, m))
    step = np.empty(m)
    trial = np.empty(m)
    vector = np.empty(m)
    free = np.empty(m, np.int64)
    cost = normal_equations(parameters, axes, n_peaks, pixels, value, fixed, offset, rows, power, gradient, curvature)
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
            trial, axes, n_peaks, pixels, value, fixed, offset, rows, power, new_gradient, new_curvature
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
