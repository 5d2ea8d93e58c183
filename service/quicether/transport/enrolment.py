"""Machines without a certificate ask for one: one bounded request, one answer (`ENROL_ALPN`).

The client shows no certificate and is nobody. It checks the server's through what it was told
beforehand (a code, a fingerprint), makes its request for that server alone, sends it on the first
stream and reads the answer from there. What is in them belongs to whoever hands out certificates.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

from cryptography import x509

from quicether.counters import Counters
from quicether.errors import ProtocolError, QuicEtherError, TrustError, UnreachableError
from quicether.model import DropReason, UnderlayAddress
from quicether.token_bucket import TokenBucket, TokenBuckets
from quicether.transport.carrier import UdpCarrier
from quicether.transport.connection import error_of
from quicether.transport.endpoint import ENROL_ALPN, CloseCode, EndpointEvents, EnrolHandler
from quicether.transport.engine import Engine
from quicether.transport.roles import Ending
from quicether.transport.session import Session
from quicether.transport.tls import configuration, peer_certificate
from quicether.transport.windows import CONTROL_STREAM

log = logging.getLogger(__name__)

MAX_REQUEST: Final = 16_384
"""Largest request for a certificate, in bytes."""
MAX_ANSWER: Final = 65_536
"""Largest answer to one, in bytes."""
MAX_ENROLLING: Final = 32
MAX_ENROLLING_FROM_ONE: Final = 4
"""Machines that are served at one time: all together, and of one network's (IPv6) or address."""
RATE: Final = 10.0
BURST: Final = 50
"""Requests of all machines a second in the long run, and at once."""
RATE_FROM_ONE: Final = 0.1
BURST_FROM_ONE: Final = 5
"""The same for one network or address, so that nobody takes the others' turn."""
MAX_ORIGINS: Final = 1024
"""Networks and addresses whose requests are counted; the one silent for longest begins anew."""
ANSWER_TIMEOUT: Final = 15.0
"""Seconds from the end of the handshake to the end of the connection."""

_SERVED: Final = "served"


class BusyError(UnreachableError):
    """A node that takes machines in has too many of them now. Asking again later helps."""


class EnrolmentDesk:
    """Bounds how many strangers are served, at one time and by the second, and by origin."""

    def __init__(self, handler: EnrolHandler, events: EndpointEvents, counters: Counters) -> None:
        self.handler = handler
        self.events = events
        self.counters = counters
        self._everybody = TokenBucket(RATE, BURST)
        self._each = TokenBuckets(RATE_FROM_ONE, BURST_FROM_ONE, MAX_ORIGINS)
        self._serving: dict[EnrolmentServer, Hashable] = {}

    def admit(self, server: EnrolmentServer, remote: UnderlayAddress, now: float) -> bool:
        """Tell whether server may go on; it calls `leave` in the end."""
        origin = whereabouts(remote)
        there = sum(each == origin for each in self._serving.values())
        room = len(self._serving) < MAX_ENROLLING and there < MAX_ENROLLING_FROM_ONE
        # One's own allowance first: who has used it up takes nothing from everybody's.
        if not (room and self._each.take(origin, now) and self._everybody.take(now)):
            self.counters.drop(DropReason.RPC_LIMITED)
            return False
        self._serving[server] = origin
        return True

    def leave(self, server: EnrolmentServer) -> None:
        """Make room for the next one."""
        self._serving.pop(server, None)


