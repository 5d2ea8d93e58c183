"""Statuses on the bus and in JSON, and the XML that documents the API."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicether.bus import api
from quicether.bus.contract import tunnel_path
from quicether.bus.interface import introspection
from quicether.bus.status import (
    JoinResult,
    LookupResult,
    PeerStatus,
    PingResult,
    PolicyVerdict,
    RouteStatus,
    from_wire,
    to_wire,
)
from quicether.model import NextHopKind, PeerState, RouteSource

PEER = PeerStatus("11" * 20, "home", PeerState.CONNECTED, rtt=0.01, addresses=("100.64.0.1",))


@pytest.mark.parametrize(
    "status",
    [
        PEER,
        PeerStatus("22" * 20, "", PeerState.REFUSED, detail="its certificate has expired"),
        RouteStatus("10.0.0.0/8", NextHopKind.NODE, RouteSource.DISCOVERED, True, False, "11" * 20),
        LookupResult("10.0.0.1", asked=True),
        PingResult("11" * 20, "home", 0.02),
        PolicyVerdict(False, "no rule matches"),
        JoinResult(
            "home",
            "attic",
            "11" * 20,
            "hub",
            "hub@192.0.2.1:9000",
            "/etc/home.toml",
            True,
            "nmcli connection up quicether",
            ("100.64.0.1",),
            valid_until=1e9,
        ),
    ],
)
def test_a_status_survives_the_bus(status: object) -> None:
    wire = to_wire(status)
    assert from_wire(type(status), wire) == status
    assert all("_" not in key and value is not None for key, (_, value) in wire.items())


def test_the_wire_form_is_what_the_contract_says() -> None:
    assert to_wire(PEER) == {
        "node-id": ("s", "11" * 20),
        "name": ("s", "home"),
        "state": ("s", "connected"),
        "rtt": ("d", 0.01),
        "addresses": ("as", ["100.64.0.1"]),
        "prefixes": ("as", []),
    }


def test_keys_of_a_later_version_are_ignored_and_missing_ones_are_told() -> None:
    wire = to_wire(PEER)
    assert from_wire(PeerStatus, wire | {"colour": ("s", "red")}) == PEER
    with pytest.raises(ValueError, match="rtt has signature 's', not 'd'"):
        from_wire(PeerStatus, wire | {"rtt": ("s", "fast")})
    with pytest.raises(ValueError, match="node_id"):
        from_wire(PeerStatus, {key: value for key, value in wire.items() if key != "node-id"})


def test_introspection_escapes_and_lists_children() -> None:
    xml = introspection([api.MANAGER], ["home", "work"])
    assert xml.startswith("<!DOCTYPE node")
    assert '<arg name="options" type="a{ss}" direction="in" />' in xml
    assert xml.endswith('<node name="home" />\n  <node name="work" />\n</node>\n')


def test_members_are_unique_and_documented() -> None:
    for interface in (api.MANAGER, api.TUNNEL, api.PROPERTIES, api.OBJECT_MANAGER):
        members = [(member.name, member.doc) for member in interface.methods]
        members += [(member.name, member.doc) for member in interface.properties]
        members += [(member.name, member.doc) for member in interface.signals]
        assert len({name for name, _ in members}) == len(members)
        assert all(doc.endswith(".") for _, doc in members)


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_of_tunnels_become_distinct_valid_paths(one: str, other: str) -> None:
    try:
        paths = tunnel_path(one), tunnel_path(other)
    except UnicodeEncodeError:
        return  # a lone surrogate cannot come over the bus
    assert (paths[0] == paths[1]) is (one == other)
    assert all(c.isascii() and (c.isalnum() or c in "_/") for c in paths[0])
