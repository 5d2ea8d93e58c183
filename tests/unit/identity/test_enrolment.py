"""Joining: what a good code brings, and what everybody else gets, which is nothing."""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from quicether import cbor
from quicether.errors import ConfigError, IdentityError, ProtocolError, TrustError
from quicether.identity import certificates, enrolment, invitations
from quicether.identity.authority import Authority
from quicether.identity.invitations import MAX_ATTEMPTS, MAX_INVITATIONS
from quicether.identity.invite_code import InviteCode
from quicether.identity.keys import NodeKey
from quicether.identity.registrar import Registrar
from quicether.identity.store import NetworkStore

LAN = ip_network("192.168.7.0/24")
SECRET = bytes(range(16))
NONCE = bytes(16)
HOUR = timedelta(hours=1)
ENDPOINTS = (("192.0.2.1", 9000),)


@pytest.fixture
def invite(registrar: Registrar, server: NodeKey, now: datetime) -> Callable[..., InviteCode]:
    def invite(name: str = "laptop", secret: bytes = SECRET, **options: Any) -> InviteCode:
        return registrar.invite(
            name, inviter=server.node_id, endpoints=ENDPOINTS, now=now, entropy=secret, **options
        )

    return invite


def test_code_brings_the_certificate_that_was_invited(
    make_store: Callable[..., NetworkStore],
    registrar: Registrar,
    invite: Callable[..., InviteCode],
    server: NodeKey,
    now: datetime,
) -> None:
    typed = str(invite(prefixes=[LAN], groups=["it"], validity=timedelta(days=30)))
    code = InviteCode.parse(typed)
    laptop = make_store("laptop", code.network)
    key = laptop.node_key()
    body = enrolment.ask(code, key, server.public_raw, NONCE)
    answer = registrar.answer(body, server.public_raw, now)
    got = enrolment.read_answer(answer, code, key, server.public_raw, NONCE)
    laptop.install(got.certificate, got.authority, now)
    member = laptop.load_identity(now).member
    assert (member.name, member.prefixes) == ("laptop", (LAN,))
    assert member.groups == {"it"}
    assert member.node_id == key.node_id
    assert member.not_after == now + timedelta(days=30)


def ask(
    registrar: Registrar, code: InviteCode, key: NodeKey, server: NodeKey, now: datetime
) -> enrolment.Admission:
    body = enrolment.ask(code, key, server.public_raw, NONCE)
    answer = registrar.answer(body, server.public_raw, now)
    return enrolment.read_answer(answer, code, key, server.public_raw, NONCE)


def test_code_serves_one_machine_only_but_that_one_again(
    registrar: Registrar, invite: Callable[..., InviteCode], server: NodeKey, now: datetime
) -> None:
    code, first, thief = invite(), NodeKey.generate(), NodeKey.generate()
    certificate = ask(registrar, code, first, server, now).certificate
    with pytest.raises(TrustError, match="another machine has joined"):
        ask(registrar, code, thief, server, now)
    again = ask(registrar, code, first, server, now).certificate
    assert certificates.parse(again).node_id == certificates.parse(certificate).node_id


def test_asking_again_does_not_bring_back_what_was_taken_away(
    registrar: Registrar,
    invite: Callable[..., InviteCode],
    server: NodeKey,
    authority: Authority,
    now: datetime,
) -> None:
    code, key = invite(prefixes=[LAN]), NodeKey.generate()
    ask(registrar, code, key, server, now)
    authority.sign(key.public_raw, "laptop", now=now, prefixes=[])
    assert certificates.parse(ask(registrar, code, key, server, now).certificate).prefixes == ()
    authority.revoke("laptop", now)
    with pytest.raises(TrustError, match="could not certify"):
        ask(registrar, code, key, server, now)


def test_expired_code_is_refused(
    registrar: Registrar, invite: Callable[..., InviteCode], server: NodeKey, now: datetime
) -> None:
    code = invite(expires=HOUR)
    with pytest.raises(TrustError, match="has expired"):
        ask(registrar, code, NodeKey.generate(), server, now + HOUR + timedelta(seconds=1))
    long_after = now + HOUR + invitations.KEPT
    with pytest.raises(TrustError, match="not out"):
        ask(registrar, code, NodeKey.generate(), server, long_after)


