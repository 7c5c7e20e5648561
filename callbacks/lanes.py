"""What the assembler remembers of a stream: its events, and for each detector the images that have come."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .pending import Described

Event = tuple[float, Mapping[str, Any], Mapping[str, Any]]
"""Time, data but for the images, and their time stamps."""

_LONGEST_GAP = 100_000


class Events:
    """The events of one stream that frames still wait for; which of the older ones never came is kept as well."""

    def __init__(self) -> None:
        self.hold_motors = True
        self.n_came = 0
        self.last = 0
        self._known: dict[int, Event] = {}
        self._forgotten = 1
        self._never_came: set[int] = set()

    def __contains__(self, seq_num: int) -> bool:
        return seq_num in self._known

    def __iter__(self) -> Iterator[int]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def add(self, seq_num: int, event: Event) -> str:
        """Note an event; return why it cannot be used, or nothing."""
        if not self.hold_motors:
            # Nothing is joined with these events, so it does not matter when they come.
            self.n_came += 1
            self.last = max(self.last, seq_num)
            return ""
        if seq_num in self._never_came:
            # Its frame was given up, and that was told.
            self._never_came.discard(seq_num)
            self.n_came += 1
            return ""
        if seq_num in self._known or seq_num < self._forgotten:
            return "came twice; the first counts"
        self._known[seq_num] = event
        self.n_came += 1
        self.last = max(self.last, seq_num)
        return ""

    def get(self, seq_num: int) -> Event | None:
        """Return an event, None if it did not come."""
        return self._known.get(seq_num)

    def next_known(self, seq_num: int) -> int | None:
        """Return the first event from a number on."""
        return min((known for known in self._known if known >= seq_num), default=None)

    def forget(self, end: int) -> None:
        """Drop the events before a number, which no frame waits for any more."""
        # Of a long gap only the end is remembered.
        for seq_num in range(max(self._forgotten, end - _LONGEST_GAP), end):
            if self._known.pop(seq_num, None) is None and len(self._never_came) < _LONGEST_GAP:
                self._never_came.add(seq_num)
        if end > self._forgotten + _LONGEST_GAP:
            self._known = {seq_num: event for seq_num, event in self._known.items() if seq_num >= end}
        self._forgotten = max(self._forgotten, end)

    def clear(self) -> None:
        """Drop all."""
        self._known.clear()


@dataclass(slots=True, kw_only=True)
class Lane:
    """The images of one detector in one stream, and how far they have come."""

    key: str
    "Data key."
    is_dark: bool
    "Whether the stream holds darks."
    described: Described = field(default_factory=Described)
    "What the descriptor says."
    external: bool = False
    "Whether the images lie outside the events."
    images: dict[int, tuple[Any, int]] = field(default_factory=dict[int, tuple[Any, int]])
    "seq_num to (image, -1) or (reader, index in its file)."
    lost: dict[int, tuple[str, str]] = field(default_factory=dict[int, tuple[str, str]])
    "seq_num to (why there will be no image, what the reason is told once for)."
    reasons: dict[int, str] = field(default_factory=dict[int, str])
    "seq_num to why there may be no image."
    told: set[str] = field(default_factory=set[str])
    "Reasons that were told."
    next_seq: int = 1
    "seq_num that comes next."
    archived: dict[int, Any] = field(default_factory=dict[int, Any])
    "seq_num to the same image as it lies in the raw archive."

    def add(self, seq_num: int, image: Any, index: int) -> None:
        """Note an image; the first of two counts, and one that comes too late does not."""
        if seq_num >= self.next_seq and seq_num not in self.lost:
            self.images.setdefault(seq_num, (image, index))

    def give_up(self, seq_num: int, why: str, *, once: str = "") -> None:
        """Note that an image will not come."""
        if seq_num >= self.next_seq and seq_num not in self.images:
            self.lost[seq_num] = (why, once)

    def take(self, seq_num: int) -> tuple[Any, int]:
        """Return an image and go on to the next point."""
        self.next_seq = seq_num + 1
        self.reasons.pop(seq_num, None)
        return self.images.pop(seq_num)

    def is_complete(self, seq_num: int, events: Events) -> bool:
        """Tell whether image and motors of a point are there."""
        return seq_num in self.images and (seq_num in events or not events.hold_motors)

    def overtaken(self, events: Events, points: int) -> bool:
        """Tell whether more than so many later points are complete."""
        if not events.hold_motors or len(self.images) <= points:
            return len(self.images) > points
        few, many = (events, self.images) if len(events) < len(self.images) else (self.images, events)
        return sum(seq > self.next_seq and seq in many for seq in few) > points

    def next_known(self, events: Events) -> int:
        """Return the first point from the next on of which anything came; the next but one if there is none."""
        known = [seq for seq in (*self.images, *self.lost) if seq >= self.next_seq]
        event = events.next_known(self.next_seq)
        if event == self.next_seq:
            return self.next_seq + 1
        known += [] if event is None else [event]
        return max(min(known, default=0), self.next_seq + 1)

    def shed(self) -> None:
        """Let go of the arrays of images that have to wait and lie in the raw archive too."""
        for seq_num, image in self.archived.items():
            if seq_num in self.images:
                self.images[seq_num] = (image, -1)
        self.archived.clear()
