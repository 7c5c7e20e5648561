"""The router: documents of any number of runs in, each to its run; what belongs to no run is named once.

`RunRouter` of event-model makes pages of events and drops references that come before what they refer to; here a
document goes through as it came, for the raw archive keeps it untouched.
"""

from collections.abc import Callable, Mapping
from typing import Any

from .problems import Problems
from .settings import Settings

Receiver = Callable[[str, Mapping[str, Any]], None]
Accept = Callable[[Mapping[str, Any]], Receiver]

_MOST_RUNS = 256
_MOST_STRANGERS = 1000
_UNDECIDED_DOCUMENTS = 1000
_REFERS_BY = {
    "descriptor": ("run_start",),
    "resource": ("run_start",),
    "stream_resource": ("run_start",),
    "stop": ("run_start",),
    "event": ("descriptor",),
    "event_page": ("descriptor",),
    "datum": ("resource",),
    "datum_page": ("resource",),
    "stream_datum": ("descriptor", "stream_resource"),
}


class Router:
    """Sends documents to their runs.

    Parameters
    ----------
    settings
        Streams and detectors, by which a run is ours.
    accept
        Called with the start document of a run that is ours; returns what receives its documents.
    problems
        Where to name what belongs to no run.
    """

    def __init__(self, settings: Settings, accept: Accept, problems: Problems) -> None:
        self._settings = settings
        self._accept = accept
        self._problems = problems
        self._runs: dict[str, _Undecided] = {}
        self._run_of: dict[str, str] = {}
        self._strangers: dict[str, None] = {}

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document."""
        if name == "start":
            self._start(str(doc["uid"]), doc)
        elif name in _REFERS_BY:
            for uid in self._runs_of(name, doc):
                self._runs[uid](name, doc)
                if name == "stop":
                    self._forget(uid)

    def _start(self, uid: str, doc: Mapping[str, Any]) -> None:
        if uid in self._runs:
            self._problems.add("document", "a second start document came; the first counts", run=uid)
            return
        if len(self._runs) >= _MOST_RUNS:
            # Runs that never stopped; the oldest is no longer followed.
            self._forget(next(iter(self._runs)))
        self._runs[uid] = _Undecided(self._settings, doc, self._accept)
        self._runs[uid]("start", doc)

    def _runs_of(self, name: str, doc: Mapping[str, Any]) -> list[str]:
        """Return the runs of a document; a reference that may still be explained goes to all that are open."""
        refers = [str(doc[key]) for key in _REFERS_BY[name] if key in doc]
        known = [self._run_of.get(uid, uid) for uid in refers]
        found = [uid for uid in known if uid in self._runs]
        if found:
            if "uid" in doc and name in ("descriptor", "resource", "stream_resource"):
                self._run_of[str(doc["uid"])] = found[0]
            return found[:1]
        if name in ("resource", "datum", "datum_page") and not ("run_start" in doc and refers):
            # Old resources do not say their run.
            return list(self._runs)
        self._name_stranger(name, doc, refers)
        return []

    def _name_stranger(self, name: str, doc: Mapping[str, Any], refers: list[str]) -> None:
        uid = self._run_of.get(refers[0], refers[0]) if refers else ""
        if "uid" in doc and "run_start" in doc:
            self._run_of[str(doc["uid"])] = uid
        if uid in self._strangers:
            return
        if len(self._strangers) >= _MOST_STRANGERS:
            self._strangers.pop(next(iter(self._strangers)))
        self._strangers[uid] = None
        key = _REFERS_BY[name][0]
        self._problems.add(
            "document",
            f"a {name} document came whose {key} {uid or '(none)'} is unknown: no start document, or it stopped; all "
            "such documents are left out",
            run=uid if key == "run_start" else "",
        )

    def _forget(self, uid: str) -> None:
        self._runs.pop(uid, None)
        self._run_of = {each: run for each, run in self._run_of.items() if run in self._runs or run in self._strangers}


class _Undecided:
    """Keeps the first documents of a run until its stream of frames is described, then passes on all or nothing."""

    def __init__(self, settings: Settings, start: Mapping[str, Any], accept: Accept) -> None:
        self._settings = settings
        self._start = start
        self._accept = accept
        self._images = {detector.image for detector in settings.detectors}
        self._kept: list[tuple[str, Mapping[str, Any]]] | None = []
        self._run: Receiver | None = None

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        if self._run is not None:
            self._run(name, doc)
        elif self._kept is not None:
            # Events before the frames are those of monitors; too many of them are not worth the memory.
            if len(self._kept) < _UNDECIDED_DOCUMENTS or name not in ("event", "event_page"):
                self._kept.append((name, doc))
            if name == "descriptor":
                self._decide(doc)

    def _decide(self, descriptor: Mapping[str, Any]) -> None:
        stream, settings = descriptor.get("name"), self._settings
        ours = not self._images.isdisjoint(descriptor.get("data_keys", ()))
        if stream in (settings.stream, settings.dark_stream) and ours:
            kept, self._kept = self._kept or [], None
            self._run = self._accept(self._start)
            for name, doc in kept:
                self._run(name, doc)
        elif stream == settings.stream:
            self._kept = None
