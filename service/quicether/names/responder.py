"""Answers to DNS questions about a zone: message in, message out. Pure.

Authoritative for the zone alone (RFC 1035): A, AAAA and PTR of nodes, SOA and NS of the zone,
NXDOMAIN for names in it that nobody bears, REFUSED for everything else. It never asks anybody.
"""

from __future__ import annotations

from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from quicether.model import Address
from quicether.names.zone import Zone, address_of

TTL: Final = 30
"""Seconds that an answer may be kept: a node's addresses hardly ever change."""
NEGATIVE_TTL: Final = 2
"""Seconds that "there is no such node" may be kept: it may appear at any moment."""
MAX_MESSAGE: Final = 1232
"""Bytes of the largest answer, which fits into the smallest MTU of IPv6."""
_PLAIN_MESSAGE: Final = 512
_HEADER: Final = 12
_RESPONSE: Final = 0x80
_OPCODE: Final = 0x78
_FORMAT_ERROR: Final = 1
_KINDS: Final = {4: dns.rdatatype.A, 6: dns.rdatatype.AAAA}


def respond(wire: bytes, zone: Zone) -> bytes | None:
    """Return the answer to one message; None for what is no question and gets none.

    wire: payload of a UDP datagram.
    """
    if len(wire) < _HEADER or wire[2] & _RESPONSE:
        return None
    try:
        query = dns.message.from_wire(wire)
    except (dns.exception.DNSException, ValueError):
        # Id and opcode are the asker's; the rest could not be read.
        return wire[:2] + bytes((_RESPONSE | wire[2] & _OPCODE, _FORMAT_ERROR)) + bytes(8)
    answer = dns.message.make_response(query)
    answer.set_rcode(_fill(answer, query, zone))
    limit = _PLAIN_MESSAGE if query.edns < 0 else max(_PLAIN_MESSAGE, query.payload)
    try:
        return answer.to_wire(max_size=min(limit, MAX_MESSAGE))
    except dns.exception.TooBig:
        short = dns.message.make_response(query)
        short.flags |= dns.flags.TC
        return short.to_wire(max_size=MAX_MESSAGE)


def _fill(answer: dns.message.Message, query: dns.message.Message, zone: Zone) -> dns.rcode.Rcode:
    """Put what the zone knows into answer; return how it went."""
    if query.opcode() != dns.opcode.QUERY:
        return dns.rcode.NOTIMP
    if len(query.question) != 1:
        return dns.rcode.FORMERR
    question = query.question[0]
    name, kind = question.name, question.rdtype
    if question.rdclass != dns.rdataclass.IN:
        return dns.rcode.REFUSED
    if name.is_subdomain(zone.domain):
        apex: dns.name.Name | None = zone.domain
    else:
        apex = zone.reverse_apex(name)
    if apex is None:
        return dns.rcode.REFUSED
    answer.flags |= dns.flags.AA
    if name == apex and kind in (dns.rdatatype.SOA, dns.rdatatype.NS):
        answer.answer.append(_soa(apex, zone) if kind == dns.rdatatype.SOA else _ns(apex, zone))
        return dns.rcode.NOERROR
    exists, found = (
        _forward(name, kind, zone) if apex == zone.domain else _reverse(name, kind, zone)
    )
    if name == apex:
        exists = True
    if found:
        answer.answer += found
    else:
        answer.authority.append(_soa(apex, zone, NEGATIVE_TTL))
    return dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN


def _forward(
    name: dns.name.Name, kind: dns.rdatatype.RdataType, zone: Zone
) -> tuple[bool, list[dns.rrset.RRset]]:
    """Return whether a name below the zone's own exists, and its records of that kind."""
    if len(name) != len(zone.domain) + 1:
        return False, []
    addresses = zone.addresses(name.labels[0].lower())
    if addresses is None:
        return False, []
    found = [_addresses(name, version, addresses) for version in (4, 6) if _asks(kind, version)]
    return True, [records for records in found if records is not None]


def _asks(kind: dns.rdatatype.RdataType, version: int) -> bool:
    return kind in (_KINDS[version], dns.rdatatype.ANY)


def _addresses(
    name: dns.name.Name, version: int, addresses: tuple[Address, ...]
) -> dns.rrset.RRset | None:
    texts = [str(address) for address in addresses if address.version == version]
    if not texts:
        return None
    return dns.rrset.from_text_list(name, TTL, dns.rdataclass.IN, _KINDS[version], texts)


def _reverse(
    name: dns.name.Name, kind: dns.rdatatype.RdataType, zone: Zone
) -> tuple[bool, list[dns.rrset.RRset]]:
    """Return whether a reverse name exists, and its records of that kind."""
    address = address_of(name)
    if address is None:
        # Between the zone's cut and an address: there may be something below.
        return True, []
    target = zone.name(address)
    if target is None:
        return False, []
    if kind not in (dns.rdatatype.PTR, dns.rdatatype.ANY):
        return True, []
    return True, [_record(name, dns.rdatatype.PTR, target.to_text(), TTL)]


def _soa(apex: dns.name.Name, zone: Zone, ttl: int = TTL) -> dns.rrset.RRset:
    """Return the start of authority; its last number bounds negative answers (RFC 2308)."""
    text = f"{zone.own_name} nobody.invalid. 1 3600 600 86400 {NEGATIVE_TTL}"
    return _record(apex, dns.rdatatype.SOA, text, ttl)


def _ns(apex: dns.name.Name, zone: Zone) -> dns.rrset.RRset:
    return _record(apex, dns.rdatatype.NS, zone.own_name.to_text(), TTL)


def _record(
    name: dns.name.Name, kind: dns.rdatatype.RdataType, text: str, ttl: int
) -> dns.rrset.RRset:
    return dns.rrset.from_text(name, ttl, dns.rdataclass.IN, kind, text)
