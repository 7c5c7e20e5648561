"""The live page in a real browser: it grows with the scan, keeps the key to itself, and asks no other server."""

from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from browser import page
from live_feeding import KEY, Feeder
from services import SECRETS, small_facility

from hedmlive.tiled_config import EmbeddedServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("live-page"), api_key=KEY) as made:
        yield made


def test_the_page_grows_with_the_scan(server: EmbeddedServer, tmp_path: Path) -> None:
    feeder = Feeder(server)
    for n_peaks in (40, 60):
        feeder.push(10, n_peaks)
    with page() as shown:
        shown.open(f"{server.uri}/hedm/live#key={KEY}")
        shown.wait("document.getElementById('said').textContent == 'live'")
        shown.wait("document.getElementById('n_frames').textContent == '20'")
        assert shown.text("n_peaks") == "1,000"
        assert shown.text("status") == "running"
        assert KEY not in shown.value("location.href")
        for n_peaks in range(50, 90):
            feeder.push(2, n_peaks)
        track = {"detector": 0, "row": 30.5, "col": 60.0, "sum_intensity": 12345.0, "n_peaks": 7}
        progress = {"n_tracks": 61, "n_open": 17, "brightest_open": [track]}
        feeder.sink.update({"progress": progress, "warnings": ["energy: <b>wrong</b>"]})
        shown.wait("document.getElementById('n_frames').textContent == '100'")
        shown.wait("document.getElementById('n_tracks').textContent == '61'")
        assert shown.text("n_open") == "17"
        shown.wait("document.getElementById('open_of').textContent.includes('up to 12,345 counts in 7 peaks so far')")
        assert shown.text("lag").endswith(" s")
        assert shown.text("warnings") == "energy: <b>wrong</b>"
        shown.wait("document.getElementById('spots_of').textContent == 'frames 90 to 99, the newest one marked'")
        drawn = "(id => new Uint32Array(document.getElementById(id).getContext('2d').getImageData(0, 0, 999, 999).data"
        for canvas in ("curve", "detector"):
            assert shown.value(f"{drawn}.buffer).some(each => each))('{canvas}')")
        shown.screenshot(tmp_path / "live.png")
        feeder.end()
        shown.wait("document.getElementById('status').textContent == 'complete'")
        assert shown.text("n_open") == "0"
        assert shown.messages == []
        assert all(KEY not in address for address in shown.requested)
        assert {httpx.URL(address).host for address in shown.requested} == {"127.0.0.1"}
    feeder.close()


def test_a_wrong_key_shows_nothing(server: EmbeddedServer) -> None:
    with page() as shown:
        shown.open(f"{server.uri}/hedm/live")
        shown.value("document.getElementById('key').value = 'wrong'; document.querySelector('button').click()")
        shown.wait("document.getElementById('said').textContent == 'the key is not valid'")
        assert shown.text("n_frames") == "-"


def test_the_page_may_run_nothing_but_its_own_script(server: EmbeddedServer) -> None:
    answer = httpx.get(f"{server.uri}/hedm/live")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "//" not in answer.text.split("<script>")[0]


def test_a_user_logs_in_with_a_password(tmp_path: Path) -> None:
    def give(user: str, password: str) -> None:
        for name, text in (("user", user), ("key", password)):
            shown.value(f"document.getElementById('{name}').value = '{text}'")
        shown.value("document.querySelector('button').click()")

    with small_facility(tmp_path) as site, page() as shown:
        feeder = Feeder(site.served, key=site.key("service:publisher", "publisher"), proposal_id=1001)
        feeder.push(2)
        shown.open(f"{site.served.uri}/hedm/live")
        shown.wait("!document.getElementById('user').hidden")
        give("alice", SECRETS["HEDM_BOB"])
        shown.wait("document.getElementById('said').textContent == 'user or password is wrong'")
        give("alice", SECRETS["HEDM_ALICE"])
        shown.wait("document.getElementById('said').textContent == 'live'")
        shown.wait("document.getElementById('n_frames').textContent == '2'")
        assert shown.value("document.getElementById('key').value") == ""
        # What a message brings has a lag.
        feeder.push(3)
        shown.wait("document.getElementById('n_frames').textContent == '5'")
        assert shown.text("lag").endswith(" s")
        # A token is good for a quarter of an hour, a scan may take longer.
        shown.value("tokens.access_token = 'worn out'; open.fill()")
        shown.wait("tokens.access_token != 'worn out'")
        feeder.push()
        shown.wait("document.getElementById('n_frames').textContent == '6'")
        assert SECRETS["HEDM_ALICE"] not in str(shown.requested)
        # Whose proposal it is not sees none of it.
        shown.open(f"{site.served.uri}/hedm/live?")
        shown.wait("!document.getElementById('user').hidden")
        give("bob", SECRETS["HEDM_BOB"])
        shown.wait("document.getElementById('said').textContent == 'no run yet; waiting for the first'")
        feeder.close()
