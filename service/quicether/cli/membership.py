"""`quicether invite`, `join`, `renew` and `leave`: how machines come into a network and go."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Final

from quicether.cli import offline
from quicether.config import values
from quicether.config.values import HostPort
from quicether.errors import ConfigError, HostError, IdentityError
from quicether.identity.authority import DEFAULT_VALIDITY
from quicether.identity.invite_code import InviteCode
from quicether.identity.registrar import DEFAULT_EXPIRY, Registrar
from quicether.identity.store import ETC, NetworkStore, network_names, roots

_MOST_OF_A_FAMILY: Final = 2
"""Addresses of one family that a code carries, so that it stays short."""


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of `quicether`."""
    _add_invite(subparsers)
    _add_join(subparsers)
    renew = subparsers.add_parser(
        "renew",
        help="renew this machine's certificate now",
        description="Get this machine's next certificate from the network's authority, which has "
        "to be connected. The service does so by itself in the last third of a certificate's "
        "life.",
    )
    _add_network(renew)
    renew.set_defaults(func=_renew)
    leave = subparsers.add_parser(
        "leave",
        help="leave a network: undo what join did",
        description="Take the tunnel down and remove its NetworkManager profile or unit, its "
        "settings and this machine's certificate. The key stays, so that the machine can come "
        "back as the same node.",
    )
    _add_network(leave)
    leave.add_argument("--purge", action="store_true", help="remove the key, too")
    leave.set_defaults(func=_leave)


