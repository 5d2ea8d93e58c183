"""Every setting of a tunnel, once: key, place in the file, kind, default and meaning. Pure.

NetworkManager's vpn.data, the options of D-Bus `Up`, the flags of `quicether start` and the
README all speak this vocabulary. Kept free of pydantic, so that the command line starts fast.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


class Kind(enum.StrEnum):
    """How a value is written, as a person would put it."""

    TEXT = "text"
    NAME = "name"
    BOOL = "yes or no"
    NUMBER = "number"
    CHOICE = "choice"
    PATH = "absolute path"
    NODE = "node"
    NODES = "list of nodes"
    PREFIXES = "list of prefixes"
    ADDRESS = "address"
    ADDRESSES = "list of addresses"
    ENDPOINT = "address:port"
    ENDPOINTS = "list of host:port"
    PEERS = "list of [NODE@]host:port"
    PINS = "list of NODEID=prefix+prefix"
    STATIC_ROUTES = "list of prefix=NODE"
    ROUTES = "auto, none or list of prefixes"
    MTU = "auto or number"
    DOMAINS = "list of domains"

    @property
    def plural(self) -> bool:
        """Whether the value is a list, so that its flag may be repeated."""
        return self.value.startswith("list of") or self is Kind.ROUTES


@dataclass(frozen=True, slots=True)
class Option:
    """One setting.

    key: its name in kebab-case, as in vpn.data. section, field: its place in a TOML file, and in
    `Settings`. default: as text, "" for none. flag: of `quicether start`. choices: all allowed
    values, when there are few. privileged: it names files, opens a listener or changes trust, so
    whoever passes it to a running service must be an administrator, beyond what connecting takes.
    """

    key: str
    section: str
    field: str
    kind: Kind
    default: str
    doc: str
    flag: str
    choices: tuple[str, ...] = ()
    privileged: bool = False

    @property
    def variable(self) -> str:
        """Name of the environment variable that overrides the files."""
        return f"QUICETHER_{self.section}_{self.field}".upper()


def _option(
    key: str,
    place: str,
    kind: Kind,
    default: str,
    doc: str,
    *,
    flag: str = "",
    choices: tuple[str, ...] = (),
    privileged: bool = False,
) -> Option:
    section, _, field = place.partition(".")
    return Option(
        key=key,
        section=section,
        field=field or key.replace("-", "_"),
        kind=kind,
        default=default,
        doc=doc,
        flag=flag or f"--{key}",
        choices=choices,
        privileged=privileged,
    )


_ALL: Final = (
    _option(
        "network",
        "network.name",
        Kind.NAME,
        "",
        "Network to join; without it the only one that this node has a certificate for.",
    ),
    _option(
        "name",
        "node.name",
        Kind.NAME,
        "",
        "Name of this node where no certificate gives one; for people only.",
    ),
    _option(
        "role",
        "node",
        Kind.CHOICE,
        "standard",
        "A gateway forwards for others and says so in the DHT.",
        choices=("standard", "gateway"),
    ),
    _option(
        "key-file",
        "node",
        Kind.PATH,
        "",
        "This node's private key; by default in the service's state directory.",
        privileged=True,
    ),
    _option(
        "certificate-file",
        "node",
        Kind.PATH,
        "",
        "This node's certificate; by default in the service's state directory.",
        privileged=True,
    ),
    _option(
        "peers",
        "overlay",
        Kind.PEERS,
        "",
        "Peers to connect to at once; the port is 9000 where none is given, NODE is a name or id.",
        flag="--peer",
    ),
    _option(
        "pinned-peers",
        "security",
        Kind.PINS,
        "",
        "Nodes trusted without an authority, and the prefixes that each may own.",
        flag="--pin",
        privileged=True,
    ),
    _option(
        "bootstrap",
        "discovery.bootstrap_nodes",
        Kind.ENDPOINTS,
        "",
        "Where to ask first when looking for the network; port 9000 where none is given.",
    ),
    _option(
        "listen-port",
        "discovery.dht_port",
        Kind.NUMBER,
        "9000",
        "The one UDP port for everything, 0 for any free one.",
    ),
    _option(
        "listen-address",
        "discovery",
        Kind.ADDRESS,
        "",
        "Own address to receive on; by default all of them, IPv4 and IPv6.",
    ),
    _option(
        "public-address",
        "discovery.public_ip",
        Kind.ADDRESS,
        "",
        "Address that others reach this node at, where it cannot see it itself (port forwarding).",
    ),
    _option(
        "routes",
        "discovery",
        Kind.ROUTES,
        "auto",
        "Which advertised prefixes become routes of this host: all, none, or those within a list. "
        "One that the policy lets nothing pass to or from becomes none.",
        flag="--route",
    ),
    _option(
        "accept-conflicts",
        "discovery",
        Kind.PREFIXES,
        "",
        "Prefixes taken from others although they cover a network this host is connected to.",
        flag="--accept-conflict",
    ),
    _option(
        "record-life",
        "discovery",
        Kind.NUMBER,
        "3600",
        "Seconds, 60 to 3600, after which what this node advertised is gone when it dies without "
        "a word; it is said anew every half of them.",
    ),
    _option(
        "advertise-subnets",
        "network",
        Kind.PREFIXES,
        "",
        "Prefixes behind this node that others may reach; its certificate has to cover them.",
        flag="--advertise-subnet",
    ),
    _option(
        "forward-subnets",
        "overlay",
        Kind.PREFIXES,
        "",
        "Prefixes that this gateway forwards to while their owner cannot be reached directly.",
        flag="--forward-subnet",
    ),
    _option(
        "forward-nodes",
        "overlay",
        Kind.NODES,
        "",
        "Nodes that this gateway forwards to while they cannot be reached directly, * for all.",
        flag="--forward-node",
    ),
    _option(
        "default-gateway",
        "overlay",
        Kind.NODE,
        "",
        "Node that gets everything no prefix matches, the host's internet traffic included.",
    ),
    _option(
        "static-routes",
        "overlay",
        Kind.STATIC_ROUTES,
        "",
        "Prefixes sent to a node of your choice; its certificate has to cover them.",
        flag="--static-route",
    ),
    _option(
        "lan-access",
        "overlay",
        Kind.BOOL,
        "yes",
        "With a default gateway: networks this host is connected to stay outside the tunnel.",
    ),
    _option(
        "bypass-subnets",
        "overlay",
        Kind.PREFIXES,
        "",
        "With a default gateway: prefixes that stay outside the tunnel, as a captive portal's.",
        flag="--bypass-subnet",
    ),
    _option(
        "tun-name",
        "network",
        Kind.NAME,
        "quicether0",
        "Name of the tunnel's network device. It begins with quicether, and network managers are "
        "told to keep off such devices where they do not own them.",
    ),
    _option(
        "tun-addr",
        "network",
        Kind.ADDRESSES,
        "",
        "Own overlay addresses where no certificate gives them (pinned peers).",
        privileged=True,
    ),
    _option(
        "mtu",
        "network",
        Kind.MTU,
        "auto",
        "Largest packet in the tunnel in bytes, 576 to 65535; auto takes what the route to the "
        "peers named by address, else the default route, has room for, at most 1420. A path that "
        "carries less says so to whoever sends by it.",
    ),
    _option(
        "netns",
        "network",
        Kind.NAME,
        "",
        "Network namespace that holds the device, so that only what runs there uses the overlay.",
        privileged=True,
    ),
    _option(
        "link",
        "network",
        Kind.CHOICE,
        "auto",
        "Who sets addresses and routes on the device; auto finds out who manages the machine.",
        choices=("auto", "networkmanager", "networkd", "netlink"),
    ),
    _option("dns", "network", Kind.ADDRESSES, "", "Name servers to use while the tunnel is up."),
    _option(
        "dns-domains",
        "network",
        Kind.DOMAINS,
        "",
        "Domains those name servers answer for; a leading ~ routes the names without searching.",
        flag="--dns-domain",
    ),
    _option(
        "names",
        "network",
        Kind.CHOICE,
        "auto",
        "Answer for NODE.NETWORK.quicether, and tell the host's resolver so where it can ask "
        "different servers for different domains (systemd-resolved, dnsmasq).",
        choices=("auto", "off"),
    ),
    _option(
        "policy-file",
        "security",
        Kind.PATH,
        "",
        "Rules for who may reach what; without a file members reach what is advertised to them.",
        privileged=True,
    ),
    _option(
        "audit-log",
        "security",
        Kind.TEXT,
        "",
        "Where the audit trail goes: journal, or the absolute path of a file.",
        privileged=True,
    ),
    _option(
        "metrics-addr",
        "monitoring",
        Kind.ENDPOINT,
        "",
        "Local address that serves Prometheus text at /metrics.",
        privileged=True,
    ),
    _option(
        "health-addr",
        "monitoring",
        Kind.ENDPOINT,
        "",
        "Local address that serves /health.",
        privileged=True,
    ),
    _option(
        "log-level",
        "monitoring",
        Kind.CHOICE,
        "",
        "Least important message of the tunnel that is logged; by default the service's own, info.",
        choices=("debug", "info", "warning", "error"),
    ),
    _option(
        "max-connections",
        "performance",
        Kind.NUMBER,
        "1024",
        "Connections at one time, 1 to 65535; beyond it nobody new is connected to or let in.",
    ),
)

OPTIONS: Final[Mapping[str, Option]] = MappingProxyType({option.key: option for option in _ALL})
"""All options by key, in the order in which they are documented."""
