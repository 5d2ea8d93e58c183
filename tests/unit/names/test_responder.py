"""The zone of a network and the answers in it, over the messages of a real DNS library."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest

from quicether.model import Member
from quicether.names.responder import MAX_MESSAGE, NEGATIVE_TTL, respond
from quicether.names.zone import MAX_ADDRESSES, Zone, reverse_domain
from support.fake_overlay import member

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ME = member("cafe", ["100.64.0.1", "fd12:3456:789a::1"])
HOME = member("home", ["100.64.7.2", "fd12:3456:789a::2"])
ODD = member("odd", ["10.9.0.7"])
ZONE = Zone("kin", ME, [HOME, ODD])
HOME_REVERSE = str(dns.reversename.from_address("fd12:3456:789a::2"))


def ask(name: str, kind: str = "A", zone: Zone = ZONE, **how: int) -> dns.message.Message:
    """Ask and return the answer, which is checked to be of the question."""
    query = dns.message.make_query(name, kind, **how)  # type: ignore[arg-type]
    wire = respond(query.to_wire(), zone)
    assert wire is not None
    answer = dns.message.from_wire(wire)
    assert query.is_response(answer)
    return answer


def records(answer: dns.message.Message) -> list[str]:
    return sorted(item.to_text() for entry in answer.answer for item in entry)


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("home.kin.quicether", "A", ["100.64.7.2"]),
        ("HOME.Kin.QuicEther", "A", ["100.64.7.2"]),
        ("home.kin.quicether", "AAAA", ["fd12:3456:789a::2"]),
        ("home.kin.quicether", "ANY", ["100.64.7.2", "fd12:3456:789a::2"]),
        ("cafe.kin.quicether", "A", ["100.64.0.1"]),
        ("2.7.64.100.in-addr.arpa", "PTR", ["home.kin.quicether."]),
        ("7.0.9.10.in-addr.arpa", "PTR", ["odd.kin.quicether."]),
        (HOME_REVERSE, "PTR", ["home.kin.quicether."]),
        ("kin.quicether", "NS", ["cafe.kin.quicether."]),
        (
            "kin.quicether",
            "SOA",
            [f"cafe.kin.quicether. nobody.invalid. 1 3600 600 86400 {NEGATIVE_TTL}"],
        ),
    ],
)
def test_what_is_known_is_answered_with_authority(name: str, kind: str, found: list[str]) -> None:
    answer = ask(name, kind)
    assert (answer.rcode(), records(answer)) == (dns.rcode.NOERROR, found)
    assert answer.flags & dns.flags.AA
    assert not answer.flags & dns.flags.RA


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("nobody.kin.quicether", "A", dns.rcode.NXDOMAIN),
        ("www.home.kin.quicether", "A", dns.rcode.NXDOMAIN),
        ("9.7.64.100.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
        (str(dns.reversename.from_address("fd12:3456:789a::3")), "PTR", dns.rcode.NXDOMAIN),
        ("odd.kin.quicether", "AAAA", dns.rcode.NOERROR),
        ("home.kin.quicether", "MX", dns.rcode.NOERROR),
        ("kin.quicether", "A", dns.rcode.NOERROR),
        ("7.64.100.in-addr.arpa", "PTR", dns.rcode.NOERROR),
    ],
)
def test_what_is_not_there_is_said_with_the_start_of_authority(
    name: str, kind: str, code: dns.rcode.Rcode
) -> None:
    answer = ask(name, kind)
    assert (answer.rcode(), answer.answer) == (code, [])
    (authority,) = answer.authority
    assert (authority.rdtype, authority.ttl) == (dns.rdatatype.SOA, NEGATIVE_TTL)
    assert dns.name.from_text(name).is_subdomain(authority.name)


@pytest.mark.parametrize(
    "name",
    [
        "example.com",
        "quicether",
        "other.quicether",
        "notkin.quicether",
        ".",
        "8.0.9.10.in-addr.arpa",  # beside a member's address, and not the overlay's to name
        "1.0.0.127.in-addr.arpa",
        "100.in-addr.arpa",
        "63.100.in-addr.arpa",
        "in-addr.arpa",
        "ip6.arpa",
        "x.y.z.d.f.ip6.arpa",
        str(dns.reversename.from_address("fd12:3456:789b::2")),
        str(dns.reversename.from_address("2001:db8::2")),
    ],
)
def test_all_else_is_refused(name: str) -> None:
    answer = ask(name, "PTR" if name.endswith("arpa") else "A")
    assert (answer.rcode(), answer.answer, answer.authority) == (dns.rcode.REFUSED, [], [])


def test_only_plain_questions_in_class_in_are_answered() -> None:
    assert ask("home.kin.quicether", rdclass=3).rcode() == dns.rcode.REFUSED
    update = dns.message.make_query("home.kin.quicether", "A")
    update.set_opcode(dns.opcode.NOTIFY)
    wire = respond(update.to_wire(), ZONE)
    assert wire is not None
    assert wire[3] & 0xF == dns.rcode.NOTIMP


def test_rubbish_with_a_header_is_a_format_error_and_a_response_gets_nothing() -> None:
    query = dns.message.make_query("home.kin.quicether", "A")
    wire = query.to_wire()
    broken = respond(wire[:-3], ZONE)
    assert broken is not None
    assert broken[:2] == wire[:2]
    assert broken[3] & 0xF == dns.rcode.FORMERR
    assert respond(wire[:11], ZONE) is None
    answer = respond(wire, ZONE)
    assert answer is not None
    assert respond(answer, ZONE) is None


def test_the_longest_answer_fits_into_a_plain_message() -> None:
    many = member("n" * 63, [f"fd12:3456:789a::{n:x}" for n in range(1, 40)])
    zone = Zone("k" * 32, ME, [many])
    answer = ask(f"{many.name}.{'k' * 32}.quicether", "AAAA", zone)
    assert len(records(answer)) == MAX_ADDRESSES
    assert not answer.flags & dns.flags.TC
    assert len(answer.to_wire()) <= 512 <= MAX_MESSAGE


def test_extensions_are_understood() -> None:
    answer = ask("home.kin.quicether", use_edns=0, payload=4096)
    assert answer.edns == 0
    assert records(answer) == ["100.64.7.2"]


def certified(name: str, address: str, *, days: int) -> Member:
    one = member(f"{name}{days}{address}", [address])
    return replace(one, name=name, not_after=NOW + timedelta(days=days))


def test_of_two_with_one_name_the_later_certificate_counts_and_a_tie_leads_nowhere() -> None:
    old, new = certified("home", "100.64.0.8", days=1), certified("home", "100.64.0.9", days=2)
    rival = certified("home", "100.64.0.10", days=2)
    for order in ([old, new], [new, old]):
        assert records(ask("home.kin.quicether", "A", Zone("kin", ME, order))) == ["100.64.0.9"]
    for order in ([old, new, rival], [rival, old, new], [new, rival, old]):
        tied = ask("home.kin.quicether", "A", Zone("kin", ME, order))
        assert tied.rcode() == dns.rcode.NXDOMAIN


def test_nobody_takes_this_nodes_own_name() -> None:
    rival = certified("cafe", "100.64.0.8", days=9)
    assert records(ask("cafe.kin.quicether", "A", Zone("kin", ME, [rival]))) == ["100.64.0.1"]


def test_the_reverse_domain_of_a_network_is_its_48() -> None:
    domain = reverse_domain(ZONE.addresses(b"home")[1])  # type: ignore[index, arg-type]
    assert domain == "a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa"
    assert ask(domain, "SOA").rcode() == dns.rcode.NOERROR
