"""Counts the IP packets that pass a device, by what tells whose they are."""

from __future__ import annotations

import json
import subprocess
from typing import Any, Final, Self

from support.hosts import Host

_SNIFFER: Final = """
import collections, ipaddress, json, select, socket, sys
every = 3  # ETH_P_ALL
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(every))
tap.bind((sys.argv[1], every))
addresses, ports, packets = collections.Counter(), collections.Counter(), 0
print("listening", flush=True)
while True:
    ready, _, _ = select.select([tap, sys.stdin], [], [])
    if tap in ready:
        data = tap.recv(65536)
        version = data[0] >> 4
        if version not in (4, 6):
            continue
        packets += 1
        head, sides = (data[9], (data[12:16], data[16:20])) if version == 4 else (
            data[6], (data[8:24], data[24:40]))
        addresses.update({str(ipaddress.ip_address(side)) for side in sides})
        if head == 17:
            begin = (data[0] & 15) * 4 if version == 4 else 40
            ports.update({int.from_bytes(data[begin:begin + 2]),
                          int.from_bytes(data[begin + 2:begin + 4])})
    elif not sys.stdin.readline():
        break
    else:
        print(json.dumps({"packets": packets, "addresses": addresses, "ports": ports}), flush=True)
"""


class Sniffer:
    """Watches one device of a host, both directions, while it is entered."""

    def __init__(self, host: Host, device: str) -> None:
        self._host = host
        self._device = device

    def __enter__(self) -> Self:
        command = ["/usr/bin/python3", "-c", _SNIFFER, self._device]
        self._process = self._host.popen(command, stdin=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == "listening\n", line + self._process.stdout.read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def packets(self) -> int:
        """All packets so far."""
        count: int = self._report()["packets"]
        return count

    def of_address(self, address: str) -> int:
        """Packets so far from or to an address."""
        count: int = self._report()["addresses"].get(address, 0)
        return count

    def of_udp_port(self, port: int) -> int:
        """UDP packets so far from or to a port."""
        count: int = self._report()["ports"].get(str(port), 0)
        return count

    def _report(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        report: dict[str, Any] = json.loads(self._process.stdout.readline())
        return report
