"""The name service against rubbish: an answer, a refusal or nothing, and never an exception."""

from __future__ import annotations

import dns.message
from hypothesis import given
from hypothesis import strategies as st

from quicether.names.responder import MAX_MESSAGE, respond
from quicether.names.service import NameService
from quicether.names.zone import Zone
from support.fake_overlay import member
from support.packets import ipv4, udp

ME = member("cafe", ["100.64.0.1", "fd00::1"])
ZONE = Zone("kin", ME, [member("home", ["100.64.0.2", "fd00::2"])])
QUESTION = dns.message.make_query("home.kin.quicether", "AAAA", use_edns=0).to_wire()
KINDS = st.sampled_from(["A", "AAAA", "PTR", "SOA", "NS", "ANY", "DS", "AXFR", "OPT", "TYPE65535"])
LABELS = st.lists(st.sampled_from(["a", "home", "kin", "quicether", "100", "64", "arpa", "x" * 63]))
SUFFIXES = st.sampled_from(["kin.quicether.", "100.in-addr.arpa.", "0.0.d.f.ip6.arpa.", "."])


@given(st.binary(max_size=600))
def test_any_bytes(wire: bytes) -> None:
    answer = respond(wire, ZONE)
    assert answer is None or answer[:2] == wire[:2]


@given(st.integers(0, len(QUESTION) - 1), st.binary(max_size=4))
def test_a_damaged_question(where: int, damage: bytes) -> None:
    wire = QUESTION[:where] + damage + QUESTION[where + len(damage) :]
    answer = respond(wire, ZONE)
    assert answer is None or (answer[2] & 0x80 and len(answer) <= MAX_MESSAGE)


@given(LABELS, SUFFIXES, KINDS)
def test_any_name_of_any_kind(labels: list[str], suffix: str, kind: str) -> None:
    name = ".".join([*labels[:3], suffix]) if suffix != "." else ".".join(labels[:3]) + "."
    query = dns.message.make_query(name.replace("..", "."), kind)
    answer = respond(query.to_wire(), ZONE)
    assert answer is not None
    assert query.is_response(dns.message.from_wire(answer))


@given(st.binary(max_size=100), st.integers(0, 65535), st.integers(0, 65535))
def test_any_datagram(payload: bytes, source: int, destination: int) -> None:
    service = NameService("kin", ME, lambda: [])
    packet = ipv4("100.64.0.1", "100.100.1.1", udp(source, destination, payload))
    answer = service.answer(packet, 0.0)
    assert answer is None or destination == 53
