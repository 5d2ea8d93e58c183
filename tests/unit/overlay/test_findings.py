"""What records say of other members: the last word of an owner counts, however it came here."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network

import pytest

from quicether.dht.contents import (
    Content,
    GatewayContent,
    GatewaySubnetContent,
    NodeContent,
    SubnetContent,
)
from quicether.dht.records import Record
from quicether.model import Member, NextHop, NodeId, UnderlayAddress
from quicether.overlay import findings
from quicether.overlay.findings import ASKED_FOR, Findings
from support.dht_samples import NETWORK_ID
from support.fake_records import FakeSeals, FakeSigner

LAN = ip_network("192.168.1.0/24")
OTHER = ip_network("192.168.2.0/24")
NOW = 1_700_000_000.0
SEALS = FakeSeals(NETWORK_ID)


def sealed(
    content: Content, issued: float = 0.0, *, owner: int = 1, ttl: int = 3600, name: str = "home"
) -> Record:
    """A record of a member, issued so many seconds after NOW."""
    prefixes = (IPv4Network("192.168.0.0/16"), IPv4Network("100.64.0.0/10"))
    member = Member(NodeId(bytes([owner]) * 20), name, b"", (), prefixes)
    wire = FakeSigner(SEALS, member).seal(content, int((NOW + issued) * 1000), ttl)
    return SEALS.verify(wire, NOW + issued)


def lan(issued: float = 0.0, *, ttl: int = 3600, owner: int = 1) -> Record:
    return sealed(SubnetContent(prefix=LAN), issued, ttl=ttl, owner=owner)


def owned(found: Findings, record: Record) -> list[str]:
    return [str(prefix) for prefix in found.routes(record.owner)[NextHop.to_node(record.owner)]]


def test_a_followed_record_counts_until_it_is_followed_no_more() -> None:
    found, record = Findings(), lan()
    found.follow(record)
    assert owned(found, record) == [str(LAN)]
    found.unfollow(record)
    assert owned(found, record) == []
    assert found.member(record.owner) is None


def test_owned_and_forwarded_prefixes_lead_there_each_in_its_way() -> None:
    found, record = Findings(), lan()
    node = NodeId(bytes([9]) * 20)
    far = IPv4Network("100.64.0.9/32")
    for content in (
        SubnetContent(prefix=LAN),
        GatewaySubnetContent(prefix=OTHER),
        GatewayContent(node=node, prefixes=(far,)),
        NodeContent(addresses=(UnderlayAddress("192.0.2.1", 9000),)),
    ):
        ttl = min(content.max_ttl, 3600)
        found.asked(sealed(content, ttl=ttl), NOW)
    assert found.routes(record.owner) == {
        NextHop.to_node(record.owner): (LAN,),
        NextHop.via_gateway(record.owner): (OTHER, far),
    }
    assert found.addresses(record.owner) == (UnderlayAddress("192.0.2.1", 9000),)
    assert set(found.prefixes(record.owner)) == {LAN, OTHER, far}


def test_a_withdrawal_ends_the_answer_of_a_lookup_that_brought_a_renewal() -> None:
    """It used to count for ASKED_FOR, because it was issued after the record that was followed."""
    found, first, renewed = Findings(), lan(), lan(1800)
    found.follow(first)
    found.asked(renewed, NOW + 1800)
    found.unfollow(first)
    found.withdrawn(lan(1900, ttl=0))
    assert owned(found, first) == []


def test_an_answer_from_before_a_withdrawal_does_not_bring_the_record_back() -> None:
    found, record = Findings(), lan()
    found.withdrawn(lan(10, ttl=0))
    assert found.asked(record, NOW + 10) == set()
    assert owned(found, record) == []


def test_what_is_published_again_after_a_withdrawal_counts() -> None:
    found, again = Findings(), lan(20)
    found.asked(again, NOW + 20)
    found.withdrawn(lan(10, ttl=0))
    assert owned(found, again) == [str(LAN)]


def test_the_latest_of_two_withdrawals_counts() -> None:
    found = Findings()
    found.withdrawn(lan(20, ttl=0))
    found.withdrawn(lan(10, ttl=0))
    assert found.asked(lan(15), NOW + 20) == set()


def test_withdrawals_are_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "MAX_WITHDRAWN", 2)
    found = Findings()
    for owner in (1, 2, 3):
        found.withdrawn(lan(10, ttl=0, owner=owner))
    assert [bool(found.asked(lan(owner=owner), NOW)) for owner in (1, 2, 3)] == [True, False, False]


def test_a_staler_answer_replaces_no_fresher_one() -> None:
    found, record = Findings(), lan(1800)
    found.asked(record, NOW + 1800)
    assert found.asked(lan(), NOW + 1900) == set()
    assert found.expire(NOW + 1800 + ASKED_FOR) == {record.owner}


def test_the_same_answer_again_counts_anew() -> None:
    found, record = Findings(), lan()
    found.asked(record, NOW)
    assert found.asked(record, NOW + 100) == {record.owner}
    assert found.expire(NOW + ASKED_FOR) == set()
    assert found.expire(NOW + ASKED_FOR + 100) == {record.owner}


def test_an_answer_counts_no_longer_than_its_record() -> None:
    found, record = Findings(), lan(ttl=60)
    found.asked(record, NOW)
    assert found.expire(NOW + 59) == set()
    assert found.expire(NOW + 60) == {record.owner}
    assert owned(found, record) == []


def test_of_a_followed_and_a_looked_up_record_the_later_counts() -> None:
    found = Findings()
    old, new = UnderlayAddress("192.0.2.1", 9000), UnderlayAddress("192.0.2.2", 9000)
    before = sealed(NodeContent(addresses=(old,)), name="before")
    after = sealed(NodeContent(addresses=(new,)), 60, name="after")
    for follow, ask in ((before, after), (after, before)):
        found.follow(follow)
        found.asked(ask, NOW + 60)
        assert found.addresses(before.owner) == (new,)
        member = found.member(before.owner)
        assert member is not None
        assert member.name == "after"
        found.forget(before.owner)


def test_who_loses_its_place_to_another_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its route used to stay for ever: nobody was told that the record is gone."""
    monkeypatch.setattr(findings, "MAX_ASKED", 2)
    found, records = Findings(), [lan(owner=owner) for owner in (1, 2, 3)]
    found.asked(records[0], NOW)
    found.asked(records[1], NOW)
    assert found.asked(records[2], NOW) == {records[0].owner, records[2].owner}
    assert owned(found, records[0]) == []
    assert owned(found, records[1]) == [str(LAN)]


def test_a_forgotten_node_leaves_nothing() -> None:
    found, record = Findings(), lan()
    found.follow(record)
    found.asked(record, NOW)
    found.forget(record.owner)
    assert owned(found, record) == []
    assert found.expire(NOW + 10_000) == set()
