"""Peers and routes as a tunnel tells them: in order, page by page, and when they are others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address, ip_network

import pytest

from quicether.bus.status import RouteStatus
from quicether.config.settings import Settings
from quicether.daemon.guard import Guard
from quicether.daemon.report import Report
from quicether.model import Member, NextHop, NodeId, Prefix
from quicether.policy.ruleset import RuleSet
from support.fake_endpoint import FakeUnderlay
from support.mesh_nodes import Node

LANS = [ip_network(f"10.{number}.0.0/16") for number in range(5)]
HOME, OFFICE = (
    Member(
        NodeId(bytes([number]) * 20),
        name,
        b"",
        (ip_address(f"100.64.0.{number}"),),
        (ip_network("0.0.0.0/0"),),
    )
    for number, name in ((7, "home"), (8, "office"))
)


def learn(node: Node, member: Member, *prefixes: Prefix) -> None:
    node.routes.discovered(member, NextHop.to_node(member.node_id), prefixes)


def play(scene: Callable[[Node, Report], Awaitable[None]], gateway: str | None = None) -> None:
    async def run() -> None:
        node = Node(FakeUnderlay(), 1, default_gateway=gateway)
        await node.start()
        try:
            await scene(node, Report(node.mesh, Guard(Settings(), RuleSet.without_policy())))
        finally:
            await node.stop()

    asyncio.run(run())


def listed(routes: list[RouteStatus]) -> list[tuple[str, str | None, bool]]:
    return [(each.prefix, each.node_name, each.used) for each in routes]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pages_of_any_size_make_the_whole_list(size: int) -> None:
    async def scene(node: Node, report: Report) -> None:
        learn(node, HOME, *reversed(LANS))
        learn(node, OFFICE, LANS[1], LANS[3])
        assert report.route_count == 10
        pages = [report.routes(start, size) for start in range(0, 10, size)]
        assert [len(page) for page in pages[:-1]] == [size] * (len(pages) - 1)
        assert listed([each for page in pages for each in page]) == [
            ("10.0.0.0/16", "home", True),
            ("10.1.0.0/16", "home", True),
            ("10.1.0.0/16", "office", False),
            ("10.2.0.0/16", "home", True),
            ("10.3.0.0/16", "home", True),
            ("10.3.0.0/16", "office", False),
            ("10.4.0.0/16", "home", True),
            ("100.64.0.1/32", None, True),
            ("0.0.0.0/0", "home", True),
            ("::/0", "home", True),
        ]
        assert report.routes(10, size) == []

    play(scene, gateway="home")


def test_a_route_that_comes_or_goes_between_two_pages_is_seen() -> None:
    async def scene(node: Node, report: Report) -> None:
        learn(node, HOME, *LANS[1:])
        assert report.routes(0, 1)[0].prefix == "10.1.0.0/16"
        learn(node, HOME, *LANS)
        assert report.routes(0, 1)[0].prefix == "10.0.0.0/16"
        assert report.route_count == 6
        learn(node, HOME)
        assert listed(report.routes(0, 9)) == [("100.64.0.1/32", None, True)]
        assert report.route_count == 1

    play(scene)


CHANGES: list[tuple[str, Callable[[Node], object]]] = [
    ("a candidate comes", lambda node: learn(node, OFFICE, LANS[0])),
    ("a prefix goes", lambda node: learn(node, HOME)),
    ("a node is reached", lambda node: node.routes.reachable(HOME.node_id, reachable=True)),
    ("a node leaves", lambda node: node.routes.forget(HOME.node_id)),
]


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=[n for n, _ in CHANGES])
def test_routes_have_another_revision_whenever_they_are_others(
    change: Callable[[Node], object],
) -> None:
    async def scene(node: Node, report: Report) -> None:
        learn(node, HOME, LANS[0])
        before, routes = report.routes_revision, report.routes(0, 9)
        assert report.routes_revision == before
        change(node)
        assert report.routes(0, 9) != routes
        assert report.routes_revision != before

    play(scene)


def test_peers_have_another_revision_whenever_a_change_is_told() -> None:
    async def scene(node: Node, report: Report) -> None:
        await asyncio.sleep(0)
        before, told = report.peers_revision, node.changes
        node.mesh.wake()
        await asyncio.sleep(0)
        assert node.changes == told + 1
        assert report.peers_revision != before

    play(scene)
