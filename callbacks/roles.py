"""Roles: which data key means what, and where its value was found.

A role's data key is looked for in the event of the frame itself, then in the first event of any other stream (the
baseline), then in the configuration of a device, then in the start document. The first event, not the latest: a
baseline is read before and after a run, and which of the two had arrived must not matter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSource:
    """Where a role's value comes from."""

    key: str
    "Data key."
    where: str
    "`event`, the name of another stream, `configuration` or `start`."
    unit: str
    "Unit as the document says it, empty if it does not."
    pv: str
    "Source as the document says it, with the PV; empty if it does not."


class Roles:
    """Finds the values of the roles in the documents of one run."""

    def __init__(self, settings: Settings, start: Mapping[str, Any]) -> None:
        self._settings = settings
        self._start = start
        self._other: dict[str, tuple[Any, RoleSource]] = {}
        self._configuration: dict[str, tuple[Any, RoleSource]] = {}
        self._event_keys: dict[str, RoleSource] = {}
        self.sources: dict[str, RoleSource] = {}
        for role, key in settings.roles.items():
            if key in start:
                self.sources[role] = RoleSource(key=key, where="start", unit="", pv="")

    def descriptor(self, doc: Mapping[str, Any]) -> None:
        """Learn the keys, units and configuration of a stream."""
        stream = str(doc.get("name", ""))
        for device in doc.get("configuration", {}).values():
            data, described = device.get("data", {}), device.get("data_keys", {})
            for key, value in data.items():
                self._configuration[key] = (value, _source(key, "configuration", described.get(key, {})))
        if stream == self._settings.stream:
            for key, described in doc["data_keys"].items():
                self._event_keys[key] = _source(key, "event", described)
        self._find_sources()

    def other_event(self, stream: str, keys: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Learn the values of an event of another stream; only the first of each key counts."""
        for key in set(self._settings.roles.values()) & set(data):
            if key not in self._other:
                self._other[key] = (data[key], _source(key, stream, keys.get(key, {})))
        self._find_sources()

    @property
    def missing(self) -> tuple[str, ...]:
        """Roles that nothing has named so far."""
        return tuple(role for role in self._settings.roles if role not in self.sources)

    @property
    def from_events(self) -> tuple[str, ...]:
        """Roles whose value comes with each frame's own event."""
        return tuple(role for role, source in self.sources.items() if source.where == "event")

    def value(self, role: str, data: Mapping[str, Any]) -> float:
        """Return a scalar role's value for a frame whose event holds data; NaN if it never came."""
        return _number(self.raw(role, data))

    def raw(self, role: str, data: Mapping[str, Any]) -> Any:
        """Return a role's value as it came; None if it never came."""
        key = self._settings.roles.get(role, "")
        if key in self._event_keys:
            return data.get(key)
        for place in (self._other, self._configuration):
            if key in place:
                return place[key][0]
        return self._start.get(key)

    def interval(self, data: Mapping[str, Any]) -> tuple[float, float]:
        """Return omega at the start and the end of a frame, degrees; NaN where it never came."""
        sign = self._settings.omega_sign
        if "omega_start" in self._settings.roles:
            return sign * self.value("omega_start", data), sign * self.value("omega_end", data)
        omega = self.value("omega", data)
        if self._settings.omega_marks is None:
            return sign * omega, sign * omega
        step = self.value("omega_step", data)
        start = omega - step * {"start": 0.0, "centre": 0.5, "end": 1.0}[self._settings.omega_marks]
        return sign * start, sign * (start + step)

    def _find_sources(self) -> None:
        for role, key in self._settings.roles.items():
            if key in self._event_keys:
                self.sources[role] = self._event_keys[key]
            elif key in self._other:
                self.sources[role] = self._other[key][1]
            elif key in self._configuration:
                self.sources[role] = self._configuration[key][1]


def _source(key: str, where: str, described: Mapping[str, Any]) -> RoleSource:
    return RoleSource(
        key=key, where=where, unit=str(described.get("units") or ""), pv=str(described.get("source") or "")
    )


def _number(value: Any) -> float:
    # Nearly all are plain, and there are some for each role of each frame: 0.1 us instead of 5.
    if type(value) is float:
        return value if math.isfinite(value) else math.nan
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    # An infinite motor is a broken one, and would spread over everything that is computed with it.
    return float(array.reshape(-1)[0]) if array.size == 1 and np.isfinite(array).all() else math.nan
