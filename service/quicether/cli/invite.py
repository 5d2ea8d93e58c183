"""`quicether invite`: a short code that lets one machine in."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from quicether.cli import local, offline
from quicether.cli.exits import NoDaemonError, UsageError
from quicether.config import values
from quicether.config.values import HostPort
from quicether.errors import ConfigError, HostError, IdentityError
from quicether.identity.invite_code import MAX_ENDPOINTS
from quicether.identity.registrar import DEFAULT_EXPIRY, MAX_EXPIRY, MIN_EXPIRY, Registrar

_MOST_OF_A_FAMILY: Final = 2
"""Addresses of one family that a code carries, so that it stays short."""


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `quicether`."""
    invite = subparsers.add_parser(
        "invite",
        help="invite a machine into a network (on the authority's machine)",
        description="Print a short code with which one machine can join as the node NAME, once "
        "and for a while. Give it to that machine over a way that you trust.",
        epilog="example: quicether invite laptop --prefix 192.168.7.0/24 --expires 1h",
    )
    invite.add_argument("name", type=offline.node_name, metavar="NAME", help="the node's name")
    local.add_grants(invite)
    invite.add_argument(
        "--expires",
        type=offline.length_of_time(MIN_EXPIRY, MAX_EXPIRY),
        default=DEFAULT_EXPIRY,
        metavar="SPAN",
        help="how long the code can be used, such as 10m or 2d (default 1h)",
    )
    invite.add_argument(
        "--endpoint",
        type=offline.argument(_endpoint),
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="where the new machine can reach this one (default: this machine's own addresses)",
    )
    invite.add_argument(
        "-n",
        "--network",
        type=offline.network_name,
        metavar="NETWORK",
        help="which one, where this machine is the authority of several",
    )
    invite.set_defaults(func=_invite)


def _invite(arguments: argparse.Namespace) -> int:
    if len(arguments.endpoint) > MAX_ENDPOINTS:
        raise UsageError(
            f"--endpoint: {len(arguments.endpoint)} are given; a code carries {MAX_ENDPOINTS}"
        )
    local.require_root("invite")
    store = local.the_network(arguments.network, authority=True)
    endpoints, up = _endpoints(store.name, arguments.endpoint)
    now = datetime.now(UTC)
    try:
        inviter = store.load_identity(now).member.node_id
    except IdentityError as error:
        raise IdentityError(f"{error}; or run: quicether network create {store.name}") from None
    code = Registrar(store).invite(
        arguments.name,
        inviter=inviter,
        endpoints=tuple((endpoint.host, endpoint.port) for endpoint in endpoints),
        now=now,
        entropy=os.urandom(16),
        prefixes=arguments.prefix,
        groups=arguments.group,
        expires=arguments.expires,
        validity=arguments.valid,
    )
    answer = {
        "network": store.name,
        "name": arguments.name,
        "code": str(code),
        "expires": offline.moment(now + arguments.expires),
        "endpoints": [str(endpoint) for endpoint in endpoints],
        "prefixes": [str(prefix) for prefix in arguments.prefix],
        "groups": sorted(arguments.group),
        "tunnel_up": up,
    }
    # The code alone on standard output, so that it can be piped on.
    offline.say(arguments, answer, str(code))
    if not arguments.json:
        if sys.stdout.isatty():
            import segno

            segno.make(str(code), error="l").terminal(compact=True)
        offline.note(
            f"On {arguments.name}, until {now + arguments.expires:%Y-%m-%d %H:%M} UTC, once:\n"
            "  sudo quicether join\nwhich asks for the code."
        )
    if not up:
        offline.note(
            f"The tunnel of network {store.name} is not up here; nobody can join before it is."
        )
    return 0


def _endpoint(text: str) -> HostPort:
    """Return an endpoint that another machine may reach. Raises ConfigError."""
    found = values.endpoint(text)
    if found.ip is not None and found.ip.is_link_local:
        raise ConfigError(f"{found.host} is link-local, so it means nothing on another machine")
    return found


def _endpoints(network: str, given: Sequence[HostPort]) -> tuple[list[HostPort], bool]:
    """Return where the new machine finds this one, and whether the network's tunnel is up.

    Raises HostError: no endpoint is given, and there is no tunnel that knows its own.
    """
    from quicether.cli.client import daemon

    try:
        with daemon() as service:
            found = [
                tunnel for tunnel in service.tunnels().values() if local.belongs(tunnel, network)
            ]
    except NoDaemonError:
        found = []
    if given:
        return list(given), bool(found)
    if not found:
        raise HostError(
            f"the tunnel of network {network} is not up on this machine, and only a tunnel that is "
            "up lets others in: bring it up first, or say with --endpoint where it will be"
        )
    own = [values.endpoint(text) for text in found[0]["Endpoints"][1]]
    chosen = reachable(own)
    if not chosen:
        raise HostError("this machine has no address that others could reach; give --endpoint")
    return chosen, True


def reachable(own: Iterable[HostPort]) -> list[HostPort]:
    """Return the few of a node's own endpoints that a code carries, the most likely first.

    A public IPv4 address is enough; behind a private one, IPv6 may be the only way from outside.
    """
    by_version: dict[int, list[HostPort]] = {4: [], 6: []}
    for endpoint in own:
        by_version[ip_address(endpoint.host).version].append(endpoint)
    public = [each for each in by_version[4] if ip_address(each.host).is_global]
    if public:
        return public[:_MOST_OF_A_FAMILY]
    return by_version[4][:_MOST_OF_A_FAMILY] + by_version[6][: 1 if by_version[4] else 2]
