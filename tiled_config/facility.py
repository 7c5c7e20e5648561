"""Settings of a facility's server: PostgreSQL, Redis, several users, access tags; and Tiled's configuration of them."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from ..streaming import SettingsError

SHARED_TAG = "hedmlive"
"""Access tag of the root, of ``/raw``, ``/reduced`` and ``/results``: everybody may look up what lies below them."""

SECRET_LENGTH = 32
"""Shortest key that signs sessions: they are valid for days, and can be tried without asking the server."""

_SECRET = re.compile(r"\$\{(?P<file>file:)?(?P<name>[^}]*)\}")
_DATABASES = ("postgresql://",)
_CACHES = ("redis://", "rediss://")


class ProposalSettings(BaseModel):
    """Which access tag the nodes of a run get, from its start document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[str, ...] = ("proposal_id", "proposal")
    "Keys of the start document that may hold the proposal; the first that is there counts. `a.b` looks into a mapping."
    prefix: str = "proposal_"
    "Put before what the key holds: the tag's name in the file of `access`."
    otherwise: str | None = None
    "Tag of runs without a proposal. Absent, only their publisher and administrators see them."
    folders: tuple[Path, ...] = ()
    """Where the files of a proposal lie, as `data/{proposal}`; `*` stands for any one folder. Those of others are not
    opened for it. Absent: a file of `readable` is opened for whichever proposal a publisher registers it."""

    @field_validator("folders")
    @classmethod
    def _of_a_proposal(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for folder in value:
            if not any("{proposal}" in part for part in folder.parts):
                raise ValueError(f"{str(folder)!r} came; wanted {{proposal}} in it, as data/{{proposal}}")
            if any("*" in part and part != "*" for part in folder.parts):
                raise ValueError(f"{str(folder)!r} came; wanted * for a whole folder")
        return value


class FacilitySettings(BaseModel):
    """A server for several users. `${NAME}` is the environment's NAME, `${file:PATH}` what a file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    catalogue: SecretStr
    "PostgreSQL database of the catalogue, as `postgresql://USER:${PASSWORD}@HOST:5432/NAME`."
    tables: SecretStr
    "PostgreSQL database of the published rows."
    accounts: SecretStr
    "PostgreSQL database of users and their keys."
    stream: SecretStr
    "Redis database of live messages, as `redis://HOST:6379/1`: of this catalogue alone."
    stream_seconds: int = Field(default=3600, ge=1)
    "How long a live message is kept for those who join later."
    secret_keys: tuple[SecretStr, ...] = Field(min_length=1)
    "Sign sessions, at least 32 characters each; the first signs, each is accepted. Every server process has the same."
    providers: tuple[dict[str, Any], ...] = Field(min_length=1, repr=False)
    "Who says who somebody is: `authentication.providers` as in Tiled. Names in the file of `access` are the first's."
    admins: tuple[str, ...] = ()
    "Users who see and may do everything."
    access: Path
    "File of roles, groups and tags: who may do what with the runs of a proposal. Read again when it changes."
    publishers: tuple[str, ...] = ("publisher",)
    "Services that write runs; make their keys with `hedmlive key`."
    proposal: ProposalSettings = ProposalSettings()
    "Which tag a run gets."
    root_path: str = ""
    "Path below which a proxy serves this, as `/hedm`, if it takes it away before it asks here."
    trusted_proxies: tuple[str, ...] = ("127.0.0.1",)
    "Addresses whose `X-Forwarded-...` headers are believed."
    allow_origins: tuple[str, ...] = ()
    "Web pages of other servers that may ask this one, as `https://portal.example.org`."
    metrics: bool = True
    "Whether `/api/v1/metrics` answers Prometheus, with a key of the role `metrics`."

    @field_validator("catalogue", "tables", "accounts")
    @classmethod
    def _postgresql(cls, value: SecretStr) -> SecretStr:
        # SQLite and DuckDB fail when several processes write.
        return _begins(value, _DATABASES)

    @field_validator("stream")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        return _begins(value, _CACHES)

    @field_validator("secret_keys")
    @classmethod
    def _long(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(value):
            length = len(key.get_secret_value())
            if length < SECRET_LENGTH:
                raise ValueError(f"key {number} of {length} characters came; wanted at least {SECRET_LENGTH}")
        return value

    @field_validator("providers")
    @classmethod
    def _named(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for each in value:
            if not {"provider", "authenticator"} <= set(each) <= {"provider", "authenticator", "args"}:
                raise ValueError(f"{sorted(each)} came; wanted provider, authenticator and perhaps args")
        return value

    @field_validator("root_path")
    @classmethod
    def _slashes(cls, value: str) -> str:
        stripped = value.strip("/")
        return f"/{stripped}" if stripped else ""

    @property
    def provider(self) -> str:
        """Name of the provider whose names the file of `access` uses."""
        return str(self.providers[0]["provider"])

    def below(self, base: Path) -> "FacilitySettings":
        """Return the same settings with every path made absolute, from `base`."""
        folders = {"folders": tuple(base / path for path in self.proposal.folders)}
        return self.model_copy(
            update={"access": base / self.access, "proposal": self.proposal.model_copy(update=folders)}
        )


def _begins(value: SecretStr, wanted: Sequence[str]) -> SecretStr:
    # Only what stands before the address is told: the rest holds a password.
    if not value.get_secret_value().startswith(tuple(wanted)):
        came = value.get_secret_value().partition(":")[0]
        raise ValueError(f"an address of {came[:20]!r} came; wanted {' or '.join(wanted)}...")
    return value


def with_secrets(content: Any, base: Path) -> Any:
    """Return settings with `${NAME}` and `${file:PATH}` filled in; within addresses what is special is escaped.

    Raises
    ------
    SettingsError
        A variable is not set, or a file cannot be read.
    """
    if isinstance(content, Mapping):
        return {key: with_secrets(value, base) for key, value in content.items()}
    if isinstance(content, list):
        return [with_secrets(value, base) for value in content]
    if not isinstance(content, str):
        return content
    escape: Callable[[str], str] = partial(quote, safe="") if "://" in content.partition("$")[0] else str
    return _SECRET.sub(lambda found: escape(_secret(found["name"], bool(found["file"]), base)), content)


def _secret(name: str, in_file: bool, base: Path) -> str:
    if in_file:
        try:
            return (base / name).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"secret file {base / name}: cannot be read: {error}") from None
    if name not in os.environ:
        raise SettingsError(f"environment variable {name} is not set; the settings of the facility name it")
    return os.environ[name]


def facility_configuration(
    configuration: Mapping[str, Any], facility: FacilitySettings, uploads: Path
) -> dict[str, Any]:
    """Return the configuration of Tiled for a facility.

    Parameters
    ----------
    configuration
        That of the server for one user: adapters, exporters and routes stay as they are.
    facility
        What differs.
    uploads
        Folder of uploaded arrays, which all processes of the server share.
    """
    (tree,) = configuration["trees"]
    catalogue = {
        **tree["args"],
        "uri": facility.catalogue.get_secret_value(),
        # `databases.prepare` did it: Tiled would hand the password to another process on its command line.
        "init_if_not_exists": False,
        "writable_storage": [f"file://localhost{uploads}", facility.tables.get_secret_value()],
        "top_level_access_tags": [SHARED_TAG],
        # Publishers read it, so that no beamline needs to know how tags are named.
        "metadata": {"hedmlive": {"proposal": facility.proposal.model_dump(mode="json", exclude={"folders"})}},
    }
    return {
        **configuration,
        "trees": [{**tree, "args": catalogue}],
        "streaming_cache": {"uri": facility.stream.get_secret_value(), "data_ttl": facility.stream_seconds},
        "authentication": {
            "providers": list(facility.providers),
            "tiled_admins": [{"provider": facility.provider, "id": name} for name in facility.admins],
            "secret_keys": [key.get_secret_value() for key in facility.secret_keys],
            "allow_anonymous_access": False,
        },
        "database": {
            "uri": facility.accounts.get_secret_value(),
            "init_if_not_exists": False,
            "pool_pre_ping": True,
        },
        "access_control": {
            "access_policy": "tiled.access_control.access_policies:TagBasedAccessPolicy",
            "args": {
                "provider": facility.provider,
                "access_tags_parser": f"{__package__}.facility_tags:RememberedTags",
            },
        },
        "uvicorn": {"root_path": facility.root_path},
        "allow_origins": list(facility.allow_origins),
        "metrics": {"prometheus": facility.metrics},
    }
