from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path

import pytest

from quicether.errors import ConfigError, IdentityError, TrustError
from quicether.identity import certificates
from quicether.identity.addresses import network_prefix
from quicether.identity.authority import Authority
from quicether.identity.keys import NodeKey, public_pem
from quicether.identity.revocation import MAX_LIST, RevocationList
from quicether.identity.trust import AuthorityTrust

LAN = ip_network("192.168.77.0/24")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_roots_alone(authority: Authority) -> None:
    folder = authority.directory
    assert {entry.name: mode(entry) for entry in folder.iterdir()} == {
        ".lock": 0o600,
        "authority.crt": 0o644,
        "authority.key": 0o600,
        "issued.json": 0o600,
    }
    assert (folder / "authority.key").stat().st_uid == os.geteuid()
    assert mode(folder) == 0o755


def test_authority_is_loaded_as_it_was_made(authority: Authority, now: datetime) -> None:
    loaded = Authority.load(authority.directory, now)
    assert loaded.certificate == authority.certificate
    assert loaded.network_id == authority.network_id
    assert loaded.network == "home"


def test_network_is_never_overwritten(authority: Authority, now: datetime) -> None:
    before = (authority.directory / "authority.key").read_bytes()
    with pytest.raises(IdentityError, match="never overwritten"):
        Authority.create(authority.directory, "home", now)
    assert (authority.directory / "authority.key").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["", "Home", "-a", "a-", "a" * 33, "a.b", "../x", "a b", "ä", "a\n"]
)
def test_bad_network_name_is_refused(tmp_path: Path, now: datetime, name: str) -> None:
    with pytest.raises(ConfigError, match="network name"):
        Authority.create(tmp_path / "net", name, now)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("name", ["", "Laptop", "-a", "a.b", "a" * 64, "*", "0" * 40, "a\n"])
def test_bad_node_name_is_refused(authority: Authority, now: datetime, name: str) -> None:
    with pytest.raises(ConfigError, match="node name"):
        authority.sign(NodeKey.generate().public_raw, name, now=now)


@pytest.mark.parametrize("group", ["", "A", "*", "a b", "a" * 64])
def test_bad_group_name_is_refused(authority: Authority, now: datetime, group: str) -> None:
    with pytest.raises(ConfigError, match="group name"):
        authority.sign(NodeKey.generate().public_raw, "a", now=now, groups=[group])


def test_authority_key_open_to_others_is_refused(authority: Authority, now: datetime) -> None:
    (authority.directory / "authority.key").chmod(0o644)
    with pytest.raises(IdentityError, match="open to other users"):
        Authority.load(authority.directory, now)


def test_book_open_to_others_is_refused(authority: Authority, now: datetime) -> None:
    (authority.directory / "issued.json").chmod(0o644)
    with pytest.raises(IdentityError, match=r"list of issued certificates .* is open to other"):
        authority.sign(NodeKey.generate().public_raw, "a", now=now)


def test_key_and_certificate_of_two_authorities_are_refused(
    authority: Authority, now: datetime, tmp_path: Path
) -> None:
    other = Authority.create(tmp_path / "other", "home", now)
    shutil.copy(other.directory / "authority.crt", authority.directory)
    with pytest.raises(IdentityError, match="is not of key"):
        Authority.load(authority.directory, now)


def test_machine_without_the_key_is_no_authority(authority: Authority, now: datetime) -> None:
    (authority.directory / "authority.key").unlink()
    with pytest.raises(IdentityError, match="this machine is not the network's authority"):
        Authority.load(authority.directory, now)


def test_expired_authority_is_refused(authority: Authority, now: datetime) -> None:
    with pytest.raises(IdentityError, match="authority's certificate expired"):
        Authority.load(authority.directory, now + timedelta(days=31 * 365))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "damaged"),
        ("{}x", "damaged"),
        ('{"version": 2}', "version"),
        ('{"nodes": {"x": {}}}', "nodes.x"),
        ('{"surprise": 1}', "surprise"),
    ],
)
def test_damaged_book_is_refused_and_left_alone(
    authority: Authority, now: datetime, text: str, match: str
) -> None:
    book = authority.directory / "issued.json"
    book.write_text(text)
    with pytest.raises(IdentityError, match=match):
        authority.sign(NodeKey.generate().public_raw, "a", now=now)
    assert book.read_text() == text


def test_addresses_come_from_the_networks_own_ranges(authority: Authority, now: datetime) -> None:
    member = certificates.parse(authority.sign(NodeKey.generate().public_raw, "a", now=now))
    four, six = member.addresses
    assert four in ip_network("100.64.0.0/10")
    assert six in network_prefix(authority.network_id)
    assert six.packed[6:] == member.node_id.value[:10]


