"""What a connection makes of bad paths: loss, reordering, small MTUs, new addresses, silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from quicether.counters import Counters
from quicether.errors import UnreachableError
from quicether.model import DropReason, UnderlayAddress
from quicether.transport.endpoint import Connection
from quicether.transport.engine import DATAGRAM_OVERHEAD
from quicether.transport.messages import Ping
from quicether.transport.path import Path
from quicether.transport.path_mtu import STEP
from support.certificates import Network
from support.endpoints import RecordedEndpoint, join
from support.engines import EnginePair
from support.udp_relay import UdpRelay


async def join_through(
    client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay
) -> tuple[Connection, Connection]:
    client.connect(relay.address)
    await client.events.until(lambda: client.events.connections or client.events.failures)
    assert not client.events.failures
    await server.events.until(lambda: server.events.connections)
    return client.events.connections[0], server.events.connections[0]


def run_with_relay(
    test: Callable[[RecordedEndpoint, RecordedEndpoint, UdpRelay], object], **faults: float | int
) -> None:
    async def main() -> None:
        network = Network()
        async with (
            RecordedEndpoint(network.member("server"), network.trust()) as server,
            RecordedEndpoint(network.member("client"), network.trust()) as client,
            UdpRelay(server.local_address, **faults) as relay,  # type: ignore[arg-type]
        ):
            await test(client, server, relay)  # type: ignore[misc]

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(3))
def test_messages_and_requests_survive_loss_and_reordering(seed: int) -> None:
    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        ours, theirs = await join_through(client, server, relay)
        for number in range(20):
            ours.send_message(Ping(token=bytes((number + 1,))))
        answers = await asyncio.gather(
            *(ours.request(bytes((number,)) * 3000, 14) for number in range(40)),
            *(theirs.request(bytes((number,)) * 3000, 14) for number in range(40)),
        )
        assert answers == [bytes((number,)) * 3000 for number in range(40)] * 2
        await server.events.until(lambda: len(server.events.messages) == 20)
        tokens = [message.token for message in server.events.messages]  # type: ignore[attr-defined]
        assert tokens == [bytes((number + 1,)) for number in range(20)]
        assert relay.swallowed > 0

    run_with_relay(test, loss=0.1, reorder=0.2, seed=seed)


def test_packets_pass_a_lossy_path_once_and_whole() -> None:
    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        ours, theirs = await join_through(client, server, relay)
        numbers = count()
        sent: set[bytes] = set()
        while len(sent) < 2000:
            batch = [next(numbers).to_bytes(4, "big") * 50 for _ in range(20)]
            sent.update(batch)
            ours.send_packets(batch)
            await asyncio.sleep(0.001)
        await server.events.until(lambda: len(server.events.received) > 1600)
        got = server.events.received
        assert len(set(got)) == len(got)
        assert set(got) <= sent
        assert ours.carried == (200 * len(sent), 0)
        assert theirs.carried == (0, 200 * len(got))

    run_with_relay(test, loss=0.01, reorder=0.05)


def test_an_ordinary_path_carries_packets_of_1420_bytes() -> None:
    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        ours, theirs = await join_through(client, server, relay)
        await client.events.until(lambda: ours.max_packet >= 1420)
        await server.events.until(lambda: theirs.max_packet >= 1420)
        assert (ours.remote, ours.max_packet) in client.events.paths

    run_with_relay(test, max_size=1500 - 28)


@pytest.mark.parametrize("mtu", [1380, 1292, 1492, 1240])
def test_the_size_of_a_narrow_path_is_found(mtu: int) -> None:
    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        ours, theirs = await join_through(client, server, relay)
        largest = mtu - 28 - DATAGRAM_OVERHEAD
        for connection in (ours, theirs):
            # Where the path carries less than a search begins with, use shows it.
            while not largest - STEP < connection.max_packet <= largest:
                connection.send_packets([bytes(connection.max_packet)])
                await asyncio.sleep(0.05)
        before = len(server.events.received)
        ours.send_packets([bytes(ours.max_packet)])
        await server.events.until(lambda: len(server.events.received) > before)

    async def timed(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        async with asyncio.timeout(10):
            await test(client, server, relay)

    run_with_relay(timed, max_size=mtu - 28)


def test_a_path_that_begins_to_swallow_large_packets_is_noticed() -> None:
    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        ours, _ = await join_through(client, server, relay)
        await client.events.until(lambda: ours.max_packet >= 1420)
        relay.max_size = 1380 - 28
        largest = relay.max_size - DATAGRAM_OVERHEAD
        async with asyncio.timeout(8):
            while not largest - STEP < ours.max_packet <= largest:
                ours.send_packets([bytes(ours.max_packet)] * 5)
                await asyncio.sleep(0.02)
        assert not client.events.gone

    run_with_relay(test)


def test_packets_too_large_for_the_path_are_counted() -> None:
    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        ours, _ = await join_through(client, server, relay)
        ours.send_packets([bytes(ours.max_packet + 500), b"fits", bytes(9000)])
        await server.events.until(lambda: server.events.received == [b"fits"])
        assert client.counters.drops[DropReason.TOO_BIG] == 2

    run_with_relay(test)


def test_a_peer_behind_a_nat_that_forgot_it_is_followed() -> None:
    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        ours, theirs = await join_through(client, server, relay)
        before = theirs.remote
        relay.rebind()
        client.probe_paths()
        await server.events.until(lambda: theirs.remote != before)
        ours.send_packets([b"to the server"])
        await server.events.until(lambda: server.events.received == [b"to the server"])
        theirs.send_packets([b"to the client"])
        await client.events.until(lambda: client.events.received == [b"to the client"])
        assert await theirs.request(b"abc", 5) == b"cba"
        await server.events.until(lambda: theirs.max_packet >= 1420)
        assert not client.events.gone
        assert not server.events.gone

    run_with_relay(test)


def test_silence_under_traffic_is_noticed_within_seconds() -> None:
    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        ours, _ = await join_through(client, server, relay)
        relay.max_size = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not client.events.gone:
            ours.send_packets([bytes(1000)])
            await asyncio.sleep(0.05)
            assert loop.time() - began < 6
        assert loop.time() - began > 3
        assert "no answer" in client.events.gone[0][1]
        with pytest.raises(UnreachableError):
            await ours.request(b"x", 1)
        ours.send_packets([b"late"])
        assert client.counters.drops[DropReason.UNREACHABLE] >= 1

    run_with_relay(test)


def test_a_lone_packet_is_acknowledged_in_time() -> None:
    """IP packets arm less than all else does, and this they have to."""

    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        ours, theirs = await join_through(client, server, relay)
        for number, (near, there) in enumerate(((ours, server), (theirs, client)) * 2):
            near.send_packets([bytes((number,))])
            await there.events.until(lambda: there.events.received[-1:] == [bytes((number,))])  # noqa: B023
            assert near.unanswered < 0.5
            began = asyncio.get_running_loop().time()
            while near.unanswered:
                await asyncio.sleep(0.005)
                assert asyncio.get_running_loop().time() - began < 0.5

    run_with_relay(test)


def test_a_path_that_is_dead_in_one_direction_leaves_answers_due_though_packets_come() -> None:
    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        ours, theirs = await join_through(client, server, relay)
        relay.deaf = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        while ours.unanswered < 1.5:
            ours.send_packets([bytes(1000)])
            theirs.send_packets([bytes(1000)])
            await asyncio.sleep(0.05)
            assert loop.time() - began < 3.5
        relay.deaf = False
        await client.events.until(lambda: ours.unanswered < 0.5)

    run_with_relay(test)


def test_a_dead_path_is_noticed_sooner_when_the_network_changed() -> None:
    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        await join_through(client, server, relay)
        relay.max_size = 0
        client.probe_paths()
        await client.events.until(lambda: client.events.gone, 2.5)

    run_with_relay(test)


def test_on_an_address_that_is_not_validated_nothing_is_due() -> None:
    """The timer fired without end until the peer had answered from its new address."""
    pair = EnginePair()
    socket: Any = SimpleNamespace(largest_payload=lambda _remote: 1472)
    path = Path(pair.server, socket, Counters(), ("192.0.2.1", 1), 1500, lambda: None)
    path.search(pair.now)
    assert path.deadline is not None
    pair.server._network_paths[0].is_validated = False
    assert path.deadline is None
    assert not path.probe(pair.now + 1)


def test_nobody_there_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicether.transport.connection.FIRST_ANSWER", 1.0)

    async def test(client: RecordedEndpoint, server: RecordedEndpoint, relay: UdpRelay) -> None:
        relay.max_size = 0
        client.connect(relay.address)
        (failure,) = await client.events.until(lambda: client.events.failures)
        assert isinstance(failure.error, UnreachableError)
        assert failure.address == relay.address

    run_with_relay(test)


def test_both_sides_may_connect_at_once() -> None:
    async def main() -> None:
        network = Network()
        async with (
            RecordedEndpoint(network.member("a"), network.trust()) as a,
            RecordedEndpoint(network.member("b"), network.trust()) as b,
        ):
            a.connect(b.local_address)
            b.connect(a.local_address)
            for each in (a, b):
                await each.events.until(lambda: len(each.events.connections) == 2)  # noqa: B023
                assert {peer.initiated for peer in each.events.connections} == {True, False}

    asyncio.run(main())


def test_addresses_of_both_families_on_one_socket() -> None:
    async def main() -> None:
        network = Network()
        async with (
            RecordedEndpoint(
                network.member("server"), network.trust(), UnderlayAddress("::", 0)
            ) as server,
            RecordedEndpoint(
                network.member("six"), network.trust(), UnderlayAddress("::1", 0)
            ) as six,
            RecordedEndpoint(network.member("four"), network.trust()) as four,
        ):
            port = server.local_address.port
            six.connect(UnderlayAddress("::1", port))
            four.connect(UnderlayAddress("127.0.0.1", port))
            await server.events.until(lambda: len(server.events.connections) == 2)
            remotes = {peer.member.name: peer.remote for peer in server.events.connections}
            assert remotes == {"six": six.local_address, "four": four.local_address}
            await six.events.until(lambda: six.events.connections)
            six.events.connections[0].send_packets([b"over IPv6"])
            await server.events.until(lambda: server.events.received == [b"over IPv6"])

    asyncio.run(main())


def test_a_second_connection_to_the_same_peer_stands_beside_the_first() -> None:
    async def main() -> None:
        network = Network()
        async with (
            RecordedEndpoint(network.member("a"), network.trust()) as a,
            RecordedEndpoint(network.member("b"), network.trust()) as b,
        ):
            first, _ = await join(a, b)
            second, far = await join(a, b)
            assert first is not second
            second.send_packets([b"on the second"])
            await b.events.until(lambda: b.events.received)
            far.send_packets([b"back"])
            await a.events.until(lambda: a.events.received)

    asyncio.run(main())
