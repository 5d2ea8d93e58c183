"""Control messages on the wire: what is right passes whole, what is wrong is named."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest

from quicether import cbor
from quicether.config.values import MAX_ANNOUNCED
from quicether.errors import ProtocolError
from quicether.model import NodeId, UnderlayAddress
from quicether.overlay.gateways import MAX_OFFERS
from quicether.transport import messages
from quicether.transport.messages import (
    MAX_MESSAGE,
    MAX_PREFIXES,
    Announce,
    Bye,
    Hello,
    Message,
    MessageReader,
    Observed,
    Ping,
    Pong,
    decode,
    encode,
)

NODE = NodeId(bytes(range(20)))
HELLO = Hello(
    node_id=NODE,
    name="home",
    capabilities=("gateway", "relay-1"),
    mtu=1420,
    prefixes=(IPv4Network("192.168.1.0/24"), IPv6Network("fd00:1::/64")),
    forwards=(IPv4Network("0.0.0.0/0"),),
    listen_port=9000,
    instance=b"12345678",
)
SAMPLES: list[Message] = [
    HELLO,
    Hello(node_id=NODE, name="n"),
    Announce(),
    Announce(prefixes=(IPv4Network("10.0.0.0/8"),)),
    Ping(token=b"1"),
    Pong(token=b"0123456789abcdef"),
    Bye(reason="updating"),
    Observed.of(UnderlayAddress("203.0.113.9", 9000)),
    Observed.of(UnderlayAddress("2001:db8::9", 9001)),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: message.kind)
def test_what_is_said_is_what_is_heard(message: Message) -> None:
    assert MessageReader().feed(encode(message)) == [message]


def test_messages_are_read_whole_from_pieces_of_any_size() -> None:
    stream = b"".join(encode(message) for message in SAMPLES)
    for size in (1, 2, 7, 100, len(stream)):
        reader = MessageReader()
        heard: list[Message] = []
        for at in range(0, len(stream), size):
            heard += reader.feed(stream[at : at + size])
        assert heard == SAMPLES


def test_the_wire_form_does_not_change_unnoticed() -> None:
    assert encode(Ping(token=b"\x01\x02")).hex() == (
        "0014" "a2" "64" "6b696e64" "64" "70696e67" "65" "746f6b656e" "42" "0102"
    )  # fmt: skip


def test_what_a_newer_peer_adds_is_passed_over() -> None:
    newer = cbor.encode({"kind": "ping", "token": b"1", "colour": "red", "list": [1, [2]]})
    assert decode(newer) == Ping(token=b"1")
    reader = MessageReader()
    unknown = cbor.encode({"kind": "song", "verse": 1})
    assert reader.feed(len(unknown).to_bytes(2, "big") + unknown + encode(HELLO)) == [HELLO]
    assert reader.unknown == 1


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"kind": "ping"}, "token"),
        ({"kind": "ping", "token": "text"}, "token"),
        ({"kind": "ping", "token": bytes(17)}, "token"),
        ({"kind": 1}, "kind"),
        ({}, "kind"),
        ([], "map"),
        ("hello", "map"),
        ({"kind": "hello", "name": "x"}, "node_id"),
        ({"kind": "hello", "name": "x", "node_id": bytes(19)}, "node_id"),
        ({"kind": "hello", "name": "", "node_id": bytes(20)}, "name"),
        ({"kind": "hello", "name": "x", "node_id": bytes(20), "mtu": 100}, "mtu"),
        ({"kind": "hello", "name": "x", "node_id": bytes(20), "mtu": True}, "mtu"),
        ({"kind": "hello", "name": "x", "node_id": bytes(20), "capabilities": ["A"]}, "capab"),
        ({"kind": "announce", "prefixes": [b"\x0a\x00\x00\x01\x08"]}, "host bits"),
        ({"kind": "announce", "prefixes": [b"\x0a\x00\x00\x00\x21"]}, "prefixes"),
        ({"kind": "announce", "prefixes": ["10.0.0.0/8"]}, "prefixes"),
        ({"kind": "announce", "prefixes": [bytes(5)] * (MAX_PREFIXES + 1)}, "prefixes"),
        ({"kind": "announce", "prefixes": {}}, "prefixes"),
        ({"kind": "ping", "token": b"1", "deep": [[[[[]]]]]}, "depth"),
    ],
)
def test_what_is_wrong_is_named(content: object, names: str) -> None:
    with pytest.raises(ProtocolError, match=names):
        decode(cbor.encode(content))


def test_a_message_that_is_too_large_is_neither_said_nor_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ProtocolError, match="at most"):
        MessageReader().feed((MAX_MESSAGE + 1).to_bytes(2, "big"))
    monkeypatch.setattr(messages, "MAX_MESSAGE", 100)
    with pytest.raises(ProtocolError, match="at most 100"):
        encode(Announce(prefixes=tuple(IPv6Network((n << 64, 64)) for n in range(6))))


def test_all_that_settings_and_a_gateway_can_announce_fits_into_one_message() -> None:
    """More than that raised an error that nobody expected; settings now refuse it."""
    own = tuple(IPv6Network((n << 64, 64)) for n in range(MAX_ANNOUNCED))
    offers = tuple(IPv6Network(((n + 5000) << 64, 64)) for n in range(MAX_OFFERS))
    for message in (
        Announce(prefixes=own, forwards=offers),
        Hello(
            node_id=NODE,
            name="n" * 63,
            version=65_535,
            oldest=65_535,
            mtu=65_535,
            prefixes=own,
            forwards=offers,
            capabilities=tuple(f"{n:032}" for n in range(32)),
            listen_port=65_535,
            instance=bytes(16),
        ),
    ):
        data = encode(message)
        assert MessageReader().feed(data) == [message]
    # The wire has room for what a later version may announce.
    full = tuple(IPv6Network((n << 64, 64)) for n in range(MAX_PREFIXES))
    assert encode(Announce(prefixes=full, forwards=full))


def test_versions_overlap_or_do_not() -> None:
    assert Hello(node_id=NODE, name="n", version=7, oldest=1).speaks_our_version
    assert not Hello(node_id=NODE, name="n", version=7, oldest=2).speaks_our_version


def test_an_observed_address_of_a_wrong_length_is_none() -> None:
    assert Observed.of(UnderlayAddress("203.0.113.9", 9000)).address == UnderlayAddress(
        "203.0.113.9", 9000
    )
    assert Observed(host=bytes(5), port=9000).address is None
