"""Our packet protection against aioquic's, with every cipher, and the window of numbers."""

from __future__ import annotations

from random import Random

import pytest
from aioquic.quic.crypto import CryptoContext, CryptoPair, next_key_phase
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite
from hypothesis import given
from hypothesis import strategies as st

from quicether.transport.replay_window import WINDOW, ReplayWindow
from quicether.transport.sealing import (
    NUMBER_AT,
    SAMPLE_AT,
    SHORTEST,
    full_number,
    header_masks,
    seal,
    unseal,
)
from quicether.transport.tls import CONNECTION_ID_BYTES

CID = bytes(range(CONNECTION_ID_BYTES))
SUITES = [
    (CipherSuite.AES_128_GCM_SHA256, 32),
    (CipherSuite.AES_256_GCM_SHA384, 48),
    (CipherSuite.CHACHA20_POLY1305_SHA256, 32),
]


def keys_of(suite: CipherSuite, secret: int) -> CryptoContext:
    keys = CryptoContext()
    keys.setup(
        cipher_suite=suite, secret=bytes(range(secret)), version=QuicProtocolVersion.VERSION_1
    )
    return keys


def masks_of(keys: CryptoContext, packets: list[bytes]) -> list[int]:
    return header_masks(keys, [packet[SAMPLE_AT:SHORTEST] for packet in packets])


@pytest.mark.parametrize(("suite", "secret"), SUITES)
@pytest.mark.parametrize("number", [0, 255, 65_535, 2**24 - 2, 2**33])
def test_aioquic_opens_what_we_seal(suite: CipherSuite, secret: int, number: int) -> None:
    keys = keys_of(suite, secret)
    payloads = [b"\x30" + bytes(size) for size in (1, 20, 1400)]
    for at, packet in enumerate(seal(keys, CID, number, payloads)):
        pair = CryptoPair()
        pair.recv = keys
        header, payload, found = pair.decrypt_packet(packet, NUMBER_AT, number)
        assert (payload, found) == (payloads[at], number + at)
        assert header[1:NUMBER_AT] == CID


@pytest.mark.parametrize(("suite", "secret"), SUITES)
def test_we_open_what_aioquic_seals(suite: CipherSuite, secret: int) -> None:
    keys = keys_of(suite, secret)
    for number in (0, 300, 70_000):
        header = b"\x41" + CID + (number & 0xFFFF).to_bytes(2, "big")
        packet = keys.encrypt_packet(header, b"\x30hello, world", number)
        (mask,) = masks_of(keys, [packet])
        assert unseal(keys, None, packet, mask, number) == (number, b"\x30hello, world")


def test_what_was_changed_or_is_of_another_key_is_not_opened() -> None:
    keys = keys_of(*SUITES[0])
    random = Random(3)
    (packet,) = seal(keys, CID, 77, [b"\x30" + bytes(100)])
    (mask,) = masks_of(keys, [packet])
    assert unseal(keys, None, packet, mask, 77) is not None
    for _ in range(300):
        changed = bytearray(packet)
        changed[random.randrange(len(packet))] ^= 1 << random.randrange(8)
        (mask,) = masks_of(keys, [bytes(changed)])
        assert unseal(keys, None, bytes(changed), mask, 77) is None


def test_packets_of_the_key_before_are_opened_after_a_change() -> None:
    old = keys_of(*SUITES[0])
    late, later = seal(old, CID, 5, [b"\x30late", b"\x30later"])
    kept = CryptoContext(key_phase=old.key_phase)
    kept.aead = old.aead
    new = next_key_phase(old)
    new.hp = old.hp  # header protection keeps its key (RFC 9001 section 6)
    (fresh,) = seal(new, CID, 7, [b"\x30fresh"])
    for packet, number, payload in ((late, 5, b"\x30late"), (fresh, 7, b"\x30fresh")):
        (mask,) = masks_of(new, [packet])
        assert unseal(new, kept, packet, mask, 7) == (number, payload)
    (mask,) = masks_of(new, [later])
    assert unseal(new, None, later, mask, 7) is None


@given(st.integers(0, 2**40), st.integers(-(2**22), 2**22), st.sampled_from([8, 16, 24, 32]))
def test_packet_numbers_are_recovered_within_half_a_window(
    expected: int, distance: int, bits: int
) -> None:
    number = expected + distance
    if number >= 0 and abs(distance) < 1 << bits - 1:
        assert full_number(number & (1 << bits) - 1, bits, expected) == number


@given(st.lists(st.integers(0, 3 * WINDOW) | st.integers(0, 2**30), max_size=200))
def test_each_number_counts_once(numbers: list[int]) -> None:
    window = ReplayWindow()
    received: set[int] = set()
    for number in numbers:
        too_old = bool(received) and number <= max(received) - WINDOW
        assert (number in window) == (number in received or too_old)
        if number not in window:
            window.add(number)
            received.add(number)
