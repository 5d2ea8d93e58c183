"""A link's name servers told to systemd-resolved, where nobody else owns the link's DNS."""

from __future__ import annotations

import logging
import socket
from typing import Final

from quicether.dataplane.device import Device
from quicether.errors import HostError
from quicether.host.desired import Dns, HostConfig
from quicether.host.link import LinkOwner
from quicether.host.resolver import RESOLVED
from quicether.host.system_bus import SystemBus

log = logging.getLogger(__name__)

_PATH: Final = "/org/freedesktop/resolve1"
_FAMILIES: Final = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}


class ResolvedOwner:
    """Implements `LinkOwner`: what owner does, and the name servers on top.

    resolved forgets them with the device. That it refuses is a limit, and no reason to fail.
    """

    def __init__(self, owner: LinkOwner, bus: SystemBus) -> None:
        self._owner = owner
        self._bus = bus
        self._told = Dns()
        self._trouble: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The owner's name."""
        return self._owner.name

    @property
    def limits(self) -> tuple[str, ...]:
        """The owner's, and what resolved refused."""
        return (*self._owner.limits, *self._trouble)

    async def attach(self, config: HostConfig) -> Device:
        """Let owner attach, and tell resolved. Raises HostError: the owner's."""
        device = await self._owner.attach(config)
        await self._tell(config)
        return device

    async def apply(self, config: HostConfig) -> None:
        """Let owner apply, and tell resolved what changed. Raises HostError: the owner's."""
        try:
            await self._owner.apply(config)
        finally:
            await self._tell(config)

    async def remove(self) -> None:
        """Let owner remove the device, and with it what resolved knows of it."""
        self._told, self._trouble = Dns(), ()
        await self._owner.remove()

    async def _tell(self, config: HostConfig) -> None:
        if config.dns == self._told:
            return
        try:
            index = socket.if_nametoindex(config.device)
            await self._set(index, config.dns)
        except (HostError, OSError) as refusal:
            sentence = f"systemd-resolved was not told of the name servers: {refusal}"
            if sentence not in self._trouble:
                log.warning("%s", sentence)
            self._trouble = (sentence,)
        else:
            self._told, self._trouble = config.dns, ()

    async def _set(self, index: int, dns: Dns) -> None:
        servers = [[_FAMILIES[each.version], each.packed] for each in dns.servers]
        # "~" makes a domain that only says where to ask, and is not appended to short names.
        domains = [[each.removeprefix("~"), each.startswith("~")] for each in dns.domains]
        if dns.default_route and dns.servers:
            domains.append([".", True])
        await self._call("SetLinkDNS", "ia(iay)", [index, servers])
        await self._call("SetLinkDomains", "ia(sb)", [index, domains])
        await self._call("SetLinkDefaultRoute", "ib", [index, dns.default_route])

    async def _call(self, member: str, signature: str, body: list[object]) -> None:
        await self._bus.call(RESOLVED, _PATH, f"{RESOLVED}.Manager", member, signature, body)
