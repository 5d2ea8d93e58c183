"""How a node finds the first others: bootstrap addresses, and the peers of the last run."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from quicether.config.values import HostPort
from quicether.dht.contact import MAX_ENDPOINTS, Contact
from quicether.errors import ConfigError, IdentityError, ProtocolError, QuicEtherError
from quicether.identity import files
from quicether.model import NodeId, UnderlayAddress
from quicether.overlay.outside import locations_of
from quicether.overlay.peers import PeerTable, TargetKind

log = logging.getLogger(__name__)

VERSION: Final = 1
MAX_CACHED: Final = 64
"""Peers that are kept for the next run."""
MAX_CACHE_FILE: Final = 65_536
AT_ONCE: Final = 8
"""Peers of the last run that are tried in one go; the next ones with the next call for help."""


class PeerCache:
    """The file with the peers of the last run. A damaged one is set aside, and said."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: bytes | None = None

    def load(self) -> list[Contact]:
        """Return the peers, the most recently seen first; none where there is no sound file."""
        try:
            data = files.read_public(self._path, "peer cache", MAX_CACHE_FILE)
        except FileNotFoundError:
            return []
        except IdentityError as error:
            self._set_aside(error)
            return []
        try:
            found = read_cache(data)
        except ConfigError as error:
            self._set_aside(error)
            return []
        self._kept = data
        return found

    async def save(self, contacts: Iterable[Contact]) -> None:
        """Write the peers, unless they are what the file holds. An empty list changes nothing."""
        data = write_cache(contacts)
        if data == self._kept or data == write_cache(()):
            return
        owner = files.Owner.service()
        try:
            await asyncio.to_thread(files.write_file, self._path, data, files.PRIVATE_MODE, owner)
        except IdentityError as error:
            log.warning("the peers are not kept for the next start: %s", error)
            return
        self._kept = data

    def _set_aside(self, error: QuicEtherError) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged")
        log.warning("%s; it is set aside as %s, and a new one will be made", error, aside)
        try:
            self._path.replace(aside)
        except OSError as problem:
            log.warning("cannot set %s aside: %s", self._path, problem.strerror)


def write_cache(contacts: Iterable[Contact]) -> bytes:
    """Return the content of a cache file. Pure."""
    peers = [
        {
            "node": str(contact.node_id),
            "endpoints": [[each.host, each.port] for each in contact.endpoints],
        }
        for contact in list(contacts)[:MAX_CACHED]
    ]
    return json.dumps({"version": VERSION, "peers": peers}, indent=1).encode() + b"\n"


def read_cache(data: bytes) -> list[Contact]:
    """Return the peers in a cache file. Pure. Raises ConfigError: it is none."""
    try:
        cache = _CacheFile.model_validate_json(data)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"the peer cache is damaged: {where}: {first['msg']}") from None
    try:
        return [_contact(peer) for peer in cache.peers]
    except ProtocolError as error:
        raise ConfigError(f"the peer cache is damaged: {error}") from None


def _contact(peer: _CachedPeer) -> Contact:
    endpoints = (UnderlayAddress.of_socket(endpoint) for endpoint in peer.endpoints)
    # Unpacked, because that judges endpoints as those that a peer sent.
    return Contact.unpack(Contact.of(peer.node, *endpoints).wire)


def _host(value: object) -> str:
    return str(ip_address(str(value)))


_Host = Annotated[str, BeforeValidator(_host)]


def _node_id(value: object) -> NodeId:
    try:
        return NodeId.parse(str(value))
    except ConfigError as error:
        raise ValueError(str(error)) from None


_Checked = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)


class _CachedPeer(BaseModel):
    model_config = _Checked

    node: Annotated[NodeId, BeforeValidator(_node_id)]
    endpoints: Annotated[
        tuple[tuple[_Host, Annotated[int, Field(strict=True, ge=1, le=0xFFFF)]], ...],
        Field(min_length=1, max_length=MAX_ENDPOINTS),
    ]


class _CacheFile(BaseModel):
    model_config = _Checked

    version: Literal[1]
    peers: Annotated[tuple[_CachedPeer, ...], Field(max_length=MAX_CACHED)]


class Bootstrap:
    """Wants connections to those who can help to find the others."""

    def __init__(
        self,
        peers: PeerTable,
        wake: Callable[[], None],
        cache: PeerCache,
        clock: Callable[[], float],
    ) -> None:
        """wake: starts the attempts that are due. clock: monotonic seconds."""
        self._peers = peers
        self._wake = wake
        self._cache = cache
        self._clock = clock
        self._addresses: tuple[HostPort, ...] = ()
        self._last_run: list[Contact] = []

    def load(self) -> None:
        """Read the peers of the last run."""
        self._last_run = self._cache.load()

    def use(self, addresses: Iterable[HostPort]) -> None:
        """Make these the bootstrap addresses, in place of earlier."""
        before, self._addresses = self._addresses, tuple(dict.fromkeys(addresses))
        for address in before:
            if address not in self._addresses:
                self._peers.forget(_key(address))

    def wanted(self, *, urgent: bool) -> None:
        """Seek help at all addresses side by side.

        urgent: nobody is known to be alive; the peers of the last run are asked too.
        """
        now = self._clock()
        for address in self._addresses:
            self._want(_key(address), [address], TargetKind.BOOTSTRAP, now)
        if urgent:
            some, self._last_run = self._last_run[:AT_ONCE], self._last_run[AT_ONCE:]
            # Behind the others: they may be back when all have been tried.
            self._last_run += some
            for contact in some:
                node = contact.node_id
                locations = locations_of(contact.endpoints)
                self._want(str(node), locations, TargetKind.CONTACT, now, node)
        self._wake()

    async def save(self, contacts: list[Contact]) -> None:
        """Keep contacts for the next run."""
        if contacts:
            self._last_run = contacts[:MAX_CACHED]
            await self._cache.save(contacts)

    def _want(
        self,
        key: str,
        locations: list[HostPort],
        kind: TargetKind,
        now: float,
        expect: NodeId | None = None,
    ) -> None:
        try:
            self._peers.want(key, locations, kind, now, expect=expect, more=expect is not None)
        except ConfigError as error:
            log.warning("bootstrap: %s", error)


def _key(address: HostPort) -> str:
    return f"bootstrap {address}"
