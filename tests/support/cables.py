"""Cables and switches between hosts, with a rate and an MTU, that can be pulled and put back.

Every cable is a small switch in a namespace of its own, so that what limits, breaks or watches it
is no part of either host: a pulled cable shows as a lost carrier on both, as a real one does.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, Self

from support import netns, sweep
from support.hosts import Host

_numbers: Final = itertools.count()
_QUEUE_SECONDS: Final = 0.05
"""How long a packet waits at a rate limit before the queue is full: a small router's buffer."""


@dataclass(frozen=True, slots=True)
class Port:
    """Where a host is plugged in.

    host, ifname: the host and its device. far: the device at the other end of the wire, in the
    switch's namespace.
    """

    host: Host
    ifname: str
    far: str


class Switch:
    """A network segment that hosts are plugged into; it has a namespace of its own."""

    def __init__(self, name: str = "switch", *, mtu: int = 1500) -> None:
        self.netns: Final = sweep.current().namespace(f"{name}-{next(_numbers)}")
        self.mtu: Final = mtu
        self.ports: Final[list[Port]] = []

    def __enter__(self) -> Self:
        try:
            netns.create(self.netns)
            netns.sysctl(
                self.netns,
                {
                    "net.ipv6.conf.all.disable_ipv6": "1",
                    "net.ipv6.conf.default.disable_ipv6": "1",
                },
            )
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the segment; the hosts' devices on it go too. Idempotent."""
        sweep.delete_namespace(self.netns)

    def plug(self, host: Host, *, ifname: str | None = None, rate: int | None = None) -> Port:
        """Connect a host: a new device appears on it, with carrier, not yet up.

        rate: bits per second towards the host; None for as fast as the machine is.
        """
        port = Port(host, ifname or host.next_ifname(), f"port{len(self.ports)}")
        netns.batch(
            self.netns,
            [
                f"link add {port.far} mtu {self.mtu} type veth"
                f" peer name {port.ifname} mtu {self.mtu} netns {host.netns}",
                *self._attach(port.far),
                f"link set {port.far} up",
            ],
        )
        self.ports.append(port)
        if rate is not None:
            self.set_rate(port, rate)
        return port

    def set_rate(self, port: Port, rate: int) -> None:
        """Limit what goes to a host to `rate` bits per second; what is too much is lost."""
        limit = max(int(rate * _QUEUE_SECONDS / 8), 4 * self.mtu)
        burst = max(int(rate / 8 / 200), 2 * self.mtu)
        bucket = f"tbf rate {rate}bit burst {burst} limit {limit}"
        netns.tc(self.netns, f"qdisc replace dev {port.far} root {bucket}")

    def cut(self, port: Port) -> None:
        """Pull the plug: the host sees that the carrier is lost."""
        netns.batch(self.netns, [f"link set {port.far} down"])

    def restore(self, port: Port) -> None:
        """Put the plug back."""
        netns.batch(self.netns, [f"link set {port.far} up"])

    def _build(self) -> None:
        """Set up what joins the ports."""
        netns.batch(
            self.netns,
            [
                "link add bridge0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set bridge0 mtu {self.mtu} up",
            ],
        )

    def _attach(self, far: str) -> list[str]:
        """The `ip` commands that join a port to the others."""
        return [f"link set {far} master bridge0"]


class Cable(Switch):
    """A wire between two hosts."""

    a: Port
    b: Port

    def __init__(
        self,
        a: Host,
        b: Host,
        *,
        rate: int | None = None,
        mtu: int = 1500,
        ifnames: tuple[str | None, str | None] = (None, None),
    ) -> None:
        """Join two hosts; `rate` in bits per second each way, `ifnames` (ethN) on `a` and `b`."""
        super().__init__("cable", mtu=mtu)
        self._ends: Final = (a, b)
        self._ifnames: Final = ifnames
        self._rate: Final = rate

    def _build(self) -> None:
        super()._build()
        self._plug_ends()

    def _plug_ends(self) -> None:
        self.a, self.b = (
            self.plug(host, ifname=ifname, rate=self._rate)
            for host, ifname in zip(self._ends, self._ifnames, strict=True)
        )

    def cut_both(self) -> None:
        """Pull the cable: both hosts see that the carrier is lost."""
        for port in self.ports:
            self.cut(port)

    def restore_both(self) -> None:
        """Put the cable back at both ends."""
        for port in self.ports:
            self.restore(port)

    def silence(self) -> None:
        """Lose every frame from now on; both carriers stay, as behind a dead router."""
        netns.batch(self.netns, [f"link set {port.far} nomaster" for port in self.ports])

    def resume(self) -> None:
        """Carry frames again."""
        netns.batch(
            self.netns, [command for port in self.ports for command in self._attach(port.far)]
        )
