"""Contacts, requests and responses on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given

from quicether import cbor
from quicether.dht import messages
from quicether.dht.contact import MAX_ENDPOINTS, Contact
from quicether.dht.messages import Request, Response
from quicether.errors import ProtocolError
from quicether.model import NodeId, UnderlayAddress
from support import dht_samples

NODE = NodeId(bytes(range(20)))
V4 = UnderlayAddress("198.51.100.7", 9000)
V6 = UnderlayAddress("2001:db8::7", 9001)


@given(dht_samples.CONTACTS)
def test_a_contact_comes_back_as_it_was(contact: Contact) -> None:
    back = Contact.unpack(contact.wire)
    assert back == contact
    assert back.endpoints == contact.endpoints
    assert int.from_bytes(back.node_id.value) == back.key


def test_a_contact_has_addresses_of_both_families() -> None:
    contact = Contact.of(NODE, V4, V6)
    assert contact.endpoints == (V4, V6)
    assert len(contact.wire) == 20 + 7 + 19


def test_newer_endpoints_come_first_and_old_ones_go_at_last() -> None:
    contact = Contact.of(NODE, V4)
    for port in range(1, 10):
        contact = contact.merged(Contact.of(NODE, UnderlayAddress("192.0.2.1", port)))
    assert len(contact.endpoints) == MAX_ENDPOINTS
    assert [endpoint.port for endpoint in contact.endpoints] == [9, 8, 7, 6]
    assert contact.merged(contact) is contact


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        NODE.value,
        NODE.value[:19],
        NODE.value + b"\x04\x01\x02\x03",
        NODE.value + b"\x05" + bytes(6),
        NODE.value + b"\x04" + bytes([192, 0, 2, 1]) + b"\x00\x00",
        NODE.value + b"\x04" + bytes([224, 0, 0, 1]) + b"\x00\x50",
        NODE.value + b"\x04" + bytes([0, 0, 0, 0]) + b"\x00\x50",
        NODE.value + (b"\x04" + bytes([192, 0, 2, 1]) + b"\x00\x50") * 5,
    ],
)
def test_a_contact_that_nobody_can_reach_is_refused(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        Contact.unpack(wire)


@given(dht_samples.REQUESTS)
def test_a_request_comes_back_as_it_was(request: Request) -> None:
    assert messages.decode_request(messages.encode(request)) == request


@given(dht_samples.RESPONSES)
def test_a_response_comes_back_as_it_was(response: Response) -> None:
    assert messages.decode_response(messages.encode(response)) == response


def test_unknown_fields_are_ignored() -> None:
    body = cbor.encode({"v": 1, "t": 1, "later": [1, 2]})
    assert messages.decode_request(body) == messages.Ping()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"v": 2, "t": 1},
        {"v": 1, "t": 99},
        {"v": 1, "t": 2, "k": b"short"},
        {"v": 1, "t": 2, "k": bytes(20), "n": 21},
        {"v": 1, "t": 2, "k": bytes(20), "n": True},
        {"v": 1, "t": 3, "k": bytes(20), "e": -1, "r": 0},
        {"v": 1, "t": 4, "k": bytes(20), "d": [b"x"] * 257},
        {"v": 1, "t": 4, "k": bytes(20), "d": [b"x" * 4097]},
        {"v": 1, "t": 4, "k": bytes(20), "d": ["text"]},
        {"v": 1, "t": 4, "k": bytes(20), "d": [], "h": bytes(81)},
    ],
)
def test_a_request_with_a_wrong_field_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        messages.decode_request(cbor.encode(fields))


@pytest.mark.parametrize(
    "body",
    [
        b"\xc5\x82\x1a\x0f\xff\xff\xff\x01",
        b"\xd8\x1c\x81\xd8\x1d\x00",
        b"\xbf\xff",
        b"\x81" * 1000,
        bytes(messages.MAX_BODY + 1),
    ],
)
def test_tags_depth_and_size_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.decode_request(body)
    with pytest.raises(ProtocolError):
        messages.decode_response(body)


def test_records_are_cut_into_batches_that_fit() -> None:
    wires = [bytes([number % 256]) * 700 for number in range(500)]
    batches = messages.batches(wires)
    assert [wire for batch in batches for wire in batch] == wires
    for batch in batches:
        assert len(messages.encode(messages.Store(0, batch))) <= messages.MAX_BODY
    assert messages.batches([]) == []
