"""Settings of ``hedmlive serve``: which folder, on which address, behind which key."""

import ipaddress
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from ..streaming import SettingsError
from .facility import FacilitySettings, ProposalSettings, with_secrets

KEY_VARIABLE = "HEDMLIVE_TILED_KEY"
"""Environment variable that holds the key, so that it need not stand in a file."""

KEY_LENGTH = 16
"""Shortest key that is taken: 16 random letters and digits cannot be guessed over a network."""

LOOPBACK = "127.0.0.1"


class ServeSettings(BaseModel):
    """What to serve, where, and who may come in. Relative paths start at the settings file's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    "Folder of the catalogue, the tables and the uploaded arrays; made if missing."
    readable: tuple[Path, ...] = ()
    "Folders of the archives and the detector's files; no file outside of them is served."
    archives: tuple[Path, ...] = ()
    "Folders whose raw and reduced archives are served as they are; their files are readable, too."
    hand_over: bool = True
    "Whether tables that were published live are served from the archives in these folders when the run is over."
    keep_rows: float = Field(default=60.0, ge=1.0)
    "Seconds that published rows are kept after the hand-over."
    scan_every: float = Field(default=5.0, ge=0.2)
    "Seconds between two looks into the folders of archives."
    host: str = LOOPBACK
    "Address to listen on. Anything but this machine's own needs `allow_remote` too."
    port: int = Field(default=8000, ge=0, le=65535)
    "Port; 0 takes a free one."
    allow_remote: bool = False
    "True lets other machines connect. Traffic is not encrypted: put a TLS proxy in front."
    api_key: SecretStr | None = None
    "The key, at least 16 letters and digits. Better in the environment (HEDMLIVE_TILED_KEY) or the key file."
    keyfile: Path | None = None
    "File of the key, readable by its owner only; made if missing. Default: ``api_key`` in `folder`."
    facility: FacilitySettings | None = None
    "PostgreSQL, Redis, users and access tags; absent, it is a server for one user, in files below `folder`."

    @field_validator("api_key")
    @classmethod
    def _good_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_key(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _said_remote(self) -> "ServeSettings":
        check_host(self.host, allow_remote=self.allow_remote)
        if self.facility is not None and (self.api_key or self.keyfile):
            raise ValueError("api_key or keyfile came beside facility; keys of a facility are made by `hedmlive key`")
        return self

    def below(self, base: Path) -> "ServeSettings":
        """Return the same settings with every path made absolute, from `base`."""
        return self.model_copy(
            update={
                "folder": base / self.folder,
                "readable": tuple(base / path for path in self.readable),
                "archives": tuple(base / path for path in self.archives),
                "keyfile": None if self.keyfile is None else base / self.keyfile,
                "facility": None if self.facility is None else self.facility.below(base),
            }
        )

    def find_key(self) -> str:
        """Return the key: from the settings, the environment, or the key file (made if missing).

        Raises
        ------
        SettingsError
            The key is too short, or others may read its file.
        """
        if self.api_key is not None:
            return self.api_key.get_secret_value()
        if KEY_VARIABLE in os.environ:
            try:
                return check_key(os.environ[KEY_VARIABLE])
            except ValueError as error:
                raise SettingsError(f"environment variable {KEY_VARIABLE}: {error}") from None
        return _key_of_file(self.keyfile or self.folder / "api_key")


def check_key(key: str) -> str:
    """Return the key; raise `ValueError` if it is short or holds anything but letters and digits."""
    if len(key) < KEY_LENGTH or not (key.isascii() and key.isalnum()):
        # The key itself must not come into a message, which may come into a log.
        raise ValueError(f"a key of {len(key)} characters came; wanted at least {KEY_LENGTH} letters and digits")
    return key


def check_host(host: str, *, allow_remote: bool) -> None:
    """Raise `ValueError` if other machines could connect and nobody said so."""
    if allow_remote or host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise ValueError(f"host {host!r} is open to other machines; wanted {LOOPBACK}, or allow_remote: true beside it")


def _key_of_file(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_key(path)
    except OSError as error:
        raise SettingsError(f"key file {path} cannot be made: {error.strerror}") from error
    key = secrets.token_hex(32)
    with os.fdopen(handle, "w") as file:
        file.write(key + "\n")
    return key


def _read_key(path: Path) -> str:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise SettingsError(f"key file {path} has mode {mode:04o}, so that others may use it; wanted 0600: chmod it")
    try:
        return check_key(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise SettingsError(f"key file {path}: {error}") from None


def read_serve_settings(config: Mapping[str, Any] | Path | str) -> ServeSettings:
    """Return the settings in a mapping or a YAML file.

    Raises
    ------
    SettingsError
        The file cannot be read, or a key is missing, foreign or of the wrong kind.
    """
    if isinstance(config, Mapping):
        return _validated("settings of the server", config, Path.cwd())
    path = Path(config).absolute()
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        # Not the line itself, which may hold a key.
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        raise SettingsError(f"{path}: not YAML{place}: {problem}") from None
    if not isinstance(content, Mapping):
        raise SettingsError(f"{path}: {type(content).__name__} came; wanted a mapping with the key folder")
    return _validated(str(path), content, path.parent)


def _validated(source: str, content: Mapping[str, Any], base: Path) -> ServeSettings:
    try:
        if "facility" in content:
            content = {**content, "facility": with_secrets(content["facility"], base)}
        return ServeSettings.model_validate(content).below(base)
    except SettingsError as error:
        raise SettingsError(f"{source}: {error}") from None
    except ValidationError as error:
        problems = "; ".join(_problem(dict(one)) for one in error.errors())
        raise SettingsError(f"{source}: {problems}") from None


def _problem(error: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{key}: nothing came; wanted a value"
    if error["type"] == "extra_forbidden":
        return f"{key}: not a setting of the server; wanted one of {', '.join(_fields(error['loc'][:-1]))}"
    wanted = str(error["msg"]).removeprefix("Value error, ")
    # Neither a key nor a whole mapping, which holds it, belongs in a message.
    secret = key in ("", "api_key") or key.partition(".")[0] == "facility"
    came = "" if secret else f"{error['input']!r} came; "
    return f"{key or 'host'}: {came}{wanted}"


def _fields(place: Sequence[Any]) -> tuple[str, ...]:
    model = {(): ServeSettings, ("facility",): FacilitySettings}.get(tuple(place), ProposalSettings)
    return tuple(model.model_fields)
