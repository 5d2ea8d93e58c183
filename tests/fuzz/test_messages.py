"""Control messages from hostile hands: nothing but ProtocolError comes out, in bounded memory."""

from __future__ import annotations

import contextlib

import cbor2
from hypothesis import given
from hypothesis import strategies as st

from quicether.errors import ProtocolError
from quicether.transport.messages import (
    MAX_MESSAGE,
    MESSAGES,
    Message,
    MessageReader,
    decode,
    encode,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=40)
    | st.datetimes().map(lambda at: at.isoformat())
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=8) | st.integers() | st.binary(max_size=8), inner)
        | st.tuples(st.integers(0, 70_000), inner).map(lambda pair: cbor2.CBORTag(*pair))
    ),
    max_leaves=20,
)
fields = sorted({name for model in MESSAGES.values() for name in model.model_fields})
plausible = st.fixed_dictionaries(
    {"kind": st.sampled_from([*MESSAGES, "unknown", ""])},
    optional=dict.fromkeys(fields, values),
)


@given(st.binary(max_size=2000))
def test_any_bytes(body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode(body)


@given(values)
def test_any_value(value: object) -> None:
    with contextlib.suppress(ProtocolError):
        decode(cbor2.dumps(value))


@given(plausible)
def test_messages_with_fields_of_any_kind(content: dict[str, object]) -> None:
    try:
        message = decode(cbor2.dumps(content))
    except ProtocolError as error:
        assert "\n" not in str(error)
        return
    if message is not None:
        assert isinstance(message, Message)
        with contextlib.suppress(ProtocolError):
            assert MessageReader().feed(encode(message)) == [message]


@given(st.lists(st.binary(max_size=500), max_size=20))
def test_a_stream_of_any_bytes_keeps_no_more_than_a_message(pieces: list[bytes]) -> None:
    reader = MessageReader()
    with contextlib.suppress(ProtocolError):
        for piece in pieces:
            reader.feed(piece)
            assert len(reader._buffer) <= MAX_MESSAGE + 2
