"""Flow control with windows that slide (RFC 9000 section 4).

aioquic doubles a window whenever half of it is used, without an end: a peer that sends long enough
may in the end make this side keep gigabytes. Here each window is what it was, moved on by what was
read.
"""

from __future__ import annotations

from typing import Final

from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
)
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from quicether.transport.messages import MAX_MESSAGE, MAX_RPC

CONTROL_STREAM: Final = 0
"""The first bidirectional stream that the client opens (RFC 9000 section 2.1)."""

_CONTROL_WINDOW: Final = 4 * MAX_MESSAGE
_CONNECTION_WINDOW: Final = 16 * MAX_RPC


class WindowedConnection(QuicConnection):
    """A QUIC connection whose peer can make it keep no more than its windows."""

    def backlog(self, stream_id: int) -> int:
        """Return how many bytes of a stream the peer has not acknowledged yet."""
        stream = self._streams.get(stream_id)
        return len(stream.sender._buffer) if stream is not None else 0

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        data, streams = self._local_max_data, self._local_max_streams_bidi
        if data.value - data.used < _CONNECTION_WINDOW // 2:
            data.value = data.used + _CONNECTION_WINDOW
        few_left = streams.sent - streams.used < streams.value - streams.sent
        for limit, due in ((data, True), (streams, few_left)):
            if not due or limit.value == limit.sent:
                continue
            buf = builder.start_frame(
                limit.frame_type,
                capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            buf.push_uint_var(limit.value)
            limit.sent = limit.value

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        # A request's stream never gets more than its first window: that is its largest body.
        if stream.stream_id == CONTROL_STREAM:
            read = stream.receiver.starting_offset()
            if stream.max_stream_data_local - read < _CONTROL_WINDOW // 2:
                stream.max_stream_data_local = read + _CONTROL_WINDOW
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        if stream.stream_id is None:
            return  # handshake data has no flow control
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buf.push_uint_var(stream.stream_id)
        buf.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local
