"""Who resolves names on a machine, and what systemd-resolved is told, on a private bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest
from dbus_next.aio.message_bus import MessageBus

from quicether.bus.api import ACCEPTED_SIGNATURES
from quicether.bus.connection import BusConnection
from quicether.dataplane.device import Device
from quicether.errors import HostError
from quicether.host.desired import Dns, HostConfig
from quicether.host.resolved import ResolvedOwner
from quicether.host.resolver import NO_BUS, find_resolver
from support.fake_device import FakeDevice
from support.fake_resolved import FakeDnsManager, FakeResolved
from support.private_bus import PrivateBus, connection

CONFIG = HostConfig(
    device="lo",
    mtu=1420,
    addresses=(ip_interface("100.64.0.1/32"),),
    dns=Dns((ip_address("100.64.9.9"), ip_address("fd00::53")), ("~kin.quicether", "corp.example")),
)
LO = 1


class Owner:
    """A fake owner of a link that does nothing. refusal: what apply ends with."""

    name = "netlink"

    def __init__(self) -> None:
        self.limits: tuple[str, ...] = ("a limit",)
        self.did: list[str] = []
        self.refusal: HostError | None = None

    async def attach(self, config: HostConfig) -> Device:
        self.did.append("attach")
        return FakeDevice()

    async def apply(self, config: HostConfig) -> None:
        self.did.append("apply")
        if self.refusal is not None:
            raise self.refusal

    async def remove(self) -> None:
        self.did.append("remove")


@asynccontextmanager
async def both(address: str) -> AsyncIterator[tuple[BusConnection, MessageBus]]:
    """The service's connection to the bus, and one for the fakes."""
    ours = BusConnection(ACCEPTED_SIGNATURES, address)
    await ours.open(lambda call: None, lambda name: None)
    try:
        async with connection(address) as theirs:
            yield ours, theirs
    finally:
        await ours.close()


def run(act: Callable[[BusConnection, MessageBus], Awaitable[None]]) -> None:
    async def whole(address: str) -> None:
        async with asyncio.timeout(20), both(address) as (ours, theirs):
            await act(ours, theirs)

    with PrivateBus() as bus:
        asyncio.run(whole(bus.address))


def test_resolved_is_told_of_servers_and_domains_and_of_changes_alone() -> None:
    async def act(ours: BusConnection, theirs: MessageBus) -> None:
        resolved, below = FakeResolved(), Owner()
        await resolved.start(theirs)
        owner = ResolvedOwner(below, ours)
        await owner.attach(CONFIG)
        assert resolved.servers == {LO: ["100.64.9.9", "fd00::53"]}
        assert resolved.domains == {LO: [("kin.quicether", True), ("corp.example", False)]}
        assert resolved.default == {LO: False}
        await owner.apply(replace(CONFIG, mtu=1300))
        assert resolved.calls == 3
        await owner.apply(replace(CONFIG, dns=Dns(CONFIG.dns.servers, (), default_route=True)))
        assert (resolved.domains, resolved.default) == ({LO: [(".", True)]}, {LO: True})
        await owner.apply(replace(CONFIG, dns=Dns()))
        assert (resolved.servers, resolved.domains) == ({LO: []}, {LO: []})
        await owner.remove()
        assert below.did == ["attach", "apply", "apply", "apply", "remove"]
        assert (owner.name, owner.limits) == ("netlink", ("a limit",))

    run(act)


def test_what_resolved_refuses_is_said_and_tried_again() -> None:
    async def act(ours: BusConnection, theirs: MessageBus) -> None:
        resolved = FakeResolved()
        await resolved.start(theirs)
        resolved.refusal = "Link lo is managed."
        owner = ResolvedOwner(Owner(), ours)
        await owner.attach(CONFIG)
        (_, limit) = owner.limits
        assert limit == "systemd-resolved was not told of the name servers: Link lo is managed."
        resolved.refusal = None
        await owner.apply(CONFIG)
        assert owner.limits == ("a limit",)
        assert resolved.servers[LO]
        await owner.apply(replace(CONFIG, device="gone0", dns=Dns()))
        assert "systemd-resolved was not told" in owner.limits[1]

    run(act)


def test_names_are_told_although_the_link_was_refused_something() -> None:
    async def act(ours: BusConnection, theirs: MessageBus) -> None:
        resolved, below = FakeResolved(), Owner()
        await resolved.start(theirs)
        below.refusal = HostError("no such route")
        with pytest.raises(HostError, match="no such route"):
            await ResolvedOwner(below, ours).apply(CONFIG)
        assert resolved.servers[LO]

    run(act)


@pytest.mark.parametrize(
    ("mode", "splits"),
    [("systemd-resolved", True), ("dnsmasq", True), ("default", False), ("none", False)],
)
def test_networkmanager_splits_names_in_some_modes(mode: str, splits: bool) -> None:
    async def act(ours: BusConnection, theirs: MessageBus) -> None:
        await FakeDnsManager(mode).start(theirs)
        found = await find_resolver(ours, networkmanager=True)
        assert found.splits is splits
        assert found.told is (mode != "none")
        assert mode in found.text

    run(act)


def test_resolved_has_to_run_where_the_link_is_not_networkmanagers() -> None:
    async def act(ours: BusConnection, theirs: MessageBus) -> None:
        before = await find_resolver(ours, networkmanager=False)
        await FakeResolved().start(theirs)
        after = await find_resolver(ours, networkmanager=False)
        assert (before.splits, after.splits) == (False, True)
        assert (before.told, after.told) == (False, True)
        nobody = await find_resolver(ours, networkmanager=True)
        assert not nobody.splits
        assert await find_resolver(None, networkmanager=False) is NO_BUS

    run(act)
