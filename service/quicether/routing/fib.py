"""The forwarding information base: longest-prefix match for the data path. Pure.

One trie for each IP version holds the newest state and is changed in place, so a change costs
microseconds whatever the size. A view that a reader still holds stays what it was: each change
first notes in every older living view what the prefix led to before (Baker's trick for persistent
arrays). The newest view, the one that packets use, has no notes and reads the trie directly; an
older one consults its notes first and is slower. A view's notes never outgrow the difference
between its state and the newest, and go with it.

There is one writer, and readers share its thread (the event loop).
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final, Self

from pytricia import PyTricia

from quicether.model import Member, NextHop, NextHopKind, NodeId, Prefix
from quicether.routing.table import RouteChange

CACHED_DESTINATIONS: Final = 16_384
"""Destinations whose answer a view remembers. A full cache starts again from nothing."""

_Key = tuple[bytes, int]
"""A prefix as the trie wants it: packed network address and length in bits."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Entry:
    """What a prefix leads to. Shared by all prefixes that lead to the same.

    next_hop: None where what no longer prefix matches has no route.
    """

    next_hop: NextHop | None
    owner: NextHop | None


class _Tries:
    """The newest state, in place, keyed by the packed length of an address."""

    def __init__(self) -> None:
        # Keys go in packed, so their length says the family and no text is ever parsed.
        self.of_length: Final = {4: PyTricia(32), 16: PyTricia(128)}

    def match(self, address: bytes) -> _Entry | None:
        entry: _Entry | None = self.of_length[len(address)].get(address)
        return entry

    def exact(self, key: _Key) -> _Entry | None:
        trie = self.of_length[len(key[0])]
        entry: _Entry | None = trie.get(key) if trie.has_key(key) else None
        return entry

    def put(self, key: _Key, entry: _Entry | None) -> None:
        trie = self.of_length[len(key[0])]
        if entry is not None:
            trie.insert(key, entry)
        elif trie.has_key(key):
            trie.delete(key)


class FibView:
    """One immutable state of the FIB. A `dataplane.snapshot.Fib`.

    Made by `ForwardingTable.view` alone.
    """

    __slots__ = ("__weakref__", "_before", "_cache", "_default", "_tries")

    def __init__(self, tries: _Tries, default: NextHop | None) -> None:
        self._tries = tries
        self._default = default
        self._cache: dict[bytes, NextHop | None] = {}
        self._before: dict[_Key, _Entry | None] = {}

    def lookup(self, destination: bytes) -> NextHop | None:
        """Return the next hop for a packed address (4 or 16 bytes); None without a route.

        What no prefix matches goes to the default gateway, if there is one, except in a block
        that is reserved. Raises KeyError: destination has neither 4 nor 16 bytes.
        """
        try:
            return self._cache[destination]
        except KeyError:
            return self._remember(destination)

    def owner(self, address: bytes) -> NextHop | None:
        """Return Local or the Node that stands behind a packed address, by longest prefix.

        None where no prefix matches or only gateways forward for the prefix that does, and for
        what nothing but a default route matches: an exit does not own the internet.
        """
        entry = self._match(address)
        return None if entry is None else entry.owner

    def longest(self, address: bytes) -> Prefix | None:
        """Return the longest prefix with a route that holds a packed address; None without any.

        Slower than `lookup`, and not remembered.
        """
        if not self._before:
            entry = self._tries.match(address)
            if entry is None or entry.next_hop is None:
                return None
            return ip_network(self._tries.of_length[len(address)].get_key(address))
        found = self._match_noted(address)
        return None if found is None or found[1].next_hop is None else found[0]

    def _remember(self, destination: bytes) -> NextHop | None:
        entry = self._match(destination)
        next_hop = self._default if entry is None else entry.next_hop
        if len(self._cache) >= CACHED_DESTINATIONS:
            self._cache.clear()
        self._cache[destination] = next_hop
        return next_hop

    def _match(self, address: bytes) -> _Entry | None:
        if not self._before:
            return self._tries.match(address)
        found = self._match_noted(address)
        return None if found is None else found[1]

    def _match_noted(self, address: bytes) -> tuple[Prefix, _Entry] | None:
        """Find the longest prefix by what this view noted before what is newest."""
        bits = len(address) * 8
        value = int.from_bytes(address)
        for length in range(bits, -1, -1):
            network = value >> (bits - length) << (bits - length)
            key = (network.to_bytes(len(address)), length)
            entry = self._before[key] if key in self._before else self._tries.exact(key)
            if entry is not None:
                return ip_network(key), entry
        return None

    def _note(self, key: _Key, old: _Entry | None, new: _Entry | None) -> None:
        """Keep what key led to in this view while the newest state turns from old to new."""
        if key not in self._before:
            self._before[key] = old
        elif self._before[key] == new:
            del self._before[key]


