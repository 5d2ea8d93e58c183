"""Ten thousand rules as bits: the first that matches, in microseconds. Pure.

Each value that a rule can name (a node, a block of the destination, a protocol, a range of ports)
has a number whose bit i says whether rule i accepts it. The rules that match a packet are the
intersection of five such numbers, and the first rule is its lowest bit (Lakshman and Stiliadis,
SIGCOMM 1998). What a packet costs so hardly grows with the rules; memory grows with the square of
those that differ, 10,000 wholly different rules take some 40 MB.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final, NamedTuple

from quicether.model import Member, NodeId, Prefix
from quicether.policy.rules import (
    MIN_NODE_ID_DIGITS_IN_RULES,
    Action,
    PolicyFile,
    Rule,
    SelectorKind,
)

DENIED_BY_DEFAULT: Final = "default"
"""Stands as the rule's id where no rule matched."""
ALLOWED_WITHOUT_POLICY: Final = "no-policy"
"""Stands as the rule's id where no policy file is given."""
UNKNOWN_PORTS: Final = "fragment"
"""Stands as the rule's id where a fragment's ports would decide and are not known."""

_MEMBERS_KEPT: Final = 4096


class Decision(NamedTuple):
    """What the rules say of a packet. rule_id: the rule that said it, or what stands for it."""

    allowed: bool
    rule_id: str


_DEFAULT = Decision(False, DENIED_BY_DEFAULT)
_UNKNOWN = Decision(False, UNKNOWN_PORTS)


class _Roles:
    """The rules that accept a member as subject, and those that accept it as object."""

    __slots__ = ("member", "object", "subject")

    def __init__(self, member: Member, subject: int, object_: int) -> None:
        self.member = member
        self.subject = subject
        self.object = object_


