"""What went wrong without stopping anything: each problem names its run and frame, and is counted."""

import logging
import threading
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

logger = logging.getLogger("hedmlive")

_KEPT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that went wrong."""

    kind: str
    "Short name, such as `frame-missing`."
    run: str
    "uid of the run, empty if none is known."
    frame: int | None
    "Number of the frame, if it is about one."
    message: str
    "One line: what came, what was wanted, what to do."
    times: int = 1
    "How many frames showed it, so far."
    last: int | None = None
    "Number of the last of them, if there were several."
    warning: bool = False
    "Whether a guard of metadata said it: nothing went wrong with the reduction, but what was measured looks wrong."

    def __str__(self) -> str:
        frame = "" if self.frame is None else f", frame {self.frame}"
        more = "" if self.last is None else f" ({self.times} frames, the last is {self.last})"
        return f"run {self.run[:8] or '(none)'}{frame}: {self.message}{more}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, as archives and Tiled keep it."""
        return {name: getattr(self, name) for name in ("kind", "frame", "last", "times", "message")}


class Problems:
    """Problems of one run, or of none. Every one is counted and logged; the first thousand are kept whole."""

    def __init__(self, run: str = "") -> None:
        self._run = run
        self.kept: list[Problem] = []
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._warned: dict[tuple[str, str], int] = {}

    def add(self, kind: str, message: str, frame: int | None = None, *, run: str = "") -> None:
        """Note a problem; `run` if it is not the run that all are of."""
        self._keep(Problem(kind=kind, run=run or self._run, frame=frame, message=" ".join(message.split())))

    def _keep(self, problem: Problem) -> int:
        """Return where it is kept; -1 if there are too many."""
        with self._lock:
            self.counts[problem.kind] += 1
            if len(self.kept) >= _KEPT:
                return -1
            self.kept.append(problem)
            at = len(self.kept) - 1
        logger.warning("%s", problem)
        return at

    def repeat(self, kind: str, times: int = 1) -> None:
        """Count a problem whose message was told already."""
        self.counts[kind] += times

    def warn(self, kind: str, cause: str, message: str, frame: int | None = None) -> bool:
        """Note what a guard saw; of each cause the first is told, and all are counted. Return whether it was told."""
        at = self._warned.get((kind, cause))
        if at is None:
            problem = Problem(kind=kind, run=self._run, frame=frame, message=" ".join(message.split()), warning=True)
            self._warned[kind, cause] = self._keep(problem)
            return True
        self.counts[kind] += 1
        if at >= 0:
            old = self.kept[at]
            self.kept[at] = replace(old, times=old.times + 1, last=old.last if frame is None else frame)
        return False

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What guards said, in the order of frames: the same in a replay, whatever came first."""
        said = [problem for problem in list(self.kept) if problem.warning]
        return tuple(sorted(said, key=lambda each: (-1 if each.frame is None else each.frame, each.kind, each.message)))

    def lines(self) -> list[str]:
        """Return the problems as text, as the archives keep them."""
        dropped = sum(self.counts.values()) - sum(problem.times for problem in list(self.kept))
        return [str(problem) for problem in self.kept] + ([f"and {dropped} more"] if dropped else [])
