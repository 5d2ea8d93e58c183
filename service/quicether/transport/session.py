"""One QUIC connection on the endpoint's socket: batches in and out, timers, path, closing.

A session knows nothing of members or messages. Whoever uses it is its `Role`: a connection between
members, or an enrolment.

Whatever goes wrong in here that nobody foresaw ends this one connection: the carrier, and whoever
hands over packets, has others to serve.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from quicether.model import DropReason, UnderlayAddress
from quicether.transport.containment import contained
from quicether.transport.endpoint import CloseCode, KeepAlive
from quicether.transport.engine import Engine
from quicether.transport.farewell import Farewell
from quicether.transport.liveness import Liveness, PeerWatch
from quicether.transport.packet_queue import PacketQueue
from quicether.transport.path import Path
from quicether.transport.roles import Carrier, Ending, Role
from quicether.transport.udp_socket import SocketAddress, Source

log = logging.getLogger(__name__)

MAX_EARLY_BYTES: Final = 65_536
"""Bytes that a peer may send before its certificate is accepted."""
SAMPLE_EVERY: Final = 1.0
"""Seconds between measurements of the round-trip time while IP packets flow."""

_PACKETS_AT_ONCE: Final = 128
_PING: Final = 0


class Session:
    """One QUIC connection. Driven by its carrier, used by its role."""

    def __init__(
        self,
        engine: Engine,
        carrier: Carrier,
        remote: SocketAddress,
        *,
        initiated: bool,
        now: float,
    ) -> None:
        self.engine = engine
        self.initiated = initiated
        self.role: Role | None = None
        self.deadline: float | None = None
        self.scheduled: float | None = None
        self.accepted = False
        """Whether the peer's certificate was accepted; bounds what may come before."""
        self.heard = False
        """Whether the peer sent anything that could be opened."""
        self._carrier = carrier
        self._path = Path(
            engine,
            carrier.socket,
            carrier.counters,
            remote,
            carrier.max_link_mtu,
            self._path_changed,
        )
        self._early_bytes = 0
        self._queue = PacketQueue()
        self._untaken = PacketQueue()
        self._watch = PeerWatch(initiated=initiated, now=now)
        self._sampled_at = now
        self._farewell = Farewell()
        self._ended = False
        self._gone = False

    # -- what the role uses ------------------------------------------------------------------

    @property
    def remote(self) -> UnderlayAddress:
        """Where the peer is now."""
        return UnderlayAddress.of_socket(self._path.remote)

    @property
    def max_packet(self) -> int:
        """Largest IP packet, in bytes, that one UDP payload carries on the present path."""
        return self._path.max_packet

    @property
    def closed(self) -> bool:
        """Whether the session has ended, by either side."""
        return self._ended

    def unanswered(self, now: float) -> float:
        """Return for how many seconds an answer of the peer has been due; 0 while none is."""
        return self._watch.unanswered(now)

    def accept(self, now: float) -> None:
        """Note that the peer's certificate was accepted: look for the path's MTU from now on."""
        self.accepted = True
        self._carrier.accepted(self)
        self._path.search(now)

    def send_stream(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Queue bytes on a stream."""
        self.engine.send_stream_data(stream_id, data, end_stream=end)
        self.want_flush()

    def open_stream(self) -> int:
        """Return the id of the next bidirectional stream of this side."""
        return self.engine.get_next_available_stream_id()

    def give_up_stream(self, stream_id: int, code: int) -> None:
        """Abandon both directions of a stream."""
        self.engine.give_up_stream(stream_id, code)
        self.want_flush()

    def want_flush(self) -> None:
        """Send what is pending at the end of this turn of the event loop."""
        self.engine.control_pending = True
        self._carrier.flush_soon(self)

    @contained
    def send_packets(self, packets: Sequence[bytes], now: float) -> None:
        """Queue IP packets and send what the socket takes at once."""
        if self._ended:
            self._carrier.counters.drop(DropReason.UNREACHABLE, len(packets))
            return
        if now - self._sampled_at >= SAMPLE_EVERY:
            self._sampled_at = now
            self.engine.send_ping(_PING)
            self._carrier.flush_soon(self)
        was_waiting, first = self.engine.awaits_answer, self.engine.next_number
        if self._queue or len(packets) > _PACKETS_AT_ONCE or not self._is_open:
            dropped = self._queue.extend(packets)
            if dropped:
                self._carrier.counters.drop(DropReason.QUEUE_FULL, dropped)
            self._flush_packets(now)
        else:
            self._seal_and_send(packets, now)
        if not was_waiting and self.engine.awaits_answer:
            self._watch.awaits(first, now)
            self._arm_sooner()

    @contained
    def keep_alive(self, how: KeepAlive, now: float) -> None:
        """Say what is done for the connection while nobody uses it."""
        if not self._ended and self.accepted:
            self._watch.keep_alive(how, now)
            self._arm_sooner()

    @contained
    def probe(self, now: float) -> None:
        """Check the path at once: the host's own network changed."""
        if self._ended or not self.accepted:
            return
        self._watch.network_changed(now)
        self._path.recheck(now)
        self._carrier.flush_soon(self)

    @contained
    def close(self, code: int, reason: str, now: float) -> None:
        """Close at once and tell the peer. Idempotent."""
        if self._ended:
            return
        self._end(Ending(code, application=True, by_peer=False, reason=reason))
        if self.engine.begun:
            self.engine.close(error_code=code, frame_type=None, reason_phrase=reason[:200])
            self.flush(now)
        else:
            self._leave()

    def fail(self) -> None:
        """End at once because of a fault of our own; after the end, without another word."""
        self._carrier.counters.faults += 1
        if self._ended:
            self._leave()
        else:
            self.close(CloseCode.PROTOCOL, "internal error", self._carrier.now())

    # -- what the carrier drives -------------------------------------------------------------

    @contained
    def feed(
        self, datagrams: list[bytes], remote: SocketAddress, source: Source | None, now: float
    ) -> None:
        """Take UDP payloads that arrived together; the carrier flushes afterwards."""
        if self._ended:
            late = self._farewell.repeat(len(datagrams))
            if late:
                self._path.send(late)
            return
        if not self.accepted:
            self._early_bytes += sum(map(len, datagrams))
            if self._early_bytes > MAX_EARLY_BYTES:
                self.close(CloseCode.PROTOCOL, "too much before the handshake was complete", now)
                return
        if self.engine.receive(datagrams, remote, now):
            self.heard = True
            self._watch.heard(self.engine.acknowledged, now)
            self._path.heard()
            if not self.initiated:
                self._path.source = source
        self._process(now)

    @contained
    def flush(self, now: float) -> None:
        """Send everything that is due, and arm the next deadline."""
        if self._send(now):
            self._arm()
        else:
            self._arm_sooner()

    @contained
    def on_deadline(self, now: float) -> None:
        """Do what is due: the engine's timers, the watch on the peer, the role's deadline."""
        timer = self.engine.get_timer()
        if timer is not None and timer <= now:
            self.engine.handle_timer(now)
            self._process(now)
        if not self._ended and self.accepted:
            match self._watch.due(now, self.engine.probe_timeout):
                case Liveness.ASK:
                    self.engine.send_ping(_PING)
                case Liveness.GONE:
                    self.close(CloseCode.DONE, "no answer", now)
        role = self.role
        due = role.deadline if role is not None and not self._ended else None
        if role is not None and due is not None and due <= now:
            role.deadline = None
            role.on_deadline(now)
        self._send(now)
        self._arm()

    # -- events of the engine ----------------------------------------------------------------

    def _process(self, now: float) -> None:
        engine = self.engine
        while (event := engine.next_event()) is not None:
            self._handle(event)
        ending = engine.ending
        if ending is not None:
            self._end(
                Ending(
                    ending.error_code,
                    application=ending.frame_type is None,
                    by_peer=engine.closed_by_peer,
                    reason=ending.reason_phrase,
                )
            )
            if engine.terminated:
                self._leave()
            return
        peer = engine.get_peer_address()
        if peer is not None and peer != self._path.remote:
            self._path.move(peer, now)
            self._path_changed()
        if engine.inbox or self._untaken:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the role the packets that arrived; what it does not take yet waits, bounded."""
        packets, self.engine.inbox = self.engine.inbox, []
        if self._untaken:
            packets = [*self._untaken.take(len(self._untaken)), *packets]
        if self.role is None or not self.role.packets(packets):
            dropped = self._untaken.extend(packets)
            if dropped:
                self._carrier.counters.drop(DropReason.QUEUE_FULL, dropped)

    def _handle(self, event: QuicEvent) -> None:
        match event:
            case ConnectionIdIssued():
                self._carrier.issued(self, event.connection_id)
            case ConnectionIdRetired():
                self._carrier.retired(self, event.connection_id)
            case _ if self._ended or self.role is None:
                pass  # a refused peer's bytes are not looked at
            case HandshakeCompleted():
                self.role.established(event.alpn_protocol)
            case StreamDataReceived():
                self.role.stream_data(event.stream_id, event.data, end=event.end_stream)
            case StreamReset() | StopSendingReceived():
                self.role.stream_reset(event.stream_id)

    def _end(self, ending: Ending) -> None:
        if self._ended:
            return
        self._ended = True
        lost = self._queue.clear() + self._untaken.clear() + len(self.engine.inbox)
        if lost:
            self._carrier.counters.drop(DropReason.UNREACHABLE, lost)
        self.engine.inbox.clear()
        if self.role is None:
            return
        try:
            self.role.ended(ending)
        except Exception:
            # The peer, and whoever closes many connections, must not miss the end for it.
            log.exception("a fault of our own at the end of the connection to %s", self.remote)
            self._carrier.counters.faults += 1

    def _leave(self) -> None:
        if not self._gone:
            self._gone = True
            self._carrier.arm(self, None)
            self._carrier.gone(self)

    @property
    def _is_open(self) -> bool:
        """Whether nothing holds packets back: neither the socket nor an unproven address."""
        return not self._carrier.socket.full and self.engine.sendable() is None

    def _arm(self) -> None:
        if self._gone or not self.engine.begun:
            return
        deadlines = [self.engine.get_timer()]
        if not self._ended:
            deadlines += [
                self._watch.deadline if self.accepted else None,
                self._path.deadline,
                self.role.deadline if self.role is not None else None,
            ]
        self._carrier.arm(self, min((at for at in deadlines if at is not None), default=None))

    def _arm_sooner(self) -> None:
        """Arm what came nearer without the engine's doing; what is put off is seen when due."""
        if self._ended or not self.engine.begun:
            return
        armed = sooner = self.deadline
        for at in (self.engine.acknowledge_at, self._watch.deadline, self._path.deadline):
            if at is not None and (sooner is None or at < sooner):
                sooner = at
        if sooner != armed:
            self._carrier.arm(self, sooner)

    # -- sending -----------------------------------------------------------------------------

    def _send(self, now: float) -> bool:
        """Send everything that is due; return whether it was more than IP packets."""
        if self._gone or not self.engine.begun:
            return False
        first = self.engine.next_number
        more = self.engine.control_pending
        if more:
            self._flush_control(now)
        if not self._ended:
            self._flush_packets(now)
            more = self._path.probe(now) or more
            if self.engine.awaits_answer:
                self._watch.awaits(first, now)
        return more

    def _flush_control(self, now: float) -> None:
        batch: list[bytes] = []
        for data, addr in self.engine.datagrams_to_send(now):
            if addr == self._path.remote:
                batch.append(data)
            else:
                self._carrier.socket.send([data], addr, self._path.source)
        if batch:
            self._path.send(batch)
        if self._ended:
            self._farewell.said(batch)
        if not self._ended and self.engine.ending is not None:
            self._process(now)

    def _flush_packets(self, now: float) -> None:
        queue = self._queue
        while queue and not self._carrier.socket.full:
            room = self.engine.sendable()
            if room is not None and room < self._path.size:
                return  # an address that is not validated yet; what waits goes on when it is
            self._seal_and_send(queue.take(_PACKETS_AT_ONCE if room is None else 1), now)

    def _seal_and_send(self, packets: Sequence[bytes], now: float) -> None:
        largest = self._path.max_packet
        if max(map(len, packets)) > largest:
            fitting = [packet for packet in packets if len(packet) <= largest]
            self._carrier.counters.drop(DropReason.TOO_BIG, len(packets) - len(fitting))
            if not fitting:
                return
            packets = fitting
        if self._path.send_sealed(self.engine.seal(packets, self._path.size, now), now):
            self._carrier.flush_soon(self)

    def _path_changed(self) -> None:
        if self.role is not None and not self._ended:
            self.role.path_changed()
