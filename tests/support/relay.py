"""A cable with the faults of a long way: delay, jitter, loss, reordering.

There is no netem in every kernel, so a process in the cable's namespace carries each frame from one
end to the other (AF_PACKET). What it does to the n-th frame of a direction depends on the seed
alone. It carries some 100 Mbit/s.
"""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import json
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from support import netns
from support.cables import Cable
from support.hosts import Host
from support.sweep import current

_CARRIER: Final = Path(__file__).with_name("relay_carrier.py")
_SIOCETHTOOL: Final = 0x8946
_OFFLOADS: Final = {
    "tx checksums": 0x17,
    "scatter-gather": 0x19,
    "TSO": 0x1F,
    "GSO": 0x24,
    "GRO": 0x2C,
}
"""ethtool's commands that set one feature each (linux/ethtool.h)."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """What happens to the frames of one direction.

    delay: seconds that each takes. jitter: seconds, the width of an even spread around `delay`
    that keeps the order. loss, duplicate: shares from 0 to 1. reorder: the share that comes late,
    5 ms behind its time, so that those after it overtake it.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0


class Relay(Cable):
    """A wire between two hosts with an `Impairment` in each direction."""

    def __init__(
        self,
        a: Host,
        b: Host,
        impairment: Impairment | None = None,
        *,
        back: Impairment | None = None,
        seed: int = 0,
        rate: int | None = None,
        mtu: int = 1500,
        ifnames: tuple[str | None, str | None] = (None, None),
    ) -> None:
        """Join two hosts; `back` is for what goes from `b` to `a`, and as `impairment` if None."""
        super().__init__(a, b, rate=rate, mtu=mtu, ifnames=ifnames)
        self.impairment: Final = impairment or Impairment()
        self.back: Final = back or self.impairment
        self.seed: Final = seed
        self._carrier: subprocess.Popen[str] | None = None

    def impair(self, impairment: Impairment, *, back: Impairment | None = None) -> None:
        """Change what happens to frames from now on; those under way keep their delay."""
        self._tell({"directions": [_fields(impairment), _fields(back or impairment)]})

    def silence(self) -> None:
        """Lose every frame from now on; both carriers stay."""
        self._tell({"silent": True})

    def resume(self) -> None:
        """Carry frames again."""
        self._tell({"silent": False})

    def counts(self) -> dict[str, int]:
        """Frames so far: carried, lost, reordered, duplicated, overflowed."""
        answer = self._tell({})
        return {name: int(count) for name, count in answer.items()}

    def close(self) -> None:
        """End the carrier and remove the wire. Idempotent."""
        if self._carrier is not None:
            self._carrier.kill()
            self._carrier.communicate()
            self._carrier = None
        super().close()

    def _build(self) -> None:
        self._plug_ends()
        for port in self.ports:
            # A frame of several segments would be lost, delayed and counted as one.
            netns.inside(port.host.netns, partial(_without_offloads, port.ifname))
            netns.batch(self.netns, [f"link set {port.far} promisc on"])
        cgroup = current().cgroup / "relays"
        cgroup.mkdir(exist_ok=True)
        into = ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(cgroup)]
        devices = [port.far for port in self.ports]
        command = ["ip", "netns", "exec", self.netns, sys.executable, "-I", str(_CARRIER), *devices]
        self._carrier = subprocess.Popen(
            [*into, *command, str(self.seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.impair(self.impairment, back=self.back)

    def _attach(self, far: str) -> list[str]:
        return []

    def _tell(self, order: dict[str, object]) -> dict[str, int]:
        """Send the carrier an order and return its answer, the counts."""
        carrier = self._carrier
        if carrier is None or carrier.stdin is None or carrier.stdout is None:
            raise RuntimeError("the relay is not up")
        carrier.stdin.write(json.dumps(order) + "\n")
        carrier.stdin.flush()
        answer = carrier.stdout.readline()
        if not answer:
            raise RuntimeError(f"the relay's carrier ended with status {carrier.wait()}")
        counts: dict[str, int] = json.loads(answer)
        return counts


def _fields(impairment: Impairment) -> dict[str, float]:
    return dataclasses.asdict(impairment)


def _without_offloads(ifname: str) -> None:
    """Switch off what lets a device carry frames larger than its MTU or without checksums."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _OFFLOADS.values():
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
            request = struct.pack("=16sQ16x", ifname.encode(), ctypes.addressof(value))
            fcntl.ioctl(control, _SIOCETHTOOL, request)
