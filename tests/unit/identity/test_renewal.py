"""Renewing a certificate: in time, by the key that it is for."""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import ip_network

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from quicether.errors import TrustError
from quicether.identity import certificates, renewal
from quicether.identity.authority import Authority
from quicether.identity.keys import NodeKey
from quicether.identity.registrar import Registrar

LAN = ip_network("192.168.7.0/24")
HOUR = timedelta(hours=1)


def member(authority: Authority, now: datetime, name: str = "laptop") -> tuple[NodeKey, bytes]:
    key = NodeKey.generate()
    certificate = authority.sign(
        key.public_raw, name, now=now, prefixes=[LAN], validity=timedelta(days=90)
    )
    return key, certificate.public_bytes(Encoding.DER)


def test_member_renews_in_time_and_keeps_what_the_book_says(
    registrar: Registrar, authority: Authority, server: NodeKey, now: datetime
) -> None:
    key, der = member(authority, now)
    present = certificates.load_der(der)
    assert not renewal.is_due(present, now + timedelta(days=59))
    later = now + timedelta(days=61)
    assert renewal.is_due(present, later)
    body = renewal.ask(key, der, authority.network_id, later)
    fresh = renewal.read_answer(registrar.answer(body, server.public_raw, later))
    got = certificates.parse(fresh)
    assert (got.name, got.prefixes, got.node_id) == ("laptop", (LAN,), key.node_id)
    assert got.not_after == later + timedelta(days=90)
    assert got.addresses == certificates.parse(present).addresses


@pytest.mark.parametrize(("days", "match"), [(30, "first half"), (91, "expired")])
def test_renewal_at_the_wrong_time_is_refused(
    registrar: Registrar,
    authority: Authority,
    server: NodeKey,
    now: datetime,
    days: int,
    match: str,
) -> None:
    key, der = member(authority, now)
    then = now + timedelta(days=days)
    with pytest.raises(TrustError, match=match):
        registrar.answer(renewal.ask(key, der, authority.network_id, then), server.public_raw, then)


def test_renewal_by_another_key_time_network_or_revoked_node_is_refused(
    registrar: Registrar, authority: Authority, server: NodeKey, now: datetime
) -> None:
    key, der = member(authority, now)
    later = now + timedelta(days=61)
    wrong = [
        (renewal.ask(NodeKey.generate(), der, authority.network_id, later), "does not match"),
        (renewal.ask(key, der, bytes(32), later), "does not match"),
        (renewal.ask(key, der, authority.network_id, later - HOUR), "clock over 5 minutes off"),
        (renewal.ask(key, der, authority.network_id, later + HOUR), "clock over 5 minutes off"),
    ]
    for body, match in wrong:
        with pytest.raises(TrustError, match=match):
            registrar.answer(body, server.public_raw, later)
    authority.revoke("laptop", now)
    with pytest.raises(TrustError, match="is revoked"):
        registrar.answer(
            renewal.ask(key, der, authority.network_id, later), server.public_raw, later
        )
