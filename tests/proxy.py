"""A real nginx before a server: as the example says, with a certificate of its own, on loopback."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from services import EXAMPLE, free_port, listens, wait

_SITE = """
daemon off; pid {folder}/pid; error_log {folder}/errors; worker_processes 1; {user}
events {{ worker_connections 256; }}
http {{
  access_log {folder}/requests; {temporary}
  {once}
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/certificate; ssl_certificate_key {folder}/key;
    {location}
  }}
}}
"""


class Proxy:
    """A site of several, where ours lies below a path.

    Attributes
    ----------
    address
        Where the server is found.
    certificate
        File of the certificate, which nobody else signed.
    """

    def __init__(self, folder: Path, port: int, path: str) -> None:
        self.folder, self.address, self.certificate = folder, f"https://localhost:{port}{path}", folder / "certificate"

    def requests(self) -> list[tuple[str, str, int]]:
        """Method, path and status of each request."""
        lines = (self.folder / "requests").read_text().splitlines()
        found = filter(None, (re.search(r'"(\w+) (\S+) HTTP/1.1" (\d+)', line) for line in lines))
        return [(each[1], each[2], int(each[3])) for each in found]


@contextmanager
def proxy(server: str, path: str = "/", most: str = "256m") -> Generator[Proxy]:
    """Start it; skip the test where it is not installed.

    Parameters
    ----------
    server
        Address of the server, ``http://127.0.0.1:PORT``.
    path
        Path below which it is found.
    most
        Largest body that is let through.
    """
    if missing := [name for name in ("nginx", "openssl") if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} not on PATH: install the package")
    location, once = (EXAMPLE / "nginx.conf").read_text().split("# Once, outside of the server block.")
    for written, here in (
        ("location / {", f"location {path.rstrip('/')}/ {{"),
        ("http://127.0.0.1:8000", server),
        ("client_max_body_size 256m", f"client_max_body_size {most}"),
    ):
        assert written in location
        location = location.replace(written, here)
    with tempfile.TemporaryDirectory(prefix="hedm-proxy-") as name:
        folder, port = Path(name), free_port()
        _certify(folder)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        said = {"folder": folder, "port": port, "location": location, "once": once, "temporary": temporary}
        # The folder is this user's.
        user = "user root;" if Path(name).owner() == "root" else ""
        (folder / "site").write_text(_SITE.format(user=user, **said))
        command = ["nginx", "-c", str(folder / "site"), "-p", name, "-e", f"{folder}/errors"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            wait("nginx", lambda: listens(port) or process.poll() is not None)
            assert process.poll() is None, process.communicate()[1]
            yield Proxy(folder, port, path.rstrip("/"))
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _certify(folder: Path) -> None:
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-addext", names, "-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run([*command, *files], check=True, capture_output=True)
