"""The names that people give: of networks, nodes and groups. Every one is checked here."""

from __future__ import annotations

import re
from typing import Final

from quicether.errors import ConfigError

_NETWORK: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_NODE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_GROUP: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_TAKEN: Final = frozenset({"config", "policy", "quicether"})
"""Settings of a network lie in /etc/quicether/NETWORK.toml and its tunnel bears its name; these
are the default tunnel's file, where people keep their policy, and the default tunnel."""
_NODE_ID: Final = re.compile(r"[0-9a-f]{40}")


def check_network_name(name: str) -> str:
    """Return name if a network may bear it: it becomes a folder and a DNS label.

    Raises ConfigError: anything but 1 to 32 of a-z, 0-9 and inner hyphens, or a name whose file
    of settings is something else's.
    """
    if not _NETWORK.fullmatch(name):
        raise ConfigError(
            f"network name {_shown(name)} is not 1 to 32 of the characters a-z, 0-9 and - "
            "(with none of - at its ends)"
        )
    if name in _TAKEN:
        raise ConfigError(
            f"network name {_shown(name)} is taken: {name}.toml or the tunnel {name} is something "
            "else's already; choose another one"
        )
    return name


def check_node_name(name: str) -> str:
    """Return name if a node may bear it: a DNS label (RFC 1123) that is not taken for a NodeId.

    Raises ConfigError: anything else.
    """
    if not _NODE.fullmatch(name):
        raise ConfigError(
            f"node name {_shown(name)} is not 1 to 63 of the characters a-z, 0-9 and - "
            "(with none of - at its ends)"
        )
    if _NODE_ID.fullmatch(name):
        raise ConfigError(f"node name {_shown(name)} looks like a node id; choose a plain word")
    return name


def check_group_name(name: str) -> str:
    """Return name if a group may bear it.

    Raises ConfigError: anything but 1 to 63 of a-z, 0-9, dot, hyphen and underscore, of which
    the first is a letter or digit.
    """
    if not _GROUP.fullmatch(name):
        raise ConfigError(
            f"group name {_shown(name)} is not 1 to 63 of the characters a-z, 0-9, . - and _ "
            "(beginning with a letter or digit)"
        )
    return name


def _shown(name: str) -> str:
    """What a sentence quotes of a name that may be of any length."""
    return repr(name if len(name) <= 80 else name[:80] + "…")
