"""What the engine does by itself: packets, keys, probes, endings."""

from __future__ import annotations

from typing import TypeVar

import pytest
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived
from aioquic.tls import Epoch

from quicether.transport import engine as engine_module
from quicether.transport.engine import (
    DATAGRAM_OVERHEAD,
    Engine,
)
from quicether.transport.windows import CONTROL_STREAM
from support.engines import CLIENT, SERVER, EnginePair

T = TypeVar("T")


def events_of(engine: Engine, kind: type[T]) -> list[T]:
    found: list[T] = []
    while (event := engine.next_event()) is not None:
        if isinstance(event, kind):
            found.append(event)
    return found


def test_packets_of_all_sizes_arrive_in_order() -> None:
    pair = EnginePair()
    packets = [bytes([number]) * (1 + number * 37 % 1443) for number in range(200)]
    pair.carry(packets)
    assert pair.server.inbox == packets
    largest = [bytes(1472 - DATAGRAM_OVERHEAD)] * 3
    assert pair.carry(largest) == 3
    assert pair.server.inbox[200:] == largest


def test_what_the_handshake_needed_is_given_back() -> None:
    pair = EnginePair()
    for engine in (pair.client, pair.server):
        assert [buffer.capacity for buffer in engine._crypto_buffers.values()] == [0, 0, 0]
    pair.client.send_stream_data(pair.client.get_next_available_stream_id(), b"still there")
    pair.exchange()
    assert [event.data for event in events_of(pair.server, StreamDataReceived)] == [b"still there"]


def test_duplicates_and_reordering() -> None:
    pair = EnginePair()
    datagrams = pair.client.seal([bytes([n]) * 1400 for n in range(100)], 1472, pair.now)
    pair.server.receive(datagrams[50:], CLIENT, pair.now)
    pair.server.receive(datagrams, CLIENT, pair.now)
    pair.server.receive(datagrams[::-1], CLIENT, pair.now)
    assert sorted(packet[0] for packet in pair.server.inbox) == list(range(100))


def test_what_was_received_is_acknowledged_and_streams_go_on_beside() -> None:
    pair = EnginePair()
    for _ in range(50):
        pair.carry([bytes(1400)] * 10)
        pair.client.send_stream_data(CONTROL_STREAM, b"x" * 500)
        pair.exchange(2)
    assert len(pair.server.inbox) == 500
    pair.exchange()
    assert pair.client.backlog(CONTROL_STREAM) == 0
    received = events_of(pair.server, StreamDataReceived)
    assert sum(len(event.data) for event in received) == 25_000
    assert not pair.client.awaits_answer
    # Sealed packets are not tracked: nothing of them is left in loss recovery.
    assert len(pair.client._spaces[Epoch.ONE_RTT].sent_packets) < 20


def test_the_key_changes_while_packets_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PACKETS_PER_KEY", 100)
    pair = EnginePair()
    phases = set()
    back = 0
    for _ in range(60):
        late = pair.server.seal([bytes(1000)] * 5, 1472, pair.now)
        pair.carry([bytes(1000)] * 20)
        pair.exchange(1)
        pair.client.receive(late, SERVER, pair.now)
        back += 5
        phases.add(pair.client._cryptos[Epoch.ONE_RTT].send.key_phase)
        pair.exchange(3)
    assert phases == {0, 1}
    assert len(pair.server.inbox) == 1200
    assert len(pair.client.inbox) == back
    assert pair.client.ending is None
    assert pair.server.ending is None


def test_a_burst_of_loss_longer_than_a_short_packet_number_is_survived() -> None:
    """Two bytes of packet number once would have lost their way after 32,768 packets."""
    pair = EnginePair()
    for _ in range(50):
        pair.client.seal([bytes(1000)] * 1000, 1472, pair.now)
    pair.carry([b"after the gap"])
    assert pair.server.inbox == [b"after the gap"]
    pair.client.send_ping(1)
    pair.exchange()
    assert not pair.client.awaits_answer


def test_a_probe_is_acknowledged_and_its_loss_is_no_congestion() -> None:
    pair = EnginePair()
    before = pair.client._loss.congestion_window
    outcomes: list[tuple[str, int]] = []

    def delivered(state: object, size: int, now: float) -> None:
        outcomes.append((str(state), size))

    probe = pair.client.seal_probe(1472, delivered, pair.now)
    assert len(probe) == 1472
    pair.client.seal_probe(1400, delivered, pair.now)  # this one is lost
    pair.server.receive([probe], CLIENT, pair.now)
    for _ in range(5):
        pair.client.send_ping(1)
        pair.exchange(6)
    assert outcomes == [("QuicDeliveryState.ACKED", 1472), ("QuicDeliveryState.LOST", 1400)]
    assert pair.client._loss.congestion_window >= before
    assert pair.client._loss.bytes_in_flight == 0


def test_a_close_is_seen_by_the_other_side() -> None:
    pair = EnginePair()
    assert events_of(pair.server, HandshakeCompleted)
    pair.client.close(3, None, "enough")
    pair.exchange(2)
    ending = pair.server.ending
    assert isinstance(ending, ConnectionTerminated)
    assert (ending.error_code, ending.reason_phrase) == (3, "enough")
    assert pair.server.closed_by_peer
    assert not pair.client.closed_by_peer
    # What arrives afterwards is not looked at.
    pair.server.receive(pair.client.seal([b"late"], 1472, pair.now), CLIENT, pair.now)
    assert pair.server.inbox == []
