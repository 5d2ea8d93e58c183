"""Where this node seems to be, as its peers see it from outside."""

from __future__ import annotations

from quicether.model import NodeId, UnderlayAddress
from quicether.overlay.observed import MAX_ADDRESSES, MAX_OBSERVERS, Observations

OURS = UnderlayAddress("203.0.113.1", 9000)
LIE = UnderlayAddress("198.51.100.1", 9000)


def peer(number: int) -> NodeId:
    return NodeId(bytes([number]) * 20)


def said(*addresses: UnderlayAddress) -> Observations:
    """What peers say, one each."""
    found = Observations()
    for number, address in enumerate(addresses):
        found.take(peer(number), address)
    return found


def test_nobody_says_anything_at_first() -> None:
    assert said().agreed == ()


def test_the_only_peer_is_believed() -> None:
    assert said(OURS).agreed == (OURS,)


def test_of_several_two_have_to_agree() -> None:
    assert said(OURS, LIE).agreed == ()
    assert said(OURS, LIE, OURS).agreed == (OURS,)


def test_a_peer_counts_once_by_what_it_said_last() -> None:
    found = said(OURS, LIE)
    found.take(peer(1), LIE)
    assert found.agreed == ()
    found.take(peer(1), OURS)
    assert found.agreed == (OURS,)


def test_the_addresses_that_count_are_bounded() -> None:
    many = [UnderlayAddress("203.0.113.1", port) for port in range(1, 5)]
    found = said(*many, *many, many[3]).agreed
    assert len(found) == MAX_ADDRESSES


def test_the_longest_silent_peer_is_forgotten() -> None:
    found = said(LIE, LIE)
    for number in range(2, 2 + MAX_OBSERVERS):
        found.take(peer(number), UnderlayAddress("203.0.113.1", number))
    assert found.agreed == ()
    found.take(peer(50), LIE)
    assert found.agreed == ()


def test_all_is_forgotten_in_another_network() -> None:
    found = said(OURS)
    found.forget()
    assert found.agreed == ()
