"""`Settings`: all that one tunnel is told, typed, checked, immutable. Pure.

The sections and their fields are those of a configuration file. What pydantic finds wrong becomes
one ConfigError sentence that names where the value came from, the value and what would be right.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError, model_validator

from quicether.config import values
from quicether.config.options import OPTIONS, Option
from quicether.config.values import HostPort, PeerAddress, PinnedPeer, StaticRoute
from quicether.errors import ConfigError
from quicether.model import DEFAULT_DEVICE, DEFAULT_PORT, Address, Prefix

T = TypeVar("T")

Raw: TypeAlias = dict[str, dict[str, Any]]
"""Section → field → value, not yet checked."""
Sources: TypeAlias = Mapping[tuple[str, str], str]
"""(section, field) → what a person calls the place that the value came from."""

SOME: Final = "?"
"""Stands for a part of a place that is not known."""


class Role(StrEnum):
    """What a node does for others."""

    STANDARD = "standard"
    GATEWAY = "gateway"


class Link(StrEnum):
    """Who owns the tunnel's link; the words of `bus.contract.LinkOwnerName`."""

    AUTO = "auto"
    NETWORKMANAGER = "networkmanager"
    NETWORKD = "networkd"
    NETLINK = "netlink"


class Names(StrEnum):
    """Whether a tunnel answers for the names of its network's nodes."""

    AUTO = "auto"
    OFF = "off"


class LogLevel(StrEnum):
    """Least important message that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @classmethod
    def of(cls, value: object) -> LogLevel:
        """Return the level that a user wrote. Raises ConfigError."""
        return cls(values.choice(cls)(value))

    @property
    def number(self) -> int:
        """The level as `logging` has it."""
        return logging.getLevelNamesMapping()[self.upper()]


def _by(parse: Callable[[object], Any]) -> PlainValidator:
    def validate(value: object) -> Any:
        try:
            return parse(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    return PlainValidator(validate)


def _optional(parse: Callable[[object], T]) -> PlainValidator:
    """Take "" and None for nothing, which is how a profile or a flag unsets a value."""
    return _by(lambda value: None if value in (None, "") else parse(value))


def _word(kind: type[StrEnum]) -> PlainValidator:
    parse = values.choice(kind)
    return _by(lambda value: kind(parse(value)))


Prefixes = Annotated[tuple[Prefix, ...], _by(values.prefixes)]
Addresses = Annotated[tuple[Address, ...], _by(values.items(values.address))]
OptionalName = Annotated[str | None, _optional(values.name)]
OptionalPath = Annotated[Path | None, _optional(values.path)]
OptionalAddress = Annotated[Address | None, _optional(values.address)]
OptionalEndpoint = Annotated[HostPort | None, _optional(values.local_endpoint)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeSettings(_Section):
    """[node]: who this node is."""

    name: OptionalName = None
    role: Annotated[Role, _word(Role)] = Role.STANDARD
    key_file: OptionalPath = None
    certificate_file: OptionalPath = None


class NetworkSettings(_Section):
    """[network]: the network, its device, and what this node brings along. mtu: None is auto."""

    name: OptionalName = None
    advertise_subnets: Prefixes = ()
    tun_name: Annotated[str, _by(values.device)] = DEFAULT_DEVICE
    tun_addr: Addresses = ()
    mtu: Annotated[int | None, _by(values.mtu)] = None
    netns: OptionalName = None
    link: Annotated[Link, _word(Link)] = Link.AUTO
    dns: Addresses = ()
    dns_domains: Annotated[tuple[str, ...], _by(values.items(values.domain))] = ()
    names: Annotated[Names, _word(Names)] = Names.AUTO


class DiscoverySettings(_Section):
    """[discovery]: how others are found, and which of their prefixes become routes.

    routes: `auto`, `none`, or the prefixes within which routes are taken. record_life: seconds
    that a record in the DHT lives without being published again.
    """

    bootstrap_nodes: Annotated[tuple[HostPort, ...], _by(values.items(values.endpoint))] = ()
    dht_port: Annotated[int, _by(values.port)] = DEFAULT_PORT
    listen_address: OptionalAddress = None
    public_ip: OptionalAddress = None
    routes: Annotated[str | tuple[Prefix, ...], _by(values.routes)] = "auto"
    accept_conflicts: Prefixes = ()
    record_life: Annotated[int, _by(values.number(60, 3600))] = 3600


class SecuritySettings(_Section):
    """[security]: whom to trust, who may reach what, and where that is written down.

    audit_log: `journal`, the path of a file, or None.
    """

    pinned_peers: Annotated[tuple[PinnedPeer, ...], _by(values.pins)] = ()
    policy_file: OptionalPath = None
    audit_log: Annotated[Path | str | None, _optional(values.audit_sink)] = None


class OverlaySettings(_Section):
    """[overlay]: peers, gateways and the full tunnel."""

    peers: Annotated[tuple[PeerAddress, ...], _by(values.items(values.peer))] = ()
    forward_subnets: Prefixes = ()
    forward_nodes: Annotated[tuple[str, ...], _by(values.items(values.node_or_every))] = ()
    default_gateway: Annotated[str | None, _optional(values.node)] = None
    static_routes: Annotated[tuple[StaticRoute, ...], _by(values.static_routes)] = ()
    lan_access: Annotated[bool, _by(values.boolean)] = True
    bypass_subnets: Prefixes = ()


class MonitoringSettings(_Section):
    """[monitoring]: what others may watch. log_level: None is the service's own."""

    metrics_addr: OptionalEndpoint = None
    health_addr: OptionalEndpoint = None
    log_level: Annotated[LogLevel | None, _optional(LogLevel.of)] = None


