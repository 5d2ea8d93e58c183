"""What the commands share that change this machine's part in a network."""

from __future__ import annotations

import argparse
import os
from typing import Any

from quicether.cli import offline
from quicether.cli.exits import NoDaemonError, NotPermittedError
from quicether.errors import ConfigError
from quicether.identity.authority import DEFAULT_VALIDITY, MAX_VALIDITY, MIN_VALIDITY
from quicether.identity.store import ETC, NetworkStore, network_names, roots


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
        type=offline.length_of_time(MIN_VALIDITY, MAX_VALIDITY),
        default=DEFAULT_VALIDITY,
        metavar="SPAN",
        help=f"how long the certificate is, such as 90d (default {DEFAULT_VALIDITY.days}d)",
    )


def reload_tunnels(network: str) -> bool:
    """Let the service read a network's files again; tell whether its tunnel is up."""
    from quicether.cli.client import daemon

    try:
        with daemon() as service:
            names = [t["Name"][1] for t in service.tunnels().values() if belongs(t, network)]
            for name in names:
                service.reload(name)
    except NoDaemonError:
        return False
    return bool(names)


def last_failure(network: str) -> str | None:
    """Return the service's own sentence on why the network's tunnel is not up, if it has one."""
    from quicether.cli.client import daemon

    try:
        with daemon() as service:
            failures: dict[str, str] = service.manager()["Failures"][1]
    except NoDaemonError:
        return None
    return failures.get(network)


def require_root(command: str) -> None:
    """Raise NotPermittedError unless this user may change the machine's own files."""
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


def belongs(tunnel: dict[str, Any], network: str) -> bool:
    """Tell whether a tunnel, as the service describes it, is one of a network's."""
    return bool(tunnel["Network"][1] == network)
