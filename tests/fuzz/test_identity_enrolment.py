"""Whatever bytes come to join or to renew: the project's own errors come out, and no member."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from quicether import cbor
from quicether.errors import ConfigError, ProtocolError, TrustError
from quicether.identity import enrolment, renewal
from quicether.identity.addresses import derived_addresses
from quicether.identity.certificates import Grant
from quicether.identity.invite_code import InviteCode
from quicether.identity.issuing import build_authority, build_node
from quicether.identity.keys import NodeKey
from quicether.identity.trust import AuthorityTrust

NOW: Final = datetime(2026, 11, 22, tzinfo=UTC)
SIGNER: Final = Ed25519PrivateKey.generate()
AUTHORITY: Final = build_authority(SIGNER, "home", NOW)
TRUST: Final = AuthorityTrust(AUTHORITY, NOW)
KEY: Final = NodeKey.generate()
SERVER: Final = NodeKey.generate()
NONCE: Final = bytes(16)
GRANT: Final = Grant("laptop", derived_addresses(KEY.node_id, TRUST.network_id))
NODE: Final = build_node(
    AUTHORITY, SIGNER, KEY.public_raw, GRANT, timedelta(days=1), NOW
).public_bytes(Encoding.DER)
LATER: Final = NOW + timedelta(hours=20)
CODE: Final = InviteCode(bytes(range(16)), SERVER.node_id.value[:5], "home", (("192.0.2.1", 9000),))
QUESTION: Final = enrolment.ask(CODE, KEY, SERVER.public_raw, NONCE)
ANSWER: Final = enrolment.admit(
    enrolment.read_question(QUESTION),
    CODE.secret,
    SERVER.public_raw,
    NODE,
    AUTHORITY.public_bytes(Encoding.DER),
)
RENEWAL: Final = renewal.ask(KEY, NODE, TRUST.network_id, LATER)

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=70)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def bodies(draw: st.DrawFn, whole: bytes) -> bytes:
    """whole with bytes changed, whole with a field changed, some CBOR, or rubbish."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        data = bytearray(whole)
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
        return bytes(data)
    if kind == 1:
        fields: Any = cbor.decode(whole, 2)
        return cbor.encode(fields | {draw(st.sampled_from(sorted(fields))): draw(anything)})
    return cbor.encode(draw(anything)) if kind == 2 else draw(st.binary(max_size=200))


@settings(max_examples=300)
@given(bodies(QUESTION))
def test_question_is_proven_or_refused(body: bytes) -> None:
    try:
        renewal.kind_of(body)
        question = enrolment.read_question(body)
        question.check(CODE.secret, SERVER.public_raw)
    except (ProtocolError, TrustError):
        return
    assert (question.public_key, question.nonce) == (KEY.public_raw, NONCE)


@settings(max_examples=300)
@given(bodies(ANSWER))
def test_answer_is_proven_or_refused(body: bytes) -> None:
    try:
        got = enrolment.read_answer(body, CODE, KEY, SERVER.public_raw, NONCE)
    except (ProtocolError, TrustError):
        return
    assert got.certificate.public_bytes(Encoding.DER) == NODE
    assert got.authority == AUTHORITY


@settings(max_examples=300)
@given(bodies(RENEWAL))
def test_renewal_is_the_members_or_refused(body: bytes) -> None:
    try:
        member, validity = renewal.check(body, TRUST, LATER)
    except (ProtocolError, TrustError):
        return
    assert member.node_id == KEY.node_id
    assert validity == timedelta(days=1, minutes=5)


@given(bodies(cbor.encode({"version": 1, "certificate": NODE})))
def test_renewals_answer_is_read_or_refused(body: bytes) -> None:
    try:
        renewal.read_answer(body)
    except (ProtocolError, TrustError):
        return


@settings(max_examples=300)
@given(st.text(max_size=120) | st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567-", max_size=120))
def test_no_text_is_a_code_by_chance(text: str) -> None:
    with pytest.raises(ConfigError, match="invitation code"):
        InviteCode.parse(text)


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=5, max_size=5),
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True),
    st.lists(
        st.tuples(
            st.ip_addresses().filter(lambda each: not each.is_link_local).map(str)
            | st.from_regex(r"[a-z][a-z0-9.-]{0,50}", fullmatch=True),
            st.integers(1, 65535),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_every_code_comes_back_the_same(
    secret: bytes, inviter: bytes, network: str, endpoints: list[tuple[str, int]]
) -> None:
    code = InviteCode(secret, inviter, network, tuple(endpoints))
    assert InviteCode.parse(str(code)) == code
