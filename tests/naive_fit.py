"""Slow, obvious twins of the fit: the model from its formula, derivatives by differences, the deviance by its sum."""

import math
from collections.abc import Callable, Sequence

LORENTZ = 2 * math.log(2)


def naive_profile(peak: Sequence[float], start: tuple[float, float], x: float, y: float) -> float:
    """One peak at x, y about the beam centre; peak: height, radial, tangential, sigmas, mixing; start: radius, eta."""
    height, radial, tangential, sigma_radial, sigma_tangential, mixing = peak
    radius, eta = start
    if radius > 20:
        turn = math.atan2(y, x) - eta
        turn = (turn + math.pi) % (2 * math.pi) - math.pi - tangential / radius
        u, v = math.hypot(x, y) - radial, radial * turn
    else:
        u = x * math.cos(eta) + y * math.sin(eta) - radial
        v = y * math.cos(eta) - x * math.sin(eta) - tangential
    a, b = (u / sigma_radial) ** 2, (v / sigma_tangential) ** 2
    gauss = math.exp(-(a + b) / 2)
    lorentz = 1 / ((1 + a / LORENTZ) * (1 + b / LORENTZ))
    return height * (mixing * lorentz + (1 - mixing) * gauss)


def naive_model(parameters: Sequence[float], starts, x: float, y: float) -> float:
    peaks = [parameters[1 + 6 * k : 7 + 6 * k] for k in range(len(starts))]
    return parameters[0] + sum(naive_profile(peak, start, x, y) for peak, start in zip(peaks, starts, strict=True))


def naive_slope(value: Callable[[list[float]], float], at: Sequence[float]) -> list[float]:
    """Derivatives by central differences."""
    slopes: list[float] = []
    step = 1e-5
    for k in range(len(at)):
        up, down = list(at), list(at)
        up[k] += step
        down[k] -= step
        slopes.append((value(up) - value(down)) / (2 * step))
    return slopes


def naive_products(rows: Sequence[float], weight: int, a: int, b: int, c: int, d: int, n: int) -> tuple[float, ...]:
    """Sums of n products: number k goes into the sum of lane k % 16, and the lanes are joined half with half."""
    sums: list[float] = []
    for one, other in ((a, c), (a, d), (b, c), (b, d)):
        lanes = [0.0] * 16
        for k in range(n):
            lanes[k % 16] += rows[weight + k] * rows[one + k] * rows[other + k]
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [x + y for x, y in zip(lanes[:half], lanes[half:], strict=True)]
        sums.append(lanes[0])
    return tuple(sums)


def naive_cost(means: Sequence[float], counts: Sequence[float]) -> float:
    """Half the deviance of Poisson variables."""
    return sum(
        mean - count + (count * math.log(count / mean) if count > 0 else 0)
        for mean, count in zip(means, counts, strict=True)
    )


def naive_near(lit: dict[tuple[int, int], int], group: int, shape: tuple[int, int], width: int) -> set[tuple[int, int]]:
    """Unlit pixels within width steps of a group, through unlit pixels, that touch no lit pixel of another group."""

    def around(pixel: tuple[int, int]) -> set[tuple[int, int]]:
        r, c = pixel
        near = {(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)} - {pixel}
        return {(r, c) for r, c in near if 0 <= r < shape[0] and 0 <= c < shape[1]}

    front = {pixel for pixel, of in lit.items() if of == group}
    found: set[tuple[int, int]] = set()
    for _ in range(width):
        front = {near for pixel in front for near in around(pixel) if near not in lit} - found
        found |= front
    return {pixel for pixel in found if all(lit.get(near, group) == group for near in around(pixel))}
