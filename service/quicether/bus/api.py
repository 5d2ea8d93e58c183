"""The D-Bus API in full: every interface, member and what it is for. Pure.

What stands here is what `busctl introspect` shows and what the dispatcher lets through.
"""

from __future__ import annotations

from typing import Final

from quicether.bus.contract import (
    LIST_LIMIT,
    MANAGER_INTERFACE,
    TUNNEL_INTERFACE,
    Action,
    ErrorName,
)
from quicether.bus.interface import Arg, Changes, Interface, Method, Property, Signal

ERRORS: Final = {
    ErrorName.FAILED: "It did not work, for a reason that the sentence gives: the machine refused "
    "something, a peer does not answer.",
    ErrorName.INVALID: "An argument, a setting or a stored file is wrong; whoever wrote it can "
    "mend it.",
    ErrorName.NOT_FOUND: "There is no such tunnel, neither up nor stored.",
    ErrorName.NOT_AUTHORIZED: "polkit does not allow the action to the caller.",
    ErrorName.ALREADY_UP: "The tunnel is up with other settings, or held by another program.",
    ErrorName.IDENTITY: "This node's own key or certificate is missing, damaged, exposed, expired "
    "or revoked.",
    ErrorName.NOT_TRUSTED: "The network's authority or a peer is not what it claims to be, or does "
    "not accept this node.",
}
"""What each error of the API means."""

MANAGER: Final = Interface(
    MANAGER_INTERFACE,
    "Brings tunnels up and down. Each tunnel is an object below this one.",
    methods=(
        Method(
            "Up",
            (Arg("tunnel", "s"), Arg("options", "a{ss}"), Arg("how", "a{sv}")),
            (Arg("path", "o"),),
            Action.CONNECT,
            "Brings a tunnel up and returns its object once it runs. options: settings by their "
            "keys in NetworkManager's vpn.data, over the stored configuration. how: owner (s) "
            "auto, networkmanager, networkd or netlink; bound (b) the tunnel goes down when the "
            "caller leaves the bus; transient (b) options alone count; private (b) refuse "
            "options that only an administrator may give. Options that name files "
            "or open listeners need org.quicether1.configure, those that say who is trusted need "
            "org.quicether1.trust, and so does leaving out what is stored of either kind for the "
            "tunnel's network, by transient or another name.",
        ),
        Method(
            "Down",
            (Arg("tunnel", "s"),),
            (),
            Action.CONNECT,
            "Takes a tunnel down and returns when nothing is left of it.",
        ),
        Method(
            "Reload",
            (Arg("tunnel", "s"),),
            (),
            Action.CONFIGURE,
            "Reads a tunnel's configuration, policy and revocations again and applies them live. "
            "If anything is wrong with them, all stays as it was.",
        ),
        Method(
            "Renew",
            (Arg("tunnel", "s"),),
            (Arg("valid_until", "d"),),
            Action.CONFIGURE,
            "Gets the next certificate of this node from the network's authority, which has to be "
            "connected, and uses it at once. Returns until when it is valid, in Unix time. The "
            "service does so by itself in the last third of a certificate's life.",
        ),
        Method(
            "Join",
            (Arg("code", "s"),),
            (Arg("joined", "a{sv}"),),
            Action.TRUST,
            "Does what `quicether join` does with the code of an invitation: gets a certificate "
            "from the inviter, writes the settings, and adds NetworkManager's profile or enables "
            "the unit; the tunnel is not brought up. Returns network, name, node-id, addresses, "
            "prefixes, groups, valid-until (d, Unix time), inviter, peer, settings-file, "
            "settings-current (false: a file was there and was left as it is) and next, the "
            "command that brings the tunnel up. Takes up to three minutes where the inviter is "
            "busy or does not answer; one machine joins one network at a time.",
        ),
    ),
    properties=(
        Property("Version", "s", Changes.NEVER, "Version of the service."),
        Property(
            "Failures",
            "a{ss}",
            Changes.TOLD,
            "Tunnel to the sentence that says why it failed last.",
        ),
    ),
)

