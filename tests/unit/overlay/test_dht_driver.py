"""The edge around the DHT machine: its timers, its questions, and what it waits for at the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quicether.dht.contact import Contact
from quicether.dht.contents import RecordRefused
from quicether.dht.events import BootstrapWanted, Event, SendRequest
from quicether.errors import UnreachableError
from quicether.model import DropReason, Member, NodeId, UnderlayAddress
from quicether.overlay.dht_driver import CLOCK_STEP, AuditedVerifier, DhtDriver, contact_of
from quicether.transport.messages import Hello, RpcKind
from support.dht_samples import contact
from support.mesh_nodes import FakeAudit
from support.virtual_time import play

FAR = Member(NodeId(bytes([7]) * 20), "far", b"", (), ())


class Machine:
    """A DHT machine that does what the test says. log: what it was told."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.events: list[Event] = []
        self.due: float | None = None
        self.clock_offset = 0.0
        self.on_response: list[Event] = []

    def start(self, now: float) -> None:
        self.log.append(("start", now))

    def poll(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def next_timer(self) -> float | None:
        return self.due

    def handle_timers(self, now: float) -> None:
        if self.due is not None and self.due <= now:
            self.log.append(("timer", now))
            self.due = None
            self.events += self.on_response

    def response(self, call: int, body: bytes, now: float) -> None:
        self.log.append(("response", (call, body)))
        if call == 1:
            # As a place of the publisher does with a withdrawal that had to wait.
            self.due = now

    def failed(self, call: int, _now: float) -> None:
        self.log.append(("failed", call))

    def said(self, what: str) -> list[Any]:
        return [value for kind, value in self.log if kind == what]


class FarSide:
    """A connection that answers after a second, or never. asked: what came."""

    member = FAR
    remote = UnderlayAddress("192.0.2.7", 5555)
    hello = Hello(node_id=FAR.node_id, name="far", listen_port=9000)

    def __init__(self, delay: float = 1.0) -> None:
        self.delay = delay
        self.asked: list[bytes] = []

    async def request(self, body: bytes, _timeout: float) -> bytes:
        self.asked.append(body)
        await asyncio.sleep(self.delay)
        return b"answer"


class Reaching:
    """A pool that reaches one far side, or fails as the test says."""

    def __init__(self, far: FarSide) -> None:
        self.far = far
        self.error: BaseException | None = None

    async def reach(self, _node: NodeId, _endpoints: object) -> FarSide:
        if self.error is not None:
            raise self.error
        return self.far


class Driven:
    def __init__(self, delay: float = 1.0) -> None:
        self.machine = Machine()
        self.far = FarSide(delay)
        self.pool = Reaching(self.far)
        self.told: list[Event] = []
        self.wall_offset = 0.0
        clock = asyncio.get_running_loop().time
        self.driver = DhtDriver(
            self.machine,  # type: ignore[arg-type]
            self.pool,  # type: ignore[arg-type]
            AuditedVerifier(Refusing(), FakeAudit()),
            clock=clock,
            wall=lambda: clock() + self.wall_offset,
            told=self.told.append,
        )


class Refusing:
    """A verifier to whom no record is good."""

    def verify(self, _wire: bytes, _wall: float) -> Any:
        raise RecordRefused(DropReason.RECORD_SIGNATURE, "a bad signature")

    def forget(self, _owner: NodeId) -> None:
        pass


def ask(call: int = 1) -> SendRequest:
    return SendRequest(call, contact(7), b"body", 3.0)


def test_a_question_goes_over_a_connection_and_its_answer_back() -> None:
    async def told() -> None:
        driven = Driven()
        driven.machine.events = [ask(2), BootstrapWanted(urgent=True)]
        driven.driver.pump()
        assert driven.told == [BootstrapWanted(urgent=True)]
        await asyncio.sleep(2)
        assert driven.far.asked == [bytes([RpcKind.DHT]) + b"body"]
        assert driven.machine.said("response") == [(2, b"answer")]
        await driven.driver.close()

    play(told)


@pytest.mark.parametrize("error", [UnreachableError("nobody"), KeyError("a fault of ours"), None])
def test_a_question_that_cannot_be_asked_or_is_not_answered_has_failed(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def told() -> None:
        driven = Driven(delay=10.0)
        driven.pool.error = error
        driven.machine.events = [ask(2)]
        driven.driver.pump()
        await asyncio.sleep(4)
        assert driven.machine.said("failed") == [2]
        assert ("a fault of our own" in caplog.text) is isinstance(error, KeyError)
        await driven.driver.close()

    play(told)


def test_the_end_waits_for_what_the_last_answer_sets_off() -> None:
    """Such as a withdrawal that had to wait for the end of a publication."""

    async def told() -> None:
        driven = Driven()
        driven.machine.on_response = [ask(2)]
        driven.machine.events = [ask(1)]
        await driven.driver.drain(5.0)
        await driven.driver.close()
        assert [call for call, _ in driven.machine.said("response")] == [1, 2]
        assert asyncio.get_running_loop().time() == pytest.approx(2.0)

    play(told)


def test_the_end_waits_no_longer_than_it_may() -> None:
    async def told() -> None:
        driven = Driven(delay=100.0)
        driven.machine.events = [ask(1)]
        await driven.driver.drain(1.0)
        await driven.driver.close()
        assert asyncio.get_running_loop().time() == pytest.approx(1.0)
        assert driven.machine.said("response") == []

    play(told)


def test_a_timer_is_kept_also_after_one_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    async def told() -> None:
        driven = Driven()
        handle = driven.machine.handle_timers

        def faulty(now: float) -> None:
            driven.machine.handle_timers = handle  # type: ignore[method-assign]
            driven.machine.due = now + 5
            raise KeyError("a fault")

        driven.machine.handle_timers = faulty  # type: ignore[method-assign]
        driven.machine.due = 1.0
        driven.driver.start()
        await asyncio.sleep(7)
        assert driven.machine.said("timer") == [pytest.approx(6.0)]
        assert "a fault in the discovery" in caplog.text
        await driven.driver.close()

    play(told)


def test_a_clock_that_is_set_is_noticed_and_one_that_drifts_is_not() -> None:
    async def told() -> None:
        driven = Driven()
        for offset, noticed in ((CLOCK_STEP / 2, 0.0), (3600.0, 3600.0)):
            driven.wall_offset = offset
            driven.machine.due = asyncio.get_running_loop().time() + 1
            driven.driver.pump()
            await asyncio.sleep(2)
            assert driven.machine.clock_offset == pytest.approx(noticed)
        await driven.driver.close()

    play(told)


def test_nothing_is_done_after_the_end() -> None:
    async def told() -> None:
        driven = Driven(delay=100.0)
        driven.machine.events = [ask(1)]
        driven.machine.due = 1.0
        driven.driver.pump()
        await driven.driver.close()
        driven.machine.events = [ask(2)]
        driven.driver.pump()
        await asyncio.sleep(5)
        assert len(driven.far.asked) <= 1
        assert driven.machine.said("timer") == []

    play(told)


def test_a_peer_is_a_contact_where_it_is_seen_and_where_it_listens() -> None:
    assert contact_of(FarSide()) == Contact.of(  # type: ignore[arg-type]
        FAR.node_id, UnderlayAddress("192.0.2.7", 5555), UnderlayAddress("192.0.2.7", 9000)
    )


def test_a_record_that_does_not_count_is_written_down_with_who_handed_it_over() -> None:
    audit = FakeAudit()
    verifier = AuditedVerifier(Refusing(), audit)
    with pytest.raises(RecordRefused):
        verifier.verify(b"", 0.0)
    assert audit.records == ["a bad signature"]
