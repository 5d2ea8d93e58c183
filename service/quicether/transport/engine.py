"""aioquic's connection, with a short way for packets that carry nothing but IP packets.

Nearly every packet of a tunnel is one short header and one DATAGRAM frame (RFC 9221). aioquic takes
about 45 µs for it on each side, most of it bookkeeping for cases that such a packet is not. This
subclass seals and opens them by itself, whole batches at a time, and leaves everything else
(handshake, streams, acknowledgements, loss recovery, migration) to the parent.

Sealed packets are not tracked for loss: nothing in them is ever sent again, and they are outside
the congestion window, because what they carry has its own (RFC 9484 section 8). Streams keep
aioquic's Reno, undisturbed by them. The private attributes used are those of aioquic 1.7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoContext
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicSentPacket
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketSpace
from aioquic.tls import Epoch

from quicether.transport.framing import frame, unframe
from quicether.transport.replay_window import ReplayWindow
from quicether.transport.sealing import (
    HEADER_BYTES,
    NUMBER_AT,
    SAMPLE_AT,
    SHORTEST,
    TAG_BYTES,
    header_masks,
    seal,
    unseal,
)
from quicether.transport.tls import restrict
from quicether.transport.windows import WindowedConnection

MAX_REQUESTS: Final = 32
"""Requests that one peer may have under way, each on a stream of its own."""
DATAGRAM_OVERHEAD: Final = HEADER_BYTES + 1 + TAG_BYTES
"""Bytes of a UDP payload around one IP packet: header, frame type, AEAD tag."""
PACKETS_PER_KEY: Final = 1 << 22
"""Packets after which the key is changed: half of what AES-GCM allows (RFC 9001 section 6.6)."""
ACK_DELAY: Final = 0.023
"""Seconds an acknowledgement may wait; 25 ms is what the peer is told (max_ack_delay).