TUNNEL: Final = Interface(
    TUNNEL_INTERFACE,
    "One tunnel, from the moment it starts until it is gone.",
    methods=(
        Method(
            "Lookup",
            (Arg("address", "s"),),
            (Arg("route", "a{sv}"),),
            Action.STATUS,
            "Says where packets to an address go: address, prefix, next-hop, source, node-id, "
            "node-name, reachable, asked (the DHT was asked).",
        ),
        Method(
            "Ping",
            (Arg("node", "s"),),
            (Arg("answer", "a{sv}"),),
            Action.STATUS,
            "Asks a node, by name or id, for a sign of life over the control channel: node-id, "
            "name, rtt in seconds, address, via.",
        ),
        Method(
            "PolicyTest",
            (
                Arg("source", "s"),
                Arg("destination", "s"),
                Arg("protocol", "s"),
                Arg("port", "q"),
            ),
            (Arg("verdict", "a{sv}"),),
            Action.STATUS,
            "Says what the policy in force does with a packet: allowed, reason, rule. source: "
            "node; destination: address; protocol: tcp, udp, icmp or any; port: 0 for any.",
        ),
        Method(
            "ListPeers",
            (Arg("start", "u"), Arg("count", "u")),
            (Arg("peers", "aa{sv}"),),
            Action.STATUS,
            f"Returns at most count peers (and at most {LIST_LIMIT}) from the start-th on.",
            large=True,
        ),
        Method(
            "ListRoutes",
            (Arg("start", "u"), Arg("count", "u")),
            (Arg("routes", "aa{sv}"),),
            Action.STATUS,
            f"Returns at most count routes (and at most {LIST_LIMIT}) from the start-th on.",
            large=True,
        ),
    ),
    properties=(
        Property("Name", "s", Changes.NEVER, "Name under which it was brought up."),
        Property("State", "s", Changes.TOLD, "starting, running, stopping or failed."),
        Property("Ready", "b", Changes.TOLD, "Whether packets can flow."),
        Property("Network", "s", Changes.TOLD, "Name of the network."),
        Property("NodeId", "s", Changes.NEVER, "This node, 40 hex digits."),
        Property("NodeName", "s", Changes.TOLD, "This node's name, as its certificate says."),
        Property("ListenPort", "q", Changes.TOLD, "UDP port that is bound, 0 before it is."),
        Property(
            "Endpoints",
            "as",
            Changes.TOLD,
            "Where other machines may reach this node, ADDRESS:PORT, the most likely first.",
        ),
        Property(
            "Link", "s", Changes.TOLD, "Who owns the link: networkmanager, networkd, netlink."
        ),
        Property("LinkReason", "s", Changes.NEVER, "Why that is so, a sentence."),
        Property("Since", "d", Changes.NEVER, "Unix time at which it was brought up."),
        Property(
            "HostConfig",
            "a{sv}",
            Changes.TOLD,
            "What the operating system is to have: device, mtu, addresses, prefixes, dns-servers, "
            "dns-domains, dns-default, full-tunnel, gateway. Empty before it is known.",
        ),
        Property(
            "Counters",
            "a{st}",
            Changes.UNTOLD,
            "Running totals: packets and bytes sent, received and forwarded, and drop-REASON.",
        ),
        Property("Offers", "as", Changes.TOLD, "Prefixes that this node leads others to."),
        Property("Refusals", "as", Changes.TOLD, "What was not taken and why, a sentence each."),
        Property("PeerCount", "u", Changes.INVALIDATES, "How many peers there are."),
        Property(
            "Peers",
            "aa{sv}",
            Changes.INVALIDATES,
            f"The first {LIST_LIMIT} peers: node-id, name, state, address, rtt, via, addresses, "
            "prefixes, max-packet, since, detail; what is unknown is left out.",
        ),
        Property("RouteCount", "u", Changes.INVALIDATES, "How many routes there are."),
        Property(
            "Routes",
            "aa{sv}",
            Changes.INVALIDATES,
            f"The first {LIST_LIMIT} routes: prefix, next-hop, source, used, reachable, node-id, "
            "node-name, rtt, default.",
        ),
    ),
)

PROPERTIES: Final = Interface(
    "org.freedesktop.DBus.Properties",
    "Reads properties. None can be set.",
    methods=(
        Method(
            "Get",
            (Arg("interface", "s"), Arg("property", "s")),
            (Arg("value", "v"),),
            Action.STATUS,
            "Returns one property.",
            large=True,
        ),
        Method(
            "GetAll",
            (Arg("interface", "s"),),
            (Arg("properties", "a{sv}"),),
            Action.STATUS,
            "Returns all properties of an interface.",
            large=True,
        ),
        Method(
            "Set",
            (Arg("interface", "s"), Arg("property", "s"), Arg("value", "v")),
            (),
            Action.STATUS,
            "Is refused: all properties are read-only.",
        ),
    ),
    signals=(
        Signal(
            "PropertiesChanged",
            (Arg("interface", "s"), Arg("changed", "a{sv}"), Arg("invalidated", "as")),
            "Tells the new values, or that a value has to be read again.",
        ),
    ),
)

OBJECT_MANAGER: Final = Interface(
    "org.freedesktop.DBus.ObjectManager",
    "Lists the tunnels.",
    methods=(
        Method(
            "GetManagedObjects",
            (),
            (Arg("objects", "a{oa{sa{sv}}}"),),
            Action.STATUS,
            "Returns every tunnel with its properties.",
            large=True,
        ),
    ),
    signals=(
        Signal(
            "InterfacesAdded",
            (Arg("path", "o"), Arg("interfaces", "a{sa{sv}}")),
            "A tunnel starts.",
        ),
        Signal(
            "InterfacesRemoved",
            (Arg("path", "o"), Arg("interfaces", "as")),
            "A tunnel is gone.",
        ),
    ),
)

INTROSPECTABLE: Final = Interface(
    "org.freedesktop.DBus.Introspectable",
    "Describes an object.",
    methods=(
        Method(
            "Introspect",
            (),
            (Arg("xml", "s"),),
            Action.STATUS,
            "Returns the description of this object.",
        ),
    ),
)

STANDARD: Final = (PROPERTIES, INTROSPECTABLE)
ACCEPTED_SIGNATURES: Final = frozenset(
    method.signature
    for interface in (MANAGER, TUNNEL, OBJECT_MANAGER, *STANDARD)
    for method in interface.methods
)
"""Signatures of all arguments that any method takes; nothing else is parsed."""
