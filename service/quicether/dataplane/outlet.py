"""Where the packets of one batch leave: an outlet for each link and IP version. Pure."""

from __future__ import annotations

from quicether.dataplane.snapshot import Link
from quicether.dataplane.verdict import Verdict
from quicether.model import MIN_IPV6_MTU


class Outlet:
    """The packets of one batch for one link and one IP version.

    limit: largest packet in bytes; 0 where IPv6 is off because less than 1280 bytes fit.
    """

    __slots__ = ("limit", "link", "packets", "version")

    def __init__(self, link: Link, version: int) -> None:
        self.link = link
        self.version = version
        self.packets: list[bytes] = []
        self.limit = 0

    def open(self) -> None:
        """Take what the link carries now for the limit of this batch."""
        limit = self.link.max_packet
        self.limit = 0 if self.version == 6 and limit < MIN_IPV6_MTU else limit

    def flush(self) -> tuple[int, int]:
        """Hand the batch over. Return packets and bytes."""
        packets, self.packets = self.packets, []
        if packets:
            self.link.send_packets(packets)
        return len(packets), sum(map(len, packets))


class Path:
    """A verdict with the outlet that it leads to, None unless SEND or FORWARD."""

    __slots__ = ("outlet", "verdict")

    def __init__(self, verdict: Verdict, outlet: Outlet | None) -> None:
        self.verdict = verdict
        self.outlet = outlet
