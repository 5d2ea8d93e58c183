"""A tunnel's settings: what is stored for it below /etc/quicether, and what its caller gives."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from quicether.bus.contract import DEFAULT_TUNNEL
from quicether.bus.controller import NoSuchTunnelError, UpRequest
from quicether.config.load import load, stored_file
from quicether.config.options import OPTIONS
from quicether.config.settings import Settings
from quicether.errors import ConfigError
from quicether.identity.store import network_names, roots

log = logging.getLogger(__name__)

PRIVILEGED: Final = tuple(option for option in OPTIONS.values() if option.privileged)


def settle(name: str, options: Mapping[str, str], request: UpRequest) -> tuple[Settings, str]:
    """Return a tunnel's settings and its network. Raises ConfigError, NoSuchTunnelError."""
    stored = _stored(name)
    base = None if request.transient else load([stored], os.environ, {})
    settings = Settings.from_options(options, base)
    network, known = _network(name, settings), network_names(roots()[0])
    if network is None and not options and not stored.exists():
        raise NoSuchTunnelError(f"there is no {stored}, and no network {name}")
    if network is None or not (network in known or settings.security.pinned_peers):
        what = "which one is meant?" if network is None else f"there is no {network!r} here."
        raise ConfigError(
            f"network: {what} This machine knows {', '.join(known) or 'none'}; "
            "make one with `quicether network create NAME`, or join one"
        )
    return settings, network


def overridden(name: str, options: Mapping[str, str], request: UpRequest) -> tuple[str, ...]:
    """Return the privileged options that a tunnel would have otherwise than its administrator said.

    What the administrator said is any stored configuration of the tunnel's network; where there
    is none, the defaults. So nobody gets rid of a stored policy by another name for the tunnel.
    Raises ConfigError, NoSuchTunnelError.
    """
    settings, network = settle(name, options, request)
    nearest: tuple[str, ...] | None = None
    for stored in _administered(name, network):
        differing = _differing(settings, stored)
        if nearest is None or len(differing) < len(nearest):
            nearest = differing
        if not nearest:
            break
    return _differing(settings, load([], os.environ, {})) if nearest is None else nearest


def _differing(settings: Settings, stored: Settings) -> tuple[str, ...]:
    return tuple(
        option.key
        for option in PRIVILEGED
        if getattr(getattr(settings, option.section), option.field)
        != getattr(getattr(stored, option.section), option.field)
    )


def _administered(name: str, network: str) -> Iterator[Settings]:
    """Yield the stored configurations of a network, that of the tunnel called name first.

    Raises ConfigError: one of those that must count is wrong.
    """
    directory, _ = roots()
    certain = dict.fromkeys(map(_stored, (name, network, DEFAULT_TUNNEL)))
    for path in (*certain, *sorted(set(directory.glob("*.toml")) - certain.keys())):
        if not path.exists():
            continue
        try:
            settings = load([path], os.environ, {})
        except ConfigError as error:
            if path in certain:
                raise
            # A policy may lie beside the configurations; no tunnel can run by this file.
            log.debug("no configuration: %s", error)
            continue
        tunnel = DEFAULT_TUNNEL if path == _stored(DEFAULT_TUNNEL) else path.stem
        if _network(tunnel, settings) == network:
            yield settings


def _network(name: str, settings: Settings) -> str | None:
    """Return the network of a tunnel with these settings, None where none is meant."""
    known = network_names(roots()[0])
    if settings.network.name is not None:
        return settings.network.name
    if name in known or settings.security.pinned_peers:
        return name
    return known[0] if len(known) == 1 else None


def _stored(name: str) -> Path:
    return roots()[0] / stored_file(None if name == DEFAULT_TUNNEL else name).name
