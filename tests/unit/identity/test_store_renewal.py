"""A renewed certificate is used until another is installed by hand or the machine leaves."""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from quicether.errors import IdentityError
from quicether.identity import certificates
from quicether.identity.authority import Authority
from quicether.identity.keys import NodeKey
from quicether.identity.store import NetworkStore

DAY = timedelta(days=1)


def renewed(authority: Authority, store: NetworkStore, now: datetime) -> x509.Certificate:
    return authority.renew(store.node_key().node_id, now, 400 * DAY)


def test_a_renewed_certificate_is_used_and_root_s_file_stays(
    member_store: NetworkStore, authority: Authority, now: datetime
) -> None:
    installed = member_store.certificate()
    certificate = renewed(authority, member_store, now)
    member_store.keep_renewed(certificate)
    assert member_store.load_identity(now).certificate == certificate
    assert certificates.load_pem(member_store.certificate_path.read_bytes(), "") == [installed]
    assert stat.S_IMODE(member_store.renewed_path.stat().st_mode) == 0o644


def test_a_renewed_certificate_is_used_also_where_the_first_lies_elsewhere(
    member_store: NetworkStore, authority: Authority, now: datetime, tmp_path: Path
) -> None:
    """The one that certificate-file names was used until it ended, and then the tunnel was down."""
    elsewhere = tmp_path / "mine.crt"
    member_store.certificate_path.rename(elsewhere)
    certificate = renewed(authority, member_store, now)
    member_store.keep_renewed(certificate)
    assert member_store.load_identity(now, certificate_file=elsewhere).certificate == certificate


def test_an_older_or_foreign_one_is_not_used(
    member_store: NetworkStore, authority: Authority, now: datetime
) -> None:
    installed = member_store.certificate()
    key = NodeKey.generate()
    for certificate in (
        authority.sign(member_store.node_key().public_raw, "home", now=now, validity=DAY),
        authority.sign(key.public_raw, "other", now=now, validity=500 * DAY),
    ):
        member_store.keep_renewed(certificate)
        assert member_store.load_identity(now).certificate == installed
    member_store.renewed_path.write_text("rubbish")
    with pytest.raises(IdentityError, match=r"node\.crt"):
        member_store.load_identity(now)


def test_what_is_installed_by_hand_takes_the_renewed_one_s_place(
    member_store: NetworkStore, authority: Authority, now: datetime
) -> None:
    member_store.keep_renewed(renewed(authority, member_store, now))
    shorter = authority.sign(member_store.node_key().public_raw, "home", now=now, validity=DAY)
    member_store.install(shorter, authority.certificate, now)
    assert member_store.load_identity(now).certificate == shorter


def test_leaving_may_keep_the_key(
    make_store: Callable[..., NetworkStore], authority: Authority, now: datetime
) -> None:
    store = make_store("laptop")
    key = store.node_key()
    certificate = authority.sign(key.public_raw, "laptop", now=now)
    store.install(certificate, authority.certificate, now)
    store.keep_renewed(renewed(authority, store, now))
    assert store.forget(keep_key=True)
    assert not store.directory.exists()
    assert [path.name for path in store.state_directory.iterdir()] == ["node.key"]
    assert store.node_key().node_id == key.node_id
    assert store.forget()
    assert not store.state_directory.exists()
