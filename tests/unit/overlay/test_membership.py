"""Certificates are renewed and revoked while nodes run: real files and signatures, fake wires."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from quicether.errors import ConfigError, IdentityError, QuicEtherError, UnreachableError
from quicether.identity import renewal
from quicether.identity.authority import Authority
from quicether.identity.certificates import load_pem
from quicether.identity.revocation import RevocationList
from quicether.overlay.renewal import CAPABILITY
from quicether.transport.messages import RpcKind
from support.fake_endpoint import FakeConnection
from support.membership_nodes import FakeDiscovery, Network, play, until

LATE = timedelta(days=300)
"""After so long a certificate of a year is in the last third of its life."""


# -- revocation --------------------------------------------------------------------------------


def test_a_list_spreads_from_node_to_node_and_cuts_where_it_comes(tmp_path: Path) -> None:
    async def scene(network: Network) -> None:
        home, near, far, thief = map(network.node, ("home", "near", "far", "thief"))
        for node in network.nodes:
            await node.start()
        await near.connect(home, far)
        await thief.connect(far, near)
        address = thief.member.addresses[0].packed
        assert far.mesh.routes.fib.lookup(address) is not None
        network.revoke("thief")
        await home.membership.reload()
        await until(lambda: far.list_number == near.list_number == 1)
        assert not far.reaches(thief)
        assert not near.reaches(thief)
        await until(lambda: not thief.reaches(far))
        assert far.mesh.routes.fib.lookup(address) is None
        assert far.mesh.routes.find("thief") == []
        assert near.reaches(far)
        assert near.reaches(home)
        # And so it stays: on disk, without the authority.
        await until(lambda: (far.store.state_directory / "revoked.crl").exists())
        await far.stop()
        await far.start()
        assert far.list_number == 1
        thief.endpoint.connect(far.address, far.member.node_id)
        await asyncio.sleep(0.01)
        assert not far.reaches(thief)

    play(tmp_path, scene)


@pytest.mark.parametrize("comer", ["late", "home"])
def test_who_was_away_learns_of_it_when_connecting(tmp_path: Path, comer: str) -> None:
    """Whichever of the two opened the connection."""

    async def scene(network: Network) -> None:
        home, late, _ = map(network.node, ("home", "late", "thief"))
        network.revoke("thief")
        await home.start()
        await late.start()
        assert (home.list_number, late.list_number) == (1, 0)
        await (home.connect(late) if comer == "home" else late.connect(home))
        await until(lambda: late.list_number == 1)

    play(tmp_path, scene)


def test_a_second_list_overtakes_the_first_everywhere(tmp_path: Path) -> None:
    async def scene(network: Network) -> None:
        home, near, far, *_ = map(network.node, ("home", "near", "far", "one", "two"))
        for node in (home, near, far):
            await node.start()
        await near.connect(home, far)
        network.revoke("one")
        first = asyncio.ensure_future(home.membership.reload())
        await asyncio.sleep(0)
        network.revoke("two")
        await asyncio.gather(first, home.membership.reload())
        await until(lambda: far.list_number == near.list_number == 2)
        await until(lambda: far.kept_number == 2)

    play(tmp_path, scene)


def test_a_list_that_is_not_the_authority_s_changes_nothing(tmp_path: Path) -> None:
    async def scene(network: Network) -> None:
        home, liar = map(network.node, ("home", "liar"))
        other = Authority.create(tmp_path / "other", "home", datetime.now(UTC))
        now = datetime.now(UTC)
        forged = RevocationList.sign(
            other.key, other.certificate, 9, {home.store.certificate().serial_number: now}, now
        )
        await home.start()
        await liar.start()

        class Forger:
            asked = 0

            async def answer(self, connection: object, body: bytes) -> bytes:
                self.asked += 1
                return forged.der

        forger = Forger()
        liar.mesh.answer_with(RpcKind.REVOCATION, forger)
        await liar.connect(home)
        link = liar.mesh.peers.active(home.member.node_id)
        assert link is not None
        for _ in range(3):
            await link.request(bytes([RpcKind.REVOCATION]) + (9).to_bytes(8), 5)
        await until(lambda: forger.asked)
        await asyncio.sleep(0.01)
        assert home.list_number == 0
        assert home.reaches(liar)
        with pytest.raises(UnreachableError):
            await link.request(bytes([RpcKind.REVOCATION]) + b"rubbish", 5)

    play(tmp_path, scene)


def test_the_dht_hears_of_both(tmp_path: Path) -> None:
    async def scene(network: Network) -> None:
        home, laptop, thief = network.node("home"), network.node("laptop", LATE), network.node("t")
        for node in network.nodes:
            await node.start()
        laptop.mesh.discovery = dht = FakeDiscovery()
        await thief.connect(laptop)
        await laptop.connect(home)
        await until(lambda: dht.certificates)
        assert dht.certificates == [
            shown.public_bytes(Encoding.DER) for shown in laptop.endpoint.certificates
        ]
        network.revoke("t")
        await home.membership.reload()
        await until(lambda: dht.forgotten)
        assert dht.forgotten == [thief.member.node_id]

    play(tmp_path, scene)


# -- renewal -----------------------------------------------------------------------------------


def test_a_certificate_is_renewed_before_it_ends_and_used_at_once(tmp_path: Path) -> None:
    async def scene(network: Network) -> None:
        home, laptop = network.node("home"), network.node("laptop", LATE)
        before = laptop.store.certificate()
        await home.start()
        await laptop.start()
        assert CAPABILITY in home.mesh.hello().capabilities
        assert CAPABILITY not in laptop.mesh.hello().capabilities
        await laptop.connect(home)
        await until(lambda: laptop.endpoint.certificates)
        (shown,) = laptop.endpoint.certificates
        assert shown.not_valid_after_utc > before.not_valid_after_utc + timedelta(days=290)
        assert laptop.store.load_identity(datetime.now(UTC)).certificate == shown
        (installed,) = load_pem(laptop.store.certificate_path.read_bytes(), "installed")
        assert installed == before  # root's file is root's
        # Fresh now, so there is nothing more to ask for.
        with pytest.raises(ConfigError, match="can be renewed from"):
            await laptop.membership.renew()
        assert home.registrar.asked == 1

    play(tmp_path, scene)


def test_the_authority_renews_itself(tmp_path: Path) -> None:
    async def scene(network: Network) -> None:
        home = network.node("home", LATE)
        await home.start()
        await until(lambda: home.endpoint.certificates)
        assert home.registrar.asked == 1

    play(tmp_path, scene)


def test_without_an_authority_in_reach_renewal_waits_for_one(tmp_path: Path) -> None:
    async def scene(network: Network) -> None:
        home, laptop, phone = (network.node(name, LATE) for name in ("home", "laptop", "phone"))
        await laptop.start()
        await phone.start()
        await laptop.connect(phone)
        with pytest.raises(UnreachableError, match="no node that has the network's authority"):
            await laptop.membership.renew()
        assert laptop.endpoint.certificates == []
        await home.start()
        await laptop.connect(home)
        await until(lambda: laptop.endpoint.certificates)

    play(tmp_path, scene)


@pytest.mark.parametrize("trick", ["another's", "the old one", "rubbish"])
def test_what_is_no_renewal_of_ours_is_not_used(tmp_path: Path, trick: str) -> None:
    async def scene(network: Network) -> None:
        laptop, liar = network.node("laptop", LATE), network.node("liar")
        certificate = (liar if trick == "another's" else laptop).store.certificate()
        body = renewal.answer(certificate.public_bytes(Encoding.DER))

        class Trickster:
            async def answer(self, connection: FakeConnection, question: bytes) -> bytes:
                return b"rubbish" if trick == "rubbish" else body

        await liar.start()
        liar.mesh.capabilities |= {CAPABILITY}
        liar.mesh.answer_with(RpcKind.AUTHORITY, Trickster())
        await laptop.start()
        await laptop.connect(liar)
        with pytest.raises(QuicEtherError, match=r"not ours|no longer|CBOR"):
            await laptop.membership.renew()
        assert laptop.endpoint.certificates == []
        assert not laptop.store.renewed_path.exists()

    play(tmp_path, scene)


def test_a_revoked_node_is_not_renewed(tmp_path: Path) -> None:
    async def scene(network: Network) -> None:
        home, laptop = network.node("home"), network.node("laptop", LATE)
        network.revoke("laptop")
        await laptop.start()
        home.store.directory.joinpath("revoked.crl").unlink()  # as if home had not heard of it
        await home.start()
        await laptop.connect(home)
        with pytest.raises(UnreachableError, match="refused"):
            await laptop.membership.renew()
        assert laptop.endpoint.certificates == []

    play(tmp_path, scene)


def test_reload_takes_a_certificate_that_was_installed_by_hand(tmp_path: Path) -> None:
    async def scene(network: Network) -> None:
        laptop = network.node("laptop", LATE)
        await laptop.start()
        laptop.certify()
        await laptop.membership.reload()
        (shown,) = laptop.endpoint.certificates
        assert shown == laptop.store.certificate()
        laptop.store.certificate_path.write_text("rubbish")
        with pytest.raises(IdentityError):
            await laptop.membership.reload()
        assert laptop.endpoint.certificates == [shown]

    play(tmp_path, scene)


def test_reload_refuses_the_certificate_of_another_key(tmp_path: Path) -> None:
    """It was shown to peers, who could not be answered with the key that the tunnel runs with."""

    async def scene(network: Network) -> None:
        laptop = network.node("laptop")
        await laptop.start()
        network.revoke("laptop")
        laptop.store.key_path.unlink()
        laptop.certify()
        with pytest.raises(ConfigError, match="needs the tunnel to go down and up again"):
            await laptop.membership.reload()
        assert laptop.endpoint.certificates == []
        assert laptop.list_number == 0

    play(tmp_path, scene)
