"""A facility's server over real PostgreSQL and Redis: what arrives, what an outage costs, who is let in."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import hostile
import httpx
import pytest
from digests import archived_digest, served_digest
from services import SECRETS, Facility, facility, idle_until, services, wait
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as open_socket

from hedmlive.callbacks import RunResult, load_settings, make_sink, process
from hedmlive.callbacks.foreign import result_of
from hedmlive.callbacks.replay import process_in_steps
from hedmlive.tiled_config import connect, disconnect, latest_reduction
from hedmlive.tiled_config.facility_access import revoke_key

N_FRAMES = 24
ABNORMAL = 1006
"""What a websocket's end is called that nobody announced."""

CLIENT = """
import sys, time
from hedmlive.tiled_config import connect, latest_reduction
client = connect(sys.argv[1], sys.argv[2])
deadline = time.monotonic() + 90
while time.monotonic() < deadline:
    try:
        uid = next(iter(client["reduced"]))
        reduction = latest_reduction(client, uid)
        n = len(reduction["frames"].read(["frame"]))
    except (KeyError, StopIteration):
        n = 0
    if n:
        print(n, reduction.metadata["status"], flush=True)
        sys.exit(0)
    time.sleep(0.1)
sys.exit("no frame was seen")
"""


@pytest.fixture(scope="module")
def environment() -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def site(environment: None, tmp_path_factory: pytest.TempPathFactory) -> Generator[Facility]:
    with (
        services("hedm_catalogue", "hedm_tables", "hedm_accounts") as (postgres, redis),
        facility(tmp_path_factory.mktemp("site"), postgres, redis) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def keys(site: Facility) -> dict[str, str]:
    made = {
        "publisher": site.key("service:publisher", "publisher"),
        "alice": site.key("alice", "reader"),
        "bob": site.key("bob", "reader"),
        "carol": site.key("carol", "subscriber"),
        "dave": site.key("dave", "reader"),
        "monitor": site.key("service:monitor", "reader"),
        "confined": site.key("service:monitor", "reader", 3600, "proposal_1002"),
        "metrics": site.key("service:prometheus", "metrics"),
        "expired": site.key("alice", "reader", 1),
        "revoked": site.key("alice", "reader"),
        "wrong": "0123456789abcdef" * 4,
        "none": "",
    }
    asyncio.run(revoke_key(site.settings, made["revoked"]))
    wait("end of a key", lambda: get(site, "/metadata/", made["expired"]).status_code == 401)
    return made


def get(site: Facility, path: str, key: str, **query: Any) -> httpx.Response:
    return ask(site, "GET", path, key, params=query)


def ask(site: Facility, method: str, path: str, key: str, **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Apikey {key}"} if key else {}
    return httpx.request(method, f"{site.address}/api/v1{path}", headers=headers, timeout=30, **options)


@contextmanager
def client_of(site: Facility, key: str) -> Generator[Any]:
    client = connect(site.address, key)
    try:
        yield client
    finally:
        disconnect(client)


def scan(
    site: Facility,
    folder: Path,
    key: str,
    *,
    at: int = -1,
    then: Callable[[], bool] = bool,
    raw: bool = False,
    **start: Any,
) -> RunResult:
    """Publish a run; when `at` frames came, do not go on before `then()` is true."""
    files, uid = folder / "detector", str(uuid.uuid4())
    files.mkdir(parents=True)

    def documents() -> Iterator[tuple[str, dict[str, Any]] | None]:
        for name, doc in hostile.run("stream", files, n_frames=N_FRAMES, uid=uid):
            if name == "event" and doc["seq_num"] == at:
                yield from idle_until("what happens meanwhile", then)
            yield name, {**doc, **start} if name == "start" else doc

    told = hostile.settings(folder / "archives", tiled={"uri": site.address, "raw": raw, "latency": 0.01})
    sink = partial(make_sink, "tiled", site.address, key)
    steps = process_in_steps(documents(), load_settings(told), write_raw=raw, sink=sink, publish_seconds=120)
    return result_of(steps)


def served(site: Facility, key: str, uid: str) -> str:
    with client_of(site, key) as client:
        return served_digest(client, uid)


# ---------------------------------------------------------------- what arrives


@pytest.fixture(scope="module")
def runs(site: Facility, keys: dict[str, str]) -> Any:
    """A run of each of two proposals and one of none; of the first what another process saw while it was taken."""
    watching = subprocess.Popen([sys.executable, "-c", CLIENT, site.address, keys["alice"]], stdout=subprocess.PIPE)

    def run(folder: str, **options: Any) -> RunResult:
        return scan(site, site.folder / folder, keys["publisher"], **options)

    gone = lambda: watching.poll() is not None  # noqa: E731
    first = run("data/1001", at=20, then=gone, raw=True, proposal_id=1001, sample="ruby")
    seen = watching.communicate(timeout=60)[0].decode().split()
    second = run("data/1002", proposal="1002", sample="secret-sample")
    other = run("archives/commissioning", sample="silicon")
    return SimpleNamespace(first=first, second=second, other=other, seen=seen, code=watching.returncode)


def test_a_run_arrives_while_it_is_taken_and_whole(site: Facility, keys: dict[str, str], runs: Any) -> None:
    assert runs.code == 0
    # The scan could not end before another process had seen this.
    assert int(runs.seen[0]) > 0
    assert runs.seen[1] == "running"
    for result, key in ((runs.first, "alice"), (runs.second, "bob"), (runs.other, "carol")):
        assert result.problems == ()
        assert served(site, keys[key], result.uid) == archived_digest(result)


def test_the_run_itself_is_served_to_its_proposal(site: Facility, keys: dict[str, str], runs: Any) -> None:
    with client_of(site, keys["alice"]) as client:
        run = client["raw"][runs.first.uid]
        assert run.metadata["stop"]["exit_status"] == "success"
        assert run["primary"]["det0_image"].shape[0] == N_FRAMES


def test_after_the_run_the_archive_is_served_in_its_place(site: Facility, keys: dict[str, str], runs: Any) -> None:
    at = f"/metadata/reduced/{runs.other.uid}/attempt-0000"

    def handed_over() -> bool:
        return get(site, at, keys["carol"]).json()["data"]["attributes"]["metadata"].get("served_from") == "archive"

    wait("hand-over", handed_over)
    assert served(site, keys["carol"], runs.other.uid) == archived_digest(runs.other)
    assert get(site, at, keys["alice"]).status_code == 404
    # What lies in the archive alone has the run's tag, too.
    pixels = f"/table/full/reduced/{runs.other.uid}/attempt-0000/pixels"
    assert [get(site, pixels, keys[key]).status_code for key in ("carol", "alice")] == [200, 404]


def test_an_archive_in_the_folder_of_another_proposal_is_not_served(
    site: Facility, keys: dict[str, str], runs: Any
) -> None:
    """Who may write into a folder would else show what others own, or add to what they see."""
    for number, (place, proposal) in enumerate((("1002", "1001"), ("1001", "1001"))):
        folder, uid = site.folder / "archives" / place / f"said-{number}", f"said-{number}"
        docs = hostile.run(uid=uid)
        docs[0] = ("start", {**docs[0][1], "proposal_id": proposal})
        process(docs, load_settings(hostile.settings(folder)), write_raw=True, stem="scan")
    # What is said of theirs, by way of ours.
    theirs, ours = (site.folder / "archives" / place for place in ("1002/said-0", "1001/said-1"))
    for kind in ("raw", "reduced"):
        shutil.copy(ours / f"scan_{kind}.h5", ours / f"link_{kind}.h5")
    with h5py.File(ours / "link_reduced.h5", "a") as file:
        del file["reduction_0000"]
        file["reduction_0000"] = h5py.ExternalLink(theirs / "scan_reduced.h5", "reduction_0000")
    refused = {f"{theirs}/scan_raw.h5": "", f"{theirs}/scan_reduced.h5": "", f"{ours}/link_reduced.h5": theirs}

    def told() -> bool:
        lines = [line for line in (site.folder / "said").read_text().split("! ") if "lies outside the folders" in line]
        texts = ["".join(line.split()) for line in lines]
        return all(any(path in text and str(to) in text for text in texts) for path, to in refused.items())

    wait("a complaint", told)
    wait("ours", lambda: get(site, "/metadata/reduced/said-1/attempt-0000", keys["alice"]).status_code == 200)
    assert get(site, "/metadata/reduced/said-0", keys["publisher"]).status_code == 404
    assert get(site, "/metadata/raw/said-0", keys["publisher"]).status_code == 404
    assert get(site, "/metadata/reduced/said-1/attempt-0001", keys["publisher"]).status_code == 404


def kill(site: Facility) -> None:
    site.stop(signal.SIGKILL)
    site.start()


def without_redis(site: Facility) -> None:
    site.redis.stop()
    assert site.away() == ["stream"]
    site.redis.start()


def without_postgres(site: Facility) -> None:
    site.postgres.stop()
    assert site.away() == ["accounts", "catalogue", "tables"]
    site.postgres.start()


def outages(site: Facility) -> None:
    without_redis(site)
    wait("readiness", lambda: site.away() == [])
    without_postgres(site)


def test_outages_in_mid_scan_are_told_and_cost_no_row(site: Facility, keys: dict[str, str], tmp_path: Path) -> None:
    assert site.away() == []
    thread = threading.Thread(target=outages, args=(site,))
    result = scan(site, tmp_path, keys["publisher"], at=12, then=lambda: once(thread), proposal_id=1001)
    thread.join()
    wait("readiness", lambda: site.away() == [])
    assert served(site, keys["alice"], result.uid) == archived_digest(result)


def once(thread: threading.Thread) -> bool:
    if thread.ident is None:
        thread.start()
    return True


def test_killed_in_mid_scan_and_started_again_nothing_is_lost_or_doubled(
    site: Facility, keys: dict[str, str], runs: Any, tmp_path: Path
) -> None:
    """Another process over the same databases is killed, as several can serve one catalogue; here below a path."""
    (tmp_path / "site").mkdir()
    with facility(tmp_path / "site", site.postgres, site.redis, "/hedm") as second:
        thread = threading.Thread(target=kill, args=(second,))
        result = scan(second, tmp_path, keys["publisher"], at=12, then=lambda: once(thread), proposal_id=1001)
        thread.join()
        assert served(second, keys["alice"], result.uid) == archived_digest(result)
        links_lead_through_a_proxy(second, "/hedm")
    assert served(site, keys["alice"], result.uid) == archived_digest(result)


# ---------------------------------------------------------------- who is let in


def places(uid: str) -> dict[str, str]:
    at = f"reduced/{uid}"
    return {
        "metadata": f"/metadata/{at}",
        "asset paths": f"/metadata/raw/{uid}/primary/det0_image?include_data_sources=true",
        "search": f"/search/{at}",
        "distinct": f"/distinct/{at}?metadata=start.sample",
        "table": f"/table/full/{at}/attempt-0000/peaks",
        "partition": f"/table/partition/{at}/attempt-0000/peaks?partition=0",
        "rows": f"/hedm/rows/{at}/attempt-0000/peaks",
        "frames": f"/array/full/raw/{uid}/primary/det0_image?slice=0",
        "asset": f"/asset/bytes/raw/{uid}/primary/det0_image?id=1",
        "run": f"/container/full/raw/{uid}?format=application/json-seq",
    }


PLACES = sorted(places(""))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", ["none", "wrong", "expired", "revoked"])
def test_without_a_good_key_nobody_comes_in(
    site: Facility, keys: dict[str, str], runs: Any, place: str, key: str
) -> None:
    assert ask(site, "GET", places(runs.first.uid)[place], keys[key]).status_code == 401


@pytest.mark.parametrize("place", [place for place in PLACES if place != "asset"])
def test_a_proposal_is_seen_by_its_readers_and_by_staff(
    site: Facility, keys: dict[str, str], runs: Any, place: str
) -> None:
    for key in ("alice", "monitor"):
        assert ask(site, "GET", places(runs.first.uid)[place], keys[key]).status_code == 200


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", ["bob", "confined"])
def test_another_proposal_is_as_if_it_were_not_there(
    site: Facility, keys: dict[str, str], runs: Any, place: str, key: str
) -> None:
    answer = ask(site, "GET", places(runs.first.uid)[place], keys[key])
    assert answer.status_code == 404
    assert "ruby" not in answer.text
    assert str(site.folder) not in answer.text


@pytest.mark.parametrize("path", ["/search/raw", "/search/reduced", "/search/", "/search/?max_depth=5"])
def test_a_search_finds_what_one_may_see_only(site: Facility, keys: dict[str, str], runs: Any, path: str) -> None:
    texts = {key: get(site, path, keys[key]).text for key in ("alice", "bob", "confined", "carol", "dave")}
    uids = (runs.first.uid, runs.second.uid, runs.other.uid)
    if path == "/search/reduced":
        assert [uid in texts["carol"] for uid in uids] == [True, True, True]
        assert [uid in texts["alice"] for uid in uids] == [True, False, False]
        assert [uid in texts["bob"] for uid in uids] == [False, True, False]
        assert [uid in texts["confined"] for uid in uids] == [False, True, False]
    elif path == "/search/raw":
        assert [runs.first.uid in texts[key] for key in ("alice", "bob", "confined", "carol")] == [
            True,
            False,
            False,
            True,
        ]
    assert "secret-sample" not in texts["alice"] + texts["dave"]
    assert "ruby" not in texts["bob"] + texts["confined"] + texts["dave"]


def test_values_that_occur_elsewhere_are_not_listed(site: Facility, keys: dict[str, str], runs: Any) -> None:
    answer = get(site, "/distinct/reduced", keys["alice"], metadata="start.sample", counts="true").json()
    (found,) = answer["metadata"].values()
    # None stands for runs whose sample was not said.
    assert {each["value"] for each in found} - {None} == {"ruby"}


def test_a_search_at_all_depths_ends_at_the_proposal(site: Facility, keys: dict[str, str], runs: Any) -> None:
    from tiled.queries import Key

    with client_of(site, keys["bob"]) as client:
        found = client.root.search_deep(Key("raw_run_uid") == runs.first.uid)
        assert len(found) == 0
        assert len(client.root.search_deep(Key("raw_run_uid") == runs.second.uid)) > 0


WRITES: list[tuple[str, str, Any]] = [
    ("POST", "/metadata/{at}", {"structure_family": "container", "metadata": {}, "data_sources": [], "specs": []}),
    ("POST", "/metadata/", {"structure_family": "container", "metadata": {}, "data_sources": [], "specs": []}),
    ("PATCH", "/metadata/{at}", {"content-type": "application/merge-patch+json", "metadata": {"status": "mine"}}),
    ("PUT", "/metadata/{at}", {"metadata": {}, "specs": []}),
    ("DELETE", "/metadata/{at}", None),
    ("PUT", "/table/partition/{at}/peaks?partition=0", None),
    ("PATCH", "/table/partition/{at}/peaks?partition=0", None),
    ("PUT", "/table/full/{at}/peaks", None),
    ("POST", "/register/{at}", {"structure_family": "container", "metadata": {}, "data_sources": [], "specs": []}),
    ("PUT", "/data_source/{at}/peaks", {"data_source": {"id": 1, "structure_family": "table", "assets": []}}),
    ("DELETE", "/stream/close/{at}", None),
    ("PATCH", "/hedm/append/{at}", None),
    ("POST", "/auth/principal?role=admin", None),
]


@pytest.mark.parametrize(("method", "path", "body"), WRITES, ids=[f"{method} {path}" for method, path, _ in WRITES])
def test_a_reader_writes_nothing(
    site: Facility, keys: dict[str, str], runs: Any, method: str, path: str, body: Any
) -> None:
    where = path.format(at=f"reduced/{runs.first.uid}/attempt-0000")
    for key in ("alice", "carol", "monitor"):
        assert ask(site, method, where, keys[key], json=body).status_code in (401, 403), key


def test_after_all_that_nothing_was_written(site: Facility, keys: dict[str, str], runs: Any) -> None:
    assert served(site, keys["alice"], runs.first.uid) == archived_digest(runs.first)
    with client_of(site, keys["alice"]) as client:
        assert latest_reduction(client, runs.first.uid).metadata["status"] == "complete"
        assert set(client.root) <= {"raw", "reduced", "results"}


def test_a_subscriber_makes_no_key_that_may_do_more(site: Facility, keys: dict[str, str], runs: Any) -> None:
    answer = ask(site, "POST", "/auth/apikey", keys["carol"], json={"expires_in": 60, "scopes": None})
    made = answer.json()["secret"]
    for method, path, body in (WRITES[0], WRITES[1], WRITES[4]):
        where = path.format(at=f"reduced/{runs.first.uid}/attempt-0000")
        assert ask(site, method, where, made, json=body).status_code == 403
    assert ask(site, "POST", "/auth/apikey", keys["alice"], json={"scopes": None}).status_code == 401


def listen(site: Facility, path: str, key: str, first_message: bool = False) -> Any:
    """The first message of a node's stream, or how it was refused."""
    address = f"ws://127.0.0.1:{site.port}/api/v1/stream/single/{path}"
    headers = {} if first_message or not key else {"Authorization": f"Apikey {key}"}
    try:
        with open_socket(address, additional_headers=headers, open_timeout=30, compression=None) as stream:
            if first_message:
                stream.send(json.dumps({"type": "auth", "api_key": key}))
            return json.loads(stream.recv(timeout=30))["type"]
    except InvalidStatus as error:
        return error.response.status_code
    except ConnectionClosed as error:
        return error.rcvd.code if error.rcvd else ABNORMAL


@pytest.mark.parametrize("first_message", [False, True])
def test_live_messages_reach_those_of_the_proposal_only(
    site: Facility, keys: dict[str, str], runs: Any, first_message: bool
) -> None:
    path = f"reduced/{runs.first.uid}/attempt-0000/peaks"
    refused = {401, 403, 404, ABNORMAL, 4003}
    assert str(listen(site, path, keys["alice"], first_message)).endswith("schema")
    for key in ("none", "wrong", "expired", "revoked", "bob", "confined", "dave"):
        assert listen(site, path, keys[key], first_message or key == "none") in refused, key
    # New nodes of all proposals are told to who listens to a container of all.
    for shared in ("reduced", "raw", ""):
        for key in ("alice", "carol", "monitor"):
            assert listen(site, shared, keys[key], first_message) in refused


def test_people_log_in_with_their_password(site: Facility, runs: Any) -> None:
    at = f"{site.address}/api/v1/auth/provider/local/token"
    said = {"grant_type": "password", "username": "alice", "password": SECRETS["HEDM_BOB"]}
    assert httpx.post(at, data=said).status_code == 401
    token = httpx.post(at, data=said | {"password": SECRETS["HEDM_ALICE"]}).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    place = places(runs.first.uid)["rows"]
    assert httpx.get(f"{site.address}/api/v1{place}", headers=headers).status_code == 200
    place = places(runs.second.uid)["rows"]
    assert httpx.get(f"{site.address}/api/v1{place}", headers=headers).status_code == 404


def test_a_changed_file_of_access_counts_at_once(site: Facility, keys: dict[str, str], runs: Any) -> None:
    place, before = places(runs.second.uid)["rows"], (site.folder / "access.yml").read_text()
    for text, code in (
        (before.replace("{name: bob, role: reader}", "{name: bob, role: reader}, {name: dave, role: reader}"), 200),
        (before, 404),
    ):
        (site.folder / "access.yml").write_text(text)
        wait("access", lambda code=code: get(site, place, keys["dave"]).status_code == code)
    (site.folder / "access.yml").write_text(before.replace("name: staff", "name: nobody"))
    try:
        wait("a complaint", lambda: "group 'nobody' is not defined" in (site.folder / "said").read_text())
        assert get(site, place, keys["bob"]).status_code == 200
    finally:
        (site.folder / "access.yml").write_text(before)


# ---------------------------------------------------------------- files, proxies, numbers, secrets


def test_files_of_another_proposal_are_not_registered(site: Facility, keys: dict[str, str], runs: Any) -> None:
    """All the ways to try it are in test_foreign_files.py."""
    source = {"structure_family": "container", "mimetype": "application/x-hdf5", "management": "external"}
    files = [next((site.folder / "data" / number).rglob("*.h5")) for number in ("1001", "1002")]
    for path, code in zip(files, (403, 200), strict=True):
        asset = {"data_uri": f"file://localhost{path}", "is_directory": False, "num": 0, "parameter": "data_uris"}
        body = {"structure_family": "container", "metadata": {}, "specs": [], "access_tags": ["proposal_1002"]}
        body |= {"data_sources": [source | {"structure": None, "assets": [asset]}]}
        answer = ask(site, "POST", f"/register/raw/{runs.first.uid}", keys["publisher"], json=body)
        assert answer.status_code == code, answer.text


def links_lead_through_a_proxy(site: Facility, root: str) -> None:
    for path in ("", root):  # it takes the path away, or leaves it
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "hedm.example.org"}
        about = httpx.get(f"{site.address}{path}/api/v1/", headers=headers).json()
        assert about["links"]["self"] == f"https://hedm.example.org{root}/api/v1"
        assert httpx.post(f"{site.address}{path}/api/v1/register/raw", json={}).status_code == 401


def test_links_lead_through_a_proxy(site: Facility) -> None:
    links_lead_through_a_proxy(site, "")


def test_metrics_are_for_their_key(site: Facility, keys: dict[str, str]) -> None:
    codes = {key: get(site, "/metrics", keys[key]).status_code for key in ("none", "alice", "publisher", "metrics")}
    assert codes == {"none": 401, "alice": 401, "publisher": 401, "metrics": 200}
    assert "tiled_" in get(site, "/metrics", keys["metrics"]).text
    assert get(site, "/metadata/reduced", keys["metrics"]).status_code in (401, 403)


def test_the_preflight_finds_nothing_bad(site: Facility, keys: dict[str, str]) -> None:
    from hedmlive.tiled_config.preflight import check_server, check_settings

    for found in (check_settings(site.file), check_server(site.address, keys["publisher"])):
        assert [each for each in found if each.state == "bad"] == []
        assert len(found) > 10
    (refused,) = (each for each in check_server(site.address, keys["expired"]) if each.state == "bad")
    assert (refused.item, refused.came) == ("key", "refused with 401")


def test_no_secret_was_said(site: Facility, keys: dict[str, str], runs: Any) -> None:
    texts = [(site.folder / "said").read_text(), repr(site.settings), str(site.settings)]
    texts += [path.read_text() for path in (site.folder / "server").glob("*.log")]
    held = [*SECRETS.values(), *(key for key in keys.values() if key)]
    assert [secret for secret in held if any(secret in text for text in texts)] == []
