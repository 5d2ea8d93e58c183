"""Brings tunnels up and down, one step at a time each: `bus.controller.Controller`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final
from weakref import WeakValueDictionary

from quicether.bus.contract import LinkOwnerName, TunnelState
from quicether.bus.controller import AlreadyUpError, NoSuchTunnelError, TunnelView, UpRequest
from quicether.bus.status import JoinResult
from quicether.config.settings import Settings
from quicether.daemon.guard import read_rules
from quicether.daemon.joining import Joining
from quicether.daemon.links import Links
from quicether.daemon.stored import overridden, settle
from quicether.daemon.tunnel import Tunnel
from quicether.errors import OWN_FAULT, ConfigError, QuicEtherError
from quicether.identity.invite_code import InviteCode
from quicether.identity.store import MAX_NETWORKS, NetworkStore, NodeIdentity
from quicether.journal import ABOUT, LEVELS, TUNNEL

log = logging.getLogger(__name__)

MAX_TUNNELS: Final = MAX_NETWORKS
MAX_FAILURES: Final = 64


class Tunnels:
    """All tunnels of this machine.

    links: who may own their links; netlink where it is None.
    """

    def __init__(self, links: Links | None = None) -> None:
        self._links = links or Links()
        self._joining = Joining()
        self._tunnels: dict[str, Tunnel] = {}
        self._wanted: dict[str, tuple[Mapping[str, str], UpRequest]] = {}
        self._failures: OrderedDict[str, str] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._changed: Callable[[], None] = lambda: None
        self._stopping: set[asyncio.Task[None]] = set()

    @property
    def tunnels(self) -> Mapping[str, TunnelView]:
        """All tunnels by name, from the moment they start until they are gone."""
        return MappingProxyType(self._tunnels)

    @property
    def failures(self) -> Mapping[str, str]:
        """Tunnel → the sentence of its last failure."""
        return MappingProxyType(self._failures)

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call changed whenever anything published may be different."""
        self._changed = changed

    def overridden(
        self, name: str, options: Mapping[str, str], request: UpRequest
    ) -> Sequence[str]:
        """Return what `up` would set against the stored configuration; see `Controller`."""
        try:
            return overridden(name, options, request)
        except QuicEtherError as error:
            self._note_failure(name, error)
            raise

    async def up(self, name: str, options: Mapping[str, str], request: UpRequest) -> TunnelView:
        """Bring a tunnel up. Raises a QuicEtherError; `failures` shows what was raised."""
        async with self._lock(name):
            ABOUT.set({TUNNEL: name})
            present = self._tunnels.get(name)
            if present is not None and present.state is TunnelState.FAILED:
                await self._stop(present)
            elif present is not None:
                if self._wanted[name] == (dict(options), request):
                    return present
                raise AlreadyUpError(
                    f"tunnel {name} is up with other settings or for somebody else; "
                    f"take it down first"
                )
            try:
                tunnel = await self._start(name, options, request)
            except Exception as error:
                self._note_failure(name, error)
                raise
            self._failures.pop(name, None)
            self._wanted[name] = (dict(options), request)
            self._changed()
            return tunnel

    async def down(self, name: str) -> None:
        """Take a tunnel down. Raises NoSuchTunnelError."""
        async with self._lock(name):
            tunnel = self._tunnels.get(name)
            if tunnel is None:
                raise NoSuchTunnelError(f"tunnel {name} is not up")
            await self._stop(tunnel)
            log.info("tunnel %s is down", name)

    async def reload(self, name: str) -> None:
        """Read a tunnel's configuration again. Raises NoSuchTunnelError, ConfigError."""
        async with self._lock(name):
            tunnel = self._tunnels.get(name)
            if tunnel is None:
                raise NoSuchTunnelError(f"tunnel {name} is not up")
            options, request = self._wanted[name]
            settings, _ = settle(name, options, request)
            await tunnel.reload(settings)

    async def renew(self, name: str) -> datetime:
        """Renew the certificate of a tunnel's node. Raises NoSuchTunnelError; see `Controller`."""
        tunnel = self._tunnels.get(name)
        if tunnel is None:
            raise NoSuchTunnelError(f"tunnel {name} is not up")
        return await tunnel.renew()

    async def join(self, code: InviteCode) -> JoinResult:
        """Make this machine a member of another network; see `Controller`."""
        return await self._joining.join(code)

    async def clean(self) -> None:
        """Take away what a crashed daemon left and no tunnel adopts. For the start; takes long."""
        await self._links.clean(
            lambda: {tunnel.settings.network.tun_name for tunnel in self._tunnels.values()}
        )

    async def close(self) -> None:
        """Take everything down."""
        await asyncio.gather(*(self._stop(tunnel) for tunnel in tuple(self._tunnels.values())))

    async def _start(self, name: str, options: Mapping[str, str], request: UpRequest) -> Tunnel:
        settings, network = settle(name, options, request)
        identity = _identity(network, settings)
        rules = await read_rules(settings)
        network_settings = settings.network
        link = await self._links.choose(
            request.owner,
            LinkOwnerName(network_settings.link),
            network_settings.tun_name,
            network_settings.netns,
        )
        self._check_room(settings)  # now, because others came up meanwhile
        tunnel = Tunnel(name, settings, identity, link, rules, lambda: self._changed(), self._lost)
        self._tunnels[name] = tunnel
        level = settings.monitoring.log_level
        LEVELS.set(name, None if level is None else level.number)
        try:
            await tunnel.start()
        except BaseException:
            del self._tunnels[name]
            LEVELS.set(name, None)
            raise
        log.info("tunnel %s is up as %s (%s)", name, tunnel.node_name, tunnel.node_id)
        log.info("tunnel %s: its link is owned by %s: %s", name, tunnel.link, tunnel.link_reason)
        return tunnel

    def _check_room(self, settings: Settings) -> None:
        """Raises ConfigError: there are too many tunnels, or the device is another one's."""
        if len(self._tunnels) >= MAX_TUNNELS:
            raise ConfigError(f"{MAX_TUNNELS} tunnels are up, which is the most")
        for other in self._tunnels.values():
            if other.settings.network.tun_name == settings.network.tun_name:
                raise ConfigError(
                    f"tun-name: {settings.network.tun_name} is the device of tunnel {other.name}; "
                    "choose another name"
                )

    def _lost(self, tunnel: Tunnel, error: Exception) -> None:
        """Take a tunnel down that cannot go on."""
        self._note_failure(tunnel.name, error)
        task = asyncio.get_running_loop().create_task(self._bury(tunnel))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _bury(self, tunnel: Tunnel) -> None:
        async with self._lock(tunnel.name):
            # `down`, or `up` with the next tunnel of that name, may have been faster.
            if self._tunnels.get(tunnel.name) is tunnel:
                await self._stop(tunnel)

    async def _stop(self, tunnel: Tunnel) -> None:
        """Take a tunnel down; called with its lock held, or at the end of everything."""
        ABOUT.set({TUNNEL: tunnel.name})
        self._changed()
        try:
            await tunnel.stop()
        finally:
            self._tunnels.pop(tunnel.name, None)
            self._wanted.pop(tunnel.name, None)
            LEVELS.set(tunnel.name, None)
            self._changed()

    def _lock(self, name: str) -> asyncio.Lock:
        """Return the lock of a tunnel; it is there as long as somebody holds it or waits for it."""
        return self._locks.setdefault(name, asyncio.Lock())

    def _note_failure(self, name: str, error: Exception) -> None:
        sentence = str(error) if isinstance(error, QuicEtherError) else OWN_FAULT
        log.error("tunnel %s: %s", name, sentence)
        self._failures.pop(name, None)
        self._failures[name] = sentence
        while len(self._failures) > MAX_FAILURES:
            self._failures.popitem(last=False)
        self._changed()


def _identity(network: str, settings: Settings) -> NodeIdentity:
    """Return who this node is. Raises IdentityError, ConfigError."""
    store = NetworkStore.of_system(network)
    now = datetime.now(UTC)
    node, pins, chosen = settings.node, settings.security.pinned_peers, settings.network.tun_addr
    if not pins:
        if chosen:
            raise ConfigError(
                f"tun-addr: {chosen[0]} is for nodes with pinned-peers; in network {network} the "
                "certificate gives the addresses"
            )
        return store.load_identity(now, node.key_file, node.certificate_file)
    identity = store.pinned_identity(
        {pin.node_id: pin.prefixes for pin in pins},
        node.name or os.uname().nodename.partition(".")[0].lower(),
        now,
        settings.network.advertise_subnets,
    )
    if not chosen:
        return identity
    # Peers take packets from these only where their pin of this node names them too.
    return replace(identity, member=replace(identity.member, addresses=chosen))
