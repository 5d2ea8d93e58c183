"""Which addresses can carry the overlay, and which have to stay outside of it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from types import SimpleNamespace

import pytest

from quicether.config.values import HostPort
from quicether.model import Member, NodeId, UnderlayAddress
from quicether.overlay import outside
from quicether.overlay.outside import Outside, locations_of, overlay_ranges

ME = Member(
    NodeId(bytes(20)),
    "home",
    b"",
    (ip_address("100.64.0.1"), ip_address("fd00:1:2::7")),
    (),
)


def connected(here: Outside, host: str) -> None:
    here.connected(SimpleNamespace(remote=UnderlayAddress(host, 9000)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "held"),
    [
        ("203.0.113.5", True),
        ("192.168.1.9", True),
        ("2001:db8::1", True),
        ("fd00:1:3::1", True),
        ("100.64.9.9", False),
        ("fd00:1:2::99", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
    ],
)
def test_the_overlays_own_addresses_carry_nothing(address: str, held: bool) -> None:
    assert Outside(ME).holds(ip_address(address)) is held


def test_what_the_os_routes_into_the_device_carries_nothing() -> None:
    here = Outside(ME)
    here.route([ip_network("192.168.0.0/16"), ip_network("2001:db8::/32")])
    assert not here.holds(ip_address("192.168.1.9"))
    assert not here.holds(ip_address("2001:db8::1"))
    assert here.holds(ip_address("192.169.0.1"))
    here.route([])
    assert here.holds(ip_address("192.168.1.9"))
    assert not here.holds(ip_address("100.64.9.9"))


def test_the_ranges_of_members_are_known_from_ones_own_addresses() -> None:
    assert overlay_ranges(ME) == (ip_network("100.64.0.0/10"), ip_network("fd00:1:2::/48"))


def test_where_a_peer_was_connected_is_kept_clear_until_this_host_moves() -> None:
    here = Outside(ME)
    connected(here, "203.0.113.5")
    connected(here, "203.0.113.5")
    assert here.ways == (ip_address("203.0.113.5"),)
    here.moved()
    assert here.ways == ()


def test_what_is_kept_clear_is_bounded_and_the_longest_unused_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outside, "MAX_WAYS", 2)
    here = Outside(ME)
    for host in ("203.0.113.1", "203.0.113.2", "203.0.113.1", "203.0.113.3"):
        connected(here, host)
    assert here.ways == (ip_address("203.0.113.1"), ip_address("203.0.113.3"))


def test_another_machine_is_not_at_addresses_that_are_ours_alone() -> None:
    hosts = ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "224.0.0.1", "0.0.0.0"]
    good = UnderlayAddress("203.0.113.5", 9000)
    found = locations_of(
        [
            *(UnderlayAddress(host, 9000) for host in hosts),
            UnderlayAddress("203.0.113.6", 0),
            good,
            good,
        ]
    )
    assert found == [HostPort("203.0.113.5", 9000)]
