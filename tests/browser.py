"""A real headless Chromium, driven over its devtools websocket."""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

LIMIT = 60.0
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """A page in the browser."""

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self._socket, self._session = socket, session
        self._number = 100
        self.messages: list[str] = []
        self.requested: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the devtools, and keep what the page complains about meanwhile."""
        self._number += 1
        said = {"id": self._number, "sessionId": self._session, "method": method, "params": params}
        self._socket.send(json.dumps(said))
        while True:
            answer = json.loads(self._socket.recv(timeout=LIMIT))
            self._note(answer)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _note(self, answer: dict[str, Any]) -> None:
        params = answer.get("params", {})
        match answer.get("method"):
            case "Runtime.exceptionThrown":
                self.messages.append(str(params["exceptionDetails"]))
            case "Log.entryAdded":
                self.messages.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])
            case "Network.webSocketCreated":
                self.requested.append(params["url"])
            case _:
                pass

    def open(self, address: str) -> None:
        self.do("Page.navigate", url=address)
        self.wait("document.readyState == 'complete' && location.href != 'about:blank'")

    def value(self, script: str) -> Any:
        """Evaluate a script in the page."""
        return self.do("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def text(self, name: str) -> str:
        """Return the text of the element of this id."""
        return str(self.value(f"document.getElementById({name!r}).textContent"))

    def wait(self, script: str) -> None:
        """Wait until a script gives something true."""
        deadline = time.monotonic() + LIMIT
        while not self.value(script):
            assert time.monotonic() < deadline, f"not within {LIMIT:.0f} s: {script}; {self.messages}"
            time.sleep(0.05)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def page(width: int = 1280, height: int = 860, *, trusts_all: bool = False) -> Generator[Page]:
    """Start a browser with one page, which may take any certificate; skip the test where there is none."""
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium on PATH: install the package chromium")
    with tempfile.TemporaryDirectory(prefix="hedm-browser-", ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--remote-debugging-port=0", "--disable-gpu", "--no-first-run", "--mute-audio"]
        options += [f"--user-data-dir={profile}", f"--window-size={width},{height}", "--disable-dev-shm-usage"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")
        if trusts_all:
            options.append("--ignore-certificate-errors")
        process = subprocess.Popen([program, *options, "about:blank"], stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            found = next(filter(None, (re.search(r"listening on (ws://\S+)", line) for line in process.stderr)))
            with connect(found[1], max_size=None) as socket:
                yield Page(socket, _session(socket))
        finally:
            process.terminate()
            process.wait(30)
            if process.stderr is not None:
                process.stderr.close()


def _session(socket: ClientConnection) -> str:
    def do(number: int, method: str, **params: Any) -> dict[str, Any]:
        socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(socket.recv(timeout=LIMIT))).get("id") != number:
            pass
        return answer["result"]

    target = do(1, "Target.createTarget", url="about:blank")["targetId"]
    return do(2, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
