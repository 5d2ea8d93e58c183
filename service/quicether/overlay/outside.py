"""Which addresses can carry the overlay: those that are reached without it. Pure.

A peer at an address inside the overlay would be spoken to through the tunnel that the
conversation is for, and every packet would chase its own tail.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network, ip_network
from typing import Final

from quicether.config.values import OVERLAY_IPV4, HostPort
from quicether.model import Address, Member, Prefix, UnderlayAddress, host_prefix
from quicether.transport.endpoint import Connection

MAX_WAYS: Final = 256
"""Addresses of peers that are kept clear; the one that was longest not connected goes."""
_UNIQUE_LOCAL: Final = IPv6Network("fd00::/8")
_NETWORK_BITS: Final = 48
"""Length of a network's own unique local prefix."""


class Outside:
    """Tells what is outside the overlay: neither an overlay address nor routed into the device.

    Where a peer was connected has to stay outside, or a moment's loss would be for ever: a prefix
    around it would be routed into the device, and the peer could be neither called nor heard.
    What records and other nodes say of where a peer is does not count: every LAN behind a node
    that says its own address there would be kept out.
    """

    def __init__(self, me: Member) -> None:
        self.ranges: Final = overlay_ranges(me)
        self._ways: OrderedDict[Address, None] = OrderedDict()
        self._given: tuple[Prefix, ...] | None = None
        self._routed: frozenset[Prefix] = frozenset()
        self._lengths: dict[int, tuple[int, ...]] = {}
        self.route(())

    def route(self, prefixes: Iterable[Prefix]) -> None:
        """Take what the OS routes to the device, in place of earlier."""
        prefixes = tuple(prefixes)
        if prefixes == self._given:
            return
        self._given = prefixes
        self._routed = frozenset((*self.ranges, *prefixes))
        self._lengths = {
            version: tuple({p.prefixlen for p in self._routed if p.version == version})
            for version in (4, 6)
        }

    def connected(self, connection: Connection) -> None:
        """Keep clear where a peer is connected, also when it is lost."""
        address = connection.remote.ip
        self._ways[address] = None
        self._ways.move_to_end(address)
        if len(self._ways) > MAX_WAYS:
            self._ways.popitem(last=False)

    def moved(self) -> None:
        """Keep nothing clear any more: in another network the same addresses are others'."""
        self._ways.clear()

    @property
    def ways(self) -> tuple[Address, ...]:
        """The addresses at which peers were connected since the host's network changed."""
        return tuple(self._ways)

    def holds(self, address: Address) -> bool:
        """Tell whether a peer can be spoken to at an address."""
        if address.is_multicast or address.is_unspecified:
            return False
        host = host_prefix(address)
        return not any(
            host.supernet(new_prefix=length) in self._routed
            for length in self._lengths[address.version]
        )


def locations_of(endpoints: Iterable[UnderlayAddress]) -> list[HostPort]:
    """Return those endpoints that another machine can be at, as the peer table takes them."""
    return [
        HostPort(endpoint.host, endpoint.port)
        for endpoint in dict.fromkeys(endpoints)
        if endpoint.port and _can_be_anothers(endpoint.ip)
    ]


def _can_be_anothers(address: Address) -> bool:
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
    )


def overlay_ranges(me: Member) -> tuple[Prefix, ...]:
    """Return the blocks that the addresses of all members lie in."""
    unique_local = [
        ip_network((address, _NETWORK_BITS), strict=False)
        for address in me.addresses
        if isinstance(address, IPv6Address) and address in _UNIQUE_LOCAL
    ]
    return (OVERLAY_IPV4, *dict.fromkeys(unique_local))
