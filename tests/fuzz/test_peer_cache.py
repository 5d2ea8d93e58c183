"""Whatever is in the file with the peers of the last run, contacts or ConfigError come out."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from quicether.errors import ConfigError
from quicether.overlay.bootstrap import MAX_CACHED, read_cache, write_cache

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=45),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)
hosts = st.sampled_from(["11.0.0.1", "::1", "::ffff:1.2.3.4", "fe80::1%eth0", "0.0.0.0", "x", ""])
ports = st.integers(-2, 70_000) | st.sampled_from([0, 1, 65_535, 65_536, 1e300]) | values
endpoints = st.lists(st.tuples(hosts | values, ports) | values, max_size=5) | values
nodes = st.sampled_from(["01" * 20, "0", ""]) | values
peers = st.fixed_dictionaries({"node": nodes, "endpoints": endpoints}) | values
files = st.fixed_dictionaries({"version": st.just(1) | values, "peers": st.lists(peers) | values})


def judged(data: bytes) -> None:
    try:
        contacts = read_cache(data)
    except ConfigError as error:
        assert len(str(error)) < 1000
    else:
        assert len(contacts) <= MAX_CACHED
        assert read_cache(write_cache(contacts)) == contacts


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8")))
def test_any_bytes_are_peers_or_refused(data: bytes) -> None:
    judged(data)


@settings(max_examples=500, deadline=None)
@given(files | values)
def test_any_json_is_peers_or_refused(content: object) -> None:
    judged(json.dumps(content).encode())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_byte_makes_no_fault(data: st.DataObject) -> None:
    whole = bytearray(
        json.dumps(
            {"version": 1, "peers": [{"node": "ab" * 20, "endpoints": [["11.0.0.1", 9000]]}]}
        ).encode()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    judged(bytes(whole))
