"""Whoever owns the tunnel's link: NetworkManager, systemd-networkd, or ourselves by netlink."""

from __future__ import annotations

from typing import Protocol

from quicether.dataplane.device import Device
from quicether.host.desired import HostConfig


class LinkOwner(Protocol):
    """Puts a desired state on the machine and takes it away again."""

    @property
    def name(self) -> str:
        """`networkmanager`, `networkd` or `netlink`."""

    @property
    def limits(self) -> tuple[str, ...]:
        """What of the last configuration this machine cannot have, a sentence each."""

    async def attach(self, config: HostConfig) -> Device:
        """Make the device exist as config says and return it opened.

        A device of that name that an earlier run left is adopted. Raises HostError.
        """

    async def apply(self, config: HostConfig) -> None:
        """Bring the machine from the last applied state to config; what stays does not flap.

        Raises HostError: the machine refused; what could be applied stays applied.
        """

    async def remove(self) -> None:
        """Take away everything that attach and apply made. Idempotent."""
