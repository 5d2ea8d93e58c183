"""What a policy file may say: groups and rules, each value checked. Pure.

```toml
[groups.staff]
members = ["laptop", "3fa9c0d1e2"]      # names, NodeIds, or at least ten digits of one

[[rules]]
id = "web"
subject = "group:staff"                 # a node, group:NAME or *
object = "10.0.0.0/16"                  # a prefix, a node, group:NAME or *
action = "allow"                        # or deny
protocols = ["tcp"]                     # names or numbers; without it all
ports = [80, 443, "8000-8099"]          # of the destination; without it all
```

The first rule that matches decides; what none matches is denied.

A node, as subject or object, is its own addresses and the prefixes that it owns, on whichever node
the rule stands. The internet behind an exit is nobody's: write it as the prefix 0.0.0.0/0 or ::/0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from quicether.dataplane.packet import ICMP, ICMPV6, PORT_PROTOCOLS, TCP, UDP
from quicether.errors import ConfigError
from quicether.identity.names import check_group_name, check_node_name
from quicether.model import Prefix, host_prefix

MAX_RULES: Final = 20_000
MAX_GROUP_MEMBERS: Final = 10_000
MAX_PORTS: Final = 256
"""Ports and ranges in one rule."""
MIN_NODE_ID_DIGITS_IN_RULES: Final = 10
"""Digits of a NodeId that a rule must give: as many as `quicether peers` shows.

