"""The live page in a real browser: it grows with the scan, keeps the key to itself, and asks no other server."""

from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from browser import page
from live_feeding import KEY, Feeder

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
        feeder.sink.update({"progress": {"n_tracks": 61, "n_open": 17}, "warnings": ["energy: <b>wrong</b>"]})
        shown.wait("document.getElementById('n_frames').textContent == '100'")
        shown.wait("document.getElementById('n_tracks').textContent == '61'")
        assert shown.text("n_open") == "17"
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
