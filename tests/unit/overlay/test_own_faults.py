"""A fault of our own in what runs in the background is in the journal at once, and is survived."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from quicether.errors import OWN_FAULT
from quicether.model import NodeId, PeerState
from quicether.overlay.revocations import Revocations
from support.fake_endpoint import FakeUnderlay
from support.mesh_nodes import Node, until


def play(scene: Callable[[Node, Node], Awaitable[None]]) -> None:
    async def run() -> None:
        underlay = FakeUnderlay()
        nodes = Node(underlay, 1), Node(underlay, 2)
        try:
            await scene(*nodes)
        finally:
            for node in nodes:
                await node.stop()

    asyncio.run(run())


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.exc_info is not None]


def test_a_peer_that_cannot_be_tried_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """It counted as being tried for ever, and the journal had it when memory was next cleared."""

    async def scene(a: Node, b: Node) -> None:
        connect, left = a.endpoint.connect, [1]

        def faulty(*arguments: Any) -> None:
            if left:
                raise KeyError(left.pop())
            connect(*arguments)

        a.endpoint.connect = faulty  # type: ignore[method-assign]
        await b.start()
        await a.start(b)
        await until(lambda: faults(caplog))
        (target,) = a.mesh.peers.targets()
        assert a.mesh.peers.state(target) is PeerState.UNREACHABLE
        assert OWN_FAULT in str(target.error)
        await until(lambda: a.reaches(b))

    play(scene)
    assert faults(caplog) == ["peer 192.0.2.2:9000 cannot be tried by a fault of our own"]


def test_revocations_that_cannot_be_compared(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty:
        @property
        def revocations(self) -> None:
            raise KeyError("number")

    async def scene(a: Node, b: Node) -> None:
        await b.start()
        await a.start(b)
        await until(lambda: a.reaches(b))
        connection = a.mesh.peers.active(b.member.node_id)
        assert connection is not None
        revocations = Revocations(Faulty(), a.mesh, lambda _: None)  # type: ignore[arg-type]
        revocations.connected(connection)
        await until(lambda: faults(caplog))
        await revocations.close()

    play(scene)
    assert faults(caplog) == ["a fault of our own while revocations were compared with node2"]


def test_an_answer_that_cannot_be_taken(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(a: Node, b: Node) -> None:
        await b.start()
        await a.start(b)
        await until(lambda: a.reaches(b))

        def faulty(*_: Any) -> None:
            raise KeyError("way")

        monkeypatch.setattr("quicether.overlay.direct.DirectWays.answered", faulty)
        monkeypatch.setattr("quicether.overlay.direct.DirectWays.detoured", lambda *_: True)
        node: NodeId = b.member.node_id
        a.mesh.detoured(node)
        await until(lambda: faults(caplog))

    play(scene)
    assert faults(caplog) == ["a fault of our own while node2 was asked"]
