"""Whom a node tries, when, and which of several connections counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

from quicether.config.values import HostPort
from quicether.errors import TrustError, UnreachableError
from quicether.model import Member, NodeId, PeerState, UnderlayAddress
from quicether.overlay.peers import (
    CEILING,
    GIVE_UP_AFTER,
    PeerTable,
    Target,
    TargetKind,
)
from quicether.transport.endpoint import CloseCode

LOW = NodeId(bytes(20))
MID = NodeId(b"\x40" * 20)
HIGH = NodeId(b"\xff" * 20)
HOME = UnderlayAddress("192.0.2.1", 9000)
SILENT = UnreachableError("no answer")


@dataclass(eq=False)
class Wire:
    """What the table reads of a connection."""

    node: NodeId
    initiated: bool
    name: str = "home"
    remote: UnderlayAddress = HOME
    member: Member = field(init=False)

    def __post_init__(self) -> None:
        self.member = Member(self.node, self.name, b"", (), ())


@pytest.fixture
def table() -> PeerTable:
    return PeerTable(MID, Random(7))


def want(table: PeerTable, kind: TargetKind = TargetKind.CONFIGURED, **known: object) -> Target:
    return table.want("home", [HostPort("192.0.2.1", 9000)], kind, 0.0, **known)  # type: ignore[arg-type]


def start(table: PeerTable, now: float = 0.0) -> Target:
    (target,) = table.due(now)
    table.tried(target, [HOME])
    return target


def test_a_wanted_peer_is_tried_at_once_and_only_once(table: PeerTable) -> None:
    want(table)
    start(table)
    assert table.due(100.0) == []
    assert table.next_due() is None


def test_delays_double_up_to_the_ceiling_with_jitter(table: PeerTable) -> None:
    want(table)
    now, delays = 0.0, []
    for _ in range(9):
        target = start(table, now)
        table.attempt_failed(target, HOME, SILENT, now)
        due = table.next_due()
        assert due is not None
        delays.append(due - now)
        now = due
    assert 0.375 <= delays[0] <= 0.625
    assert delays[1] > delays[0]
    assert all(delay <= CEILING * 1.25 for delay in delays)
    assert len(set(delays)) == len(delays)


def test_an_attempt_has_failed_only_when_its_last_address_has(table: PeerTable) -> None:
    target = want(table)
    (target,) = table.due(0.0)
    other = UnderlayAddress("192.0.2.2", 9000)
    table.tried(target, [HOME, other])
    table.attempt_failed(target, HOME, SILENT, 1.0)
    assert table.next_due() is None
    table.attempt_failed(target, other, SILENT, 1.0)
    assert table.next_due() is not None


def test_a_discovered_peer_is_given_up_and_tried_again_when_wanted_again(table: PeerTable) -> None:
    want(table, TargetKind.DISCOVERED)
    now = 0.0
    for _ in range(GIVE_UP_AFTER):
        target = start(table, now)
        table.attempt_failed(target, HOME, SILENT, now)
        now += 100.0
    assert table.next_due() is None
    assert not table.is_pursued("home")
    want(table, TargetKind.DISCOVERED)
    assert table.next_due() is not None
    assert table.is_pursued("home")


def test_a_lost_peer_is_tried_again(table: PeerTable) -> None:
    target = want(table)
    start(table)
    wire = Wire(HIGH, initiated=True)
    assert table.connected(wire, b"i", 1.0) == []
    assert table.state(target) is PeerState.CONNECTED
    assert table.disconnected(wire, SILENT, 2.0)
    assert table.state(target) is PeerState.UNREACHABLE
    assert table.next_due() is not None


def test_a_peer_that_connects_to_us_ends_our_waiting(table: PeerTable) -> None:
    target = want(table, expect=HIGH)
    start(table)
    table.attempt_failed(target, HOME, SILENT, 0.0)
    table.connected(Wire(HIGH, initiated=False), b"i", 0.1)
    assert table.state(target) is PeerState.CONNECTED
    assert table.due(100.0) == []


def test_simultaneous_connects_end_in_the_one_the_lower_node_opened() -> None:
    low, high = PeerTable(LOW, Random(1)), PeerTable(HIGH, Random(2))
    low_opened = (Wire(HIGH, initiated=True), Wire(LOW, initiated=False))
    high_opened = (Wire(HIGH, initiated=False), Wire(LOW, initiated=True))
    # Each side sees its own connection first.
    assert low.connected(low_opened[0], b"h", 0.0) == []
    assert high.connected(high_opened[1], b"l", 0.0) == []
    assert low.connected(high_opened[0], b"h", 0.1) == []
    (closing,) = high.connected(low_opened[1], b"l", 0.1)
    assert closing.connection is high_opened[1]
    assert closing.code is CloseCode.DUPLICATE
    assert low.active(HIGH) is low_opened[0]
    assert high.active(LOW) is low_opened[1]
    # The end of the superfluous one is no loss.
    assert not low.disconnected(high_opened[0], SILENT, 0.2)
    assert not high.disconnected(high_opened[1], SILENT, 0.2)
    assert low.active(HIGH) is low_opened[0]


def test_the_second_of_two_connections_we_opened_is_closed_by_us(table: PeerTable) -> None:
    first, second = Wire(HIGH, initiated=True), Wire(HIGH, initiated=True)
    table.connected(first, b"i", 0.0)
    (closing,) = table.connected(second, b"i", 0.1)
    assert closing.connection is second
    assert table.active(HIGH) is first


def test_of_two_connections_the_peer_opened_the_newer_counts(table: PeerTable) -> None:
    first, second = Wire(LOW, initiated=False), Wire(LOW, initiated=False)
    table.connected(first, b"i", 0.0)
    assert table.connected(second, b"i", 0.1) == []
    assert table.active(LOW) is second
    assert not table.disconnected(second, SILENT, 0.2)
    assert table.active(LOW) is first


def test_a_restarted_peer_ends_the_connection_of_its_earlier_run(table: PeerTable) -> None:
    old, new = Wire(HIGH, initiated=True), Wire(HIGH, initiated=False)
    table.connected(old, b"one", 0.0)
    (closing,) = table.connected(new, b"two", 50.0)
    assert closing.connection is old
    assert table.active(HIGH) is new


def test_a_peer_that_opens_without_end_is_bounded(table: PeerTable) -> None:
    closed = 0
    for number in range(50):
        closed += len(table.connected(Wire(LOW, initiated=False), b"i", float(number)))
    assert closed == 46


def test_another_name_than_the_profile_says_is_refused(table: PeerTable) -> None:
    target = want(table, reference="office")
    start(table)
    (closing,) = table.connected(Wire(HIGH, initiated=True, name="home"), b"i", 0.0)
    assert closing.code is CloseCode.REFUSED
    assert "'office'" in closing.reason
    assert table.state(target) is PeerState.REFUSED
    assert table.active(HIGH) is None


def test_a_refusal_is_shown_rather_than_a_later_silence(table: PeerTable) -> None:
    target = want(table)
    start(table)
    table.attempt_failed(target, HOME, TrustError("expired"), 0.0)
    target = start(table, 10.0)
    table.attempt_failed(target, HOME, SILENT, 10.0)
    assert table.state(target) is PeerState.REFUSED


def test_settled_means_every_configured_peer_was_found_or_failed(table: PeerTable) -> None:
    assert table.settled()
    target = want(table)
    assert not table.settled()
    start(table)
    table.attempt_failed(target, HOME, SILENT, 0.0)
    assert table.settled()


def test_a_changed_network_makes_every_waiting_peer_be_tried_at_once(table: PeerTable) -> None:
    target = want(table)
    start(table)
    table.attempt_failed(target, HOME, SILENT, 0.0)
    table.kick(0.1)
    assert table.next_due() == 0.1
