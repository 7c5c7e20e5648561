"""Settings of the server: what is taken, what is refused, and with which words."""

import stat

import pytest
from pydantic import SecretStr

from hedmlive.streaming import HedmLiveError, SettingsError
from hedmlive.tiled_config import EmbeddedServer, ServeSettings, read_serve_settings

KEY = "0123456789abcdef"


def write(tmp_path, text):
    path = tmp_path / "serve.yml"
    path.write_text(text)
    return path


def test_paths_start_at_the_folder_of_the_file(tmp_path):
    settings = read_serve_settings(write(tmp_path, "folder: store\nreadable: [raw, /data]\nkeyfile: key\n"))
    assert settings.folder == tmp_path / "store"
    assert [str(path) for path in settings.readable] == [str(tmp_path / "raw"), "/data"]
    assert settings.keyfile == tmp_path / "key"
    assert settings.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("folder: [", ["not YAML"]),
        ("- folder", ["list came", "mapping"]),
        ("port: 1", ["folder", "nothing came"]),
        ("folder: a\nprot: 1", ["prot", "wanted one of folder, readable"]),
        ("folder: a\nport: web", ["port", "'web' came", "integer"]),
        ("folder: a\nport: 70000", ["port", "70000 came", "65535"]),
        ("folder: a\nhost: 0.0.0.0", ["host '0.0.0.0' is open to other machines", "allow_remote: true"]),
        ("folder: a\nhost: example.org", ["host 'example.org'", "allow_remote"]),
        ("folder: a\napi_key: secret", ["api_key", "6 characters came", "16 letters and digits"]),
        ("folder: a\napi_key: 0123456789-abcdef", ["api_key", "letters and digits"]),
    ],
)
def test_a_bad_file_gives_one_line_with_file_key_and_what_was_wanted(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        read_serve_settings(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.yml: cannot be read"):
        read_serve_settings(tmp_path / "none.yml")


def test_a_key_is_in_no_message_and_no_representation(tmp_path):
    with pytest.raises(SettingsError) as caught:
        read_serve_settings({"folder": "a", "api_key": "not-a-key-of-ours"})
    assert "not-a-key" not in str(caught.value)
    assert KEY not in repr(ServeSettings(folder=tmp_path, api_key=SecretStr(KEY)))


def test_other_machines_may_come_when_it_is_said(tmp_path):
    assert read_serve_settings({"folder": tmp_path, "host": "0.0.0.0", "allow_remote": True}).allow_remote


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_no_word(tmp_path, host):
    assert read_serve_settings({"folder": tmp_path, "host": host}).host == host


def test_the_key_file_is_made_for_its_owner_only_and_read_again(tmp_path, monkeypatch):
    monkeypatch.delenv("HEDMLIVE_TILED_KEY", raising=False)
    settings = ServeSettings(folder=tmp_path / "store")
    key = settings.find_key()
    path = tmp_path / "store" / "api_key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert settings.find_key() == key
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="mode 0640"):
        settings.find_key()


def test_settings_go_before_the_environment_and_that_before_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HEDMLIVE_TILED_KEY", KEY)
    assert ServeSettings(folder=tmp_path).find_key() == KEY
    assert ServeSettings(folder=tmp_path, api_key=SecretStr(KEY[::-1])).find_key() == KEY[::-1]
    monkeypatch.setenv("HEDMLIVE_TILED_KEY", "short")
    with pytest.raises(SettingsError, match="HEDMLIVE_TILED_KEY: a key of 5 characters"):
        ServeSettings(folder=tmp_path).find_key()


@pytest.mark.parametrize("arguments", [{"host": "0.0.0.0"}, {"api_key": "short"}])
def test_an_embedded_server_is_as_strict(tmp_path, arguments):
    with pytest.raises(HedmLiveError, match="embedded server"):
        EmbeddedServer(tmp_path, **arguments)


def test_variables_that_would_override_the_settings_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TILED_STREAMING_CACHE_URI", "redis://elsewhere")
    with pytest.raises(SettingsError, match="TILED_STREAMING_CACHE_URI"):
        EmbeddedServer(tmp_path)
