"""Everything that a peer or a stranger can make grow has a bound, and what goes is counted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from random import Random

import pytest
from aioquic.quic.configuration import QuicConfiguration

from quicether.errors import HostError
from quicether.model import DropReason, UnderlayAddress
from quicether.transport import admission
from quicether.transport.connection import AioquicConnection
from quicether.transport.engine import Engine
from quicether.transport.messages import Ping
from quicether.transport.packet_queue import MAX_BYTES, MAX_PACKETS
from quicether.transport.tls import configuration
from support.certificates import Network
from support.endpoints import LOOPBACK, RecordedEndpoint, join
from support.rude_peers import MuteRole, RudeServer

ADDRESS = ("127.0.0.1", 1)


def first_flight(settings: QuicConfiguration | None = None) -> bytes:
    """Return the first packet of a client that will never send another."""
    engine = Engine(
        configuration=settings
        or configuration(is_client=True, protocols=["quicether/1"], certificate=None, key=None)
    )
    engine.connect(ADDRESS, 0.0)
    ((datagram, _),) = engine.datagrams_to_send(0.0)
    return datagram


class Sender:
    """A plain UDP socket that sends to an endpoint."""

    def __init__(self, endpoint: RecordedEndpoint) -> None:
        address = endpoint.local_address
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect((address.host, address.port))

    async def send(self, datagram: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, datagram)

    async def receive(self, patience: float = 5.0) -> bytes:
        async with asyncio.timeout(patience):
            return await asyncio.get_running_loop().sock_recv(self.socket, 65536)


async def until(condition: Callable[[], bool], patience: float = 10.0) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_two_hundred_peers_on_one_socket() -> None:
    async def main() -> None:
        network = Network()
        async with RecordedEndpoint(network.member("hub"), network.trust()) as hub:
            peers = [
                RecordedEndpoint(network.member(f"peer{number}"), network.trust())
                for number in range(200)
            ]
            try:
                for peer in peers:
                    peer.open(peer.events)
                for start in range(0, 200, 20):
                    await asyncio.gather(*(join(peer, hub) for peer in peers[start : start + 20]))
                for peer in peers:
                    peer.events.connections[0].send_packets([peer.identity.name.encode()] * 3)
                await hub.events.until(lambda: len(hub.events.received) == 600)
                for connection in hub.events.connections:
                    connection.send_packets([connection.member.name.encode()])
                for peer in peers:
                    await peer.events.until(lambda: peer.events.received)  # noqa: B023
                    assert peer.events.received == [peer.identity.name.encode()]
                assert not hub.events.gone
            finally:
                for peer in peers:
                    await peer.close()
            await hub.events.until(lambda: len(hub.events.gone) == 200)
            await until(lambda: len(hub._carrier) == 0)

    asyncio.run(main())


def test_a_full_queue_drops_the_oldest_and_counts_it() -> None:
    async def main() -> None:
        network = Network()
        async with (
            RecordedEndpoint(network.member("a"), network.trust()) as a,
            RecordedEndpoint(network.member("b"), network.trust()) as b,
        ):
            ours, _ = await join(a, b)
            full = [(MAX_PACKETS + 10 - number).to_bytes(4, "big") for number in range(1034)]
            ours.send_packets(full)
            await b.events.until(lambda: len(b.events.received) == MAX_PACKETS)
            assert b.events.received == full[10:]
            assert a.counters.drops[DropReason.QUEUE_FULL] == 10

    asyncio.run(main())


def test_half_open_connections_are_bound_and_prove_their_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        monkeypatch.setattr(admission, "RETRY_ABOVE", 4)
        monkeypatch.setattr(admission, "MAX_HALF_OPEN", 6)
        monkeypatch.setattr("quicether.transport.reception.HANDSHAKE_TIMEOUT", 1.0)
        network = Network()
        async with (
            RecordedEndpoint(network.member("server"), network.trust()) as server,
            RecordedEndpoint(network.member("client"), network.trust()) as client,
        ):
            flood = Sender(server)
            for _ in range(4):
                await flood.send(first_flight())
            await until(lambda: len(server._half_open) == 4)
            # The flood, which never looks at a Retry, gets no further; a real client does.
            for _ in range(20):
                await flood.send(first_flight())
            await join(client, server)
            assert len(server._half_open) == 4
            # What is half-open does not stay.
            await until(lambda: len(server._half_open) == 0, 5)
            flood.socket.close()

    asyncio.run(main())


def test_nobody_is_let_in_beyond_the_bound_on_connections() -> None:
    async def main() -> None:
        network = Network()
        async with (
            RecordedEndpoint(
                network.member("server"), network.trust(), max_connections=2
            ) as server,
            RecordedEndpoint(network.member("client"), network.trust()) as client,
        ):
            await join(client, server)
            await join(client, server)
            client.connect(server.local_address)
            await until(lambda: server.counters.drops[DropReason.CONNECTION_LIMIT] > 0)
            assert len(server._carrier) == 2
            server.connect(client.local_address)
            (failure,) = await server.events.until(lambda: server.events.failures)
            assert "all 2 connections are in use" in str(failure.error)

    asyncio.run(main())


def test_an_unknown_version_is_answered_with_ours() -> None:
    async def main() -> None:
        network = Network()
        async with RecordedEndpoint(network.member("server"), network.trust()) as server:
            sender = Sender(server)
            datagram = bytearray(first_flight())
            datagram[1:5] = b"\x0a\x1a\x2a\x3a"
            await sender.send(bytes(datagram))
            answer = await sender.receive()
            assert answer[1:5] == bytes(4)
            assert answer[-4:] == b"\x00\x00\x00\x01"
            sender.socket.close()

    asyncio.run(main())


def test_rubbish_from_anywhere_disturbs_nobody() -> None:
    async def main() -> None:
        network = Network()
        random = Random(7)
        async with (
            RecordedEndpoint(network.member("server"), network.trust()) as server,
            RecordedEndpoint(network.member("client"), network.trust()) as client,
        ):
            ours, _ = await join(client, server)
            sender = Sender(server)
            known = [*server._carrier._by_id]
            handshake = first_flight()
            for number in range(3000):
                size = random.randrange(1, 1500)
                datagram = bytearray(random.randbytes(size))
                match number % 4:
                    case 0:  # a short header with a connection id that is in use
                        datagram = bytearray(b"\x40" + random.choice(known)) + datagram
                    case 1:  # a client's first packet with some bytes changed
                        datagram = bytearray(handshake)
                        for _ in range(random.randrange(1, 20)):
                            datagram[random.randrange(len(datagram))] = random.randrange(256)
                    case 2:  # a long header
                        datagram[0] |= 0xC0
                await sender.send(bytes(datagram))
                if number % 100 == 0:
                    await asyncio.sleep(0)
            await sender.send(b"\x40")
            assert await ours.request(b"still there", 5) == b"ereht llits"
            assert len(server.events.connections) == 1
            assert server.counters.drops[DropReason.UNKNOWN_CONNECTION] > 0
            assert server.counters.drops[DropReason.MALFORMED] > 0
            sender.socket.close()

    asyncio.run(main())


def test_a_server_that_never_greets_cannot_make_a_client_keep_its_packets() -> None:
    """Nobody takes them before the greeting; 44 MB within four seconds were once kept."""

    async def main() -> None:
        network = Network()
        async with (
            RudeServer(network.member("server"), MuteRole) as server,
            RecordedEndpoint(network.member("client"), network.trust()) as client,
        ):
            client.connect(server.local_address)
            await until(lambda: bool(server.roles))
            (role,) = server.roles
            assert isinstance(role, MuteRole)
            drops = client.counters.drops
            (session,) = client._carrier.sessions()
            async with asyncio.timeout(10):
                while drops[DropReason.QUEUE_FULL] < 3 * MAX_PACKETS:
                    role.send_packets([bytes(1000)] * 100)
                    await asyncio.sleep(0)
            kept = len(session._untaken)
            assert 0 < kept <= MAX_PACKETS
            assert session._untaken.size <= MAX_BYTES
            assert not session.engine.inbox
            assert not client.events.received
            role.close()
            await client.events.until(lambda: client.events.failures)
            # What goes with the connection is counted too; some may have come meanwhile.
            assert drops[DropReason.UNREACHABLE] >= kept

    asyncio.run(main())


def test_a_fault_of_the_engine_or_of_a_role_costs_one_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where what arrives is taken in, where something is sent, at a deadline, and at the end."""

    async def main() -> None:
        network = Network()
        faults: list[tuple[Callable[[AioquicConnection], object], str]] = [
            (lambda found: found._session.engine, "receive"),
            (lambda found: found, "stream_data"),
            (lambda found: found, "packets"),
            (lambda found: found._session.engine, "datagrams_to_send"),
            (lambda found: found._session.engine, "get_timer"),
            (lambda found: found._session.engine, "close"),
        ]
        async with (
            RecordedEndpoint(network.member("b"), network.trust()) as b,
            RecordedEndpoint(network.member("other"), network.trust()) as c,
        ):
            other, _ = await join(c, b)
            for count, (where, name) in enumerate(faults, start=1):
                async with RecordedEndpoint(network.member(f"a{count}"), network.trust()) as a:
                    ours, theirs = await join(a, b)
                    assert isinstance(theirs, AioquicConnection)
                    monkeypatch.setattr(where(theirs), name, _fail)
                    # Both arrive in one wakeup: the faulty one must not cost the other anything.
                    ours.send_packets([b"x"])
                    ours.send_message(Ping(token=b"x"))
                    if name == "close":
                        monkeypatch.setattr(theirs, "packets", _fail)
                    assert await other.request(b"abc", 5) == b"cba"
                    await b.events.until(lambda: len(b.events.gone) == count)  # noqa: B023
                    assert b.events.gone[-1][0] is theirs
                    assert b.counters.faults >= count
                    monkeypatch.undo()
            await until(lambda: len(b._carrier) == 1)
            assert await other.request(b"abc", 5) == b"cba"

    asyncio.run(main())
    assert "a fault of our own ends the connection to" in caplog.text


