"""Peers that behave as badly as they can: they send the moment their handshake is complete.

They are real QUIC clients and servers with whatever certificate they are given, and they never
look at the other side's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn, Self

from quicether.counters import Counters
from quicether.model import UnderlayAddress
from quicether.transport.aioquic_endpoint import AioquicEndpoint
from quicether.transport.carrier import UdpCarrier
from quicether.transport.endpoint import ALPN, CloseCode
from quicether.transport.engine import Engine
from quicether.transport.messages import Hello, Ping, encode
from quicether.transport.roles import Ending, Role
from quicether.transport.session import Session
from quicether.transport.tls import configuration
from quicether.transport.windows import CONTROL_STREAM
from support.certificates import Identity
from support.endpoints import LOOPBACK, RecordedEvents

RUDE_PACKETS = [b"\x45" + bytes(99)] * 3


class RudeRole:
    """Sends messages, a request and packets at once, and keeps what comes back.

    heard: stream bytes and packets of the other side. ended_with: why the session ended.
    """

    def __init__(self, session: Session, carrier: UdpCarrier, greeting: bytes) -> None:
        self.deadline: float | None = None
        self.heard: list[bytes] = []
        self.ended_with: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._session = session
        self._carrier = carrier
        self._greeting = greeting

    def established(self, protocol: str | None) -> None:
        if self._session.initiated:
            self._session.send_stream(CONTROL_STREAM, self._greeting)
        else:
            self._session.send_stream(self._session.open_stream(), self._greeting)
        self._session.send_stream(self._session.open_stream(), b"\x01a request", end=True)
        # In the flight that ends the handshake, not before it: nobody could open them there.
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: self._session.send_packets(RUDE_PACKETS, loop.time()))

    def stream_data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        self.heard.append(data)

    def stream_reset(self, stream_id: int) -> None:
        self.heard.append(b"reset")

    def packets(self, packets: list[bytes]) -> bool:
        self.heard += packets
        return True

    def path_changed(self) -> None:
        pass

    def on_deadline(self, now: float) -> None:
        pass

    def ended(self, ending: Ending) -> None:
        self.ended_with.set_result(ending)


def greeting(identity: Identity) -> bytes:
    """Return a Hello of identity and a Ping, as they stand on the control stream."""
    return encode(Hello(node_id=identity.node_id, name=identity.name)) + encode(Ping(token=b"x"))


class RudeClient:
    """Connects with identity, or without a certificate, and greets as `claims`."""

    def __init__(self, identity: Identity | None, claims: Identity) -> None:
        self._identity = identity
        self._claims = claims
        self._carrier = UdpCarrier(LOOPBACK, counters=Counters(), mark=None)
        self._carrier.listen()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._carrier.close("done")

    def connect(self, address: UnderlayAddress) -> RudeRole:
        settings = configuration(
            is_client=True,
            protocols=[ALPN],
            certificate=self._identity.certificate if self._identity else None,
            key=self._identity.key.private if self._identity else None,
        )
        engine = Engine(configuration=settings)
        carrier = self._carrier
        remote = carrier.socket.socket_address(address)
        session = Session(engine, carrier, remote, initiated=True, now=carrier.now())
        session.role = role = RudeRole(session, carrier, greeting(self._claims))
        engine.connect(remote, carrier.now())
        carrier.add(session, engine.connection_ids)
        return role


class MuteRole(RudeRole):
    """Says nothing that anybody waits for; packets go out as a test wants."""

    def established(self, protocol: str | None) -> None:
        pass

    def send_packets(self, packets: Sequence[bytes]) -> None:
        self._session.send_packets(packets, self._carrier.now())

    def close(self) -> None:
        self._session.close(CloseCode.DONE, "enough", self._carrier.now())


class RudeServer(AioquicEndpoint):
    """Takes every client, whatever it shows. An async context manager.

    roles: what came of them; kind: of which class they are.
    """

    def __init__(self, identity: Identity, kind: type[RudeRole] = RudeRole) -> None:
        self.roles: list[RudeRole] = []
        self._kind = kind
        self._identity = identity
        super().__init__(
            LOOPBACK,
            certificate=identity.certificate,
            key=identity.key.private,
            trust=_NoTrust(),
            counters=Counters(),
            hello=lambda: Hello(node_id=identity.node_id, name=identity.name),
        )

    async def __aenter__(self) -> Self:
        self.open(RecordedEvents())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _role(self, session: Session, protocol: str | None) -> Role:
        role = self._kind(session, self._opened, greeting(self._identity))
        self.roles.append(role)
        return role


class _NoTrust:
    """A trust that is never asked."""

    network = "nowhere"
    network_id = bytes(32)

    def judge(self, certificate: bytes, now: object) -> NoReturn:
        raise NotImplementedError("a rude server asks nobody")
