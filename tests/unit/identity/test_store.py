from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from quicether.errors import ConfigError, IdentityError
from quicether.identity import certificates
from quicether.identity.authority import Authority
from quicether.identity.certificates import Grant
from quicether.identity.issuing import build_authority, build_node
from quicether.identity.keys import NodeKey
from quicether.identity.revocation import RevocationList
from quicether.identity.store import NetworkStore, network_names, other_folders, roots
from quicether.identity.trust import AuthorityTrust

LAN = ip_network("192.168.77.0/24")
DAY = timedelta(days=1)


def test_identity_has_all_that_the_daemon_needs(
    member_store: NetworkStore, authority: Authority, now: datetime
) -> None:
    identity = member_store.load_identity(now)
    assert identity.key.node_id == identity.member.node_id
    assert (identity.member.name, identity.member.prefixes) == ("home", (LAN,))
    assert identity.trust.network_id == authority.network_id
    assert identity.trust.judge(identity.certificate_der, now) == identity.member


def test_key_is_private_and_certificate_public(member_store: NetworkStore) -> None:
    assert stat.S_IMODE(member_store.key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(member_store.state_directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(member_store.certificate_path.stat().st_mode) == 0o644


def test_public_files_are_public_under_any_umask(
    make_store: Callable[..., NetworkStore], now: datetime
) -> None:
    store = make_store("strict")
    before = os.umask(0o077)
    try:
        authority = Authority.create(store.directory, "home", now)
        certificate = authority.sign(store.node_key().public_raw, "home", now=now)
        store.install(certificate, authority.certificate, now)
    finally:
        os.umask(before)
    for path in (store.etc, store.directory.parent, store.directory, store.var):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert stat.S_IMODE(store.certificate_path.stat().st_mode) == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_service_reads_what_root_installed_but_not_the_authoritys_secrets(
    now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quicether.identity.files.SERVICE_USER", "nobody")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        Path(folder).chmod(0o755)
        store = NetworkStore(Path(folder) / "etc", Path(folder) / "var", "home")
        authority = Authority.create(store.directory, "home", now)
        certificate = authority.sign(store.node_key().public_raw, "home", now=now)
        store.install(certificate, authority.certificate, now)
        assert store.may_certify
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            assert store.load_identity(now).member.name == "home"
            store.save_revocations(
                RevocationList.sign(authority.key, authority.certificate, 1, {}, now)
            )
            assert not store.may_certify
            with pytest.raises(
                IdentityError, match=r"cannot read authority key .*: Permission denied"
            ):
                store.authority(now)
            with pytest.raises(IdentityError, match=r"cannot lock .*: Permission denied"):
                store.install(certificate, authority.certificate, now)
        finally:
            os.seteuid(0)


def test_missing_certificate_tells_what_to_have_signed(
    make_store: Callable[..., NetworkStore], authority: Authority, now: datetime
) -> None:
    laptop = make_store("laptop")
    laptop.directory.mkdir(parents=True)
    shutil.copy(authority.directory / "authority.crt", laptop.directory)
    with pytest.raises(IdentityError, match=r"node\.crt is missing.*sign") as caught:
        laptop.load_identity(now)
    assert NodeKey.load(laptop.key_path).public_text in str(caught.value)


def test_network_that_is_not_here_is_named(store: NetworkStore, now: datetime) -> None:
    with pytest.raises(IdentityError, match=r"authority\.crt is missing"):
        store.load_identity(now)


def test_expired_certificate_is_refused(member_store: NetworkStore, now: datetime) -> None:
    with pytest.raises(IdentityError, match=r"for network home is refused: .* expired at 2027"):
        member_store.load_identity(now + 400 * DAY)


def test_key_open_to_others_is_refused(member_store: NetworkStore, now: datetime) -> None:
    member_store.key_path.chmod(0o644)
    with pytest.raises(IdentityError, match="open to other users"):
        member_store.load_identity(now)


def test_certificate_of_another_key_is_refused(
    member_store: NetworkStore, authority: Authority, now: datetime
) -> None:
    other = authority.sign(NodeKey.generate().public_raw, "laptop", now=now)
    before = member_store.certificate_path.read_bytes()
    with pytest.raises(IdentityError, match=r"is node .* laptop's; this machine is node"):
        member_store.install(other, authority.certificate, now)
    assert member_store.certificate_path.read_bytes() == before
    member_store.certificate_path.write_bytes(certificates.to_pem(other))
    with pytest.raises(IdentityError, match=r"is node .* laptop's; this machine is node"):
        member_store.load_identity(now)


def test_certificate_of_another_authority_is_refused(
    member_store: NetworkStore, now: datetime, tmp_path: Path
) -> None:
    rogue = Authority.create(tmp_path / "rogue", "home", now)
    foreign = rogue.sign(member_store.node_key().public_raw, "home", now=now)
    with pytest.raises(IdentityError, match="has another authority"):
        member_store.install(foreign, rogue.certificate, now)
    authority = member_store.authority(now)
    with pytest.raises(IdentityError, match="not signed by the authority"):
        member_store.install(foreign, authority.certificate, now)
    member_store.certificate_path.write_bytes(certificates.to_pem(foreign))
    with pytest.raises(IdentityError, match="not signed by the authority"):
        member_store.load_identity(now)


def test_network_under_another_name_is_refused(
    make_store: Callable[..., NetworkStore], authority: Authority, now: datetime
) -> None:
    office = make_store("laptop", "office")
    certificate = authority.sign(office.node_key().public_raw, "laptop", now=now)
    with pytest.raises(IdentityError, match="is for network home, not for office"):
        office.install(certificate, authority.certificate, now)
    office.directory.mkdir(parents=True)
    shutil.copy(authority.directory / "authority.crt", office.directory)
    with pytest.raises(IdentityError, match="is of network home, not office"):
        office.load_identity(now)


def test_certificate_of_a_wrong_signer_is_refused_before_anything_is_written(
    make_store: Callable[..., NetworkStore], authority: Authority, now: datetime
) -> None:
    laptop = make_store("laptop")
    raw = laptop.node_key().public_raw
    signer = NodeKey.generate().private
    faked = build_node(
        build_authority(signer, "home", now),
        signer,
        raw,
        Grant("laptop", certificates.parse(authority.sign(raw, "laptop", now=now)).addresses),
        DAY,
        now,
    )
    with pytest.raises(IdentityError, match="not signed by the authority"):
        laptop.install(faked, authority.certificate, now)
    assert not laptop.directory.exists()


@pytest.mark.parametrize("name", ["node.crt", "authority.crt"])
@pytest.mark.parametrize("damage", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"\xff" * 40])
def test_damaged_certificate_is_named(
    member_store: NetworkStore, now: datetime, name: str, damage: bytes
) -> None:
    (member_store.directory / name).write_bytes(damage)
    with pytest.raises(IdentityError, match=f"{name.replace('.', '[.]')} is damaged"):
        member_store.load_identity(now)


@pytest.mark.parametrize("name", ["node.crt", "authority.crt", "revoked.crl"])
def test_folder_in_a_files_place_is_named(
    member_store: NetworkStore, now: datetime, name: str
) -> None:
    (member_store.directory / name).unlink(missing_ok=True)
    (member_store.directory / name).mkdir()
    with pytest.raises(IdentityError, match=f"{name.replace('.', '[.]')}: a folder, not a plain"):
        member_store.load_identity(now)


def test_folder_as_certificate_file_is_named(
    member_store: NetworkStore, now: datetime, tmp_path: Path
) -> None:
    with pytest.raises(IdentityError, match=f"certificate {tmp_path}: a folder, not a plain"):
        member_store.load_identity(now, certificate_file=tmp_path)


def test_certificate_file_with_two_in_it_is_refused(
    member_store: NetworkStore, now: datetime
) -> None:
    pem = member_store.certificate_path.read_bytes()
    member_store.certificate_path.write_bytes(pem + pem)
    with pytest.raises(IdentityError, match="2 in it, not one"):
        member_store.load_identity(now)


def test_revocations_survive_a_restart_and_the_newest_counts(
    member_store: NetworkStore, now: datetime
) -> None:
    authority = member_store.authority(now)
    for name in "ab":
        authority.sign(NodeKey.generate().public_raw, name, now=now)
    old = authority.revoke("a", now)
    new = authority.revoke("b", now)
    member_store.save_revocations(old)
    assert member_store.load_revocations(authority.certificate) == new
    (member_store.directory / "revoked.crl").unlink()
    assert member_store.load_revocations(authority.certificate) == old
    member_store.save_revocations(new)
    trust = member_store.load_identity(now).trust
    assert isinstance(trust, AuthorityTrust)
    assert trust.revocations == new


def test_damaged_revocation_list_is_refused(member_store: NetworkStore, now: datetime) -> None:
    (member_store.state_directory / "revoked.crl").write_bytes(b"rubbish")
    with pytest.raises(IdentityError, match=r"revoked\.crl is refused: .* damaged"):
        member_store.load_identity(now)


def test_own_revocation_is_said(member_store: NetworkStore, now: datetime) -> None:
    member_store.authority(now).revoke("home", now)
    with pytest.raises(IdentityError, match="certificate of home is revoked"):
        member_store.load_identity(now)


def test_two_pinned_machines_accept_each_other(
    make_store: Callable[..., NetworkStore], now: datetime
) -> None:
    home, laptop = make_store("home"), make_store("laptop")
    ids = {store: store.node_key().node_id for store in (home, laptop)}
    one = home.pinned_identity({ids[laptop]: ()}, "home", now, prefixes=(LAN,))
    two = laptop.pinned_identity({ids[home]: (LAN,)}, "laptop", now)
    assert one.trust.network_id == two.trust.network_id
    seen = two.trust.judge(one.certificate_der, now)
    assert (seen.node_id, seen.addresses, seen.prefixes) == (
        ids[home],
        one.member.addresses,
        (LAN,),
    )
    assert one.member.name == "home"
    assert one.trust.judge(two.certificate_der, now).addresses == two.member.addresses


def test_member_forgets_a_network_and_leaves_nothing(
    make_store: Callable[..., NetworkStore], authority: Authority, now: datetime
) -> None:
    laptop = make_store("laptop")
    certificate = authority.sign(laptop.node_key().public_raw, "laptop", now=now)
    laptop.install(certificate, authority.certificate, now)
    laptop.save_revocations(RevocationList.sign(authority.key, authority.certificate, 1, {}, now))
    assert laptop.forget()
    assert not laptop.directory.exists()
    assert not laptop.state_directory.exists()
    assert not laptop.forget()


def test_authority_is_not_forgotten(member_store: NetworkStore, now: datetime) -> None:
    with pytest.raises(IdentityError, match="is the authority of network home"):
        member_store.forget()
    assert member_store.load_identity(now).member.name == "home"


def test_network_name_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="network name"):
        NetworkStore(tmp_path, tmp_path, "../../etc")


def test_roots_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUICETHER_ETC", raising=False)
    monkeypatch.delenv("QUICETHER_VAR", raising=False)
    assert roots() == (Path("/etc/quicether"), Path("/var/lib/quicether"))
    monkeypatch.setenv("QUICETHER_ETC", "/x")
    monkeypatch.setenv("QUICETHER_VAR", "/y")
    assert NetworkStore.of_system("home") == NetworkStore(Path("/x"), Path("/y"), "home")


def test_networks_are_listed(member_store: NetworkStore, tmp_path: Path) -> None:
    for copy in ("home.bak", "Home", ".git"):
        (member_store.etc / "networks" / copy).mkdir()
    assert network_names(member_store.etc) == ["home"]
    assert other_folders(member_store.etc) == [".git", "Home", "home.bak"]
    assert network_names(tmp_path / "nowhere") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for the service's user")
def test_root_leaves_keys_to_the_services_user(
    store: NetworkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quicether.identity.files.SERVICE_USER", "nobody")
    store.node_key()
    for path in (store.key_path, store.state_directory, store.var):
        assert path.owner() == "nobody"
    assert store.node_key().node_id == NodeKey.load(store.key_path).node_id


def test_nothing_is_removed_through_a_link_that_the_service_left(
    make_store: Callable[..., NetworkStore], authority: Authority, now: datetime, tmp_path: Path
) -> None:
    """The daemon owns the folder above; root must not follow where it leads."""
    store = make_store("laptop")
    certificate = authority.sign(store.node_key().public_raw, "laptop", now=now)
    store.install(certificate, authority.certificate, now)
    elsewhere = tmp_path / "elsewhere"
    store.state_directory.rename(elsewhere)
    (elsewhere / "revoked.crl").write_text("somebody else's")
    store.state_directory.symlink_to(elsewhere)
    store.forget()
    assert sorted(path.name for path in elsewhere.iterdir()) == ["node.key", "revoked.crl"]