class EnrolmentServer:
    """The role of a session of a machine that asks for a certificate."""

    def __init__(self, session: Session, desk: EnrolmentDesk, clock: Callable[[], float]) -> None:
        self.deadline: float | None = clock() + ANSWER_TIMEOUT
        self._session = session
        self._desk = desk
        self._clock = clock
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None

    def established(self, protocol: str | None) -> None:
        """Let the machine speak if there is room for it."""
        if not self._desk.admit(self, self._session.remote, self._clock()):
            self._close(CloseCode.BUSY, "too many machines ask to join; try again later")

    def stream_data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Gather the request."""
        if stream_id != CONTROL_STREAM or self._task is not None:
            self._close(CloseCode.PROTOCOL, "one request is answered")
            return
        self._body += data
        if len(self._body) > MAX_REQUEST:
            self._close(CloseCode.PROTOCOL, f"a request has at most {MAX_REQUEST} bytes")
        elif end:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._answer(bytes(self._body)))

    def stream_reset(self, stream_id: int) -> None:
        """The machine does not want its answer any more."""
        self._close(CloseCode.DONE, "given up")

    def packets(self, packets: list[bytes]) -> bool:
        """A stranger has no packets for us."""
        self._desk.counters.drop(DropReason.MALFORMED, len(packets))
        return True

    def path_changed(self) -> None:
        """Nothing depends on it."""

    def on_deadline(self, now: float) -> None:
        """The machine took too long."""
        self._close(CloseCode.DONE, "too slow")

    def ended(self, ending: Ending) -> None:
        """Make room for the next one."""
        self._desk.leave(self)
        if self._task is not None:
            self._task.cancel()

    async def _answer(self, body: bytes) -> None:
        remote = self._session.remote
        try:
            answer = await self._desk.handler.enrol(remote, body)
        except TrustError as error:
            self._desk.events.refused(remote, error)
            self._close(CloseCode.REFUSED, "the request is refused")
        except QuicEtherError as error:
            log.warning("enrolment of %s failed: %s", remote, error)
            self._close(CloseCode.DONE, "the request cannot be answered now")
        except Exception:
            log.exception("enrolment of %s failed", remote)
            self._close(CloseCode.DONE, "the request cannot be answered now")
        else:
            if not self._session.closed:
                self._session.send_stream(CONTROL_STREAM, answer, end=True)

    def _close(self, code: CloseCode, reason: str) -> None:
        self._session.close(code, reason, self._clock())


class EnrolmentClient:
    """The role of the session of a machine that asks for a certificate.

    answer: what came of it.
    """

    def __init__(
        self,
        session: Session,
        question: Callable[[x509.Certificate], bytes],
        carrier: UdpCarrier,
    ) -> None:
        self.deadline: float | None = None
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._session = session
        self._question = question
        self._carrier = carrier
        self._received = bytearray()

    def established(self, protocol: str | None) -> None:
        """Make the request for the server that answers, and send it."""
        certificate = peer_certificate(self._session.engine.tls)
        try:
            if certificate is None:
                raise TrustError(f"{self._session.remote} showed no certificate")
            body = self._question(certificate)
            if len(body) > MAX_REQUEST:
                raise ProtocolError(
                    f"a request of {len(body)} bytes; at most {MAX_REQUEST} are allowed"
                )
        except QuicEtherError as error:
            self._fail(error)
            return
        self._session.accept(self._carrier.now())
        self._session.send_stream(CONTROL_STREAM, body, end=True)

    def stream_data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Gather the answer."""
        self._received += data
        if stream_id != CONTROL_STREAM or len(self._received) > MAX_ANSWER:
            self._fail(ProtocolError(f"{self._session.remote} answers with something else"))
        elif end and not self.answer.done():
            self.answer.set_result(bytes(self._received))
            self._session.close(CloseCode.DONE, _SERVED, self._carrier.now())

    def stream_reset(self, stream_id: int) -> None:
        """The server does not answer."""
        self._fail(UnreachableError(f"{self._session.remote} does not answer the request"))

    def packets(self, packets: list[bytes]) -> bool:
        """A server has no packets for us."""
        self._carrier.counters.drop(DropReason.MALFORMED, len(packets))
        return True

    def path_changed(self) -> None:
        """Nothing depends on it."""

    def on_deadline(self, now: float) -> None:
        """There is none: whoever waits for the answer has one."""

    def ended(self, ending: Ending) -> None:
        """Without an answer by now there will be none."""
        if not self.answer.done():
            self.answer.set_exception(_refusal(ending, self._session.remote))

    def _fail(self, error: QuicEtherError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
        self._session.close(CloseCode.REFUSED, "not accepted", self._carrier.now())


async def enrol(
    address: UnderlayAddress,
    question: Callable[[x509.Certificate], bytes],
    timeout: float,
    mark: int | None = None,
) -> bytes:
    """Send one request to the node at address, as nobody, and return its answer.

    question: makes the request for the node that proved to own the certificate, or raises
    TrustError if it is not the right one; then nothing goes out. timeout: seconds for all of it.
    mark: SO_MARK of the packets.
    Raises UnreachableError: no answer in time, or (BusyError) not now; TrustError: refused, by
    either side; ProtocolError: the request or the answer is too large, or the node does not take
    requests; HostError: no socket.
    """
    anywhere = "::" if ip_address(address.host).version == 6 else "0.0.0.0"  # noqa: S104
    carrier = UdpCarrier(UnderlayAddress(anywhere, 0), counters=Counters(), mark=mark)
    try:
        carrier.listen()
        remote = carrier.socket.socket_address(address)
        settings = configuration(is_client=True, protocols=[ENROL_ALPN], certificate=None, key=None)
        engine = Engine(configuration=settings)
        session = Session(engine, carrier, remote, initiated=True, now=carrier.now())
        session.role = role = EnrolmentClient(session, question, carrier)
        engine.connect(remote, carrier.now())
        carrier.add(session, engine.connection_ids)
        async with asyncio.timeout(timeout):
            return await role.answer
    except TimeoutError:
        raise UnreachableError(f"no answer from {address} within {timeout:g} s") from None
    finally:
        carrier.close("done")


def _refusal(ending: Ending, remote: UnderlayAddress) -> QuicEtherError:
    if ending.application and ending.code == CloseCode.REFUSED:
        return TrustError(f"{remote} refuses: {ending.reason}")
    if ending.application and ending.code == CloseCode.BUSY:
        return BusyError(f"{remote} is busy: {ending.reason}")
    return error_of(ending, remote)


def whereabouts(remote: UnderlayAddress) -> Hashable:
    """Return what one remote host cannot change: its IPv4 address, or its IPv6 /64."""
    if isinstance(remote.ip, IPv6Address):
        return IPv6Network((remote.ip.packed, 64), strict=False)
    return remote.ip
