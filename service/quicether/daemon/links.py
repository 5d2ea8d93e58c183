"""Who owns the link of a tunnel on this machine, and what links of a crashed daemon are left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Final

from quicether.bus.contract import LinkOwnerName
from quicether.errors import ConfigError, HostError
from quicether.host.detect import detect
from quicether.host.link import LinkOwner
from quicether.host.netlink import NetlinkOwner, clean_leftovers
from quicether.host.networkd import NetworkdOwner, clean_networkd_leftovers, leftovers
from quicether.host.resolved import ResolvedOwner
from quicether.host.resolver import NO_BUS, Resolver, find_resolver
from quicether.host.system_bus import SystemBus

log = logging.getLogger(__name__)

ADOPTION: Final = 10.0
"""Seconds after the start in which a tunnel may adopt the device that a crash left to networkd.

The units of stored tunnels start again right behind the service.
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """The owner of a link, and a sentence that says why it is this one.

    resolver: whom the owner tells of the link's name servers.
    """

    owner: LinkOwner
    reason: str
    resolver: Resolver = NO_BUS


class Links:
    """The managers of links that this machine has.

    bus: where NetworkManager and systemd-networkd are found; without one there is only netlink.
    """

    def __init__(self, bus: SystemBus | None = None) -> None:
        self._bus = bus

    async def choose(
        self,
        asked: LinkOwnerName | None,
        configured: LinkOwnerName,
        device: str,
        netns: str | None,
    ) -> Choice:
        """Return who is to own device: who asked, else as configured; AUTO finds out.

        asked: by whoever brings the tunnel up; NetworkManager's plugin asks for itself.
        netns: only netlink reaches into a network namespace.
        Raises ConfigError: configured is NetworkManager, and it did not ask; HostError: that
        manager does not run here.
        """
        name = asked or configured
        if asked not in (None, LinkOwnerName.AUTO):
            reason = f"{asked} was asked for by whoever brought the tunnel up"
        elif name is not LinkOwnerName.AUTO:
            reason = f"link = {name} is configured"
        elif netns is not None:
            name, reason = LinkOwnerName.NETLINK, "only netlink reaches into a network namespace"
        else:
            name, reason = await self._detect()
        match name:
            case LinkOwnerName.NETWORKMANAGER if asked is not LinkOwnerName.NETWORKMANAGER:
                raise ConfigError(
                    "link: 'networkmanager' is for tunnels that NetworkManager brings up "
                    "(nmcli connection up quicether); here auto, networkd or netlink would be right"
                )
            case LinkOwnerName.NETWORKD:
                if self._bus is None:
                    raise HostError("link: networkd is reached over D-Bus, which is not there")
                resolver = await find_resolver(self._bus, networkmanager=False)
                return Choice(NetworkdOwner(self._bus), reason, resolver)
        # A device that a crash left to networkd must not have two owners.
        await self._clean_networkd({device})
        ours = name is not LinkOwnerName.NETWORKMANAGER
        resolver = await find_resolver(self._bus, networkmanager=not ours)
        owner: LinkOwner = NetlinkOwner(addressing=ours)
        if ours and netns is None and resolver.splits and self._bus is not None:
            owner = ResolvedOwner(owner, self._bus)
        return Choice(owner, reason, resolver)

    async def clean(self, taken: Callable[[], Set[str]]) -> None:
        """Take away what a crashed daemon left: at once in the kernel, later at networkd.

        taken: the devices of the tunnels that are up; those are not touched.
        """
        try:
            await clean_leftovers()
            await asyncio.sleep(ADOPTION if leftovers() else 0)
            await self._clean_networkd(leftovers() - taken())
        except HostError as error:
            log.warning("while cleaning what a crash left: %s", error)

    async def _clean_networkd(self, devices: Set[str]) -> None:
        if self._bus is not None and leftovers() & devices:
            await clean_networkd_leftovers(self._bus, devices)

    async def _detect(self) -> tuple[LinkOwnerName, str]:
        if self._bus is None:
            return LinkOwnerName.NETLINK, "there is no D-Bus to ask for a network manager"
        found = await detect(self._bus)
        if found.manager == "networkmanager":
            # It owns the links of its own profiles; a tunnel of ours it only has to leave alone.
            return (
                LinkOwnerName.NETLINK,
                f"{found.reason}, and this tunnel was not brought up by its profile",
            )
        return LinkOwnerName(found.manager), found.reason