def add_grants(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a node's certificate holds beside its name."""
    parser.add_argument(
        "--prefix",
        type=offline.prefix,
        action="append",
        default=[],
        help="a network behind the node, which it advertises; may be given several times",
    )
    parser.add_argument(
        "--group",
        type=offline.group_name,
        action="append",
        default=[],
        help="a group that policies may name; may be given several times",
    )
    parser.add_argument(
        "--valid",
        type=offline.length_of_time,
        default=DEFAULT_VALIDITY,
        metavar="SPAN",
        help=f"how long the certificate is, such as 90d (default {DEFAULT_VALIDITY.days}d)",
    )


def _add_invite(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    invite = subparsers.add_parser(
        "invite",
        help="invite a machine into a network (on the authority's machine)",
        description="Print a short code with which one machine can join as the node NAME, once "
        "and for a while. Give it to that machine over a way that you trust.",
        epilog="example: quicether invite laptop --prefix 192.168.7.0/24 --expires 1h",
    )
    invite.add_argument("name", type=offline.node_name, metavar="NAME", help="the node's name")
    add_grants(invite)
    invite.add_argument(
        "--expires",
        type=offline.length_of_time,
        default=DEFAULT_EXPIRY,
        metavar="SPAN",
        help="how long the code can be used, such as 10m or 2d (default 1h)",
    )
    invite.add_argument(
        "--endpoint",
        type=offline.argument(values.endpoint),
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


def _add_join(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    join = subparsers.add_parser(
        "join",
        help="join a network with the code of an invitation",
        description="Make this machine's key, get its certificate from the inviter, write the "
        "settings, and add a NetworkManager profile where NetworkManager runs, or enable the "
        "network's unit where it does not.",
    )
    join.add_argument("code", nargs="+", metavar="CODE", help="from `quicether invite`")
    join.set_defaults(func=_join)


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "network",
        nargs="?",
        type=offline.network_name,
        metavar="NETWORK",
        help="which one, where this machine is in several",
    )


# -- invite ------------------------------------------------------------------------------------


def _invite(arguments: argparse.Namespace) -> int:
    require_root("invite")
    store = the_network(arguments.network, authority=True)
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
            f"  sudo quicether join {code}"
        )
    if not up:
        offline.note(
            f"The tunnel of network {store.name} is not up here; nobody can join before it is."
        )
    return 0


def _endpoints(network: str, given: Sequence[HostPort]) -> tuple[list[HostPort], bool]:
    """Return where the new machine finds this one, and whether the network's tunnel is up.

    Raises HostError: no endpoint is given, and there is no tunnel that knows its own.
    """
    from quicether.cli.client import NoDaemonError, daemon

    try:
        with daemon() as service:
            found = [tunnel for tunnel in service.tunnels().values() if _of(tunnel, network)]
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


# -- join --------------------------------------------------------------------------------------


def _join(arguments: argparse.Namespace) -> int:
    from quicether.cli import certified, stored
    from quicether.cli.activation import activations
    from quicether.cli.enrol import ask_inviter

    code = InviteCode.parse(" ".join(arguments.code))
    require_root("join")
    store = NetworkStore.of_system(code.network)
    if store.has_authority:
        raise ConfigError(
            f"this machine is the authority of network {store.name}; the code is for another one"
        )
    joined = ask_inviter(code, store.node_key())
    now = datetime.now(UTC)
    member = store.install(joined.admission.certificate, joined.admission.authority, now)
    inviter = store.trust(now).judge(joined.inviter, now)
    peer = f"{inviter.name}@{joined.where}"
    current = stored.write(store.name, member.prefixes, [peer])
    activation = activations(store.name)[0]
    activation.add()
    reload_tunnels(store.name)  # one that is up goes on with the new certificate
    lines = [certified.text(member)]
    lines.append(_settings_text(store.name, current, peer))
    lines.append(f"{activation.what} is ready. Next: {activation.command}")
    answer = certified.answer(member) | {
        "network": store.name,
        "inviter": inviter.name,
        "peer": peer,
        "settings_file": str(stored.path_of(store.name)),
        "settings_current": current,
        "next": activation.command,
    }
    offline.say(arguments, answer, "\n".join(lines))
    return 0


def _settings_text(network: str, current: bool, peer: str) -> str:
    from quicether.cli import stored

    path = stored.path_of(network)
    if current:
        return f"Its settings are in {path}."
    return f"{path} was there and is left as it is; it should name the peer {peer}."


# -- renew, leave ------------------------------------------------------------------------------


def _renew(arguments: argparse.Namespace) -> int:
    from quicether.cli.client import daemon

    with daemon() as service:
        found = [
            tunnel
            for tunnel in service.tunnels().values()
            if arguments.network is None or _of(tunnel, arguments.network)
        ]
        if not found:
            which = f" of network {arguments.network}" if arguments.network else ""
            raise HostError(f"the tunnel{which} is not up; it has to be, to reach the authority")
        if len(found) > 1:
            names = ", ".join(sorted(tunnel["Network"][1] for tunnel in found))
            raise ConfigError(f"several tunnels are up ({names}); say which one is meant")
        end = datetime.fromtimestamp(service.renew(found[0]["Name"][1]), UTC)
    network = found[0]["Network"][1]
    offline.say(
        arguments,
        {"network": network, "not_after": offline.moment(end)},
        f"The certificate for network {network} is valid until {end:%Y-%m-%d %H:%M} UTC.",
    )
    return 0


def _leave(arguments: argparse.Namespace) -> int:
    from quicether.cli import stored
    from quicether.cli.activation import activations

    require_root("leave")
    store = _left_network(arguments.network)
    if store.has_authority:
        raise IdentityError(
            f"this machine is the authority of network {store.name}, which would end with it; to "
            f"end the network, take its tunnel down and remove {store.directory} by hand"
        )
    removed = [each.what for each in activations(store.name) if each.remove()]
    _take_down(store.name)
    if stored.remove(store.name):
        removed.append(str(stored.path_of(store.name)))
    if store.forget(keep_key=not arguments.purge):
        removed.append("the certificate" + (" and the key" if arguments.purge else ""))
    kept = not arguments.purge and store.key_path.exists()
    text = f"This machine has left network {store.name}. Removed: {', '.join(removed) or 'nothing'}"
    if kept:
        text += f"\nKept: its key {store.key_path} (--purge removes it)"
    offline.say(arguments, {"network": store.name, "removed": removed, "key_kept": kept}, text)
    return 0


def _left_network(name: str | None) -> NetworkStore:
    """Return the network to leave; one that was left before may still have its key here."""
    if name is not None and NetworkStore.of_system(name).key_path.exists():
        return NetworkStore.of_system(name)
    return the_network(name, authority=False)


def _take_down(network: str) -> None:
    """Take down what still runs of a network, however it was brought up."""
    from quicether.cli.client import NoDaemonError, RefusedArgumentError, daemon

    try:
        with daemon() as service:
            for tunnel in service.tunnels().values():
                if _of(tunnel, network):
                    try:
                        service.down(tunnel["Name"][1])
                    except RefusedArgumentError:
                        continue  # it went down by itself meanwhile
    except NoDaemonError:
        return


# -- shared ------------------------------------------------------------------------------------


def reload_tunnels(network: str) -> bool:
    """Let the service read a network's files again; tell whether its tunnel is up."""
    from quicether.cli.client import NoDaemonError, daemon

    try:
        with daemon() as service:
            names = [t["Name"][1] for t in service.tunnels().values() if _of(t, network)]
            for name in names:
                service.reload(name)
    except NoDaemonError:
        return False
    return bool(names)


def last_failure(network: str) -> str | None:
    """Return the service's own sentence on why the network's tunnel is not up, if it has one."""
    from quicether.cli.client import NoDaemonError, daemon

    try:
        with daemon() as service:
            failures: dict[str, str] = service.manager()["Failures"][1]
    except NoDaemonError:
        return None
    return failures.get(network)


def require_root(command: str) -> None:
    """Raise NotPermittedError unless this user may change the machine's own files."""
    from quicether.cli.client import NotPermittedError

    if os.geteuid() != 0 and roots()[0] == ETC:
        raise NotPermittedError(f"{command} needs root: sudo quicether {command} …")


def the_network(name: str | None, *, authority: bool) -> NetworkStore:
    """Return the network that is meant: the only one of this machine where none is named.

    authority: only those whose authority this machine is. Raises ConfigError.
    """
    stores = [NetworkStore.of_system(each) for each in network_names(roots()[0])]
    found = [s for s in stores if name in (None, s.name) and (s.has_authority or not authority)]
    if len(found) == 1:
        return found[0]
    role = "the authority of" if authority else "in"
    if found:
        names = ", ".join(store.name for store in found)
        raise ConfigError(f"this machine is {role} several networks ({names}); say which is meant")
    raise ConfigError(f"this machine is not {role} {f'network {name}' if name else 'any network'}")


def _of(tunnel: dict[str, Any], network: str) -> bool:
    return bool(tunnel["Network"][1] == network)
