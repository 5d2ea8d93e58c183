from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network, summarize_address_range

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from quicether.errors import TrustError
from quicether.identity import rfc3779
from quicether.model import Prefix


def encode(*texts: str) -> bytes:
    return rfc3779.encode(ip_network(text) for text in texts).value


# RFC 3779 appendix B, without the SAFI that it shows and with its first family alone.
APPENDIX_B = bytes.fromhex(
    "302c302a0402000130240304040a00200304000a00400303000a01300c0304040a02300304000a02400303000a03"
)


def test_appendix_b_is_read() -> None:
    assert rfc3779.decode(APPENDIX_B) == (
        IPv4Network("10.0.32.0/20"),
        IPv4Network("10.0.64.0/24"),
        IPv4Network("10.1.0.0/16"),
        *summarize_address_range(IPv4Address("10.2.48.0"), IPv4Address("10.2.64.255")),
        IPv4Network("10.3.0.0/16"),
    )


def test_appendix_b_is_written() -> None:
    assert rfc3779.encode(rfc3779.decode(APPENDIX_B)).value == APPENDIX_B


def test_everything_is_two_empty_bit_strings() -> None:
    assert encode("0.0.0.0/0", "::/0").hex() == ("301630090402000130030301003009040200023003030100")
    assert rfc3779.decode(encode("::/0", "0.0.0.0/0")) == (
        IPv4Network("0.0.0.0/0"),
        IPv6Network("::/0"),
    )


def test_neighbours_become_one_prefix_or_range() -> None:
    assert rfc3779.decode(encode("10.0.0.0/24", "10.0.1.0/24")) == (IPv4Network("10.0.0.0/23"),)
    both = (IPv4Network("192.168.1.0/24"), IPv4Network("192.168.2.0/24"))
    assert rfc3779.decode(encode("192.168.2.0/24", "192.168.1.0/24")) == both


def test_nothing_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="at least one"):
        rfc3779.encode([])


@pytest.mark.parametrize(
    ("der", "match"),
    [
        ("", "damaged"),
        ("3000", "damaged"),
        (APPENDIX_B.hex() + "00", "damaged"),
        # with SAFI unicast, as in the RFC's own example
        ("300c300a04030001013003030100", "neither IPv4 nor IPv6"),
        ("300b3009040200033003030100", "neither IPv4 nor IPv6"),
        ("30083006040200010500", "names no IPv4 block"),
        ("30083006040200013000", "names no IPv4 block"),
        ("301630090402000230030301003009040200013003030100", "not in canonical form"),
        ("301630090402000130030301003009040200013003030100", "not in canonical form"),
        # 10/8 twice; 10/8 after 11/8; 10/8 and 11/8, which touch
        ("3010300e0402000130080302000a0302000a", "not in canonical form"),
        ("3010300e0402000130080302000b0302000a", "not in canonical form"),
        ("3010300e0402000130080302000a0302000b", "not in canonical form"),
        # a range from 11/8 to 10/8, and 10/8 as a range
        ("3012301004020001300a30080302000b0302000a", "ends before it begins"),
        ("3012301004020001300a30080302000a0302000a", "not in canonical form"),
        # 192.168.1.0 to 192.168.3.255 with ones at its end that could go
        ("3016301404020001300e300c030400c0a801030400c0a803", "not in canonical form"),
        # 40 bits of IPv4
        ("3010300e0402000130080306000a00000000", "has 40 bits"),
    ],
)
def test_what_is_not_canonical_is_refused(der: str, match: str) -> None:
    with pytest.raises(TrustError, match=match):
        rfc3779.decode(bytes.fromhex(der))


def test_too_many_blocks_are_refused() -> None:
    many = rfc3779.encode(IPv4Network((n << 9, 24)) for n in range(rfc3779.MAX_BLOCKS + 1)).value
    with pytest.raises(TrustError, match="more than 256 IPv4 blocks"):
        rfc3779.decode(many)


def test_ranges_that_come_to_too_many_prefixes_are_refused() -> None:
    nearly_all = [
        block
        for n in range(100)
        for block in summarize_address_range(
            IPv4Address((n << 24) + 1), IPv4Address((n << 24) + 0xFFFFFD)
        )
    ]
    assert len(nearly_all) > rfc3779.MAX_PREFIXES
    with pytest.raises(TrustError, match="over 1024 prefixes"):
        rfc3779.decode(rfc3779.encode(nearly_all).value)


prefixes = st.one_of(
    st.builds(
        lambda a, n: IPv4Network((a, n), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda a, n: IPv6Network((a, n), strict=False),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
    # close together, so that they meet
    st.builds(
        lambda n, m: IPv4Network((n << (32 - m), m)), st.integers(0, 15), st.integers(28, 32)
    ),
)


@given(st.lists(prefixes, min_size=1, max_size=12))
def test_what_is_written_covers_the_same_addresses(given_prefixes: list[Prefix]) -> None:
    extension = rfc3779.encode(given_prefixes)
    assert extension.oid == x509.ObjectIdentifier("1.3.6.1.5.5.7.1.7")
    found = rfc3779.decode(extension.value)
    assert _ranges(found) == _ranges(given_prefixes)
    assert rfc3779.encode(found).value == extension.value


def _ranges(blocks: list[Prefix] | tuple[Prefix, ...]) -> list[tuple[int, int, int]]:
    """The slow, obvious union of blocks as (version, first, last)."""
    joined: list[tuple[int, int, int]] = []
    ends = sorted((b.version, int(b.network_address), int(b.broadcast_address)) for b in blocks)
    for version, first, last in ends:
        if joined and joined[-1][0] == version and first <= joined[-1][2] + 1:
            joined[-1] = (version, joined[-1][1], max(last, joined[-1][2]))
        else:
            joined.append((version, first, last))
    return joined
