"""Text or TOML value → typed value, with one sentence for whatever is wrong. Pure.

Every parser takes what a file, a flag or a D-Bus call holds, or an already typed value, which it
returns as it is. All raise ConfigError; the sentence names the value and what would be right, and
`settings` puts the field in front.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, time
from ipaddress import IPv4Network, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Final, TypeVar

from quicether.errors import ConfigError
from quicether.model import DEFAULT_PORT, DEVICE_FAMILY, Address, NodeId, Prefix

T = TypeVar("T")

MAX_TEXT: Final = 16 * 1024
"""Longest text of one value, in characters."""
MAX_ITEMS: Final = 1024
"""Most entries of one list."""
MAX_ANNOUNCED: Final = 1000
"""Most prefixes that a node owns beside its certificate's addresses: what one Announce carries."""
MAX_TUNNEL: Final = 64
"""Longest name of a tunnel, in characters."""
MIN_MTU: Final = 576
"""Every IPv4 host takes a packet of this many bytes (RFC 791 section 3.1)."""
MAX_MTU: Final = 65535
OVERLAY_IPV4: Final = IPv4Network("100.64.0.0/10")
"""Where overlay addresses are taken from."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST: Final = re.compile(
    r"(?=.{1,253}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)"
    r"(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)*\.?"
)
_TRUE: Final = frozenset({"yes", "true", "on", "1"})
_FALSE: Final = frozenset({"no", "false", "off", "0"})


@dataclass(frozen=True, slots=True)
class HostPort:
    """An underlay endpoint as a user writes it: a DNS name or an IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ip(self) -> Address | None:
        """The address, or None where the host is a DNS name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """A configured peer: where it is, and who has to answer there.

    node: a name, a NodeId in hex or a unique beginning of one; None accepts any member.
    """

    endpoint: HostPort
    node: str | None = None

    def __str__(self) -> str:
        return str(self.endpoint) if self.node is None else f"{self.node}@{self.endpoint}"


@dataclass(frozen=True, slots=True)
class PinnedPeer:
    """A node that is trusted without an authority, and all it may own."""

    node_id: NodeId
    prefixes: tuple[Prefix, ...]

    def __str__(self) -> str:
        return f"{self.node_id}={'+'.join(map(str, self.prefixes))}"


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """A prefix sent to a node that the user chose (name, NodeId or unique beginning of one)."""

    prefix: Prefix
    node: str

    def __str__(self) -> str:
        return f"{self.prefix}={self.node}"


def _written(value: object) -> str:
    """Return a value as a person wrote it, for a sentence."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, date | time) else repr(value)


def text(value: object) -> str:
    """Return value as stripped, bounded, printable text."""
    if not isinstance(value, str):
        raise ConfigError(f"{_written(value)} is not text")
    if len(value) > MAX_TEXT:
        raise ConfigError(f"{len(value)} characters are too many; at most {MAX_TEXT} are taken")
    if not value.replace("\n", " ").replace("\t", " ").isprintable():
        raise ConfigError(f"{value!r} holds characters that cannot be printed")
    return value.strip()


def boolean(value: object) -> bool:
    """Return yes, true, on, 1 as True and no, false, off, 0 as False."""
    if isinstance(value, bool):
        return value
    word = text(value).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ConfigError(f"{value!r} is neither yes nor no")