Not 20 ms, which is how often voice sends: each packet would come while the last is acknowledged.
"""
LONGEST_LINGER: Final = 3.0
"""Seconds that a closed connection is kept at most, to answer what still comes."""


class Engine(WindowedConnection):
    """One QUIC connection without sockets or clocks.

    inbox: IP packets that have arrived, oldest first; whoever feeds the engine then empties it.
    control_pending: whether `datagrams_to_send` may have something to say.
    closed_by_peer: whether it was the peer who closed the connection.
    """

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self.inbox: list[bytes] = []
        self.control_pending = True
        self._ack_delay = ACK_DELAY
        for limit, count in (
            (self._local_max_streams_bidi, MAX_REQUESTS + 1),
            (self._local_max_streams_uni, 0),
        ):
            limit.value = limit.sent = count
        self.closed_by_peer = False
        self._now = 0.0
        self._packets_with_key = 0
        self._old_keys: CryptoContext | None = None

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        restrict(self.tls, is_client=self._is_client)
        self._spaces[Epoch.ONE_RTT].received_packets = ReplayWindow()  # type: ignore[assignment]

    def _discard_epoch(self, epoch: Epoch) -> None:
        """Forget the keys of an epoch; see the parent.

        With those of the handshake go the buffers for what TLS has to say, 16 KiB for each epoch.
        Nothing follows: we send no tickets, and QUIC has no renegotiation (RFC 9001 section 4.4).
        """
        super()._discard_epoch(epoch)
        if epoch is Epoch.HANDSHAKE:
            self._crypto_buffers = {each: Buffer(capacity=0) for each in self._crypto_buffers}

    # What the connection above wants to know

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds; None before the first sample."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else None

    @property
    def probe_timeout(self) -> float:
        """Seconds after which an acknowledgement is overdue (RFC 9002 section 6.2.1)."""
        return self._loss.get_probe_timeout()

    @property
    def acknowledge_at(self) -> float | None:
        """When the timer is to acknowledge what arrived; None when it has been acknowledged."""
        return self._spaces[Epoch.ONE_RTT].ack_at

    @property
    def awaits_answer(self) -> bool:
        """Whether something that has to be acknowledged went out and nothing came back since."""
        return self._ack_eliciting_sent_since_receipt

    @property
    def next_number(self) -> int:
        """The number of the next packet that goes out."""
        return self._packet_number

    @property
    def acknowledged(self) -> int:
        """The highest number of a packet that the peer acknowledged, -1 before the first.

        Whatever else comes from a peer, this alone proves that it hears us.
        """
        return max(space.largest_acked_packet for space in self._spaces.values())

    @property
    def ending(self) -> ConnectionTerminated | None:
        """Why the connection is closing or closed; None while it is neither."""
        return self._close_event

    @property
    def terminated(self) -> bool:
        """Whether the closing period is over too: nothing is left to send or to receive."""
        return self._state is QuicConnectionState.TERMINATED

    @property
    def begun(self) -> bool:
        """Whether anything that makes sense has arrived or gone out."""
        return bool(self._network_paths)

    @property
    def original_connection_id(self) -> bytes:
        """The connection id that a client's first packets are sent to."""
        return self._original_destination_connection_id

    @property
    def connection_ids(self) -> list[bytes]:
        """The connection ids by which a peer may address this side now."""
        return [issued.cid for issued in self._host_cids]

    def send_ping(self, uid: int) -> None:
        """Ask for an acknowledgement; see the parent."""
        self.control_pending = True
        super().send_ping(uid)

    def close(
        self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = ""
    ) -> None:
        """Close the connection; see the parent."""
        self.control_pending = True
        super().close(error_code, frame_type, reason_phrase)

    def _close_begin(self, is_initiator: bool, now: float) -> None:
        """Linger for three probe timeouts (RFC 9000 section 10.2), but not for ever."""
        super()._close_begin(is_initiator, now)
        self._close_at = min(self._close_at or now, now + LONGEST_LINGER)

    def give_up_stream(self, stream_id: int, code: int) -> None:
        """Abandon what is left of both directions of a stream."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        self.control_pending = True
        if not stream.sender.is_finished:
            stream.sender.reset(code)
        if not stream.receiver.is_finished:
            stream.receiver.stop(code)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return the UDP payloads of everything but IP packets; see the parent."""
        self.control_pending = False
        if self._is_client and self._packets_with_key > PACKETS_PER_KEY:
            self._change_key()
        return super().datagrams_to_send(now)

    def handle_timer(self, now: float) -> None:
        """Do what is due; see the parent."""
        self.control_pending = True
        self._now = now
        super().handle_timer(now)

    # Sending IP packets

    def sendable(self) -> int | None:
        """Return how many bytes may go to the peer's present address; None for no limit.

        An address that is not validated yet gets at most three times what came from it
        (RFC 9000 section 8).
        """
        path = self._network_paths[0]
        if path.is_validated:
            return None
        return max(0, 3 * path.bytes_received - path.bytes_sent)

    def seal(self, packets: Sequence[bytes], largest: int, now: float) -> list[bytes]:
        """Return UDP payloads of at most `largest` bytes that carry packets, in order.

        Small packets share a payload. Each packet has at most `largest - DATAGRAM_OVERHEAD` bytes.
        """
        payloads = frame(packets, largest - DATAGRAM_OVERHEAD + 1)
        return self._seal_payloads(payloads, now)

    def seal_probe(
        self, size: int, delivered: Callable[[QuicDeliveryState, int, float], None], now: float
    ) -> bytes:
        """Return a UDP payload of exactly size bytes that asks for nothing but an acknowledgement.

        delivered: called with (state, size, the time) when it is acknowledged or declared lost.
        Its loss is no sign of congestion (RFC 8899 section 3), so it is tracked outside of that.
        """
        payload = bytes((QuicFrameType.PING,)) + bytes(size - DATAGRAM_OVERHEAD)
        number = self._packet_number
        sealed = self._seal_payloads([payload], now)[0]
        self._loss.on_packet_sent(
            packet=QuicSentPacket(
                epoch=Epoch.ONE_RTT,
                in_flight=False,
                is_ack_eliciting=False,
                is_crypto_packet=False,
                packet_number=number,
                packet_type=QuicPacketType.ONE_RTT,
                sent_time=now,
                sent_bytes=size,
                delivery_handlers=[(self._on_probe_delivery, (size, delivered))],
            ),
            space=self._spaces[Epoch.ONE_RTT],
        )
        return sealed

    def _on_probe_delivery(
        self,
        state: QuicDeliveryState,
        size: int,
        delivered: Callable[[QuicDeliveryState, int, float], None],
    ) -> None:
        delivered(state, size, self._now)

    def _seal_payloads(self, payloads: list[bytes], now: float) -> list[bytes]:
        keys = self._cryptos[Epoch.ONE_RTT].send
        datagrams = seal(keys, self._peer_cid.cid, self._packet_number, payloads)
        self._packet_number += len(payloads)
        self._packets_with_key += len(payloads)
        self._network_paths[0].bytes_sent += sum(map(len, datagrams))
        if not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True
        return datagrams

    def _change_key(self) -> None:
        """Go to the next key (RFC 9001 section 6). Only the client does, so never both at once."""
        self._keep_old_keys()
        self._cryptos[Epoch.ONE_RTT]._update_key("local_update")

    def _keep_old_keys(self) -> None:
        """Remember the keys that packets still on their way were sealed with."""
        keys = self._cryptos[Epoch.ONE_RTT].recv
        self._old_keys = CryptoContext(key_phase=keys.key_phase)
        self._old_keys.aead = keys.aead
        self._packets_with_key = 0

    # Receiving

    def receive(self, datagrams: Sequence[bytes], addr: NetworkAddress, now: float) -> bool:
        """Take UDP payloads that came from addr together. IP packets go to the inbox.

        Returns whether any of them was the peer's: an authentic packet restarts the idle timer.
        """
        before = self._close_at
        self._now = now
        self._receive(datagrams, addr, now)
        return self._close_at != before

    def _receive(self, datagrams: Sequence[bytes], addr: NetworkAddress, now: float) -> None:
        path = self._network_paths[0] if self._network_paths else None
        if (
            path is None
            or path.addr != addr
            or not path.is_validated
            or not self._handshake_confirmed
        ):
            for datagram in datagrams:
                self._receive_other(datagram, addr, now)
            return
        cid = self.host_cid
        samples = [
            datagram[SAMPLE_AT:SHORTEST]
            if len(datagram) >= SHORTEST and datagram[1:NUMBER_AT] == cid
            else b""
            for datagram in datagrams
        ]
        keys = self._cryptos[Epoch.ONE_RTT].recv
        masks = iter(header_masks(keys, [sample for sample in samples if sample]))
        space = self._spaces[Epoch.ONE_RTT]
        numbers: list[int] = []
        for datagram, sample in zip(datagrams, samples, strict=True):
            if sample and self._state is QuicConnectionState.CONNECTED:
                opened = unseal(
                    keys, self._old_keys, datagram, next(masks), space.expected_packet_number
                )
                packets = unframe(opened[1]) if opened is not None else None
                if opened is not None and packets is not None:
                    number = opened[0]
                    if number not in space.received_packets:
                        space.received_packets.add(number)
                        if number >= space.expected_packet_number:
                            space.expected_packet_number = number + 1
                        numbers.append(number)
                        self.inbox += packets
                    continue
            # Nothing has changed by looking at it, so the parent may look again.
            self._record(space, numbers, now)
            numbers = []
            self._receive_other(datagram, addr, now)
        self._record(space, numbers, now)
        self._packets_with_key += len(datagrams)

    def _receive_other(self, datagram: bytes, addr: NetworkAddress, now: float) -> None:
        """Hand a UDP payload to the parent, which may find that the peer changed the key."""
        self.control_pending = True
        pair = self._cryptos.get(Epoch.ONE_RTT)
        if pair is None or pair.recv.aead is None:
            self.receive_datagram(datagram, addr, now)
            return
        aead, phase = pair.recv.aead, pair.recv.key_phase
        self.receive_datagram(datagram, addr, now)
        if pair.recv.key_phase != phase:
            self._old_keys = CryptoContext(key_phase=phase)
            self._old_keys.aead = aead
            self._packets_with_key = 0

    def _record(self, space: QuicPacketSpace, numbers: list[int], now: float) -> None:
        """Do for ack-eliciting packets what the parent's `receive_datagram` does for each."""
        if not numbers:
            return
        start = stop = numbers[0]
        for number in numbers:
            if number != stop:
                space.ack_queue.add(start, stop)
                start = number
            stop = number + 1
        space.ack_queue.add(start, stop)
        while len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        newest = max(numbers)
        if newest > space.largest_received_packet:
            space.largest_received_packet = newest
            space.largest_received_time = now
        if space.ack_at is None:
            space.ack_at = now + self._ack_delay
        self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False

    def _handle_connection_close_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        """Note that it was the peer who closed; see the parent."""
        self.closed_by_peer = self._close_event is None
        super()._handle_connection_close_frame(context, frame_type, buf)

    def _handle_datagram_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        """Put the IP packet of a DATAGRAM frame into the inbox instead of an event."""
        length = (
            buf.pull_uint_var()
            if frame_type == QuicFrameType.DATAGRAM_WITH_LENGTH
            else buf.capacity - buf.tell()
        )
        self.inbox.append(buf.pull_bytes(length))
