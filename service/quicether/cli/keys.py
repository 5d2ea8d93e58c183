"""`quicether keygen`: this machine's key pair, made once, and its public half."""

from __future__ import annotations

import argparse

from quicether.cli import offline
from quicether.identity.store import NetworkStore


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `quicether`."""
    keygen = subparsers.add_parser(
        "keygen",
        help="make this machine's key for a network, and print the public key",
        description="Make this machine's key for a network unless it has one, and print the "
        "public key, which the network's authority signs. The secret key never leaves the "
        "machine.",
    )
    keygen.add_argument("network", type=offline.network_name, metavar="NETWORK")
    keygen.set_defaults(func=_keygen)


def _keygen(arguments: argparse.Namespace) -> int:
    store = NetworkStore.of_system(arguments.network)
    key = store.node_key()
    offline.say(
        arguments,
        {
            "network": store.name,
            "node_id": str(key.node_id),
            "public_key": key.public_text,
            "key_file": str(store.key_path),
        },
        key.public_text,
    )
    return 0
