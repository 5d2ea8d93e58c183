"""What the OS is to have, from the settings and what the mesh knows now."""

from __future__ import annotations

from ipaddress import ip_network

from quicether.config.settings import Settings
from quicether.daemon.host_config import host_config
from quicether.host.underlay import Underlay
from quicether.overlay.gateways import Forwarding
from support.fake_endpoint import FakeUnderlay
from support.mesh_nodes import Node
from support.virtual_time import passes, play

EVERYTHING = ip_network("0.0.0.0/0")


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