def test_addresses_never_collide_and_the_pool_ends(tmp_path: Path, now: datetime) -> None:
    pool = IPv4Network("10.9.0.0/28")
    authority = Authority.create(tmp_path / "net", "small", now, pool)
    chosen = {
        certificates.parse(
            authority.sign(NodeKey.generate().public_raw, f"n{n}", now=now)
        ).addresses[0]
        for n in range(14)
    }
    assert chosen == set(pool.hosts())
    with pytest.raises(ConfigError, match=r"10\.9\.0\.0/28 has no free address"):
        authority.sign(NodeKey.generate().public_raw, "n14", now=now)


def test_pool_of_no_address_is_refused(tmp_path: Path, now: datetime) -> None:
    with pytest.raises(ConfigError, match="too small"):
        Authority.create(tmp_path / "net", "home", now, IPv4Network("10.0.0.0/31"))


def test_node_that_is_certified_again_keeps_its_addresses(
    authority: Authority, now: datetime
) -> None:
    key = NodeKey.generate()
    first = certificates.parse(authority.sign(key.public_raw, "a", now=now))
    later = now + timedelta(days=400)
    second = certificates.parse(authority.sign(key.public_text, "b", now=later, prefixes=[LAN]))
    assert second.addresses == first.addresses
    assert second.name == "b"
    assert second.prefixes == (LAN,)
    assert len(authority.book().nodes[str(key.node_id)].certificates) == 1  # the old one expired


def test_renewal_keeps_everything(authority: Authority, now: datetime) -> None:
    key = NodeKey.generate()
    pem = public_pem(key.public_raw).decode()
    first = certificates.parse(
        authority.sign(pem, "a", now=now, prefixes=[LAN], groups=["it"], validity=timedelta(days=9))
    )
    second = certificates.parse(
        authority.renew(key.node_id, now + timedelta(days=8), timedelta(days=9))
    )
    assert (second.name, second.addresses, second.prefixes, second.groups) == (
        (first.name, first.addresses, first.prefixes, first.groups)
    )
    assert second.not_after == now + timedelta(days=17)
    with pytest.raises(ConfigError, match="never certified"):
        authority.renew(NodeKey.generate().node_id, now, timedelta(days=1))


def test_taken_name_and_address_are_refused(authority: Authority, now: datetime) -> None:
    address = ip_address("100.64.1.1")
    authority.sign(NodeKey.generate().public_raw, "a", now=now, addresses=[address])
    stranger = NodeKey.generate().public_raw
    with pytest.raises(ConfigError, match="name a is node"):
        authority.sign(stranger, "a", now=now)
    with pytest.raises(ConfigError, match=r"address 100\.64\.1\.1 is node a's already"):
        authority.sign(stranger, "b", now=now, addresses=[address])
    assert len(authority.book().nodes) == 1


@pytest.mark.parametrize("validity", [timedelta(0), timedelta(days=-1), timedelta(days=4000)])
def test_strange_validity_is_refused(
    authority: Authority, now: datetime, validity: timedelta
) -> None:
    with pytest.raises(ConfigError, match="validity"):
        authority.sign(NodeKey.generate().public_raw, "a", now=now, validity=validity)


def test_validity_ends_with_the_authoritys(authority: Authority, now: datetime) -> None:
    late = authority.certificate.not_valid_after_utc - timedelta(days=2)
    certificate = authority.sign(NodeKey.generate().public_raw, "a", now=late)
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


# Revocation


def test_revocation_counts_up_and_names_every_valid_certificate(
    authority: Authority, now: datetime
) -> None:
    key, other = NodeKey.generate(), NodeKey.generate()
    serials = frozenset(
        authority.sign(key.public_raw, "a", now=now).serial_number for _ in range(3)
    )
    kept = authority.sign(other.public_raw, "b", now=now).serial_number
    first = authority.revoke("a", now)
    assert (first.number, first.serials) == (1, serials)
    assert authority.revoke("a", now).number == 1  # again changes nothing
    second = authority.revoke(str(other.node_id)[:12], now)
    assert (second.number, second.serials) == (2, serials | {kept})
    assert mode(authority.directory / "revoked.crl") == 0o644


def test_revoked_node_comes_back_only_with_a_new_key(authority: Authority, now: datetime) -> None:
    key = NodeKey.generate()
    authority.sign(key.public_raw, "a", now=now)
    authority.revoke("a", now)
    with pytest.raises(ConfigError, match="is revoked"):
        authority.sign(key.public_raw, "a", now=now)
    with pytest.raises(ConfigError, match="is revoked"):
        authority.renew(key.node_id, now, timedelta(days=1))
    fresh = NodeKey.generate()
    authority.sign(fresh.public_raw, "a", now=now)
    assert authority.book().find("a")[0] == fresh.node_id


def test_revoking_nobody_or_several_is_refused(authority: Authority, now: datetime) -> None:
    key = NodeKey.generate()
    authority.sign(key.public_raw, "a", now=now)
    # Three digits of a node id may be a mistyped name.
    for nobody in ("b", "", "zz", str(key.node_id)[:3]):
        with pytest.raises(ConfigError, match="no node"):
            authority.revoke(nobody, now)