def test_unknown_code_gets_no_answer(registrar: Registrar, server: NodeKey, now: datetime) -> None:
    code = InviteCode(SECRET, server.node_id.value[:5], "home", ENDPOINTS)
    with pytest.raises(TrustError, match="not out"):
        ask(registrar, code, NodeKey.generate(), server, now)


def test_withdrawn_and_replaced_codes_get_no_answer(
    registrar: Registrar, invite: Callable[..., InviteCode], server: NodeKey, now: datetime
) -> None:
    old, new = invite(), invite(secret=bytes(16))
    with pytest.raises(TrustError, match="not out"):
        ask(registrar, old, NodeKey.generate(), server, now)
    ask(registrar, new, NodeKey.generate(), server, now)


def test_machine_tells_nothing_to_another_server(
    invite: Callable[..., InviteCode], now: datetime
) -> None:
    rogue = NodeKey.generate()
    with pytest.raises(TrustError, match="another one wrote the invitation"):
        enrolment.ask(invite(), NodeKey.generate(), rogue.public_raw, NONCE)


def test_question_made_for_another_server_is_worth_nothing_here(
    registrar: Registrar, invite: Callable[..., InviteCode], server: NodeKey, now: datetime
) -> None:
    """Someone in the middle, with a key whose NodeId begins like the inviter's, passes it on."""
    code, middle, key = invite(), NodeKey.generate(), NodeKey.generate()
    fooled = InviteCode(code.secret, middle.node_id.value[:5], "home", ENDPOINTS)
    body = enrolment.ask(fooled, key, middle.public_raw, NONCE)
    with pytest.raises(TrustError, match="not proven"):
        registrar.answer(body, server.public_raw, now)
    # nor does an answer of the true server fit to what the machine asked the one in the middle
    answer = registrar.answer(
        enrolment.ask(code, key, server.public_raw, NONCE), server.public_raw, now
    )
    with pytest.raises(TrustError, match="answer was not proven"):
        enrolment.read_answer(answer, fooled, key, middle.public_raw, NONCE)


@pytest.mark.parametrize("field", ["public_key", "nonce", "proof", "signature", "invitation"])
def test_question_with_one_field_changed_is_refused(
    registrar: Registrar,
    invite: Callable[..., InviteCode],
    server: NodeKey,
    now: datetime,
    field: str,
) -> None:
    question: Any = cbor.decode(
        enrolment.ask(invite(), NodeKey.generate(), server.public_raw, NONCE), 2
    )
    question[field] = bytes([question[field][0] ^ 1]) + question[field][1:]
    with pytest.raises(TrustError, match=r"not proven|does not match|not out"):
        registrar.answer(cbor.encode(question), server.public_raw, now)


def test_key_that_the_machine_does_not_have_is_not_certified(
    registrar: Registrar, invite: Callable[..., InviteCode], server: NodeKey, now: datetime
) -> None:
    """Who knows the code asks for a certificate of somebody else's public key."""
    code, own, other = invite(), NodeKey.generate(), NodeKey.generate()
    theirs: Any = cbor.decode(enrolment.ask(code, other, server.public_raw, NONCE), 2)
    mine: Any = cbor.decode(enrolment.ask(code, own, server.public_raw, NONCE), 2)
    with pytest.raises(TrustError, match="does not match"):
        registrar.answer(
            cbor.encode(theirs | {"signature": mine["signature"]}), server.public_raw, now
        )


def test_answer_is_for_the_machine_that_asked(
    registrar: Registrar, invite: Callable[..., InviteCode], server: NodeKey, now: datetime
) -> None:
    code, key = invite(), NodeKey.generate()
    body = enrolment.ask(code, key, server.public_raw, NONCE)
    answer = registrar.answer(body, server.public_raw, now)
    changed: Any = cbor.decode(answer, 2)
    changed["certificate"] = changed["authority"]
    wrong_code = InviteCode(bytes(16), code.inviter, "home", ENDPOINTS)
    for case in (
        (answer, code, NodeKey.generate(), NONCE),
        (answer, code, key, b"1" * 16),
        (answer, wrong_code, key, NONCE),
        (cbor.encode(changed), code, key, NONCE),
        (cbor.encode(changed | {"refusal": "used"}), code, key, NONCE),
    ):
        with pytest.raises(TrustError, match="answer was not proven"):
            enrolment.read_answer(*case[:3], server.public_raw, case[3])