class ForwardingTable:
    """The writer's side of the FIB: takes the routing table's changes, gives out views.

    reserved: blocks in which nothing wider counts, neither a prefix nor the default gateway. An
    address there has the route of a prefix inside its block, or none.
    """

    def __init__(self, reserved: Iterable[Prefix] = ()) -> None:
        self._tries = _Tries()
        self._default: NextHop | None = None
        self._entries: weakref.WeakValueDictionary[tuple[NextHop, NextHop | None], _Entry] = (
            weakref.WeakValueDictionary()
        )
        self.kinds: Counter[NextHopKind] = Counter()
        """How many prefixes lead to a next hop of each kind."""
        self._newest: FibView | None = None
        self._older: list[weakref.ref[FibView]] = []
        self._reserved: dict[_Key, _Entry] = dict.fromkeys(map(_key, reserved), _Entry(None, None))
        for key, entry in self._reserved.items():
            self._tries.put(key, entry)

    @property
    def view(self) -> FibView:
        """The present state. The same object until something changes."""
        if self._newest is None:
            self._newest = FibView(self._tries, self._default)
        return self._newest

    @property
    def default_gateway(self) -> NodeId | None:
        """Where goes what no prefix matches."""
        return None if self._default is None else self._default.node

    @default_gateway.setter
    def default_gateway(self, node: NodeId | None) -> None:
        if node != self.default_gateway:
            self._retire_newest()
            self._default = None if node is None else NextHop.via_gateway(node)

    def apply(self, changes: Iterable[RouteChange]) -> None:
        """Take over changes of the routing table, in their order."""
        for change in changes:
            self._put(change)

    def __len__(self) -> int:
        """Return how many prefixes have a next hop."""
        return self.kinds.total()

    def _put(self, change: RouteChange) -> None:
        key = _key(change.prefix)
        old = self._tries.exact(key)
        new = self._reserved.get(key)
        if change.new is not None:
            # A default route leads to the rest of the world, which is nobody's own.
            owner = change.owner if change.prefix.prefixlen else None
            new = self._entry(change.new.next_hop, owner)
        if new == old:
            return
        self._retire_newest()
        for reference in self._older:
            view = reference()
            if view is not None:
                view._note(key, old, new)
        self._tries.put(key, new)
        if old is not None and old.next_hop is not None:
            self.kinds[old.next_hop.kind] -= 1
        if new is not None and new.next_hop is not None:
            self.kinds[new.next_hop.kind] += 1

    def _entry(self, next_hop: NextHop, owner: NextHop | None) -> _Entry:
        entry = self._entries.get((next_hop, owner))
        if entry is None:
            entry = self._entries[(next_hop, owner)] = _Entry(next_hop, owner)
        return entry

    def _retire_newest(self) -> None:
        """Make the newest view an older one that notes changes, if anyone holds it."""
        if self._newest is None:
            return
        self._older = [each for each in self._older if each() is not None]
        self._older.append(weakref.ref(self._newest))
        self._newest = None


def _key(prefix: Prefix) -> _Key:
    return prefix.network_address.packed, prefix.prefixlen


class Owners:
    """Which member stands behind an address. A `dataplane.snapshot.Ownership`.

    A member's own addresses are its own whatever the routes say; any other address belongs to
    the best Local or Node candidate of the longest prefix.
    """

    def __init__(self, fib: FibView, members: Mapping[NodeId, Member], me: Member) -> None:
        """members: every member known here. Immutable from now on; me need not be in it."""
        self._fib = fib
        self._members = members
        self._me = me
        # The lowest NodeId wins where certificates give two members one address.
        self._hosts: Mapping[bytes, Member] = {
            address.packed: member
            for member in sorted(
                (*members.values(), me), key=lambda member: member.node_id, reverse=True
            )
            for address in member.addresses
        }
        self._cache: dict[bytes, Member | None] = {}

    def with_fib(self, fib: FibView) -> Self:
        """Return the same members by other routes, without reading the members again."""
        other = object.__new__(type(self))
        other._fib, other._cache = fib, {}
        other._members, other._me, other._hosts = self._members, self._me, self._hosts
        return other

    def owner(self, address: bytes) -> Member | None:
        """Return the member that owns the packed address; None where nobody known does."""
        try:
            return self._cache[address]
        except KeyError:
            member = self._hosts.get(address) or self._by_route(address)
            if len(self._cache) >= CACHED_DESTINATIONS:
                self._cache.clear()
            self._cache[address] = member
            return member

    def _by_route(self, address: bytes) -> Member | None:
        owner = self._fib.owner(address)
        if owner is None:
            return None
        if owner.kind is NextHopKind.LOCAL or owner.node is None:
            return self._me
        return self._members.get(owner.node)
