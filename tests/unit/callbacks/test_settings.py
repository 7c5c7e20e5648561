"""Settings: an error names the file, the key, what came and what was wanted."""

from pathlib import Path
from typing import Any

import hostile
import pytest
import yaml

from hedmlive.callbacks import HedmLive, Settings, load_settings
from hedmlive.streaming import SettingsError

WRONG = [
    ({"rolls": {}}, "rolls", "not permitted"),
    ({"detectors": []}, "detectors", "at least 1"),
    ({"detectors": [{"name": "a/b", "image": "x"}]}, "detectors.0.name", "pattern"),
    ({"detectors": [{"name": "a", "image": "x"}] * 2}, "share a name", "a"),
    ({"recipe": {"treshold": 3}}, "treshold", "known are"),
    ({"recipe": {"threshold": -1}}, "threshold is -1", "0 or more"),
    ({"recipe": {"threshold": "high"}}, "recipe", ""),
    ({"recipe": {}}, "recipe", "threshold"),
    ({"worker": {"memory_mb": 0}}, "worker.memory_mb", "greater than 0"),
    ({"omega_marks": "middle"}, "omega_marks", "came 'middle'"),
    ({"omega_marks": None}, "omega_marks", "omega_step"),
    ({"roles": {"omega_start": "a"}, "omega_marks": None}, "omega_end", "belong together"),
    ({"roles": {"omega_step": "a"}}, "omega_step", "needs the role omega"),
    ({"roles": {"omega": "a", "omega_start": "b", "omega_end": "c"}, "omega_marks": None}, "either", "omega"),
    ({"archive": {}}, "", ""),
]


@pytest.mark.parametrize(("change", "key", "wanted"), WRONG[:-1])
def test_errors(change: dict[str, Any], key: str, wanted: str, tmp_path: Path) -> None:
    file = tmp_path / "hedmlive.yml"
    file.write_text(yaml.safe_dump({**hostile.settings(tmp_path), **change}))
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert key in message
    assert wanted in message
    assert "\n" not in message


@pytest.mark.parametrize("content", ["- a list", "a: [", "", "3"])
def test_no_settings_at_all(content: str, tmp_path: Path) -> None:
    file = tmp_path / "hedmlive.yml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=r"hedmlive\.yml"):
        load_settings(file)
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "none.yml")


def test_round_trip(tmp_path: Path) -> None:
    settings = load_settings({"HEDM_LIVE": {"ENABLE": True, **hostile.settings(tmp_path)}})
    assert load_settings(yaml.safe_load(settings.to_json())) == settings
    assert isinstance(settings, Settings)
    assert load_settings(settings) is settings


@pytest.mark.parametrize("key", ["dark", "mask"])
def test_a_file_that_is_not_there_is_known_before_the_scan(key: str, tmp_path: Path) -> None:
    settings = hostile.settings(tmp_path)
    settings["detectors"][0][key] = str(tmp_path / "none.npy")
    with pytest.raises(SettingsError, match=r"none\.npy cannot be read"):
        HedmLive(settings)
