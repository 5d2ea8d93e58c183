"""Moving many bytes over HTTP between hosts, and telling whether they arrived whole."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from support.home import NAS, Story
from support.hosts import Host

_SERVER: Final = """
import http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args):
        super().__init__(*args, directory=sys.argv[1])
    def log_message(self, *args):
        pass
server = Server(("::", 80), Handler)
print("listening", flush=True)
server.serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Payload:
    """A file to be served. digest: SHA-256 in hex."""

    path: Path
    digest: str

    @classmethod
    def make(cls, folder: Path, size: int, seed: int = 0) -> Payload:
        """Write a file of size bytes that does not compress; the same for the same seed."""
        path = folder / "payload"
        content = Random(seed).randbytes(size)
        path.write_bytes(content)
        return cls(path, hashlib.sha256(content).hexdigest())


@contextlib.contextmanager
def web_server(host: Host, folder: str) -> Iterator[None]:
    """Serve the files of a folder, as the host sees it, on port 80 over IPv4 and IPv6."""
    server = host.popen(["/usr/bin/python3", "-c", _SERVER, folder])
    assert server.stdout is not None
    server.stdout.readline()
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def download(host: Host, address: str, timeout: float = 120) -> str:
    """Fetch the payload from an address and return its SHA-256 in hex."""
    where = f"[{address}]" if ":" in address else address
    command = f"curl -sS --fail http://{where}/payload | sha256sum"
    return host.run(["bash", "-o", "pipefail", "-c", command], timeout=timeout).stdout.split()[0]


def carry_both_ways(scene: Story, family: int, payload: Payload) -> None:
    """Fetch the payload from the nas by the laptop, and from the laptop by the nas.

    family: 0 for IPv4, 1 for IPv6. AssertionError: it did not arrive whole.
    """
    with web_server(scene.nas, str(payload.path.parent)):
        assert download(scene.laptop, NAS[family]) == payload.digest
    folder = scene.laptop.root / "root/served"
    folder.mkdir(exist_ok=True)
    shutil.copy(payload.path, folder)
    with web_server(scene.laptop, "/root/served"):
        laptop = scene.overlay_addresses(scene.laptop)[family]
        assert download(scene.nas, laptop) == payload.digest
