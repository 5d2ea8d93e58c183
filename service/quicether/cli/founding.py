"""`quicether network create`: a new network, and this machine as its first node, running."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from ipaddress import IPv4Network
from typing import Any

from quicether.cli import certified, local, offline
from quicether.config import values
from quicether.errors import ConfigError, HostError
from quicether.identity.addresses import IPV4_POOL
from quicether.identity.authority import Authority
from quicether.identity.names import check_node_name
from quicether.identity.store import NetworkStore
from quicether.model import Member


def add_create(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `quicether network`."""
    create = actions.add_parser(
        "create",
        help="make a network; this machine is its authority and first node",
        description="Make a network: its authority's key, this machine's certificate and "
        "settings, and a NetworkManager profile where NetworkManager runs, or the network's unit "
        "where it does not; then bring the tunnel up. What is there already stays as it is.",
    )
    create.add_argument("network", type=offline.network_name, metavar="NETWORK")
    create.add_argument(
        "--address-pool",
        type=offline.argument(_pool),
        default=IPV4_POOL,
        metavar="PREFIX",
        help=f"where the nodes' IPv4 addresses are chosen from (default {IPV4_POOL})",
    )
    create.add_argument(
        "--name", type=offline.node_name, help="this node's name (default: the host's)"
    )
    local.add_grants(create)
    create.add_argument("--no-up", action="store_true", help="do not bring the tunnel up")
    create.add_argument(
        "--authority-only", action="store_true", help="make the authority and nothing else"
    )
    create.set_defaults(func=_create)


def _create(arguments: argparse.Namespace) -> int:
    local.require_root("network create")
    store, now = NetworkStore.of_system(arguments.network), datetime.now(UTC)
    made = not store.has_authority
    if made:
        authority = Authority.create(store.directory, store.name, now, arguments.address_pool)
    else:
        authority = store.authority(now)
        pool = authority.book().address_pool
        if arguments.address_pool not in (pool, IPV4_POOL):
            raise ConfigError(
                f"network {store.name} exists already with address pool {pool}, "
                f"not {arguments.address_pool}"
            )
    answer: dict[str, Any] = {
        "network": store.name,
        "network_id": authority.fingerprint,
        "created": made,
    }
    text = (
        f"Network {store.name} {'is made' if made else 'exists already'}: "
        f"id {authority.fingerprint}\n"
        f"Its authority's key is {store.directory / 'authority.key'}; keep a copy of that folder."
    )
    if arguments.authority_only:
        offline.say(arguments, answer, text)
        return 0
    member = _certify(arguments, store, authority, now)
    trouble = _start(arguments, store, member, answer)
    lines = [text, certified.text(member), *answer.pop("lines")]
    offline.say(arguments, answer | {"node": certified.answer(member)}, "\n".join(lines))
    if trouble is not None:
        raise trouble
    return 0


def _certify(
    arguments: argparse.Namespace, store: NetworkStore, authority: Authority, now: datetime
) -> Member:
    """Return this machine as a node, certified now unless it is and nothing else is asked for."""
    asked = arguments.name or arguments.prefix or arguments.group
    if store.certificate_path.exists() and not asked:
        return store.load_identity(now).member
    certificate = authority.sign(
        store.node_key().public_raw,
        arguments.name or _host_name(),
        now=now,
        prefixes=arguments.prefix,
        groups=arguments.group,
        validity=arguments.valid,
    )
    return store.install(certificate, authority.certificate, now)


def _start(
    arguments: argparse.Namespace, store: NetworkStore, member: Member, answer: dict[str, Any]
) -> HostError | None:
    """Write the settings and bring the tunnel up; say in answer what was done.

    Returns what went wrong with the tunnel, which undoes nothing of the rest.
    """
    from quicether.cli import stored
    from quicether.cli.activation import activations

    lines = answer["lines"] = []
    current = stored.write(store.name, member.prefixes, ())
    path = stored.path_of(store.name)
    answer |= {"settings_file": str(path), "settings_current": current, "up": False}
    lines.append(f"Its settings are in {path}" + ("." if current else ", left as they were."))
    try:
        activation = activations(store.name)[0]
        activation.add()
        answer["next"] = activation.command
        # Brought up again, a tunnel that is up would only lose its connections.
        up = local.reload_tunnels(store.name)
        if arguments.no_up and not up:
            lines.append(f"{activation.what} is ready. Next: {activation.command}")
            return None
        if not up:
            activation.up()
    except HostError as error:
        reason = local.last_failure(store.name)
        return error if reason is None else HostError(f"the tunnel did not come up: {reason}")
    answer |= {"up": True, "next": "quicether invite NAME"}
    lines.append(f"{activation.what} is up. Next: quicether invite NAME")
    return None


def _host_name() -> str:
    """Return this machine's name as a node may bear it. Raises ConfigError: it may not."""
    try:
        return check_node_name(os.uname().nodename.partition(".")[0].lower())
    except ConfigError as error:
        raise ConfigError(f"{error}; give another one with --name") from None


def _pool(text: str) -> IPv4Network:
    prefix = values.prefix(text)
    if not isinstance(prefix, IPv4Network):
        raise ConfigError(f"address pool {text!r} is not an IPv4 prefix")
    return prefix