class PerformanceSettings(_Section):
    """[performance]: bounds."""

    max_connections: Annotated[int, _by(values.number(1, 65535))] = 1024


class Settings(_Section):
    """Everything that one tunnel is told."""

    node: NodeSettings = NodeSettings()
    network: NetworkSettings = NetworkSettings()
    discovery: DiscoverySettings = DiscoverySettings()
    security: SecuritySettings = SecuritySettings()
    overlay: OverlaySettings = OverlaySettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    performance: PerformanceSettings = PerformanceSettings()

    @classmethod
    def from_options(cls, options: Mapping[str, str], base: Settings | None = None) -> Self:
        """Return base (or the defaults) overridden by options, whose keys are those of `OPTIONS`.

        Raises ConfigError: an unknown key, a wrong value, or values that contradict each other.
        """
        raw = base.raw() if base is not None else {}
        sources: dict[tuple[str, str], str] = {}
        for key, value in options.items():
            option = option_of(key)
            raw.setdefault(option.section, {})[option.field] = value
            sources[option.section, option.field] = key
        return cls.from_raw(raw, sources)

    @classmethod
    def from_raw(cls, raw: Raw, sources: Sources) -> Self:
        """Return the settings that sections of unchecked values hold.

        sources names each value's origin for the sentence of a ConfigError.
        """
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise ConfigError(_sentence(error, sources)) from None

    def raw(self) -> Raw:
        """Return all values that were set on purpose, in the shape that `from_raw` takes."""
        return {
            section: {field: getattr(found, field) for field in found.model_fields_set}
            for section in type(self).model_fields
            if (found := getattr(self, section)).model_fields_set
        }

    def to_options(self) -> dict[str, str]:
        """Return all values that were set on purpose as text; `from_options` gives them back."""
        found = {}
        for option in OPTIONS.values():
            section = getattr(self, option.section)
            if option.field in section.model_fields_set:
                value = getattr(section, option.field)
                found[option.key] = option.default if value is None else as_text(value)
        return found

    @property
    def full_tunnel(self) -> bool:
        """Whether the host's default route is to lead into the tunnel."""
        return self.overlay.default_gateway is not None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for problem in (*self._role_problems(), *self._route_problems(), *self._peer_problems()):
            raise ValueError(problem)
        return self

    def _role_problems(self) -> Iterable[str]:
        overlay, network = self.overlay, self.network
        if self.node.role is Role.STANDARD:
            for key, given in (
                ("forward-subnets", overlay.forward_subnets),
                ("forward-nodes", overlay.forward_nodes),
            ):
                if given:
                    yield f"{key}: {as_text(given)} needs role = gateway, but role is standard"
        if overlay.default_gateway is not None:
            everything = [p for p in overlay.forward_subnets if p.prefixlen == 0]
            everything += [p for p in network.advertise_subnets if p.prefixlen == 0]
            for found in everything:
                yield (
                    f"default-gateway: {overlay.default_gateway} gets what nothing matches, but "
                    f"this node offers {found} itself; only one of the two is possible"
                )
        elif overlay.bypass_subnets:
            yield (
                f"bypass-subnets: {as_text(overlay.bypass_subnets)} only makes sense with a "
                "default-gateway"
            )
        if network.netns is not None and network.link not in (Link.AUTO, Link.NETLINK):
            yield f"netns: {network.netns} needs link = netlink, but link is {network.link}"

    def _route_problems(self) -> Iterable[str]:
        own = len(self.network.advertise_subnets) + len(self.network.tun_addr)
        if own > values.MAX_ANNOUNCED:
            yield (
                f"advertise-subnets: {own} prefixes, with those of tun-addr, are too many to "
                f"announce; at most {values.MAX_ANNOUNCED} are possible, so sum some up in larger"
            )
        seen: dict[Prefix, str] = {}
        for route in self.overlay.static_routes:
            if route.prefix in self.network.advertise_subnets:
                yield (
                    f"static-routes: {route.prefix} goes to {route.node}, but advertise-subnets "
                    "says that it is behind this node; only one of the two is possible"
                )
            if route.prefix in seen:
                yield (
                    f"static-routes: {route.prefix} goes to {seen[route.prefix]} and to "
                    f"{route.node}; one node is possible"
                )
            seen[route.prefix] = route.node

    def _peer_problems(self) -> Iterable[str]:
        own = set(self.network.tun_addr)
        inside: list[tuple[Prefix, str]] = [(values.OVERLAY_IPV4, "the range of overlay addresses")]
        inside += [(r.prefix, f"static-routes {r}") for r in self.overlay.static_routes]
        inside += [
            (prefix, f"pinned-peers {pin.node_id.short}…={prefix}")
            for pin in self.security.pinned_peers
            for prefix in pin.prefixes
        ]
        endpoints = [("peers", peer.endpoint) for peer in self.overlay.peers]
        endpoints += [("bootstrap", endpoint) for endpoint in self.discovery.bootstrap_nodes]
        for key, endpoint in endpoints:
            if (ip := endpoint.ip) is None:
                continue
            where = "this node's own overlay address" if ip in own else None
            for prefix, name in inside:
                if where is None and prefix.prefixlen and ip in prefix:
                    where = f"inside {name}"
            if where is not None:
                yield (
                    f"{key}: {endpoint} is {where}; an address that is reached without the "
                    "overlay is needed"
                )


