"""What the OS is to have, from the settings and what the mesh knows now."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from quicether.config.settings import Settings
from quicether.config.values import HostPort
from quicether.daemon.host_config import host_config
from quicether.host.underlay import Underlay
from quicether.model import UnderlayAddress
from quicether.overlay.gateways import Forwarding
from quicether.overlay.underlay_names import UnderlayNames
from support.fake_endpoint import FakeUnderlay
from support.mesh_nodes import Node
from support.virtual_time import passes, play

EVERYTHING = ip_network("0.0.0.0/0")
AROUND = ip_network("192.0.2.0/28")
"""Covers where the first nodes are."""


def of(node: Node, settings: Settings | None = None) -> tuple[list[str], list[str]]:
    """Return the prefixes that a node's host gets, and the sentences on those that it does not."""
    settings = settings or Settings.from_options({})
    wanted = host_config(settings, node.member, node.mesh, Underlay(), 1420, 9000)
    return [str(prefix) for prefix in wanted.config.prefixes], list(wanted.refusals)


def test_a_default_gateway_that_is_not_there_is_said_in_a_sentence() -> None:
    settings = Settings.from_options({"default-gateway": "node1"})

    def refusals(node: Node) -> list[str]:
        wanted = host_config(settings, node.member, node.mesh, Underlay(), 1420, 9000)
        return list(wanted.refusals)

    async def scene() -> None:
        underlay = FakeUnderlay()
        way_out = Node(underlay, 1, EVERYTHING, forwarding=Forwarding((EVERYTHING,)))
        laptop = Node(underlay, 2, default_gateway="node1")
        await laptop.start(way_out)
        (sentence,) = refusals(laptop)
        assert sentence.startswith("default-gateway: no node called node1 is known yet; ")
        await way_out.start()
        await passes(lambda: laptop.hop("8.8.8.8"), 10)
        (sentence,) = refusals(laptop)
        assert "does not forward IPv6 to the internet" in sentence
        await way_out.stop()
        await passes(lambda: not laptop.reaches(way_out), 10)
        assert refusals(laptop) == ["default-gateway: node1 is not connected"]
        await laptop.stop()

    play(scene)


def test_a_peer_that_is_lost_for_a_moment_is_not_cut_off_for_good() -> None:
    """The prefix around it used to be taken, and the peer neither called nor heard again."""

    async def scene() -> None:
        underlay = FakeUnderlay()
        lost, other = Node(underlay, 1), Node(underlay, 200, AROUND)
        laptop = Node(underlay, 100)
        await lost.start()
        await other.start()
        await laptop.start(lost, other)
        await passes(lambda: laptop.reaches(lost) and laptop.hop("192.0.2.5"), 5)
        underlay.cut(laptop.address, lost.address)
        await passes(lambda: not laptop.reaches(lost), 5)
        prefixes, (sentence,) = of(laptop)
        assert str(AROUND) not in prefixes
        assert "it covers the underlay address 192.0.2.1/32 of a peer" in sentence
        laptop.mesh.outside.moved()
        assert str(AROUND) in of(laptop)[0]
        for node in (lost, other, laptop):
            await node.stop()

    play(scene)


@pytest.mark.parametrize("option", ["peers", "bootstrap"])
def test_what_the_settings_name_stays_reachable_by_its_addresses(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    async def resolve(_: UnderlayNames, location: HostPort) -> tuple[UnderlayAddress, ...]:
        return (UnderlayAddress("192.0.2.1", location.port),)

    async def scene() -> None:
        underlay = FakeUnderlay()
        other, laptop = Node(underlay, 200, AROUND), Node(underlay, 100)
        await other.start()
        await laptop.start(other)
        await passes(lambda: laptop.hop("192.0.2.5"), 5)
        settings = Settings.from_options({option: "home.example:9000"})
        assert str(AROUND) in of(laptop, settings)[0]
        monkeypatch.setattr(UnderlayNames, "_resolve", resolve)
        await laptop.mesh.dialer.names.learn([HostPort("home.example", 9000)])
        assert str(AROUND) not in of(laptop, settings)[0]
        for node in (other, laptop):
            await node.stop()

    play(scene)
