"""One long TCP transfer between two hosts, with how long it stood still and whether it is whole.

with Stream(server, client, "10.1.0.50") as stream:
    ...cut something...
    assert stream.stood_still() < 5
    stream.finish()
"""

from __future__ import annotations

import json
import subprocess
from typing import Any, Final, Self

from support.hosts import Host

RATE: Final = 4_000_000
"""Bytes a second, so that a short pause does not hide behind a full buffer."""

_SENDER: Final = """
import hashlib, os, random, select, socket, sys, time
host, port, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
server = socket.create_server((host, port), family=family)
print("listening", flush=True)
client, _ = server.accept()
digest, pattern, size, began = hashlib.sha256(), random.Random(1), 0, time.monotonic()
while not select.select([sys.stdin], [], [], 0)[0]:
    chunk = pattern.randbytes(16384)
    client.sendall(chunk)
    digest.update(chunk)
    size += len(chunk)
    time.sleep(16384 / rate)
client.close()
print(size, digest.hexdigest(), flush=True)
"""

_RECEIVER: Final = """
import hashlib, json, select, socket, sys, time
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
client.setblocking(False)
digest, size, gap, last, open_ = hashlib.sha256(), 0, 0.0, time.monotonic(), True
print(json.dumps({"size": 0, "gap": 0}), flush=True)
while True:
    ready, _, _ = select.select([sys.stdin, client] if open_ else [sys.stdin], [], [], 1)
    now = time.monotonic()
    if client in ready:
        data = client.recv(1 << 16)
        gap, last = max(gap, now - last), now
        digest.update(data)
        size += len(data)
        open_ = bool(data)
    if sys.stdin in ready:
        order = sys.stdin.readline()
        if not order:
            break
        waiting = now - last if open_ else 0
        print(json.dumps({"size": size, "gap": max(gap, waiting), "open": open_,
                          "digest": digest.hexdigest()}), flush=True)
        if order.strip() == "reset":
            gap = 0.0
"""


class Stream:
    """A transfer from server to client that goes on until `finish`."""

    def __init__(
        self, server: Host, client: Host, address: str, port: int = 8000, *, rate: int = RATE
    ) -> None:
        """Address: the server's, as the client reaches it. rate: bytes a second."""
        self._server, self._client = server, client
        self._where: Final = [address, str(port)]
        self._rate: Final = rate
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self._sender = self._start(self._server, _SENDER, *self._where, str(self._rate))
        self._receiver = self._start(self._client, _RECEIVER, *self._where)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def stood_still(self) -> float:
        """The longest time in seconds without a byte since the last call, the present included."""
        gap: float = self._report("reset")["gap"]
        return gap

    def received(self) -> int:
        """Bytes that the client has now."""
        size: int = self._report()["size"]
        return size

    def finish(self) -> int:
        """End the transfer and return its size. AssertionError: it did not arrive whole."""
        assert self._sender.stdin is not None
        assert self._sender.stdout is not None
        self._sender.stdin.write("end\n")
        self._sender.stdin.flush()
        size, digest = self._sender.stdout.readline().split()
        while (report := self._report())["open"]:
            pass
        assert (report["size"], report["digest"]) == (int(size), digest)
        return int(size)

    def _report(self, order: str = "") -> dict[str, Any]:
        assert self._receiver.stdin is not None
        assert self._receiver.stdout is not None
        self._receiver.stdin.write(f"{order}\n")
        self._receiver.stdin.flush()
        report: dict[str, Any] = json.loads(self._receiver.stdout.readline())
        return report

    def _start(self, host: Host, script: str, *arguments: str) -> subprocess.Popen[str]:
        command = ["/usr/bin/python3", "-c", script, *arguments]
        process = host.popen(command, stdin=subprocess.PIPE)
        self._processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(("listening", "{")), line + process.stdout.read()
        return process
