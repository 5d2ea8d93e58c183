"""NAT boxes as they stand in homes, at carriers and in offices, by nftables."""

from __future__ import annotations

import enum
from typing import Final

from support.cables import Port
from support.hosts import Router


class NatKind(enum.Enum):
    """How a box maps and filters (RFC 4787's terms)."""

    PORT_RESTRICTED = "masquerade persistent"
    """One outside port for an inside socket where it is free, whoever the peer; answers come in
    only from whom the socket has sent to. Most homes."""

    SYMMETRIC = "masquerade fully-random"
    """A new random outside port for every peer: holes cannot be foretold. Carriers and offices."""


class NatBox(Router):
    """A router that hides what is behind it.

    `translate` makes it one, once its cables are there and configured.
    """

    def __init__(self, name: str, kind: NatKind = NatKind.PORT_RESTRICTED) -> None:
        super().__init__(name)
        self.kind: Final = kind

    def translate(self, outside: Port) -> None:
        """Masquerade what leaves through `outside`, and let in only answers."""
        rules = f"""
            flush ruleset
            table inet nat {{
                chain out {{
                    type nat hook postrouting priority srcnat
                    oifname "{outside.ifname}" {self.kind.value}
                }}
                chain through {{
                    type filter hook forward priority filter
                    iifname "{outside.ifname}" ct state established,related accept
                    iifname "{outside.ifname}" drop
                }}
            }}
        """
        self.run(["nft", "-f", "-"], input=rules)

    def forget(self) -> None:
        """Lose all mappings, as a restart of the box does."""
        self.run(["conntrack", "-F"])
