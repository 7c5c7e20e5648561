"""What a guard says."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """One frame, or one document, that shows a fault."""

    kind: str
    "Kind of the warning, one of `KINDS`."
    text: str = ""
    "What came and what was wanted; read once for each cause, so that later ones may leave it empty."
    frame: int | None = None
    "Number of the frame that shows it."
    cause: str = ""
    "What tells it from another of its kind."
