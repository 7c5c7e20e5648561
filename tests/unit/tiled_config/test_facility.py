"""Settings of a facility's server, its access tags, and which tag a run gets."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from hedmlive.streaming import SettingsError
from hedmlive.tiled_config import read_serve_settings, server_configuration
from hedmlive.tiled_config.facility import SHARED_TAG, facility_configuration
from hedmlive.tiled_config.facility_access import read_access, service_uuid
from hedmlive.tiled_config.facility_tags import RememberedTags
from hedmlive.tiled_config.layout import inherited_tags, run_tags, shared_tags
from hedmlive.tiled_config.preflight_facility import _number_of_nodes as number_of_nodes

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "facility"
SECRETS = {"HEDM_DATABASE_PASSWORD": "p@ss/w%rd", "HEDM_ALICE": "word-a", "HEDM_BOB": "word-b", "HEDM_ROOT": "word-r"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name in ("serve.yml", "access.yml"):
        (tmp_path / name).write_text((EXAMPLE / name).read_text())
    (tmp_path / "secret_key").write_text("signs-sessions-0123456789abcdefgh\n")
    return tmp_path


def facility_of(folder):
    facility = read_serve_settings(folder / "serve.yml").facility
    assert facility is not None
    return facility


def changed(folder, **changes):
    """The settings of the example with keys of the facility changed, and those that are None left out."""
    content = yaml.safe_load((folder / "serve.yml").read_text())
    content["facility"] |= changes
    content["facility"] = {key: value for key, value in content["facility"].items() if value is not None}
    (folder / "serve.yml").write_text(yaml.safe_dump(content))
    return read_serve_settings(folder / "serve.yml")


def test_secrets_come_from_the_environment_and_from_files_and_are_shown_nowhere(folder):
    settings = read_serve_settings(folder / "serve.yml")
    facility = settings.facility
    assert facility is not None
    address = "postgresql://hedmlive:p%40ss%2Fw%25rd@127.0.0.1:5432/hedm_catalogue"
    assert facility.catalogue.get_secret_value() == address
    assert facility.secret_keys[0].get_secret_value() == "signs-sessions-0123456789abcdefgh"
    # Not an address: nothing in it is escaped.
    assert facility.providers[0]["args"]["users_to_passwords"]["alice"] == "word-a"
    assert [word for word in (*SECRETS.values(), "p%40", "signs-") if word in repr(settings) + str(facility)] == []
    assert (facility.access, facility.root_path) == (folder / "access.yml", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"catalogue": "sqlite:///secret.db"}, ["facility.catalogue", "'sqlite'", "postgresql://"]),
        ({"tables": "duckdb:///secret.db"}, ["facility.tables", "'duckdb'", "postgresql://"]),
        ({"accounts": None}, ["facility.accounts", "nothing came"]),
        ({"stream": "memory"}, ["facility.stream", "'memory'", "redis://"]),
        ({"secret_keys": []}, ["facility.secret_keys", "at least 1"]),
        ({"secret_keys": ["secret-and-short"]}, ["facility.secret_keys", "key 0 of 16 characters", "32"]),
        ({"providers": [{"provider": "secret"}]}, ["facility.providers", "authenticator"]),
        ({"pasword": "secret"}, ["facility.pasword", "wanted one of catalogue, tables"]),
        ({"proposal": {"key": "secret"}}, ["facility.proposal.key", "wanted one of keys, prefix"]),
        ({"proposal": {"folders": ["data"]}}, ["facility.proposal.folders", "'data' came", "data/{proposal}"]),
        ({"proposal": {"folders": ["a*/{proposal}"]}}, ["'a*/{proposal}' came", "* for a whole folder"]),
        ({"catalogue": "postgresql://${HEDM_SECRETS}@h/d"}, ["variable HEDM_SECRETS is not set"]),
        ({"secret_keys": ["${file:none}"]}, ["none: cannot be read"]),
    ],
)
def test_what_is_wrong_is_named_and_no_value_shown(folder, changes, words):
    with pytest.raises(SettingsError) as caught:
        changed(folder, **changes)
    message = str(caught.value)
    assert message.startswith(str(folder / "serve.yml"))
    assert [word for word in words if word not in message] == []
    assert "secret.db" not in message
    assert "secret-and-short" not in message
    assert "\n" not in message


def test_a_catalogue_that_is_away_is_not_taken_for_an_empty_one(folder):
    """In which every live message would be another's."""
    facility = changed(folder, catalogue="postgresql://somebody:word@127.0.0.1:9/none").facility
    assert facility is not None
    found = asyncio.run(number_of_nodes(facility))
    assert found is None


def test_the_one_key_of_an_embedded_server_is_refused_beside_a_facility(folder):
    text = (folder / "serve.yml").read_text()
    (folder / "serve.yml").write_text(text + "api_key: 0123456789abcdef\n")
    with pytest.raises(SettingsError, match="hedmlive key"):
        read_serve_settings(folder / "serve.yml")


def test_a_line_that_is_no_yaml_is_numbered_not_shown(tmp_path):
    (tmp_path / "serve.yml").write_text("folder: a\napi_key: [hush\n")
    with pytest.raises(SettingsError, match="not YAML in line 3") as caught:
        read_serve_settings(tmp_path / "serve.yml")
    assert "hush" not in str(caught.value)


