"""The code of an invitation: typed by people, so short, and every mistake is noticed."""

from __future__ import annotations

import pytest

from quicether.errors import ConfigError
from quicether.identity.invite_code import InviteCode

SECRET = bytes(range(16))
ENDPOINTS = (("192.0.2.1", 9000),)
CODES = [
    ENDPOINTS,
    (("2001:db8::1", 9000), ("home.example.net", 443)),
    tuple((f"{'a' * 59}.net", 65535) for _ in range(4)),
]


@pytest.mark.parametrize("endpoints", CODES)
def test_code_survives_being_typed(endpoints: tuple[tuple[str, int], ...]) -> None:
    code = InviteCode(SECRET, b"12345", "home", endpoints)
    text = str(code)
    assert InviteCode.parse(text) == code
    assert InviteCode.parse(f"  {text.lower().replace('-', ' ')}\n") == code
    assert InviteCode.parse(text.replace("O", "0").replace("I", "1")) == code


def test_code_for_a_usual_network_is_short() -> None:
    text = str(InviteCode(SECRET, b"12345", "home", ENDPOINTS))
    assert len(text.split("-")) == 12
    assert len(text) <= 70


def test_every_typing_mistake_is_noticed() -> None:
    text = str(InviteCode(SECRET, b"12345", "home", ENDPOINTS))
    for at, letter in enumerate(text):
        if letter == "-":
            continue
        wrong = text[:at] + ("A" if letter != "A" else "B") + text[at + 1 :]
        try:
            assert InviteCode.parse(wrong) == InviteCode.parse(text)  # only unused last bits
            assert at == len(text) - 1
        except ConfigError as error:
            assert "mistyped" in str(error)


@pytest.mark.parametrize("text", ["", "-", "A", "A" * 2000, "ÄÖÜ", "!" * 40, "A" * 58])
def test_rubbish_is_no_code(text: str) -> None:
    with pytest.raises(ConfigError, match="invitation code"):
        InviteCode.parse(text)


@pytest.mark.parametrize(
    ("endpoints", "match"),
    [
        ((), "0 endpoints"),
        (ENDPOINTS * 5, "5 endpoints"),
        ((("h", 0),), "port 0"),
        ((("h", 65536),), "port 65536"),
        ((("", 1),), "no IP address or DNS name"),
        ((("a" * 64, 1),), "no IP address or DNS name"),
        ((("ü", 1),), "no IP address or DNS name"),
    ],
)
def test_code_without_a_proper_endpoint_is_not_made(
    endpoints: tuple[tuple[str, int], ...], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        InviteCode(SECRET, b"12345", "home", endpoints)


def test_secret_is_in_no_repr() -> None:
    assert "secret" not in repr(InviteCode(SECRET, b"12345", "home", ENDPOINTS))