def test_expired_certificates_leave_the_list(authority: Authority, now: datetime) -> None:
    authority.sign(NodeKey.generate().public_raw, "a", now=now, validity=timedelta(days=1))
    long = authority.sign(NodeKey.generate().public_raw, "b", now=now)
    authority.revoke("a", now)
    later = authority.revoke("b", now + timedelta(days=2))
    assert later.serials == {long.serial_number}


def test_older_and_foreign_lists_change_nothing(
    authority: Authority, now: datetime, tmp_path: Path
) -> None:
    for name in "ab":
        authority.sign(NodeKey.generate().public_raw, name, now=now)
    old, new = authority.revoke("a", now), authority.revoke("b", now)
    trust = AuthorityTrust(authority.certificate, now, new)
    assert not trust.accept_revocations(old.der)
    assert not trust.accept_revocations(new.der)
    assert trust.revocations == new
    rogue = Authority.create(tmp_path / "rogue", "home", now)
    rogue.sign(NodeKey.generate().public_raw, "a", now=now)
    with pytest.raises(TrustError, match="not signed by the network's authority"):
        trust.accept_revocations(rogue.revoke("a", now).der)
    for rubbish in (b"", b"0" * 50, new.der[:-1], b"0" * (MAX_LIST + 1)):
        with pytest.raises(TrustError, match="revocation list"):
            trust.accept_revocations(rubbish)
    assert trust.revocations == new


def test_a_prefix_inside_another_is_refused_rather_than_lost(
    authority: Authority, now: datetime
) -> None:
    key, both = bytes(32), [ip_network("0.0.0.0/0"), ip_network("192.168.77.0/24")]
    with pytest.raises(ConfigError, match=r"192\.168\.77\.0/24 lies inside prefix 0\.0\.0\.0/0"):
        authority.sign(key, "home", now=now, prefixes=both)
    certificate = authority.sign(key, "home", now=now, prefixes=both[:1] * 2)
    assert certificates.parse(certificate).prefixes == (both[0],)


def test_list_says_what_was_signed(authority: Authority, now: datetime) -> None:
    signed = RevocationList.sign(
        authority.key, authority.certificate, 7, {5: now, 2**150: now}, now
    )
    raw = authority.key.public_key().public_bytes_raw()
    assert RevocationList.parse(signed.der, raw) == signed
    assert signed.newer_of(None) is signed
    newer = RevocationList.sign(authority.key, authority.certificate, 8, {}, now)
    assert signed.newer_of(newer) is newer
    assert newer.newer_of(signed) is newer


def test_list_that_would_not_fit_is_refused(authority: Authority, now: datetime) -> None:
    many = dict.fromkeys(range(2**152, 2**152 + 1600), now)
    with pytest.raises(ConfigError, match="revocation list would have"):
        RevocationList.sign(authority.key, authority.certificate, 1, many, now)


# A stranger's tools


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_reads_and_verifies_it_all(
    authority: Authority, now: datetime, tmp_path: Path
) -> None:
    key = NodeKey.generate()
    certificate = authority.sign(
        key.public_raw, "laptop", now=now, prefixes=[LAN, ip_network("fd12::/48")], groups=["it"]
    )
    (tmp_path / "node.crt").write_bytes(certificates.to_pem(certificate))
    text = _openssl("x509", "-in", str(tmp_path / "node.crt"), "-noout", "-text")
    identifier = ":".join(f"{byte:02X}" for byte in key.node_id.value)
    for expected in (
        "O = home, OU = it, CN = laptop",
        "DNS:laptop.home.quicether",
        identifier,
        "sbgp-ipAddrBlock: critical",
        "192.168.77.0/24",
        "fd12::/48",
    ):
        assert expected in text
    verify = (
        "verify",
        "-x509_strict",
        "-attime",
        str(int(now.timestamp())),
        "-CAfile",
        str(authority.directory / "authority.crt"),
    )
    assert "OK" in _openssl(*verify, "-purpose", "sslserver", str(tmp_path / "node.crt"))
    assert "OK" in _openssl(*verify, "-purpose", "sslclient", str(tmp_path / "node.crt"))


def _openssl(*arguments: str) -> str:
    return subprocess.run(
        ["openssl", *arguments], check=True, capture_output=True, text=True, timeout=30
    ).stdout


def test_two_commands_at_once_both_count(
    authority: Authority, now: datetime, run_together: Callable[..., None]
) -> None:
    run_together(
        *(
            lambda n=n: authority.sign(NodeKey.generate().public_raw, f"n{n}", now=now)
            for n in range(8)
        )
    )
    nodes = authority.book().nodes.values()
    assert sorted(node.name for node in nodes) == [f"n{n}" for n in range(8)]
    assert len({address for node in nodes for address in node.addresses}) == 16
