"""A member with a hostile QUIC stack: frames of any bytes, sealed with the right keys.

Whatever they are, the other side either goes on or closes the connection; nothing is raised.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from support.engines import CLIENT, EnginePair

frame_types = st.integers(0, 0x31).map(lambda kind: bytes([kind]))
payloads = st.builds(
    lambda kind, rest: (kind + rest).ljust(4, b"\0"), frame_types, st.binary(max_size=200)
)


@given(st.lists(payloads, min_size=1, max_size=8))
def test_frames_of_any_bytes(frames: list[bytes]) -> None:
    pair = EnginePair()
    pair.server.receive(pair.client._seal_payloads(frames, pair.now), CLIENT, pair.now)
    pair.server.datagrams_to_send(pair.now)
    streams = pair.server._streams.values()
    assert sum(len(stream.receiver._buffer) for stream in streams) < 1 << 21
    assert len(pair.server.inbox) < 200 * len(frames)
    if pair.server.ending is None:
        pair.exchange(3)


@given(st.lists(st.binary(min_size=1, max_size=1500), max_size=20))
def test_datagrams_of_any_bytes(datagrams: list[bytes]) -> None:
    pair = EnginePair()
    known = [b"\x40" + pair.server.host_cid + datagram for datagram in datagrams]
    assert not pair.server.receive([*datagrams, *known], CLIENT, pair.now)
    assert pair.server.ending is None
    pair.carry([b"still there"])
    assert pair.server.inbox == [b"still there"]
