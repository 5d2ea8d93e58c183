"""The link owned by ourselves, through rtnetlink: for machines without a network manager.

With `addressing=False` the same class serves a machine where NetworkManager owns addresses and
routes: it makes the device and keeps what NetworkManager has no place for (MTU of the device,
the rules of a full tunnel, a network namespace).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from quicether.dataplane.tun import Tun
from quicether.errors import HostError
from quicether.host.desired import HostConfig
from quicether.host.exits import drop_exits
from quicether.host.kernel_state import (
    KernelRoute,
    KernelRule,
    KernelState,
    Wanted,
    difference,
    full_tunnel_priorities,
    orphans,
    wanted,
)
from quicether.host.rtnetlink import Ipv6Off, RouteTaken, Rtnetlink
from quicether.host.rule_watch import RuleWatch
from quicether.model import MIN_IPV6_MTU, Interface

log = logging.getLogger(__name__)

_Item = TypeVar("_Item", Interface, KernelRoute, KernelRule)
_TOLD = 5
"""Refusals that one error names; the others are only counted in it."""


class NetlinkOwner:
    """Implements `LinkOwner` on rtnetlink. One owner has one device.

    limits: what of the last configuration this machine cannot have (IPv6 that is switched off, a
    prefix that another route leads elsewhere), in sentences for status; the rest works.
    """

    def __init__(self, *, addressing: bool = True) -> None:
        """Addressing: put addresses and routes too; else they are NetworkManager's."""
        self._addressing = addressing
        self._link: Rtnetlink | None = None
        self._tun: Tun | None = None
        self._index = 0
        self._mtu = 0
        self._ipv6 = True
        self._have = KernelState()
        self._taken: set[str] = set()
        self._config: HostConfig | None = None
        self._turn = asyncio.Lock()
        self._watch: RuleWatch | None = None
        self.limits: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`netlink`, or `networkmanager` where addresses and routes are its own."""
        return "netlink" if self._addressing else "networkmanager"

    async def attach(self, config: HostConfig) -> Tun:
        """Make the device exist as config says and return it opened.

        Raises HostError; then nothing is left of the attempt.
        """
        if self._tun is not None:
            raise HostError(f"device {self._tun.name} is attached already")
        try:
            self._tun = await _open_device(config)
            self._link = Rtnetlink.open(config.netns)
            await self._adopt(self._link, config)
            await self._set_mtu(self._link, config.mtu)
            await self._link.set_up(self._index)
            await self.apply(config)
            self._watch = RuleWatch(self._restore)
            self._watch.open()
        except HostError:
            await self.remove()
            raise
        return self._tun

    async def apply(self, config: HostConfig) -> None:
        """Bring the machine to config; what stays is not touched.

        Raises HostError: what the kernel refused, after everything else was done. The next
        apply tries it again.
        """
        async with self._turn:
            await self._apply(config)

    async def _restore(self) -> None:
        """Put back the rules of the last configuration that somebody else has taken away."""
        async with self._turn:
            if self._link is None or self._config is None:
                return
            left = await self._link.rules()
            missing = self._have.rules - left
            if missing:
                log.warning("%d routing rules were taken away, and are put back", len(missing))
                self._have = replace(self._have, rules=self._have.rules & left)
                await self._apply(self._config)

    async def _apply(self, config: HostConfig) -> None:
        self._config = config
        link = self._link
        if link is None or self._tun is None:
            raise HostError("no device is attached")
        refusals: list[str] = []
        had_ipv6 = self._ipv6
        self._taken.clear()
        goal = await self._approach(link, config, refusals)
        if had_ipv6 and not self._ipv6:
            # Found out on the way: what was IPv6's is now to be kept from leaking.
            goal = await self._approach(link, config, refusals)
        self._tell_limits(config, goal.refused)
        if refusals:
            told = "; ".join(refusals[:_TOLD])
            more = len(refusals) - _TOLD
            raise HostError(f"{told}; and {more} more" if more > 0 else told)

    async def remove(self) -> None:
        """Take away everything that attach and apply made. Idempotent.

        The kernel takes addresses and routes away with the device; rules and unreachable
        routes are not bound to it.
        """
        if self._watch is not None:
            await self._watch.close()
        link, tun = self._link, self._tun
        refusals: list[str] = []
        if link is not None:
            await self._each(tuple(self._have.rules), link.delete_rule, refusals)
            await self._each(
                tuple(route for route in self._have.routes if route.unreachable),
                lambda route: link.delete_route(self._index, route),
                refusals,
            )
            link.close()
        if tun is not None:
            tun.close()
        self._link = self._tun = self._config = None
        self._have = KernelState()
        self._mtu = 0
        self._ipv6 = True
        if refusals:
            raise HostError("; ".join(refusals[:_TOLD]))

    async def _adopt(self, link: Rtnetlink, config: HostConfig) -> None:
        """Learn what is there already, and clean what a crash left without an owner."""
        index = await link.link_index(config.device)
        if index is None:
            raise HostError(f"device {config.device} went away while it was made")
        self._index = index
        await _clean(link)
        rules, routes = await link.rules(), await link.routes()
        full = config.full_tunnel
        priorities = full_tunnel_priorities(full) if full is not None else range(0)
        self._have = KernelState(
            await link.addresses(index) if self._addressing else frozenset(),
            frozenset(
                route
                for route, where in routes.items()
                if where == index or (where is None and full and route.table == full.table)
            ),
            frozenset(rule for rule in rules if rule.priority in priorities),
        )

    async def _approach(self, link: Rtnetlink, config: HostConfig, refusals: list[str]) -> Wanted:
        """Go as near to config as the kernel lets us, and remember where that is."""
        index = self._index
        goal = wanted(config, addressing=self._addressing, ipv6=self._ipv6)
        change = difference(self._have, goal.state)
        gone_rules = await self._each(change.remove_rules, link.delete_rule, refusals)
        gone_routes = await self._each(
            change.remove_routes, lambda route: link.delete_route(index, route), refusals
        )
        gone_addresses = await self._each(
            change.remove_addresses, lambda one: link.delete_address(index, one), refusals
        )
        if config.mtu != self._mtu:
            try:
                await self._set_mtu(link, config.mtu)
            except HostError as refusal:
                refusals.append(str(refusal))
        new_addresses = await self._each(
            change.add_addresses, lambda one: link.add_address(index, one), refusals
        )
        new_routes = await self._each(
            change.add_routes, lambda route: link.add_route(index, route), refusals
        )
        new_rules = await self._each(change.add_rules, link.add_rule, refusals)
        have = self._have
        self._have = KernelState(
            (have.addresses - gone_addresses) | new_addresses,
            (have.routes - gone_routes) | new_routes,
            (have.rules - gone_rules) | new_rules,
        )
        return goal

    async def _set_mtu(self, link: Rtnetlink, mtu: int) -> None:
        await link.set_mtu(self._index, mtu)
        self._mtu = mtu
        if self._ipv6 and mtu >= MIN_IPV6_MTU:
            try:
                await link.silence(self._index)
            except Ipv6Off:
                self._ipv6 = False

    async def _each(
        self,
        items: Iterable[_Item],
        act: Callable[[_Item], Awaitable[None]],
        refusals: list[str],
    ) -> frozenset[_Item]:
        """Act on every item; return those done and add a sentence for each that was refused.

        An item that fails for want of IPv6 or of a free place is no refusal; the owner remembers
        it.
        """
        done: set[_Item] = set()
        for item in items:
            try:
                await act(item)
            except Ipv6Off:
                self._ipv6 = False
            except RouteTaken as taken:
                self._taken.add(str(taken))
            except HostError as refusal:
                refusals.append(str(refusal))
            else:
                done.add(item)
        return frozenset(done)

    def _tell_limits(self, config: HostConfig, refused: tuple[str, ...]) -> None:
        limits = [*refused, *sorted(self._taken)]
        if not self._ipv6:
            limits.append(f"IPv6 is switched off on this machine, {config.device} is IPv4 only")
        for limit in limits:
            if limit not in self.limits:
                log.warning("%s", limit)
        self.limits = tuple(limits)


async def clean_leftovers() -> None:
    """Take away what tunnels of a daemon that crashed left in the kernel. For the start.

    Raises HostError: the kernel refused.
    """
    link = Rtnetlink.open()
    try:
        await _clean(link)
    finally:
        link.close()
    await drop_exits()


async def _clean(link: Rtnetlink) -> None:
    left = orphans(await link.rules(), await link.routes())
    for rule in left.rules:
        log.info("cleaning routing rule %d that a crash left", rule.priority)
        await link.delete_rule(rule)
    for route in left.routes:
        log.info("cleaning route %s of table %d that a crash left", route.prefix, route.table)
        await link.delete_route(0, route)


async def _open_device(config: HostConfig) -> Tun:
    """Make or adopt the TUN device, bound to this process, in the namespace config names."""
    outside = Rtnetlink.open()
    try:
        if await outside.link_index(config.device) is None:
            await outside.make_tun(config.device)
        tun = Tun.open(config.device)
        if config.netns is not None:
            try:
                await _move(outside, config.device, config.netns)
            except HostError:
                tun.close()
                raise
        return tun
    finally:
        outside.close()


async def _move(outside: Rtnetlink, device: str, namespace: str) -> None:
    inside = Rtnetlink.open(namespace)
    try:
        if await inside.link_index(device) is not None:
            raise HostError(f"network namespace {namespace!r} has a device {device} already")
    finally:
        inside.close()
    index = await outside.link_index(device)
    if index is None:
        raise HostError(f"device {device} went away while it was made")
    await outside.move_link(index, namespace)
