"""`quicether join`, `renew` and `leave`: how a machine comes into a network, stays and goes."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import Final

from quicether.cli import local, offline
from quicether.cli.exits import NoDaemonError, UsageError
from quicether.errors import ConfigError, HostError, IdentityError
from quicether.identity.invite_code import MAX_TEXT, InviteCode
from quicether.identity.store import NetworkStore

_MOST_OF_A_FAMILY: Final = 2
"""Addresses of one family that a code carries, so that it stays short."""


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of `quicether`."""
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


def _add_join(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    join = subparsers.add_parser(
        "join",
        help="join a network with the code of an invitation",
        description="Make this machine's key, get its certificate from the inviter, write the "
        "settings, and add a NetworkManager profile where NetworkManager runs, or enable the "
        "network's unit where it does not.",
    )
    join.add_argument(
        "code",
        nargs="*",
        metavar="CODE",
        help="from `quicether invite`; - reads it from standard input, and without one it is asked "
        "for, so that it stands in no log and no list of processes",
    )
    join.set_defaults(func=_join)


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "network",
        nargs="?",
        type=offline.network_name,
        metavar="NETWORK",
        help="which one, where this machine is in several",
    )


def _join(arguments: argparse.Namespace) -> int:
    from quicether.cli import certified
    from quicether.cli.joining import join

    local.require_root("join")
    done = join(_code(arguments.code))
    text = f"Its settings are in {done.settings_file}."
    if not done.settings_current:
        text = (
            f"{done.settings_file} was there and is left as it is; it should name the peer "
            f"{done.peer}."
        )
    lines = [certified.text(done.member), text]
    lines.append(f"{done.activation.what} is ready. Next: {done.activation.command}")
    answer = certified.answer(done.member) | {
        "network": done.network,
        "inviter": done.inviter,
        "peer": done.peer,
        "settings_file": str(done.settings_file),
        "settings_current": done.settings_current,
        "next": done.activation.command,
    }
    offline.say(arguments, answer, "\n".join(lines))
    return 0


def _code(words: list[str]) -> InviteCode:
    """Return the code that was given, or is given now. Raises UsageError."""
    if words in ([], ["-"]):
        if not words and not sys.stdin.isatty():
            raise UsageError("no code is given; - reads it from standard input")
        if sys.stdin.isatty():
            print("Code: ", end="", file=sys.stderr, flush=True)
        words = [sys.stdin.readline(MAX_TEXT + 1)]
    try:
        return InviteCode.parse(" ".join(words))
    except ConfigError as error:
        raise UsageError(str(error)) from None


def _renew(arguments: argparse.Namespace) -> int:
    from quicether.cli.client import daemon

    with daemon() as service:
        found = [
            tunnel
            for tunnel in service.tunnels().values()
            if arguments.network is None or local.belongs(tunnel, arguments.network)
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

    local.require_root("leave")
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
    return local.the_network(name, authority=False)


def _take_down(network: str) -> None:
    """Take down what still runs of a network, however it was brought up."""
    from quicether.cli.client import RefusedArgumentError, daemon

    try:
        with daemon() as service:
            for tunnel in service.tunnels().values():
                if local.belongs(tunnel, network):
                    try:
                        service.down(tunnel["Name"][1])
                    except RefusedArgumentError:
                        continue  # it went down by itself meanwhile
    except NoDaemonError:
        return