def test_the_configuration_differs_in_services_and_users_only(folder):
    facility = facility_of(folder)
    plain = server_configuration(folder, [folder / "data"], "0123456789abcdef")
    made = facility_configuration(plain, facility, folder / "uploads")
    same = {"routers", "media_types", "expose_raw_assets"}
    assert {key: made[key] for key in same} == {key: plain[key] for key in same}
    arguments = made["trees"][0]["args"]
    assert arguments["adapters_by_mimetype"] == plain["trees"][0]["args"]["adapters_by_mimetype"]
    assert arguments["readable_storage"] == plain["trees"][0]["args"]["readable_storage"]
    # Passwords would come onto the command line of another process.
    assert arguments["init_if_not_exists"] is made["database"]["init_if_not_exists"] is False
    # Whoever may look at the root need not know how folders are named.
    assert set(arguments["metadata"]["hedmlive"]["proposal"]) == {"keys", "prefix", "otherwise"}
    assert facility.proposal.folders == (folder / "data/{proposal}", folder / "archives/{proposal}")
    assert made["authentication"]["allow_anonymous_access"] is False
    assert "single_user_api_key" not in made["authentication"]


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLE.iterdir()))
def test_the_page_of_deployment_shows_the_files_that_the_tests_use(name):
    page = EXAMPLE.parents[1] / "docs" / "how-to" / "deployment.md"
    assert f"\n{(EXAMPLE / name).read_text()}```\n" in page.read_text()


# ---------------------------------------------------------------- access tags


def test_publishers_may_write_everywhere_and_readers_look_up_what_is_shared(folder):
    access = read_access(facility_of(folder))
    publisher = str(service_uuid("publisher"))
    assert set(access["tags"]) == {"proposal_1001", "proposal_1002", "commissioning", SHARED_TAG}
    assert set(access["tag_owners"]) == set(access["tags"])
    for tag, each in access["tags"].items():
        (own,) = (user for user in each["users"] if user["name"] == publisher)
        assert {"register", "create:node", "write:data"} <= set(own["scopes"])
        assert {"name": publisher} in access["tag_owners"][tag]["users"]
    shared = {user["name"]: user["scopes"] for user in access["tags"][SHARED_TAG]["users"]}
    # Its data is what is told live: the new nodes of all proposals.
    people = {"alice", "bob", "carol", str(service_uuid("monitor"))}
    assert {name: shared[name] for name in people} == {name: ["read:metadata"] for name in people}
    assert set(shared) == people | {publisher}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "wanted the keys roles, groups and tags"),
        ("tags: [", "not YAML"),
        ("groups: {}", "'tags'"),
        ("tags: {}\nusers: {}", "keys ['users'] came"),
        ("tags: {hedmlive: {}}", "the server's own"),
        ("tags: {commissioning: {groups: [{name: staff, role: reader}]}}", "group 'staff' is not defined"),
        ("tags: {proposal_1: {users: [{name: a, role: reader}]}}", "'commissioning' of proposal.otherwise is missing"),
        ("tags: {commissioning: {users: [{role: reader}]}}", "'name'"),
    ],
)
def test_a_wrong_file_of_access_is_named(folder, text, words):
    facility = facility_of(folder)
    (folder / "access.yml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_access(facility)
    assert str(caught.value).startswith(str(folder / "access.yml"))
    assert words in str(caught.value)


RULE = {"keys": ["proposal_id", "proposal", "proposal.proposal_id"], "prefix": "p-", "otherwise": "rest"}


@pytest.mark.parametrize(
    ("start", "tags"),
    [
        ({"proposal_id": 1001}, ["p-1001"]),
        ({"proposal": "1002", "scan_id": 3}, ["p-1002"]),
        ({"proposal_id": "1", "proposal": "2"}, ["p-1"]),
        ({"proposal": {"proposal_id": "77"}}, ["p-77"]),
        ({"proposal_id": ""}, ["rest"]),
        ({"proposal_id": None}, ["rest"]),
        ({}, ["rest"]),
        ({"tiled_access_tags": ["a", "b"], "proposal_id": 1}, ["a", "b"]),
    ],
)
def test_a_run_gets_the_tag_of_its_proposal(start, tags):
    client = SimpleNamespace(metadata={"hedmlive": {"proposal": RULE}})
    assert run_tags(client, start) == tags


def test_a_server_for_one_user_has_no_tags():
    client = SimpleNamespace(metadata={}, access_tags=[])
    assert run_tags(client, {"proposal_id": 1}) is None
    assert shared_tags(client) is inherited_tags(client) is None


def test_children_get_the_tags_of_their_parent_but_what_all_share():
    assert inherited_tags(SimpleNamespace(access_tags=["p-1", "service:1", SHARED_TAG])) == ["p-1"]
    assert inherited_tags(SimpleNamespace(access_tags=[SHARED_TAG])) is None
    assert shared_tags(SimpleNamespace(access_tags=[SHARED_TAG])) == [SHARED_TAG]
    without = SimpleNamespace(metadata={"hedmlive": {"proposal": RULE | {"otherwise": None}}})
    assert run_tags(without, {}) is None


def test_tags_are_asked_for_once_a_second(monkeypatch):
    asked, now = [], [0.0]

    async def answer(self, tagname, username):
        asked.append((tagname, username))
        return {len(asked)}

    monkeypatch.setattr("tiled.access_control.access_tags.AccessTagsParser.get_scopes_from_tag", answer)
    tags = RememberedTags(clock=lambda: now[0])
    seen = []
    for time, name in ((0.0, "alice"), (0.5, "alice"), (0.9, "bob"), (1.0, "alice")):
        now[0] = time
        seen.append(asyncio.run(tags.get_scopes_from_tag("p-1", name)))
    assert seen == [{1}, {1}, {2}, {3}]
