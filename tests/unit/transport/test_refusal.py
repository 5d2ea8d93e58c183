"""Whoever is not a member gets nothing: no stream byte is read, no packet passed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from quicether.errors import ProtocolError, TrustError
from quicether.identity.keys import NodeKey
from quicether.model import NodeId
from quicether.transport.endpoint import CloseCode
from quicether.transport.messages import Hello, MessageReader
from quicether.transport.requests import Requests
from support.certificates import Identity, Network
from support.endpoints import RecordedEndpoint, join
from support.rude_peers import RudeClient, RudeServer


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return all stream bytes of peers that anything of ours looks at from now on."""
    read: list[bytes] = []
    feed, data = MessageReader.feed, Requests.data

    def spied_feed(self: MessageReader, piece: bytes) -> object:
        read.append(piece)
        return feed(self, piece)

    def spied_data(self: Requests, stream_id: int, piece: bytes, *, end: bool) -> None:
        read.append(piece)
        data(self, stream_id, piece, end=end)

    monkeypatch.setattr(MessageReader, "feed", spied_feed)
    monkeypatch.setattr(Requests, "data", spied_data)
    return read


async def nothing_passed(endpoint: RecordedEndpoint) -> bool:
    """Tell whether nothing of a stranger gets through, what is still on its way included."""
    await endpoint.drain()
    events = endpoint.events
    return not (events.connections or events.received or events.messages or events.requests)


async def refuse_client(
    network: Network, shows: Identity | None, claims: Identity, sentence: str, read: list[bytes]
) -> None:
    async with (
        RecordedEndpoint(network.member("server"), network.trust()) as server,
        RudeClient(shows, claims) as client,
    ):
        stranger = client.connect(server.local_address)
        async with asyncio.timeout(10):
            ending = await stranger.ended_with
        ((_, error),) = await server.events.until(lambda: server.events.refusals)
        assert isinstance(error, TrustError)
        assert sentence in str(error)
        assert ending.by_peer
        assert stranger.heard == []
        assert await nothing_passed(server)
        assert server.counters.failed_handshakes == 1
        assert read == []


def test_a_rude_client_that_is_a_member_is_heard(read: list[bytes]) -> None:
    """The strangers below would be heard too if their certificate were not looked at."""

    async def main() -> None:
        network = Network()
        member = network.member("rude")
        async with (
            RecordedEndpoint(network.member("server"), network.trust()) as server,
            RudeClient(member, member) as client,
        ):
            client.connect(server.local_address)
            await server.events.until(lambda: server.events.messages and server.events.requests)
            await server.events.until(lambda: len(server.events.received) == 3)
            assert b"a request" in b"".join(read)

    asyncio.run(main())


def test_a_client_without_a_certificate_gets_nothing(read: list[bytes]) -> None:
    network = Network()
    asyncio.run(refuse_client(network, None, network.member(), "showed no certificate", read))


def test_a_client_of_another_authority_gets_nothing(read: list[bytes]) -> None:
    stranger = Network("home").member("laptop")
    asyncio.run(refuse_client(Network("home"), stranger, stranger, "not signed by", read))


def test_a_client_with_an_expired_certificate_gets_nothing(read: list[bytes]) -> None:
    network = Network()
    old = network.member(made=network.now - timedelta(days=3), validity=timedelta(days=2))
    asyncio.run(refuse_client(network, old, old, "expired at", read))


def test_a_client_with_a_certificate_that_is_not_valid_yet_gets_nothing(read: list[bytes]) -> None:
    network = Network()
    early = network.member(made=network.now + timedelta(days=1))
    asyncio.run(refuse_client(network, early, early, "not valid before", read))


def test_a_client_with_another_nodes_certificate_gets_nothing(read: list[bytes]) -> None:
    """It holds a member's certificate, which is public, but not the key."""
    network = Network()
    thief = Identity("thief", NodeKey.generate(), network.member("laptop").certificate)
    asyncio.run(refuse_client(network, thief, thief, "TLS handshake", read))


def test_a_member_that_calls_itself_another_node_is_not_connected() -> None:
    async def main() -> None:
        network = Network()
        async with (
            RecordedEndpoint(network.member("server"), network.trust()) as server,
            RudeClient(network.member("a"), network.member("b")) as client,
        ):
            client.connect(server.local_address)
            ((_, error),) = await server.events.until(lambda: server.events.refusals)
            assert isinstance(error, ProtocolError)
            assert await nothing_passed(server)

    asyncio.run(main())


