"""The IP address blocks of a certificate: RFC 3779 section 2, in DER.

The one place that uses cryptography's ASN.1 codec, which its makers may still change: hence the
narrow version bound in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    summarize_address_range,
)
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat import asn1

from quicether.errors import TrustError
from quicether.model import Address, Prefix

IP_ADDR_BLOCKS: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.7")
MAX_BLOCKS: Final = 256
"""Prefixes and ranges of one family that a certificate may hold."""
MAX_PREFIXES: Final = 1024
"""Prefixes that all blocks of one family may come to."""

_AFI: Final = {4: b"\0\1", 6: b"\0\2"}
_VERSIONS: Final = {afi: version for version, afi in _AFI.items()}


@asn1.sequence
class _AddressRange:
    min: asn1.BitString
    max: asn1.BitString


@asn1.sequence
class _AddressFamily:
    """IPAddressFamily. Its CHOICE is two optional fields, of which exactly one is present."""

    address_family: Annotated[bytes, asn1.Size(min=2, max=3)]
    inherit: asn1.Null | None = None
    addresses_or_ranges: list[asn1.BitString | _AddressRange] | None = None


@asn1.sequence
class _AddressBlocks:
    """IPAddrBlocks: a SEQUENCE OF that, with no SAFI in use, has one or two elements."""

    first: _AddressFamily
    second: _AddressFamily | None = None


def encode(prefixes: Iterable[Prefix]) -> x509.UnrecognizedExtension:
    """Return the extension value for prefixes (at least one) in canonical form.

    RFC 3779 section 2.2.3: families and blocks sorted, no overlap, adjacent blocks joined.
    """
    prefixes = list(prefixes)
    families = [
        _AddressFamily(address_family=_AFI[version], addresses_or_ranges=blocks)
        for version in (4, 6)
        if (blocks := _blocks([prefix for prefix in prefixes if prefix.version == version]))
    ]
    if not families:
        raise ValueError("a certificate has at least one address block")
    value = _AddressBlocks(first=families[0], second=families[1] if len(families) > 1 else None)
    return x509.UnrecognizedExtension(IP_ADDR_BLOCKS, asn1.encode_der(value))


def decode(der: bytes) -> tuple[Prefix, ...]:
    """Return the blocks of an extension value as prefixes, ranges cut into the largest ones.

    Raises TrustError: no DER of IPAddrBlocks, not in canonical form, more blocks than
    `MAX_BLOCKS`, or something that no certificate of ours holds (SAFI, inherit).
    """
    try:
        value = asn1.decode_der(_AddressBlocks, der)
    except ValueError:
        raise TrustError("the certificate's IP address blocks are damaged") from None
    prefixes = _prefixes(value.first)
    if value.second is not None:
        prefixes += _prefixes(value.second)
    # One set of addresses has one form: order, overlap, adjacency and spare bits at once.
    if encode(prefixes).value != der:
        raise TrustError("the certificate's IP address blocks are not in canonical form")
    return tuple(prefixes)


def _blocks(prefixes: Sequence[Prefix]) -> list[asn1.BitString | _AddressRange]:
    """Join prefixes of one family into sorted prefixes and ranges that do not touch."""
    joined: list[tuple[Address, Address]] = []
    for prefix in collapse_addresses(prefixes):  # type: ignore[type-var]
        first, last = prefix.network_address, prefix.broadcast_address
        if joined and int(joined[-1][1]) + 1 == int(first):
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return [_block(first, last) for first, last in joined]


def _block(first: Address, last: Address) -> asn1.BitString | _AddressRange:
    length = first.max_prefixlen
    size = int(last) - int(first) + 1
    if size.bit_count() == 1 and int(first) % size == 0:
        return _bits(int(first), length, length - size.bit_length() + 1)
    # A range's ends lose their trailing zeros (min) and ones (max).
    trailing_zeros = (int(first) & -int(first)).bit_length() - 1 if int(first) else length
    inverse = int(last) + 1
    trailing_ones = (inverse & -inverse).bit_length() - 1
    return _AddressRange(
        min=_bits(int(first), length, length - trailing_zeros),
        max=_bits(int(last), length, length - trailing_ones),
    )


def _bits(value: int, length: int, kept: int) -> asn1.BitString:
    """Return the first kept bits of a number of length bits."""
    octets = (kept + 7) // 8
    padding = octets * 8 - kept
    return asn1.BitString((value >> (length - kept) << padding).to_bytes(octets), padding)


def _prefixes(family: _AddressFamily) -> list[Prefix]:
    version = _VERSIONS.get(family.address_family)
    if version is None:
        raise TrustError(f"address family {family.address_family.hex()} is neither IPv4 nor IPv6")
    blocks = family.addresses_or_ranges
    if family.inherit is not None or not blocks:
        raise TrustError(f"the certificate names no IPv{version} block of its own")
    if len(blocks) > MAX_BLOCKS:
        raise TrustError(f"the certificate has more than {MAX_BLOCKS} IPv{version} blocks")
    length = 32 if version == 4 else 128
    prefixes: list[Prefix] = []
    for block in blocks:
        ends = (block.min, block.max) if isinstance(block, _AddressRange) else (block, block)
        first, last = _end(ends[0], length, fill=0), _end(ends[1], length, fill=1)
        if first > last:
            raise TrustError(f"an IPv{version} range of the certificate ends before it begins")
        prefixes += _summary(first, last, version)
        if len(prefixes) > MAX_PREFIXES:
            raise TrustError(f"the certificate's IP blocks come to over {MAX_PREFIXES} prefixes")
    return prefixes


def _end(bits: asn1.BitString, length: int, fill: int) -> int:
    """Return the address whose bits after the given ones are all fill."""
    kept = len(bits.as_bytes()) * 8 - bits.padding_bits()
    if not 0 <= kept <= length:
        raise TrustError(f"an IP block of the certificate has {kept} bits, more than {length}")
    value = int.from_bytes(bits.as_bytes()) >> bits.padding_bits() << (length - kept)
    return value | ((1 << (length - kept)) - 1 if fill else 0)


def _summary(first: int, last: int, version: int) -> list[IPv4Network] | list[IPv6Network]:
    if version == 4:
        return list(summarize_address_range(IPv4Address(first), IPv4Address(last)))
    return list(summarize_address_range(IPv6Address(first), IPv6Address(last)))