def as_text(value: object) -> str:
    """Return a value of `Settings` as a user writes it in an option."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def option_of(key: str) -> Option:
    """Return the option called key. Raises ConfigError: there is none; the nearest is named."""
    try:
        return OPTIONS[key]
    except KeyError:
        raise ConfigError(unknown(f"option {key[:80]!r}", key, OPTIONS)) from None


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """Return the sentence for a word that is not among the known ones, with the nearest one."""
    words = [str(each) for each in known]
    nearest = difflib.get_close_matches(word[:80].replace("_", "-"), words, n=1)
    if not nearest:
        nearest = difflib.get_close_matches(word[:80].replace("-", "_"), words, n=1)
    return f"{what} is unknown" + (f"; did you mean {nearest[0]!r}?" if nearest else "")


def _sentence(error: ValidationError, sources: Sources) -> str:
    first = error.errors(include_url=False)[0]
    section, field = (*(str(part) for part in first["loc"]), SOME, SOME)[:2]
    label = sources.get((section, field)) or sources.get((section, SOME)) or f"[{section}] {field}"
    if first["type"] == "extra_forbidden":
        if field == SOME:
            return unknown(f"{label}: section [{section}]", section, Settings.model_fields)
        known = Settings.model_fields[section].annotation
        fields = known.model_fields if known is not None else {}
        return unknown(label, field, fields)
    if first["type"] in ("model_type", "model_attributes_type"):
        return f"{label}: [{section}] is a section, not the value {first['input']!r}"
    reason = str(first["ctx"]["error"]) if "error" in first.get("ctx", {}) else first["msg"]
    return reason if section == SOME else f"{label}: {reason}"
