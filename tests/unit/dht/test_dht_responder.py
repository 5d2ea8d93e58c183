"""What a machine answers to its peers: pages of values, and limits."""

from __future__ import annotations

from ipaddress import IPv4Network
from random import Random

from quicether.counters import Counters
from quicether.dht import keyspace, messages
from quicether.dht.messages import (
    FindValue,
    Refusal,
    Refused,
    Store,
    Stored,
    StoreResult,
    Values,
)
from quicether.dht.node import DhtNode
from quicether.dht.records import certificate_of
from quicether.errors import ProtocolError
from quicether.model import DropReason, Member
from support.dht_samples import NETWORK_ID, contact, record
from support.fake_records import FakeSeals, FakeSigner

WALL = 1_700_000_000.0
(INDEX,) = keyspace.index_keys(NETWORK_ID, IPv4Network("10.1.0.0/24"))
PEER = contact(5)


def lan(number: int) -> IPv4Network:
    return IPv4Network((0x0A000000 + 256 * number, 24))


class Holder:
    """A machine that keeps values."""

    def __init__(self) -> None:
        self.seals = FakeSeals(NETWORK_ID)
        self.counters = Counters()
        me = contact(1 << 159)
        signer = FakeSigner(self.seals, Member(me.node_id, "me", b"", (), ()))
        self.node = DhtNode(me, NETWORK_ID, self.seals, signer, self.counters, Random(1), WALL)

    def store(self, number: int, now: float) -> StoreResult:
        wire = record(1000 + number, lan(number), WALL + now, seals=self.seals).wire
        answer = self.ask(Store(INDEX, (wire,)), now)
        assert isinstance(answer, Stored)
        return answer.results[0]

    def ask(self, request: messages.Request, now: float) -> messages.Response:
        body = self.node.handle_request(PEER, messages.encode(request), now)
        return messages.decode_response(body)

    def read(self, cursor: messages.Cursor | None, now: float) -> tuple[list[bytes], Values]:
        wires: list[bytes] = []
        while True:
            answer = self.ask(FindValue(INDEX, 0, cursor), now)
            assert isinstance(answer, Values)
            wires += answer.records
            if not answer.more:
                return wires, answer
            cursor = answer.cursor


def test_who_reads_for_the_first_time_gets_every_certificate_on_every_page() -> None:
    holder = Holder()
    for number in range(150):
        assert holder.store(number, number) is StoreResult.KEPT
    for number in range(0, 150, 2):
        assert holder.store(number, 200.0 + number) is StoreResult.KEPT
    wires, last = holder.read(None, 500.0)
    assert len(wires) == 150
    assert all(certificate_of(wire) for wire in wires)
    for number in range(100):
        assert holder.store(number, 600.0 + number) is StoreResult.KEPT
    renewed, _ = holder.read(last.cursor, 900.0)
    assert len(renewed) == 100
    assert not any(certificate_of(wire) for wire in renewed)


def test_what_cannot_be_read_counts_against_the_rate_of_its_sender() -> None:
    holder = Holder()
    refused = 0
    for _ in range(1000):
        try:
            answer = holder.node.handle_request(PEER, b"rubbish", 0.0)
        except ProtocolError:
            continue
        assert messages.decode_response(answer) == Refused(Refusal.RATE_LIMITED)
        refused += 1
    assert refused == 800
    assert holder.counters.drops[DropReason.RPC_LIMITED] == 800
