"""The D-Bus API in names, signatures and actions: all that its clients need to know. Pure.

Two objects kinds: one manager at `ROOT_PATH`, one object for each tunnel below `TUNNEL_PATH`.
Dictionaries are `a{sv}`; keys are listed where they are made. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import enum
from typing import Final

BUS_NAME: Final = "org.quicether1"
ROOT_PATH: Final = "/org/quicether1"
TUNNEL_PATH: Final = "/org/quicether1/tunnel"
MANAGER_INTERFACE: Final = "org.quicether1.Manager"
TUNNEL_INTERFACE: Final = "org.quicether1.Tunnel"

# org.quicether1.Manager
#   Up(s tunnel, a{ss} options, a{sv} how) -> o     options: keys of config.OPTIONS, as in vpn.data
#       how: keys of `How`
#   Down(s tunnel)   Reload(s tunnel)
#   Renew(s tunnel) -> d     Unix time until which the new certificate is valid
#   Join(s code) -> a{sv}    `status.JoinResult`
#   properties: Version s, Failures a{ss} (tunnel -> sentence)
# org.quicether1.Tunnel
#   properties: Name s, State s, Ready b, Network s, NodeId s, NodeName s, ListenPort q, Link s,
#               LinkReason s, Endpoints as (HOST:PORT, where other machines may reach this node),
#               Since d (Unix time), HostConfig a{sv}, Counters a{st}, Offers as, Refusals as,
#               PeerCount u, Peers aa{sv}, RouteCount u, Routes aa{sv} (the first LIST_LIMIT)
#   methods: ListPeers(u start, u count) -> aa{sv}   ListRoutes(u start, u count) -> aa{sv}
#            Lookup(s address) -> a{sv}   Ping(s node) -> a{sv}
#            PolicyTest(s source, s destination, s protocol, q port) -> a{sv}
#   a{sv} of peers, routes and answers: `status.PeerStatus` and its neighbours
#   signals: only org.freedesktop.DBus.Properties.PropertiesChanged, coalesced. Peers, Routes and
#            their counts come as invalidated; Counters change without a signal.

DEFAULT_TUNNEL: Final = "quicether"
"""The tunnel of /etc/quicether/config.toml."""
LIST_LIMIT: Final = 256
"""Most entries of a list in one message; ListPeers and ListRoutes give the rest."""


class How(enum.StrEnum):
    """Keys of the argument `how` of Manager.Up."""

    OWNER = "owner"
    """s: a LinkOwnerName; as configured where it is missing"""
    BOUND = "bound"
    """b: the tunnel goes down when the calling connection leaves the bus"""
    TRANSIENT = "transient"
    """b: options alone count; otherwise they override the stored configuration"""
    PRIVATE = "private"
    """b: the caller acts for one ordinary user (a profile private to them): options that name
    files, open listeners or change trust are refused whatever the caller itself may do"""


class TunnelState(enum.StrEnum):
    """Property State of a tunnel."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"


class LinkOwnerName(enum.StrEnum):
    """Who owns a tunnel's link; AUTO finds out who manages the machine."""

    AUTO = "auto"
    NETWORKMANAGER = "networkmanager"
    NETWORKD = "networkd"
    NETLINK = "netlink"


class HostConfigKey(enum.StrEnum):
    """Keys of property HostConfig and what they hold."""

    DEVICE = "device"
    """s"""
    MTU = "mtu"
    """u"""
    ADDRESSES = "addresses"
    """as, ADDRESS/LENGTH"""
    PREFIXES = "prefixes"
    """as"""
    DNS_SERVERS = "dns-servers"
    """as"""
    DNS_DOMAINS = "dns-domains"
    """as"""
    DNS_DEFAULT = "dns-default"
    """b"""
    FULL_TUNNEL = "full-tunnel"
    """b: the service itself installs the default route and its rules"""
    GATEWAY = "gateway"
    """s: an underlay address, "" for none"""


class ErrorName(enum.StrEnum):
    """Names of the errors that methods answer with; the message is a sentence for a person."""

    FAILED = "org.quicether1.Error.Failed"
    INVALID = "org.quicether1.Error.InvalidArgument"
    NOT_FOUND = "org.quicether1.Error.NotFound"
    NOT_AUTHORIZED = "org.quicether1.Error.NotAuthorized"
    ALREADY_UP = "org.quicether1.Error.AlreadyUp"
    IDENTITY = "org.quicether1.Error.Identity"
    NOT_TRUSTED = "org.quicether1.Error.NotTrusted"


class Action(enum.StrEnum):
    """polkit actions, see polkit/org.quicether1.policy."""

    STATUS = "org.quicether1.status"
    CONNECT = "org.quicether1.connect"
    CONFIGURE = "org.quicether1.configure"
    TRUST = "org.quicether1.trust"


def tunnel_path(name: str) -> str:
    """Return the object path of the tunnel called name (any byte but [A-Za-z0-9] as _XX)."""
    escaped = "".join(
        chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"_{byte:02x}"
        for byte in name.encode()
    )
    return f"{TUNNEL_PATH}/{escaped}"
