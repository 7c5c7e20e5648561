"""Guard of omega: whether the rotation goes as the plan says, or as it went in the steps before.

Positions are compared on the circle. A frame that is off waits for the two after it, which tell what it was: a motor
that is stuck, a step that was lost or doubled, a jerk backwards, or a rotation that turns the other way.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .guards_base import Warned

_STEADY = 5
"""Equal moves after which the next one is known without a plan; a scan of shorter lines has no such course."""
_LOOK = 3
"""Frames by which a fault is told from another."""
_LONGEST_SHIFT = 16
"""Steps up to which a jump is a loss; a longer one is the way to another part of the scan."""
_SHORT_BACK = 4
_WHOLE = 0.15
"""What a number of steps may differ from a whole one."""
_MEAN_OF = 32


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read at one point."""

    point: int
    frame: int
    omega: float


@dataclass(frozen=True, slots=True)
class _Fault:
    """What the frames that are off are."""

    kind: str
    "Kind of the warning; empty where it is none."
    text: str = ""
    "What to say."
    shift: int = 0
    "Frames by which the later ones are ahead of their course."


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where omega should be."""

    position: Callable[[int], float]
    "Gives the position of a frame, degrees; NaN if it has none."
    step: float
    "Usual distance of neighbouring positions, degrees."
    relative: bool
    "Whether positions count from the first."


class OmegaGuard:
    """Follows omega from point to point.

    Parameters
    ----------
    tolerance
        How far it may be off, as a fraction of a step.
    period
        Positions so far apart are one, degrees; infinite if none are.
    """

    def __init__(self, tolerance: float, period: float) -> None:
        self._tolerance = tolerance
        self._period = period
        self._last: _Read | None = None
        "The last that was on course."
        self._odd: list[_Read] = []
        self._offset = 0.0
        self._shift = 0
        self._named = ""
        self._move = math.nan
        self._n_moves = 0
        self._lines = 0
        self._plan: Plan | None = None
        self._allowed = 0.0

    def on_course(self, point: int, omega: float) -> bool:
        """Tell whether a position goes on in the steps of those before, where there is no plan."""
        last = self._last
        if last is None or self._n_moves < _STEADY or self._odd:
            return False
        away = self._wrapped(omega - last.omega - self._move * (point - last.point))
        return abs(away) <= self._tolerance * abs(self._move)

    def begin_line(self) -> None:
        """Forget the course: another motor has moved."""
        self._n_moves, self._last = 0, None
        self._odd.clear()

    # With a plan

    def planned(self, point: int, frame: int, omega: float, plan: Plan) -> list[Warned]:
        """Compare a position with its plan.

        Parameters
        ----------
        point, frame
            Where it was read.
        omega
            What was read, degrees.
        plan
            Where it should be.
        """
        now = _Read(point, frame, omega)
        if self._plan is None:
            self._plan = plan
            self._offset = self._wrapped(omega - plan.position(frame)) if plan.relative else 0.0
            self._allowed = self._tolerance * plan.step + 1e-3
        away = self._away(now)
        if math.isnan(away):
            return []
        if abs(away) <= self._allowed:
            found = self._name(back=True) if self._odd else []
            self._last = now
            self._named = self._named if self._named == "omega-sign" else ""
            return found
        if self._named == "omega-sign":
            # Nothing else can be told from it.
            return [Warned(kind="omega-sign", frame=frame)]
        if self._named == "omega-stuck" and self._last is not None:
            if abs(self._wrapped(omega - self._last.omega)) <= self._allowed:
                return [Warned(kind="omega-stuck", frame=frame)]
            # It moves again, and is behind by what it stood still.
            self._named = ""
            self._shift += self._shift_of([now], range(-(point + 1), 0))
            if abs(self._away(now)) <= self._allowed:
                self._last = now
                return []
        self._odd.append(now)
        return self._name(back=False) if len(self._odd) >= _LOOK else []

    def finish(self) -> list[Warned]:
        """Name what is still off at the end of a planned scan; without a plan it may be the beginning of a line."""
        return self._name(back=False) if self._plan is not None and self._odd else []

    def _name(self, *, back: bool) -> list[Warned]:
        """Name the frames that are off; `back` if the next is on course again."""
        odd, self._odd = self._odd, []
        fault = self._fault(odd, back=back)
        self._named = fault.kind
        if fault.kind in ("omega-missing", "omega-repeated", "omega-backwards"):
            self._shift += fault.shift
            self._last = odd[-1]
            return [Warned(kind=fault.kind, text=fault.text, frame=odd[0].frame)]
        if fault.kind == "omega-stuck":
            self._last = odd[-1]
        return [Warned(kind=fault.kind, text=fault.text, frame=each.frame) for each in odd]

    def _fault(self, odd: list[_Read], *, back: bool) -> _Fault:
        allowed, last, first = self._allowed, self._last, odd[0]
        way = ([] if last is None else [last]) + odd
        moves = [(self._wrapped(b.omega - a.omega), self._wanted(b) - self._wanted(a)) for a, b in pairwise(way)]
        moves = [(went, self._wrapped(wanted)) for went, wanted in moves if abs(self._wrapped(wanted)) > allowed]
        stands = [abs(went) <= min(allowed, 0.5 * abs(wanted)) for went, wanted in moves]
        if len(stands) > 1 and all(stands):
            return _Fault("omega-stuck", f"omega stays at {first.omega:.6g} degrees, and the plan moves it on")
        if len(odd) >= _LOOK and len(moves) > 1 and all(abs(went + wanted) <= 2 * allowed for went, wanted in moves):
            reads = ", ".join(f"{each.omega:.6g}" for each in odd)
            return _Fault("omega-sign", f"omega turns the other way than the plan: {reads} degrees")
        off_plan = _Fault("off-plan", f"{self._away(first):.4g}")
        if last is None or not moves:
            return off_plan
        shift = 0 if back else self._shift_of(odd, range(-_LONGEST_SHIFT, _LONGEST_SHIFT + 1))
        if not back and not shift:
            return off_plan
        went, wanted = moves[0]
        goes = f"omega goes from {last.omega:.6g} to {first.omega:.6g} degrees"
        if went * wanted < 0 and abs(went) > allowed:
            return _Fault("omega-backwards", f"{goes}, against the plan", shift)
        if stands[0]:
            return _Fault("omega-repeated", f"{goes}, and the plan moves it on", shift)
        if shift > 0:
            return _Fault("omega-missing", f"{goes}: the plan has {shift} more between", shift)
        return off_plan

    def _shift_of(self, odd: Sequence[_Read], shifts: range) -> int:
        """Return by how many frames of the plan all of these are ahead of it; 0 if by none of `shifts`."""
        for shift in sorted(shifts, key=abs):
            moved = [_Read(each.point, each.frame + shift, each.omega) for each in odd]
            if shift and all(abs(self._away(each)) <= self._allowed for each in moved):
                return shift
        return 0

    def _wanted(self, read: _Read) -> float:
        return math.nan if self._plan is None else self._plan.position(read.frame + self._shift) + self._offset

    def _away(self, read: _Read) -> float:
        return self._wrapped(read.omega - self._wanted(read))

    # Without

    def followed(self, point: int, frame: int, omega: float, width: float) -> list[Warned]:
        """Compare a position with the steps before it.

        Parameters
        ----------
        point, frame
            Where it was read.
        omega
            What was read, degrees.
        width
            Signed way during the frame, degrees; 0 or NaN if that is not known.
        """
        now, last = _Read(point, frame, omega), self._last
        if last is None:
            self._last = now
            return []
        gap = max(1, point - last.point)
        if self._n_moves < _STEADY:
            return self._learn(now, self._wrapped(omega - last.omega) / gap, width)
        away = self._wrapped(omega - last.omega - self._move * gap)
        if abs(away) > self._tolerance * abs(self._move):
            self._odd.append(now)
            return self._judge(back=False) if len(self._odd) >= _LOOK else []
        found = self._judge(back=True) if self._odd else []
        self._n_moves = min(self._n_moves + 1, _MEAN_OF)
        self._move += away / gap / self._n_moves
        self._last = now
        return found

    def _learn(self, now: _Read, move: float, width: float) -> list[Warned]:
        self._last = now
        if not abs(move - self._move) <= 0.2 * abs(self._move) or abs(move) < 1e-9:
            self._move, self._n_moves = move, 1 if abs(move) >= 1e-9 else 0
            return []
        self._n_moves += 1
        self._move += (move - self._move) / self._n_moves
        if self._n_moves < _STEADY:
            return []
        self._lines += 1
        # Only the first line: on the way back of a snake the step may be said as before.
        if self._lines == 1 and width * move < 0 and abs(move) < 0.25 * self._period:
            text = f"omega goes by {move:.6g} degrees from frame to frame, and a frame is said to sweep {width:.6g}"
            return [Warned(kind="omega-sign", text=text, frame=now.frame)]
        return []

    def _judge(self, *, back: bool) -> list[Warned]:
        """Name the frames that are off the steps before them, or take them for the beginning of another line."""
        odd, self._odd = self._odd, []
        last, move = self._last, self._move
        if last is None:
            return []
        first = odd[0]
        ahead = [self._wrapped(each.omega - last.omega) / move - (each.point - last.point) for each in odd]
        went = self._wrapped(first.omega - last.omega) / move
        stands, small = abs(went) <= 0.1, abs(move) < 0.25 * self._period
        if back:
            if stands:
                text = f"omega is at {first.omega:.6g} degrees as in the frame before, and then goes on"
                return [Warned(kind="omega-repeated", text=text, frame=first.frame)]
            if went < 0 and small:
                text = f"omega goes back from {last.omega:.6g} to {first.omega:.6g} degrees, and on again"
                return [Warned(kind="omega-backwards", text=text, frame=first.frame)]
            return []
        shift = round(ahead[0])
        self._last = odd[-1]
        # Less than a half: the next of several interlaced passes begins between the steps.
        shifted = small and all(abs(each - shift) <= _WHOLE for each in ahead)
        if shifted and -_SHORT_BACK <= shift <= _LONGEST_SHIFT:
            kind = "omega-missing" if shift > 0 else "omega-repeated" if shift == -1 and stands else "omega-backwards"
            text = f"omega goes from {last.omega:.6g} to {first.omega:.6g} degrees, after steps of {move:.6g}"
            return [Warned(kind=kind, text=text, frame=first.frame)]
        if all(abs(self._wrapped(each.omega - last.omega)) <= 0.1 * abs(move) for each in odd):
            text = f"omega stays at {first.omega:.6g} degrees, after steps of {move:.6g}"
            return [Warned(kind="omega-stuck", text=text, frame=each.frame) for each in odd]
        self._n_moves, self._move = 0, self._wrapped(odd[-1].omega - odd[-2].omega)
        return []

    def _wrapped(self, degrees: float) -> float:
        if math.isinf(self._period) or math.isnan(degrees):
            return degrees
        return degrees - self._period * math.floor(degrees / self._period + 0.5)
