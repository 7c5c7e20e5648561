"""What went wrong without stopping anything: each problem names its run and frame, and is counted."""

import logging
from collections import Counter
from dataclasses import dataclass

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

    def __str__(self) -> str:
        frame = "" if self.frame is None else f", frame {self.frame}"
        return f"run {self.run[:8] or '(none)'}{frame}: {self.message}"


class Problems:
    """Problems of one run, or of none. Every one is counted and logged; the first thousand are kept whole."""

    def __init__(self, run: str = "") -> None:
        self._run = run
        self.kept: list[Problem] = []
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, message: str, frame: int | None = None, *, run: str = "") -> None:
        """Note a problem; `run` if it is not the run that all are of."""
        problem = Problem(kind=kind, run=run or self._run, frame=frame, message=" ".join(message.split()))
        self.counts[kind] += 1
        if len(self.kept) < _KEPT:
            self.kept.append(problem)
            logger.warning("%s", problem)

    def repeat(self, kind: str, times: int = 1) -> None:
        """Count a problem whose message was told already."""
        self.counts[kind] += times

    def lines(self) -> list[str]:
        """Return the problems as text, as the archives keep them."""
        dropped = sum(self.counts.values()) - len(self.kept)
        return [str(problem) for problem in self.kept] + ([f"and {dropped} more"] if dropped else [])
