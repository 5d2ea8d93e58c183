"""The configuration file that a network's tunnel starts with: /etc/quicether/NETWORK.toml."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from quicether.config.load import ConfigFile, load, read_file, settle, stored_file
from quicether.config.settings import Settings
from quicether.identity import files
from quicether.identity.store import network_names, roots
from quicether.model import Prefix

_TABLES: Final = ("network", "discovery", "overlay")
_MOST_NETWORKS: Final = 64
"""Networks of one machine among which a free device name and port are looked for."""


def path_of(network: str) -> Path:
    """Return where the settings of a network's tunnel are."""
    return stored_file(network, roots()[0])


def write(network: str, prefixes: Iterable[Prefix], peers: Iterable[str]) -> bool:
    """Write the settings of a network's tunnel; a file that is there stays as it is.

    prefixes: what this node advertises. peers: `[NODE@]host:port`, to connect to at once.
    Returns whether the file holds these settings now. Raises IdentityError: it cannot be written;
    ConfigError: another network's file is wrong.
    """
    path = path_of(network)
    values: dict[tuple[str, str], object] = {("network", "name"): network}
    advertised = [str(prefix) for prefix in prefixes]
    if advertised:
        values["network", "advertise_subnets"] = advertised
    values |= _beside_others(network)
    wanted = list(peers)
    if wanted:
        values["overlay", "peers"] = wanted
    text = _toml(values)
    present = read_file(path)
    if present is not None:
        return present.text == text
    settle([ConfigFile(str(path), text)], {}, {})
    files.make_directory(path.parent, 0o755)
    files.write_file(path, text.encode(), files.PUBLIC_MODE)
    return True


def remove(network: str) -> bool:
    """Remove the settings of a network's tunnel; tell whether there were any."""
    return files.remove_file(path_of(network))


def _beside_others(network: str) -> dict[tuple[str, str], object]:
    """Return a device name and a port that no other network of this machine has."""
    others: list[Settings] = [
        load([path_of(name)], {}, {})
        for name in network_names(roots()[0])
        if name != network and read_file(path_of(name)) is not None
    ]
    if not others:
        return {}
    mine = Settings()
    devices = {other.network.tun_name for other in others}
    ports = {other.discovery.dht_port for other in others}
    stem = mine.network.tun_name.rstrip("0123456789")
    free = (
        number
        for number in range(_MOST_NETWORKS)
        if f"{stem}{number}" not in devices and mine.discovery.dht_port + number not in ports
    )
    number = next(free, 0)
    return {
        ("network", "tun_name"): f"{stem}{number}",
        ("discovery", "dht_port"): mine.discovery.dht_port + number,
    }


def _toml(values: Mapping[tuple[str, str], object]) -> str:
    """Return values as TOML; JSON writes texts, numbers and lists of texts the same way."""
    lines = ["# Written when this machine joined. All keys: quicether config show --all"]
    for table in _TABLES:
        mine = {field: value for (where, field), value in values.items() if where == table}
        if mine:
            lines += ["", f"[{table}]"]
            lines += [f"{field} = {json.dumps(value)}" for field, value in mine.items()]
    return "\n".join(lines) + "\n"