def _fail(*_: object, **__: object) -> bool:
    raise AssertionError("a bug of the engine")


def test_a_fault_at_one_end_keeps_no_other_from_being_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        network = Network()
        async with (
            RecordedEndpoint(network.member("a"), network.trust()) as a,
            RecordedEndpoint(network.member("b"), network.trust()) as b,
        ):
            hub = RecordedEndpoint(network.member("hub"), network.trust())
            hub.open(hub.events)
            await join(a, hub)
            await join(b, hub)
            monkeypatch.setattr(hub.events, "disconnected", _fail)
            await hub.close()
            assert hub.counters.faults == 2
            for each in (a, b):
                ((_, reason),) = await each.events.until(lambda: each.events.gone)  # noqa: B023
                assert "the node shuts down" in reason

    asyncio.run(main())


def test_a_port_in_use_is_one_clear_sentence() -> None:
    async def main() -> None:
        network = Network()
        async with RecordedEndpoint(network.member("a"), network.trust()) as a:
            b = RecordedEndpoint(network.member("b"), network.trust(), a.local_address)
            with pytest.raises(HostError, match="cannot listen on UDP"):
                b.open(b.events)
            c = RecordedEndpoint(network.member("c"), network.trust(), LOOPBACK)
            c.open(c.events)
            c.connect(UnderlayAddress("::1", 9))
            (failure,) = await c.events.until(lambda: c.events.failures)
            assert isinstance(failure.error, HostError)
            await c.close()
            await c.close()

    asyncio.run(main())
