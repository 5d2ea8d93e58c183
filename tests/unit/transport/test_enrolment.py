"""Machines without a certificate: one request, one answer, few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from cryptography import x509

from quicether.counters import Counters
from quicether.errors import HostError, ProtocolError, QuicEtherError, TrustError, UnreachableError
from quicether.model import DropReason, UnderlayAddress
from quicether.transport import enrolment
from quicether.transport.enrolment import (
    BURST,
    BURST_FROM_ONE,
    MAX_ENROLLING,
    MAX_REQUEST,
    RATE,
    BusyError,
    EnrolmentDesk,
    EnrolmentServer,
    enrol,
)
from support.certificates import Identity, Network
from support.endpoints import RecordedEndpoint, join


class Office:
    """Answers with what `answer` returns and keeps what it was asked."""

    def __init__(self, answer: Callable[[bytes], bytes] = lambda body: body[::-1]) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.wait: asyncio.Event | None = None

    async def enrol(self, remote: UnderlayAddress, body: bytes) -> bytes:
        self.asked.append(body)
        if self.wait is not None:
            await self.wait.wait()
        return self.answer(body)


def only(identity: Identity, body: bytes) -> Callable[[x509.Certificate], bytes]:
    """Return a question that asks body of identity alone."""

    def question(certificate: x509.Certificate) -> bytes:
        if certificate != identity.certificate:
            raise TrustError("this is not the node that invited us")
        return body

    return question


def test_a_machine_without_a_certificate_gets_its_answer_and_members_still_connect() -> None:
    async def main() -> None:
        network = Network()
        office = Office()
        async with (
            RecordedEndpoint(network.member("home"), network.trust()) as home,
            RecordedEndpoint(network.member("peer"), network.trust()) as peer,
        ):
            home.accept_enrolment(office)
            body = bytes(range(256)) * 40
            assert await enrol(home.local_address, only(home.identity, body), 5) == body[::-1]
            assert office.asked == [body]
            await join(peer, home)
            assert len(home.events.connections) == 1
            assert not home.events.refusals

    asyncio.run(main())


def test_enrolment_is_off_unless_it_was_asked_for() -> None:
    async def main() -> None:
        network = Network()
        office = Office()
        async with RecordedEndpoint(network.member("home"), network.trust()) as home:
            for _ in range(2):
                with pytest.raises(ProtocolError, match="does not speak"):
                    await enrol(home.local_address, only(home.identity, b"please"), 5)
                home.accept_enrolment(office)
                assert await enrol(home.local_address, only(home.identity, b"ab"), 5) == b"ba"
                home.accept_enrolment(None)
            assert len(office.asked) == 2

    asyncio.run(main())


def test_nothing_is_said_to_a_server_that_is_not_the_right_one() -> None:
    async def main() -> None:
        network = Network()
        office = Office()
        async with RecordedEndpoint(network.member("home"), network.trust()) as home:
            home.accept_enrolment(office)
            with pytest.raises(TrustError, match="not the node that invited us"):
                await enrol(home.local_address, only(network.member("other"), b"secret"), 5)
            assert office.asked == []

    asyncio.run(main())


def refused(body: bytes) -> bytes:
    raise TrustError("the code 1234 was used already")


def broken(body: bytes) -> bytes:
    raise HostError("the disk is full")


@pytest.mark.parametrize(
    ("answer", "kind"), [(refused, TrustError), (broken, UnreachableError)], ids=["no", "broken"]
)
def test_a_refusal_is_told_without_its_reason(
    answer: Callable[[bytes], bytes], kind: type[QuicEtherError]
) -> None:
    async def main() -> None:
        network = Network()
        async with RecordedEndpoint(network.member("home"), network.trust()) as home:
            home.accept_enrolment(Office(answer))
            with pytest.raises(kind) as caught:
                await enrol(home.local_address, only(home.identity, b"please"), 5)
            assert "1234" not in str(caught.value)
            assert "disk" not in str(caught.value)
            assert len(home.events.refusals) == (kind is TrustError)

    asyncio.run(main())


def test_what_is_too_large_or_too_slow_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        network = Network()
        office = Office(lambda body: bytes(enrolment.MAX_ANSWER + 1))
        async with RecordedEndpoint(network.member("home"), network.trust()) as home:
            home.accept_enrolment(office)
            with pytest.raises(ProtocolError, match="at most"):
                await enrol(home.local_address, only(home.identity, bytes(MAX_REQUEST + 1)), 5)
            with pytest.raises(ProtocolError, match="something else"):
                await enrol(home.local_address, only(home.identity, b"please"), 5)
            office.wait = asyncio.Event()
            with pytest.raises(UnreachableError, match="no answer"):
                await enrol(home.local_address, only(home.identity, b"please"), 0.3)
            monkeypatch.setattr(enrolment, "ANSWER_TIMEOUT", 0.2)
            with pytest.raises(UnreachableError, match="too slow"):
                await enrol(home.local_address, only(home.identity, b"please"), 5)

    asyncio.run(main())


def test_few_are_served_at_once_and_by_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(enrolment, "MAX_ENROLLING_FROM_ONE", 2)
        network = Network()
        office = Office()
        office.wait = asyncio.Event()
        async with RecordedEndpoint(network.member("home"), network.trust()) as home:
            home.accept_enrolment(office)
            waiting = [
                asyncio.create_task(enrol(home.local_address, only(home.identity, b"ab"), 10))
                for _ in range(3)
            ]
            done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            (full,) = done
            with pytest.raises(BusyError, match="too many"):
                full.result()
            office.wait.set()
            assert await asyncio.gather(*pending) == [b"ba", b"ba"]
            served = 2
            with pytest.raises(BusyError, match="too many"):
                while served <= 2 * BURST_FROM_ONE:
                    await enrol(home.local_address, only(home.identity, b"ab"), 10)
                    served += 1
            assert served == BURST_FROM_ONE
            assert home.counters.drops[DropReason.RPC_LIMITED] == 2

    asyncio.run(main())


class Desk:
    """A desk, and whoever comes to it. Nobody leaves by themselves."""

    def __init__(self) -> None:
        self.desk = EnrolmentDesk(cast(Any, None), cast(Any, None), Counters())

    def comes(self, host: str, now: float, *, stays: bool = False) -> bool:
        server = cast(EnrolmentServer, object())
        admitted = self.desk.admit(server, UnderlayAddress(host, 4711), now)
        if not stays:
            self.desk.leave(server)
        return admitted


def test_a_stranger_who_asks_all_the_time_keeps_nobody_out() -> None:
    desk = Desk()
    for second in range(600):
        for _ in range(3):
            desk.comes("192.0.2.66", second)
        desk.comes(f"2001:db8::66:{second:x}", second)
    assert not desk.comes("192.0.2.66", 600)
    assert desk.comes("192.0.2.1", 600)
    assert desk.comes("2001:db8:0:1::1", 600)
    # Nor does one who asks and then waits.
    for _ in range(5):
        desk.comes("192.0.2.77", 600, stays=True)
    assert desk.comes("192.0.2.2", 600)


def test_everybody_together_is_bounded_too() -> None:
    desk = Desk()
    hosts = [f"198.51.100.{number}" for number in range(1, BURST + 2)]
    assert [desk.comes(host, 0.0) for host in hosts] == [*[True] * BURST, False]
    assert desk.comes("203.0.113.1", 1 / RATE + 0.01)
    desk = Desk()
    for host in hosts[:MAX_ENROLLING]:
        assert desk.comes(host, 0.0, stays=True)
    assert not desk.comes("203.0.113.1", 0.0)


def test_a_host_s_whole_ipv6_network_counts_as_one() -> None:
    def where(host: str) -> object:
        return enrolment.whereabouts(UnderlayAddress(host, 4711))

    assert where("2001:db8:0:1::1") == where("2001:db8:0:1:ffff::1") != where("2001:db8:0:2::1")
    assert where("192.0.2.7") != where("192.0.2.8")
