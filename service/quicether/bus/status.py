"""What a tunnel says of itself: plain values, and their form on the bus. Pure.

A status travels as `a{sv}`: one entry a field, the key in kebab-case, absent for None. In Python
a variant is the pair (signature, value), which is jeepney's form; `wire` makes dbus-next's of it.
Rates and times are seconds, sizes bytes.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar, Union

from quicether.model import NextHopKind, PeerState, RouteSource

S = TypeVar("S")

Wire: TypeAlias = dict[str, tuple[str, object]]
"""Key → (D-Bus signature, value)."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One peer, as `quicether peers` shows it.

    address: underlay endpoint in use. addresses: its overlay addresses. prefixes: what it owns.
    rtt: smoothed round-trip time. via: name or id of the gateway in use. since: Unix time of the
    present state. max_packet: largest packet that fits on the path. detail: why it is not
    connected, a sentence.
    """

    node_id: str
    name: str
    state: PeerState
    address: str | None = None
    rtt: float | None = None
    via: str | None = None
    addresses: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    max_packet: int | None = None
    since: float | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """One candidate for a prefix.

    used: it is the one that packets take now. node_id, node_name: the next hop's, None for local.
    default: it is the overlay's default gateway.
    """

    prefix: str
    next_hop: NextHopKind
    source: RouteSource
    used: bool
    reachable: bool
    node_id: str | None = None
    node_name: str | None = None
    rtt: float | None = None
    default: bool = False


@dataclass(frozen=True, slots=True)
class LookupResult:
    """Where packets to an address go, and who said so.

    prefix: the longest one that matches, None where there is none. asked: the DHT was asked.
    """

    address: str
    prefix: str | None = None
    next_hop: NextHopKind | None = None
    source: RouteSource | None = None
    node_id: str | None = None
    node_name: str | None = None
    reachable: bool = False
    asked: bool = False


@dataclass(frozen=True, slots=True)
class PingResult:
    """One answer over the overlay's control channel. via: the gateway on the way, if any."""

    node_id: str
    name: str
    rtt: float
    address: str | None = None
    via: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyVerdict:
    """What the policy in force says of a packet. rule: id of the rule, None for the default."""

    allowed: bool
    reason: str
    rule: str | None = None


@dataclass(frozen=True, slots=True)
class JoinResult:
    """What this machine is in a network that it joined.

    valid_until: Unix time of the certificate's end. inviter: its name. peer: NODE@HOST:PORT, the
    inviter. settings_current: whether the file is as joining writes it; one that was there stays.
    next: the command that brings the tunnel up.
    """

    network: str
    name: str
    node_id: str
    inviter: str
    peer: str
    settings_file: str
    settings_current: bool
    next: str
    addresses: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    valid_until: float | None = None


def to_wire(status: object) -> Wire:
    """Return a status as key → (signature, value); fields that are None are left out."""
    found: Wire = {}
    for name, (signature, _) in _FORMS[type(status)].items():
        value = getattr(status, name)
        if value is not None:
            plain = list(value) if isinstance(value, tuple) else value
            plain = str(plain) if isinstance(plain, enum.Enum) else plain
            found[name.replace("_", "-")] = (signature, plain)
    return found


def from_wire(kind: type[S], wire: Mapping[str, tuple[str, Any]]) -> S:
    """Return the status of that kind; keys that this version does not know are ignored.

    Raises ValueError: a key is missing or its signature is not the one expected.
    """
    values: dict[str, Any] = {}
    for name, (signature, parse) in _FORMS[kind].items():
        if (entry := wire.get(name.replace("_", "-"))) is None:
            continue
        if entry[0] != signature:
            raise ValueError(f"{name} has signature {entry[0]!r}, not {signature!r}")
        values[name] = parse(entry[1])
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _signature(hint: Any) -> tuple[str, Callable[[Any], Any]]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        return "as", tuple
    if issubclass(hint, str):
        return "s", hint
    return {bool: ("b", bool), int: ("t", int), float: ("d", float)}[hint]


_FORMS: Final[Mapping[type[Any], dict[str, tuple[str, Callable[[Any], Any]]]]] = {
    kind: {
        field.name: _signature(typing.get_type_hints(kind)[field.name])
        for field in dataclasses.fields(kind)
    }
    for kind in (PeerStatus, RouteStatus, LookupResult, PingResult, PolicyVerdict, JoinResult)
}
"""Status → field → (signature, parser of a value from the bus)."""