class RuleSet:
    """A policy, compiled. Never changed.

    otherwise: what holds where no rule matches.
    """

    def __init__(self, policy: PolicyFile, otherwise: Decision = _DEFAULT) -> None:
        self.rules: Final[tuple[Rule, ...]] = policy.rules
        self._otherwise = otherwise
        self._decisions = tuple(
            Decision(rule.action is Action.ALLOW, rule.id) for rule in policy.rules
        )
        self._allowing = _mask(
            index for index, rule in enumerate(policy.rules) if rule.action is Action.ALLOW
        )
        groups = {name: group.members for name, group in policy.groups.items()}
        self._subjects = _Parties(policy.rules, "subject", groups)
        self._objects = _Parties(policy.rules, "object", groups)
        self._blocks = {4: _Blocks(policy.rules, 4), 16: _Blocks(policy.rules, 6)}
        self._protocols = _Protocols(policy.rules)
        self._ports = _Ports(policy.rules)
        self._roles: dict[NodeId, _Roles] = {}

    @classmethod
    def without_policy(cls) -> RuleSet:
        """Return the rules of a network without a policy file: members reach what is routed."""
        return cls(PolicyFile(), Decision(True, ALLOWED_WITHOUT_POLICY))

    def decide(
        self,
        source: Member | None,
        destination: Member | None,
        address: bytes,
        protocol: int,
        port: int | None,
    ) -> Decision:
        """Return what the first matching rule says.

        source, destination: the members that own the addresses, None where nobody known does.
        address: the packed destination. port: the destination's, None where the protocol has
        none: no rule with ports matches then.
        """
        matching = (
            self._between(source, destination, address)
            & self._protocols.of(protocol)
            & self._ports.of(port)
        )
        return self._decisions[_lowest(matching)] if matching else self._otherwise

    def decide_fragment(
        self,
        source: Member | None,
        destination: Member | None,
        address: bytes,
        protocol: int | None,
    ) -> Decision:
        """Return what the rules say of a packet whose ports are not known.

        protocol: None where that is not known either. A packet is only allowed where whatever
        it does not tell could not have it denied.
        """
        possible = self._between(source, destination, address)
        certain = possible & self._ports.of(None)
        if protocol is None:
            certain &= self._protocols.unconstrained
        else:
            possible &= self._protocols.of(protocol)
            certain &= possible
        first = _lowest(certain) if certain else len(self.rules)
        found = self._decisions[first] if certain else self._otherwise
        perhaps_before = possible & ~certain & ((1 << first) - 1)
        if found.allowed and perhaps_before & ~self._allowing:
            return _UNKNOWN
        if not found.allowed and perhaps_before & self._allowing:
            return _UNKNOWN
        return found

    def may_reach(self, source: Member | None, destination: Member | None, prefix: Prefix) -> bool:
        """Tell whether any packet from source to an address in prefix may be allowed.

        source, destination: as for `decide`; destination owns the whole prefix. True when in
        doubt: only a rule that denies everything between them is seen to hide those behind it.
        """
        subject = self._subjects.anyone if source is None else self._roles_of(source).subject
        object_ = (
            self._objects.anyone if destination is None else self._roles_of(destination).object
        )
        around, meeting = self._blocks[prefix.max_prefixlen // 8].meeting(prefix)
        everything = self._protocols.unconstrained & self._ports.of(None)
        denying = subject & (object_ | around) & everything & ~self._allowing
        allowing = subject & (object_ | meeting) & self._allowing
        if not denying:
            return bool(allowing) or self._otherwise.allowed
        return bool(allowing & ((1 << _lowest(denying)) - 1))

    def _between(self, source: Member | None, destination: Member | None, address: bytes) -> int:
        subject = self._subjects.anyone if source is None else self._roles_of(source).subject
        object_ = (
            self._objects.anyone if destination is None else self._roles_of(destination).object
        )
        return subject & (object_ | self._blocks[len(address)].of(address))

    def _roles_of(self, member: Member) -> _Roles:
        roles = self._roles.get(member.node_id)
        if roles is None or roles.member is not member:
            roles = _Roles(member, self._subjects.of(member), self._objects.of(member))
            if len(self._roles) >= _MEMBERS_KEPT:
                self._roles.clear()
            self._roles[member.node_id] = roles
        return roles


class _Parties:
    """Which rules accept a member, on one side of a packet.

    anyone: the rules that accept everyone, known or not.
    """

    def __init__(
        self, rules: tuple[Rule, ...], side: str, groups: Mapping[str, tuple[str, ...]]
    ) -> None:
        nodes: defaultdict[str, list[int]] = defaultdict(list)
        named_groups: defaultdict[str, list[int]] = defaultdict(list)
        anyone: list[int] = []
        for index, rule in enumerate(rules):
            selector = getattr(rule, side)
            if selector.kind is SelectorKind.ANY:
                anyone.append(index)
            elif selector.kind is SelectorKind.NODE:
                nodes[selector.name].append(index)
            elif selector.kind is SelectorKind.GROUP:
                named_groups[selector.name].append(index)
        self.anyone = _mask(anyone)
        self._groups = {name: _mask(indices) for name, indices in named_groups.items()}
        masks = {name: _mask(indices) for name, indices in nodes.items()}
        for group, mask in self._groups.items():
            for node in groups.get(group, ()):
                masks[node] = masks.get(node, 0) | mask
        self._nodes = masks
        self._id_lengths = sorted({len(name) for name in masks if _may_be_id(name)})

    def of(self, member: Member) -> int:
        mask = self.anyone | self._nodes.get(member.name, 0)
        node_id = str(member.node_id)
        for length in self._id_lengths:
            mask |= self._nodes.get(node_id[:length], 0)
        for group in member.groups:
            mask |= self._groups.get(group, 0)
        return mask


class _Blocks:
    """Which rules have a prefix as object that holds an address of one IP version."""

    def __init__(self, rules: tuple[Rule, ...], version: int) -> None:
        bits = 32 if version == 4 else 128
        indices: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for index, rule in enumerate(rules):
            prefix = rule.object.prefix
            if prefix is not None and prefix.version == version:
                shift = bits - prefix.prefixlen
                indices[shift, int(prefix.network_address) >> shift].append(index)
        by_shift: defaultdict[int, dict[int, int]] = defaultdict(dict)
        for (shift, network), found in indices.items():
            by_shift[shift][network] = _mask(found)
        self._bits = bits
        self._by_shift = tuple(by_shift.items())
        self._starts = sorted(
            (network << shift, mask)
            for shift, networks in self._by_shift
            for network, mask in networks.items()
        )

    def of(self, address: bytes) -> int:
        mask = 0
        value = int.from_bytes(address)
        for shift, networks in self._by_shift:
            mask |= networks.get(value >> shift, 0)
        return mask

    def meeting(self, prefix: Prefix) -> tuple[int, int]:
        """Return the rules whose prefix holds all of another, and those that share any of it."""
        around = 0
        first, last = int(prefix.network_address), int(prefix.broadcast_address)
        for shift, networks in self._by_shift:
            if shift >= self._bits - prefix.prefixlen:
                around |= networks.get(first >> shift, 0)
        meeting = around
        # Of two blocks that share anything one holds the other.
        for start, mask in islice(self._starts, bisect_left(self._starts, (first, 0)), None):
            if start > last:
                break
            meeting |= mask
        return around, meeting


class _Protocols:
    """Which rules accept a protocol. unconstrained: those that accept all."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        indices: defaultdict[int, list[int]] = defaultdict(list)
        unconstrained: list[int] = []
        for index, rule in enumerate(rules):
            protocols = rule.effective_protocols
            if protocols is None:
                unconstrained.append(index)
            else:
                for protocol in protocols:
                    indices[protocol].append(index)
        self.unconstrained = _mask(unconstrained)
        self._masks = {
            protocol: self.unconstrained | _mask(found) for protocol, found in indices.items()
        }

    def of(self, protocol: int) -> int:
        return self._masks.get(protocol, self.unconstrained)


class _Ports:
    """Which rules accept a port: one mask for each stretch between two borders of any range."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        entering: defaultdict[int, list[int]] = defaultdict(list)
        leaving: defaultdict[int, list[int]] = defaultdict(list)
        unconstrained: list[int] = []
        for index, rule in enumerate(rules):
            if rule.ports is None:
                unconstrained.append(index)
            for first, last in _merged(rule.ports or ()):
                entering[first].append(index)
                leaving[last + 1].append(index)
        self._unconstrained = mask = _mask(unconstrained)
        self._borders = sorted({0, *entering, *leaving})
        masks = []
        for border in self._borders:
            mask &= ~_mask(leaving.get(border, ()))
            mask |= _mask(entering.get(border, ()))
            masks.append(mask)
        self._masks = tuple(masks)

    def of(self, port: int | None) -> int:
        if port is None:
            return self._unconstrained
        return self._masks[bisect_right(self._borders, port) - 1]


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the same ports as ranges that neither overlap nor touch."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _mask(indices: Iterable[int]) -> int:
    """Return the number with the bits at indices set."""
    found = list(indices)
    if not found:
        return 0
    buffer = bytearray(max(found) // 8 + 1)
    for index in found:
        buffer[index // 8] |= 1 << index % 8
    return int.from_bytes(buffer, "little")


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _may_be_id(name: str) -> bool:
    return MIN_NODE_ID_DIGITS_IN_RULES <= len(name) <= 40 and not set(name) - set(
        "0123456789abcdef"
    )