def number(low: int, high: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from low to high, both included."""

    def parse(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            found = value
        elif isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,10}", value.strip()):
            found = int(value)
        else:
            raise ConfigError(f"{_written(value)} is not a whole number from {low} to {high}")
        if not low <= found <= high:
            raise ConfigError(f"{found} is not from {low} to {high}")
        return found

    return parse


port = number(0, 65535)


def mtu(value: object) -> int | None:
    """Return a packet size in bytes, or None for `auto`."""
    if value is None or (isinstance(value, str) and value.strip() == "auto"):
        return None
    try:
        return number(MIN_MTU, MAX_MTU)(value)
    except ConfigError:
        raise ConfigError(
            f"{_written(value)} is neither auto nor {MIN_MTU} to {MAX_MTU} bytes"
        ) from None


def choice(allowed: Iterable[str]) -> Callable[[object], str]:
    """Return a parser that takes one of a few words."""
    words = tuple(allowed)

    def parse(value: object) -> str:
        word = text(value)
        if word not in words:
            raise ConfigError(f"{word!r} is not one of {', '.join(words)}")
        return word

    return parse


def name(value: object) -> str:
    """Return a name of a node or network: 1 to 63 of A-Z a-z 0-9 . _ -, no sign in front."""
    word = text(value)
    if not _NAME.fullmatch(word):
        raise ConfigError(
            f"{word!r} is not a name: 1 to 63 letters, digits, dots, dashes or underscores, "
            "a letter or digit first"
        )
    return word


def tunnel(value: object) -> str:
    """Return a tunnel's name: 1 to 64 printable characters, fit to be the name of a file.

    It is a network's name, or that of a NetworkManager profile, which people choose freely.
    """
    word = text(value)
    if not 1 <= len(word) <= MAX_TUNNEL or "/" in word or word.startswith("."):
        raise ConfigError(
            f"{word[:MAX_TUNNEL]!r} is not a tunnel's name: 1 to {MAX_TUNNEL} characters, "
            "without slash and without a dot in front"
        )
    return word


def device(value: object) -> str:
    """Return the name of a device of ours: 1 to 15 bytes, without slash, colon or blank."""
    word = text(value)
    if not re.fullmatch(rf"{DEVICE_FAMILY}[A-Za-z0-9_.-]{{0,6}}", word):
        raise ConfigError(
            f"{word!r} is not {DEVICE_FAMILY}, by which network managers know to keep off the "
            "device, and up to 6 letters, digits, dots, dashes or underscores"
        )
    return word


def path(value: object) -> Path:
    """Return an absolute path without `..`."""
    found = value if isinstance(value, Path) else Path(text(value))
    if not found.is_absolute() or ".." in found.parts:
        raise ConfigError(f"{str(found)!r} is not an absolute path (like /etc/quicether/x.toml)")
    return found


def audit_sink(value: object) -> Path | str:
    """Return `journal`, or the absolute path of a file."""
    if value == "journal":
        return "journal"
    try:
        return path(value)
    except ConfigError:
        raise ConfigError(f"{str(value)!r} is neither journal nor an absolute path") from None


def address(value: object) -> Address:
    """Return an IP address that one host can have."""
    word = str(value) if not isinstance(value, str) else text(value)
    try:
        found = ip_address(word)
    except ValueError:
        raise ConfigError(f"{word!r} is not an IPv4 or IPv6 address") from None
    if found.is_multicast or found.is_unspecified:
        raise ConfigError(f"{found} is not the address of a host")
    return found


def prefix(value: object) -> Prefix:
    """Return a prefix of unicast addresses without host bits; an address alone is /32 or /128."""
    word = str(value) if not isinstance(value, str) else text(value)
    try:
        found: Prefix = ip_network(word)
    except ValueError:
        try:
            meant = ip_interface(word).network
        except ValueError:
            raise ConfigError(
                f"{word!r} is not a prefix (like 192.168.1.0/24 or fd12:3456::/48)"
            ) from None
        raise ConfigError(f"{word} has host bits set; {meant} was probably meant") from None
    for special in ("is_loopback", "is_link_local", "is_multicast"):
        if found.prefixlen and getattr(found, special):
            raise ConfigError(f"{found} is {special[3:].replace('_', '-')} and is never routed")
    return found


def node(value: object) -> str:
    """Return what names a node: its name, its NodeId, or a unique beginning of one."""
    try:
        return name(value)
    except ConfigError:
        raise ConfigError(f"{value!r} is neither a node's name nor its id") from None


def node_or_every(value: object) -> str:
    """Return what names a node, or `*` for every node."""
    if value == "*":
        return "*"
    try:
        return node(value)
    except ConfigError as error:
        raise ConfigError(f"{error}, nor * for every node") from None


def endpoint(value: object) -> HostPort:
    """Return `host:port`, `[v6]:port`, or a host or address alone with the default port."""
    if isinstance(value, HostPort):
        return value
    word = text(value)
    host, sign, digits = word, "", ""
    if match := re.fullmatch(r"\[([^\]]*)\](?::(.*))?", word):
        host, digits = match[1], match[2] or ""
        sign = ":" if match[2] is not None else ""
    elif word.count(":") == 1:
        host, sign, digits = word.partition(":")
    try:
        host = str(ip_address(host))
        is_name = False
    except ValueError:
        is_name = True
    all_digits = host.replace(".", "").isdigit()
    if is_name and (all_digits or "[" in word or not _HOST.fullmatch(host)):
        raise ConfigError(f"{word!r} is not host:port (like vpn.example.org:9000)")
    if not is_name:
        address(host)
    try:
        return HostPort(host, number(1, 65535)(digits) if sign else DEFAULT_PORT)
    except ConfigError as error:
        raise ConfigError(f"port of {word!r}: {error}") from None


def local_endpoint(value: object) -> HostPort:
    """Return `address:port` of a listener that the public internet cannot reach."""
    found = endpoint(value)
    if found.ip is None:
        raise ConfigError(f"{found.host!r} is not an address of this host (like 127.0.0.1:9100)")
    if found.ip.is_global:
        raise ConfigError(f"{found.host} is a public address; a local one is needed (127.0.0.1)")
    return found


def peer(value: object) -> PeerAddress:
    """Return `[NODE@]host:port`."""
    if isinstance(value, PeerAddress):
        return value
    who, sign, where = text(value).rpartition("@")
    return PeerAddress(endpoint(where), node(who) if sign else None)


def domain(value: object) -> str:
    """Return a DNS domain, with a leading ~ kept (routing only)."""
    word = text(value).lower()
    if word != "~." and not _HOST.fullmatch(word.removeprefix("~")):
        raise ConfigError(f"{word!r} is not a domain (like home.example or ~home.example)")
    return word


def items(parse: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """Return a parser of lists: a TOML array, or text with blanks or commas between the items.

    An item that comes twice is kept once, in the order of its first place.
    """

    def parse_all(value: object) -> tuple[T, ...]:
        if isinstance(value, str):
            entries: Iterable[object] = re.split(r"[\s,]+", text(value))
            entries = [entry for entry in entries if entry]
        elif isinstance(value, list | tuple):
            entries = value
        else:
            raise ConfigError(f"{value!r} is not a list")
        found = tuple(dict.fromkeys(parse(entry) for entry in entries))
        if len(found) > MAX_ITEMS:
            raise ConfigError(f"{len(found)} entries are too many; at most {MAX_ITEMS} are taken")
        return found

    return parse_all


prefixes = items(prefix)


def pins(value: object) -> tuple[PinnedPeer, ...]:
    """Return `NODEID=prefix+prefix …`, or the same as a TOML table of NODEID = [prefixes]."""
    if isinstance(value, Mapping):
        value = [PinnedPeer(NodeId.parse(text(k)), prefixes(v)) for k, v in value.items()]
    found = items(_pin)(value)
    if len({pin.node_id for pin in found}) != len(found):
        raise ConfigError("a node is pinned twice; put its prefixes together with +")
    return found


def _pin(value: object) -> PinnedPeer:
    if isinstance(value, PinnedPeer):
        return value
    who, sign, owned = text(value).partition("=")
    if not sign or not owned:
        raise ConfigError(f"{value!r} is not NODEID=prefix+prefix")
    return PinnedPeer(NodeId.parse(who), tuple(prefix(part) for part in owned.split("+")))


def static_routes(value: object) -> tuple[StaticRoute, ...]:
    """Return `prefix=NODE …`, or the same as a TOML table of prefix = NODE."""
    if isinstance(value, Mapping):
        value = [StaticRoute(prefix(key), node(entry)) for key, entry in value.items()]
    return items(_static_route)(value)


def _static_route(value: object) -> StaticRoute:
    if isinstance(value, StaticRoute):
        return value
    where, sign, who = text(value).partition("=")
    if not sign:
        raise ConfigError(f"{value!r} is not prefix=NODE (like 10.0.0.0/8=office)")
    return StaticRoute(prefix(where), node(who))


def routes(value: object) -> str | tuple[Prefix, ...]:
    """Return `auto`, `none`, or the prefixes within which routes are taken."""
    if isinstance(value, str) and value.strip() in {"auto", "none"}:
        return value.strip()
    if value in ((), [], ""):
        raise ConfigError("nothing is given; auto, none or a list of prefixes is needed")
    return prefixes(value)
