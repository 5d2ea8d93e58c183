"""Keys, distance and the index of prefixes."""

from __future__ import annotations

import hashlib
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicether.dht import keyspace
from quicether.model import NodeId, Prefix, host_prefix

NET = bytes(range(32))
KEYS = st.integers(0, 2**160 - 1)


@given(KEYS, KEYS)
def test_the_bucket_is_the_highest_bit_that_differs(a: int, b: int) -> None:
    index = keyspace.bucket_index(a, b)
    if a == b:
        assert index == -1
    else:
        assert a >> (index + 1) == b >> (index + 1)
        assert (a >> index) & 1 != (b >> index) & 1


def test_keys_are_160_bits_of_sha256_over_network_kind_and_name() -> None:
    prefix = ip_network("10.1.0.0/16")
    digest = hashlib.sha256(NET + b"SUBNET:10.1.0.0/16").digest()
    assert keyspace.key_bytes(keyspace.subnet_key(NET, prefix)) == digest[:20]
    node = NodeId(bytes(20))
    digest = hashlib.sha256(NET + b"NODE:" + b"00" * 20).digest()
    assert keyspace.key_bytes(keyspace.node_key(NET, node)) == digest[:20]


def test_networks_share_no_keys() -> None:
    prefix = ip_network("10.1.0.0/16")
    assert keyspace.subnet_key(NET, prefix) != keyspace.subnet_key(NET[::-1], prefix)


def index(name: str) -> int:
    return keyspace.key_of(NET, "INDEX", name)


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("10.1.2.0/24", ["10.0.0.0/8"]),
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        ("172.16.5.0/24", ["172.0.0.0/8"]),
        ("192.168.0.0/16", ["192.0.0.0/8"]),
        ("100.64.8.0/24", ["100.64.0.0/12", "any"]),
        ("203.0.113.0/24", ["203.0.0.0/12", "any"]),
        ("172.0.0.0/8", ["any"]),
        ("0.0.0.0/0", ["any"]),
        ("fd12:3456:789a::/48", ["fd12:3456::/32", "any"]),
        ("::/0", ["any"]),
        ("10.1.2.3/32", []),
        ("fd00::1/128", []),
    ],
)
def test_a_prefix_is_indexed_under_its_block(prefix: str, names: list[str]) -> None:
    assert keyspace.index_keys(NET, ip_network(prefix)) == tuple(map(index, names))


PREFIXES = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 31)).map(
        lambda pair: ip_network((pair[0] >> (32 - pair[1]) << (32 - pair[1]), pair[1]))
    ),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 127)).map(
        lambda pair: ip_network(
            ((pair[0] >> (128 - pair[1]) << (128 - pair[1])).to_bytes(16), pair[1])
        )
    ),
)


@given(PREFIXES, st.data())
def test_every_address_of_an_indexed_prefix_leads_to_it(
    prefix: Prefix, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(0, prefix.num_addresses - 1))
    address = prefix.network_address + offset
    kept_at = {keyspace.subnet_key(NET, prefix), *keyspace.index_keys(NET, prefix)}
    assert kept_at & set(keyspace.address_keys(NET, address))


@given(PREFIXES)
def test_the_directory_holds_every_indexed_prefix(prefix: Prefix) -> None:
    assert set(keyspace.index_keys(NET, prefix)) & set(keyspace.directory_keys(NET))


def test_a_host_is_found_by_its_own_key() -> None:
    address = ip_address("100.64.0.7")
    assert keyspace.address_keys(NET, address)[0] == keyspace.subnet_key(NET, host_prefix(address))