async def refuse_server(
    network: Network,
    shows: Identity,
    sentence: str,
    read: list[bytes],
    expect: NodeId | None = None,
) -> None:
    async with (
        RudeServer(shows) as server,
        RecordedEndpoint(network.member("client"), network.trust()) as client,
    ):
        client.connect(server.local_address, expect)
        (failure,) = await client.events.until(lambda: client.events.failures)
        assert isinstance(failure.error, TrustError)
        assert sentence in str(failure.error)
        assert failure.address == server.local_address
        assert await nothing_passed(client)
        assert read == []
        assert all(role.heard == [] for role in server.roles)


def test_a_server_of_another_authority_gets_nothing(read: list[bytes]) -> None:
    asyncio.run(refuse_server(Network(), Network().member("server"), "not signed by", read))


def test_a_server_with_an_expired_certificate_gets_nothing(read: list[bytes]) -> None:
    network = Network()
    old = network.member(made=network.now - timedelta(days=3), validity=timedelta(days=2))
    asyncio.run(refuse_server(network, old, "expired at", read))


def test_a_server_with_another_nodes_certificate_gets_nothing(read: list[bytes]) -> None:
    network = Network()
    thief = Identity("thief", NodeKey.generate(), network.member("home").certificate)
    asyncio.run(refuse_server(network, thief, "TLS handshake", read))


def test_a_server_that_is_a_member_but_not_the_one_expected_gets_nothing(read: list[bytes]) -> None:
    network = Network()
    wanted = network.member("wanted").node_id
    asyncio.run(refuse_server(network, network.member("other"), "was expected", read, wanted))


def test_a_client_counts_as_connected_only_when_the_server_has_accepted_it() -> None:
    """The client's handshake completes although the server does not trust it."""

    async def main() -> None:
        ours, theirs = Network("home"), Network("home")
        server_identity = ours.member("server")
        async with (
            RecordedEndpoint(server_identity, theirs.trust()) as server,
            RecordedEndpoint(ours.member("client"), ours.trust()) as client,
        ):
            client.connect(server.local_address)
            (failure,) = await client.events.until(lambda: client.events.failures)
            assert isinstance(failure.error, TrustError)
            assert "did not accept our certificate" in str(failure.error)
            assert await nothing_passed(client)
            assert await nothing_passed(server)

    asyncio.run(main())


def test_a_connection_ends_when_the_peers_certificate_expires() -> None:
    async def main() -> None:
        network = Network()
        brief = network.member("brief", validity=timedelta(seconds=2))
        async with (
            RecordedEndpoint(network.member("server"), network.trust()) as server,
            RecordedEndpoint(brief, network.trust()) as client,
        ):
            await join(client, server)
            ((_, reason),) = await server.events.until(lambda: server.events.gone)
            assert "expired" in reason
            await client.events.until(lambda: client.events.gone)

    asyncio.run(main())


def test_a_new_certificate_is_shown_on_new_connections() -> None:
    async def main() -> None:
        network = Network()
        old = network.member("node", validity=timedelta(hours=1))
        new = network.member("renewed", key=old.key)
        async with (
            RecordedEndpoint(network.member("server"), network.trust()) as server,
            RecordedEndpoint(old, network.trust()) as client,
        ):
            _, before = await join(client, server)
            client.update_identity(new.certificate)
            before.close(CloseCode.DONE, "again")
            await client.events.until(lambda: client.events.gone)
            _, after = await join(client, server)
            assert (before.member.name, after.member.name) == ("node", "renewed")

    asyncio.run(main())


def test_a_peer_with_no_common_version_is_refused() -> None:
    async def main() -> None:
        network = Network()
        future = network.member("future")

        def hello() -> Hello:
            return Hello(node_id=future.node_id, name="future", version=9, oldest=8)

        async with (
            RecordedEndpoint(network.member("server"), network.trust()) as server,
            RecordedEndpoint(future, network.trust(), hello=hello) as client,
        ):
            client.connect(server.local_address)
            (failure,) = await client.events.until(lambda: client.events.failures)
            assert isinstance(failure.error, ProtocolError)
            assert "versions 8 to 9" in str(failure.error)
            assert await nothing_passed(server)

    asyncio.run(main())
