"""The preflight of a server's settings: one line for each thing, and no error for what is found."""

from email.utils import formatdate
from typing import Any

import pytest
from typer.testing import CliRunner

from hedmlive.cli.app import app
from hedmlive.streaming import SettingsError
from hedmlive.tiled_config import EmbeddedServer
from hedmlive.tiled_config.preflight import _skew as skew_of
from hedmlive.tiled_config.preflight import check_server, check_settings, skew


def states(checks: Any) -> dict[str, str]:
    return {each.item: each.state for each in checks}


@pytest.fixture
def file(tmp_path):
    (tmp_path / "data").mkdir()
    path = tmp_path / "serve.yml"
    path.write_text("folder: store\nreadable: [data]\nport: 0\n")
    return path


def test_good_settings_have_nothing_bad(file):
    found = states(check_settings(file))
    assert "bad" not in found.values()
    assert {"settings", "tiled", "environment", "address", "folder", "readable", "key", "databases"} <= set(found)


@pytest.mark.parametrize(
    ("text", "item", "state"),
    [
        ("folder: [", "settings", "bad"),
        ("folder: store\nport: 0", "readable", "doubtful"),
        ("folder: store\nreadable: [none]", "readable", "bad"),
        ("folder: store\nreadable: [/]", "readable", "bad"),
        ("folder: store\narchives: [serve.yml]", "archives", "bad"),
        ("folder: serve.yml/store", "folder", "bad"),
        ("folder: store\nport: 0", "port", "doubtful"),
        ("folder: store\nhost: 0.0.0.0\nallow_remote: true\nport: 0", "address", "doubtful"),
        ("folder: store\nkeyfile: open", "key", "bad"),
    ],
)
def test_what_was_seen_to_bite_is_found(file, text, item, state, monkeypatch):
    monkeypatch.delenv("HEDMLIVE_TILED_KEY", raising=False)
    (file.parent / "open").write_text("0123456789abcdef")
    (file.parent / "open").chmod(0o644)
    file.write_text(text)
    assert states(check_settings(file))[item] == state


def test_an_environment_that_overrides_is_found(file, monkeypatch):
    monkeypatch.setenv("TILED_EXPOSE_RAW_ASSETS", "true")
    assert states(check_settings(file))["environment"] == "bad"
    with pytest.raises(SettingsError, match="TILED_EXPOSE_RAW_ASSETS"):
        EmbeddedServer(file.parent / "store")


def test_a_port_that_is_taken_is_found(file):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        file.write_text(f"folder: store\nreadable: [data]\nport: {taken.getsockname()[1]}\n")
        assert states(check_settings(file))["port"] == "doubtful"


@pytest.mark.parametrize(("seconds", "state"), [(0.0, "ok"), (2.0, "ok"), (2.1, "bad"), (300.0, "bad")])
def test_clocks_that_differ_are_found(seconds, state):
    assert skew("clock", seconds).state == state


@pytest.mark.parametrize(("ahead", "state"), [(-300, "bad"), (-4, "bad"), (-3, "ok"), (0, "ok"), (2, "ok"), (3, "bad")])
def test_the_date_of_an_answer_counts_whole_seconds(ahead, state):
    now = 1_800_000_000.0
    assert skew_of("clock", formatdate(now + ahead, usegmt=True), now, now + 0.01).state == state


def test_nobody_there_is_one_line():
    (check,) = check_server("http://127.0.0.1:9", None)
    assert (check.item, check.state) == ("server", "bad")


def test_the_command_says_what_it_wants(file):
    run = CliRunner()
    assert run.invoke(app, ["doctor", "--tiled", str(file)]).exit_code == 0
    assert isinstance(run.invoke(app, ["doctor"]).exception, SettingsError)
    assert isinstance(run.invoke(app, ["doctor", str(file), "--tiled", str(file)]).exception, SettingsError)


def test_a_server_for_one_user_has_no_other_keys(file):
    said = CliRunner().invoke(app, ["key", str(file), "alice"])
    assert isinstance(said.exception, SettingsError)
    assert "one key" in str(said.exception)