def test_wrong_proofs_use_an_invitation_up(
    registrar: Registrar, invite: Callable[..., InviteCode], server: NodeKey, now: datetime
) -> None:
    code, key = invite(), NodeKey.generate()
    question: Any = cbor.decode(enrolment.ask(code, key, server.public_raw, NONCE), 2)
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(TrustError, match="not proven"):
            registrar.answer(cbor.encode(question | {"proof": bytes(32)}), server.public_raw, now)
    with pytest.raises(TrustError, match="asked for too often"):
        ask(registrar, code, key, server, now)


def test_two_machines_at_once_one_wins(
    registrar: Registrar,
    invite: Callable[..., InviteCode],
    server: NodeKey,
    authority: Authority,
    now: datetime,
    run_together: Callable[..., None],
) -> None:
    code = invite()
    outcomes: list[str] = []

    def join() -> None:
        try:
            ask(registrar, code, NodeKey.generate(), server, now)
            outcomes.append("in")
        except TrustError:
            outcomes.append("out")

    run_together(*[join] * 6)
    assert sorted(outcomes) == ["in"] + ["out"] * 5
    assert len(authority.book().nodes) == 1


# -- inviting ----------------------------------------------------------------------------------


def test_invitations_are_roots_alone_and_bounded(
    invite: Callable[..., InviteCode], store: NetworkStore
) -> None:
    for number in range(MAX_INVITATIONS):
        invite(f"n{number}", secret=number.to_bytes(16))
    with pytest.raises(ConfigError, match="256 invitations are out"):
        invite("another", secret=b"x" * 16)
    path = store.directory / "invitations.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(IdentityError, match="open to other users"):
        invite("another", secret=b"x" * 16)


def test_damaged_invitations_are_named(
    invite: Callable[..., InviteCode], store: NetworkStore
) -> None:
    path = store.directory / "invitations.json"
    path.write_text('{"invitations": [{"secret": "x"}]}')
    path.chmod(0o600)
    with pytest.raises(IdentityError, match=r"is damaged: invitations\.0"):
        invite()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "No"}, "node name"),
        ({"groups": ["*"]}, "group name"),
        ({"expires": timedelta(0)}, "expiry"),
        ({"expires": timedelta(days=31)}, "expiry"),
        ({"validity": timedelta(0)}, "validity"),
        ({"name": "taken"}, "name taken is node"),
    ],
)
def test_what_could_not_be_certified_is_not_invited(
    invite: Callable[..., InviteCode],
    authority: Authority,
    now: datetime,
    options: dict[str, Any],
    match: str,
) -> None:
    authority.sign(NodeKey.generate().public_raw, "taken", now=now)
    with pytest.raises(ConfigError, match=match):
        invite(**options)


# -- bodies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([], "malformed: body"),
        ({}, "malformed: kind"),
        ({"kind": "other"}, "malformed: kind"),
        ({"kind": "enrol", "version": 2}, "malformed: version"),
        ({"kind": "enrol"}, "malformed: invitation"),
        ({"kind": "enrol", "invitation": "12345678"}, "malformed: invitation"),
        ({"kind": "renew"}, "malformed: certificate"),
    ],
)
def test_malformed_body_is_named(
    registrar: Registrar, server: NodeKey, now: datetime, value: object, match: str
) -> None:
    with pytest.raises(ProtocolError, match=match):
        registrar.answer(cbor.encode(value), server.public_raw, now)


def test_oversized_body_is_refused(registrar: Registrar, server: NodeKey, now: datetime) -> None:
    with pytest.raises(ProtocolError, match="more than"):
        registrar.answer(bytes(enrolment.MAX_BODY + 1), server.public_raw, now)


def test_unknown_fields_are_ignored(
    registrar: Registrar, invite: Callable[..., InviteCode], server: NodeKey, now: datetime
) -> None:
    question: Any = cbor.decode(
        enrolment.ask(invite(), NodeKey.generate(), server.public_raw, NONCE), 2
    )
    assert registrar.answer(cbor.encode(question | {"new": 1}), server.public_raw, now)
