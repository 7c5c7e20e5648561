"""Roles: the event, then the first event of another stream, then a configuration, then the start document."""

import math
from typing import Any

import pytest

from hedmlive.callbacks import load_settings
from hedmlive.callbacks.roles import Roles


def roles(start: dict[str, Any] | None = None, **changes: Any) -> Roles:
    return Roles(
        load_settings(
            {
                "roles": {"omega": "rot", "energy": "e"},
                "detectors": [{"name": "d", "image": "d_image"}],
                "recipe": {"threshold": 1},
                "archive": {"folder": "x"},
                **changes,
            }
        ),
        start or {},
    )


def described(name: str, *keys: str, configuration: dict[str, Any] | None = None) -> dict[str, Any]:
    data_keys = {key: {"units": "u", "source": f"ca://{key}"} for key in keys}
    return {"name": name, "data_keys": data_keys, "configuration": configuration or {}}


def test_lookup_order() -> None:
    found = roles({"e": 1.0})
    assert (found.value("energy", {}), found.sources["energy"].where) == (1.0, "start")
    found.descriptor(described("primary", "rot", configuration={"mono": {"data": {"e": 2.0}, "data_keys": {}}}))
    assert (found.value("energy", {}), found.sources["energy"].where) == (2.0, "configuration")
    found.descriptor(described("baseline", "e"))
    found.other_event("baseline", {"e": {"units": "keV", "source": "ca://E"}}, {"e": 3.0})
    found.other_event("baseline", {"e": {}}, {"e": 4.0})  # the reading after the run
    assert (found.value("energy", {}), found.sources["energy"].where) == (3.0, "baseline")
    assert (found.sources["energy"].unit, found.sources["energy"].pv) == ("keV", "ca://E")
    found.descriptor(described("primary", "rot", "e"))
    assert (found.value("energy", {"e": 5.0}), found.sources["energy"].where) == (5.0, "event")
    assert math.isnan(found.value("energy", {}))


@pytest.mark.parametrize("value", [None, "text", [1, 2], math.inf, 10**400, {}])
def test_what_is_no_number(value: Any) -> None:
    assert math.isnan(roles({"e": value}).value("energy", {}))


@pytest.mark.parametrize(
    ("marks", "sign", "wanted"),
    [("start", 1, (10, 10.5)), ("centre", 1, (9.75, 10.25)), ("end", 1, (9.5, 10)), ("start", -1, (-10, -10.5))],
)
def test_omega(marks: str, sign: int, wanted: tuple[float, float]) -> None:
    both = {"omega": "rot", "omega_step": "step"}
    found = roles({"rot": 10.0, "step": 0.5}, roles=both, omega_marks=marks, omega_sign=sign)
    assert found.interval({}) == wanted