A person at a terminal may write fewer, which then must be unique. A rule also holds for nodes
that nobody knows yet, and a key whose id begins with a few given digits is quickly made.
"""

PROTOCOL_NAMES: Final[Mapping[str, frozenset[int]]] = MappingProxyType(
    {
        "tcp": frozenset((TCP,)),
        "udp": frozenset((UDP,)),
        # Who writes icmp means ping and Packet Too Big of both IP versions.
        "icmp": frozenset((ICMP, ICMPV6)),
        "icmpv6": frozenset((ICMPV6,)),
        "sctp": frozenset((132,)),
        "dccp": frozenset((33,)),
        "udplite": frozenset((136,)),
        "gre": frozenset((47,)),
        "esp": frozenset((50,)),
        "ah": frozenset((51,)),
        "ipip": frozenset((4,)),
        "ipv6": frozenset((41,)),
        "igmp": frozenset((2,)),
        "ospf": frozenset((89,)),
        "vrrp": frozenset((112,)),
    }
)
_RULE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_NODE_ID: Final = re.compile(rf"[0-9a-f]{{{MIN_NODE_ID_DIGITS_IN_RULES},40}}")


class Action(StrEnum):
    """What a rule does with what it matches."""

    ALLOW = "allow"
    DENY = "deny"


class SelectorKind(StrEnum):
    """What a selector picks by."""

    ANY = "*"
    NODE = "node"
    GROUP = "group"
    PREFIX = "prefix"


@dataclass(frozen=True, slots=True)
class Selector:
    """Whom or what a rule is about.

    name: of a NODE (a name, a NodeId or its beginning) or a GROUP. prefix: of a PREFIX.
    """

    kind: SelectorKind
    name: str = ""
    prefix: Prefix | None = None

    def __str__(self) -> str:
        if self.kind is SelectorKind.GROUP:
            return f"group:{self.name}"
        if self.kind is SelectorKind.PREFIX:
            return str(self.prefix)
        return self.name or "*"


PortRange = tuple[int, int]
"""First and last port, both included."""


def parse_node(value: object) -> str:
    """Return the name, NodeId or beginning of a NodeId by which a policy tells a node.

    Raises ConfigError: value is none of them.
    """
    if isinstance(value, str) and _NODE_ID.fullmatch(value.lower()):
        return value.lower()
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{_shown(value)} is not a node; write its name or node id")
    return check_node_name(value)


def parse_subject(value: object) -> Selector:
    """Return whom a rule is about. Raises ConfigError: value is no node, group or `*`."""
    selector = _selector(value)
    if selector.kind is SelectorKind.PREFIX:
        raise ConfigError(
            f"{_shown(value)} is a prefix; a subject is a node, group:NAME or * "
            "(the addresses of a node are proven by its certificate)"
        )
    return selector


def parse_object(value: object) -> Selector:
    """Return what a rule protects. Raises ConfigError: no prefix, node, group or `*`."""
    return _selector(value)


def parse_protocols(value: object) -> frozenset[int]:
    """Return the numbers of one protocol or a list of them, by name or number.

    Raises ConfigError: an unknown name, a number that is none, an empty list.
    """
    found: frozenset[int] = frozenset().union(*map(_protocol, _listed(value)))
    if not found:
        raise ConfigError("protocols is empty; leave it out to mean every protocol")
    return found


def protocol_number(name: str, version: int) -> int:
    """Return the number of a protocol by its name, for packets of one IP version.

    Raises ConfigError: an unknown name.
    """
    if name not in PROTOCOL_NAMES:
        raise ConfigError(f"protocol {_shown(name)} is none of {', '.join(PROTOCOL_NAMES)}")
    numbers = PROTOCOL_NAMES[name]
    return min(numbers) if version == 4 else max(numbers)


def parse_ports(value: object) -> tuple[PortRange, ...]:
    """Return the ranges of a port, a range `8000-8099`, or a list of both.

    Raises ConfigError: not a port, an upside-down range, none or too many of them.
    """
    ranges = tuple(map(_port_range, _listed(value)))
    if not ranges:
        raise ConfigError("ports is empty; leave it out to mean every port")
    if len(ranges) > MAX_PORTS:
        raise ConfigError(f"ports has {len(ranges)} items, more than {MAX_PORTS}; use ranges")
    return ranges


def _action(value: object) -> Action:
    try:
        return Action(value)  # type: ignore[arg-type]
    except ValueError:
        raise ConfigError(f"{_shown(value)} is neither allow nor deny") from None


def _rule_id(value: object) -> str:
    if isinstance(value, str) and _RULE_ID.fullmatch(value):
        return value
    raise ConfigError(
        f"{_shown(value)} is not 1 to 64 letters, digits, dots, hyphens, colons or underscores"
    )


def _members(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{_shown(value)} is not a list of nodes like ['laptop', 'phone']")
    if len(value) > MAX_GROUP_MEMBERS:
        raise ConfigError(f"members has {len(value)} nodes, more than {MAX_GROUP_MEMBERS}")
    return tuple(map(parse_node, value))


def _selector(value: object) -> Selector:
    if not isinstance(value, str):
        raise ConfigError(f"{_shown(value)} is not a text like 'laptop', 'group:staff' or '*'")
    if value == "*":
        return Selector(SelectorKind.ANY)
    if value.startswith("group:"):
        return Selector(SelectorKind.GROUP, check_group_name(value.removeprefix("group:")))
    if "/" in value or ":" in value or re.fullmatch(r"[0-9]+(\.[0-9]+)+", value):
        return Selector(SelectorKind.PREFIX, prefix=_prefix(value))
    return Selector(SelectorKind.NODE, parse_node(value))


def _prefix(value: str) -> Prefix:
    try:
        if "%" in value:
            raise ValueError("a zone")
        if "/" not in value:
            return host_prefix(ip_address(value))
        network = ip_network(value, strict=False)
    except ValueError:
        raise ConfigError(
            f"{_shown(value)} is not a prefix like 10.0.0.0/16 or fd00:1::/48"
        ) from None
    address = ip_address(value.partition("/")[0])
    if network.network_address != address:
        raise ConfigError(
            f"{_shown(value)} has bits behind the prefix length; write {network} for the whole "
            f"block or {host_prefix(address)} for the one address"
        )
    return network


def _protocol(value: object) -> frozenset[int]:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:9])
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value <= 255:
            return frozenset((value,))
        raise ConfigError(f"protocol {value} is not a number from 0 to 255")
    if isinstance(value, str) and value.lower() in PROTOCOL_NAMES:
        return PROTOCOL_NAMES[value.lower()]
    raise ConfigError(
        f"protocol {_shown(value)} is not known; write one of {', '.join(PROTOCOL_NAMES)}, "
        "or its number"
    )


def _port_range(value: object) -> PortRange:
    if isinstance(value, int) and not isinstance(value, bool):
        first = last = value
    elif isinstance(value, str) and (
        match := re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", value)
    ):
        first = int(match[1])
        last = int(match[2]) if match[2] else first
    else:
        raise ConfigError(f"port {_shown(value)} is not a number or a range like 8000-8099")
    for port in (first, last):
        if not 0 <= port <= 0xFFFF:
            raise ConfigError(f"port {port} is not from 0 to 65535")
    if first > last:
        raise ConfigError(f"port range {first}-{last} is upside down; write {last}-{first}")
    return first, last


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _shown(value: object) -> str:
    """What a sentence quotes of a value that may be of any length."""
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


def _checked(parse: Any) -> BeforeValidator:
    """Let parse judge a field; its sentence becomes the error of that field."""

    def validate(value: object) -> Any:
        try:
            return parse(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(validate)


_Checked = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Group(BaseModel):
    """Nodes that rules speak of by one name.

    Members whose certificate carries the same group belong to it too.
    """

    model_config = _Checked

    members: Annotated[tuple[str, ...], _checked(_members)] = ()


class Rule(BaseModel):
    """One line of the policy: who may, or may not, reach what.

    protocols, ports: None means all. ports: of the destination.
    """

    model_config = _Checked

    id: Annotated[str, _checked(_rule_id)]
    subject: Annotated[Selector, _checked(parse_subject)]
    object: Annotated[Selector, _checked(parse_object)]
    action: Annotated[Action, _checked(_action)]
    protocols: Annotated[frozenset[int] | None, _checked(parse_protocols)] = None
    ports: Annotated[tuple[PortRange, ...] | None, _checked(parse_ports)] = None

    @model_validator(mode="after")
    def _ports_need_a_protocol_that_has_them(self) -> Self:
        if self.ports is not None and self.protocols is not None:
            without = sorted(self.protocols - PORT_PROTOCOLS)
            if without:
                raise ValueError(
                    f"ports are given but protocol {without[0]} has none; "
                    "write tcp or udp, or leave ports out"
                )
        return self

    @property
    def effective_protocols(self) -> frozenset[int] | None:
        """The protocols that the rule can match: a rule with ports matches those that have any."""
        if self.protocols is None and self.ports is not None:
            return PORT_PROTOCOLS
        return self.protocols


class PolicyFile(BaseModel):
    """A whole policy file."""

    model_config = _Checked

    groups: dict[str, Group] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = Field(default=(), max_length=MAX_RULES)
