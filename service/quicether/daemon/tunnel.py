"""One tunnel: its parts put together, brought up in order, and taken down without a rest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from random import SystemRandom
from typing import Final

from quicether.bus.contract import LinkOwnerName, TunnelState
from quicether.bus.status import LookupResult, PeerStatus, PingResult, PolicyVerdict, RouteStatus
from quicether.config.settings import Settings
from quicether.counters import Counters
from quicether.daemon import site
from quicether.daemon.discovery import discovery
from quicether.daemon.fixed import check_fixed
from quicether.daemon.guard import Guard
from quicether.daemon.host_config import UNDERLAY_MARK, host_config
from quicether.daemon.links import Choice
from quicether.daemon.membership import membership
from quicether.daemon.names import Naming
from quicether.daemon.report import Report
from quicether.daemon.tasks import Tasks
from quicether.daemon.teardown import take_down
from quicether.daemon.upkeep import Upkeep
from quicether.daemon.watch import Watch
from quicether.dataplane.device import Device
from quicether.dataplane.forwarder import Forwarder
from quicether.errors import ConfigError
from quicether.host.desired import HostConfig
from quicether.host.monitor import UnderlayMonitor
from quicether.host.underlay import Underlay
from quicether.identity.store import NodeIdentity
from quicether.model import Address, NodeId, Prefix, UnderlayAddress
from quicether.overlay.mesh import Mesh
from quicether.overlay.routes import OverlayRoutes
from quicether.policy.ruleset import RuleSet
from quicether.transport.aioquic_endpoint import AioquicEndpoint

log = logging.getLogger(__name__)

SETTLE_TIME: Final = 2.5
"""Seconds after which a tunnel is ready, whether its peers have answered or not."""
REST: Final = 4.0
"""Times the processor's time for thinking all routes over that is waited before the next time."""
HOUSEKEEPING: Final = 1.0
"""Seconds between looks at silent flows."""
LOOKUP_PATIENCE: Final = 5.0


class Tunnel:
    """One running tunnel. Implements `bus.controller.TunnelView`.

    Made stopped; `start` brings it up whole or not at all, `stop` takes everything away.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        identity: NodeIdentity,
        link: Choice,
        rules: RuleSet,
        changed: Callable[[], None],
        lost: Callable[[Tunnel, Exception], None],
    ) -> None:
        """rules: the policy. changed: called when what is published may differ.

        lost: called when the tunnel cannot go on: its device was taken away, or there was a fault.
        Raises ConfigError: the settings ask for what the node's certificate does not allow.
        """
        self.name = name
        self.state = TunnelState.STARTING
        self.settings = settings
        self.counters = Counters()
        self.since = time.time()
        self.link_reason = link.reason
        self._refused: tuple[str, ...] = ()
        self._identity = identity
        self._link = link.owner
        self._upkeep = Upkeep(name, link.owner, time.monotonic)
        self._underlay = Underlay()
        own, self._keep_exits = site.is_overlay_device, site.exits(settings)
        self._monitor = UnderlayMonitor(
            self._underlay_changed, own, mark=UNDERLAY_MARK, before=self._keep_exits
        )
        self._path_mtu = site.MTU_CEILING
        self._lan: tuple[Prefix, ...] = ()
        self._changed = changed
        self._dirty = asyncio.Event()
        self._lost = lost
        self._guard = Guard(settings, rules)
        audit = self._guard.audit
        self._routes = OverlayRoutes(
            identity.member,
            static=[(route.prefix, route.node) for route in settings.overlay.static_routes],
            default_gateway=settings.overlay.default_gateway,
        )
        self._endpoint = AioquicEndpoint(
            site.bind_address(settings.discovery),
            certificate=identity.certificate,
            key=identity.key.private,
            trust=identity.trust,
            counters=self.counters,
            mark=UNDERLAY_MARK,
            hello=lambda: self._mesh.hello(),
            max_connections=settings.performance.max_connections,
        )
        self._mesh = Mesh(
            identity.member,
            self._endpoint,
            self._routes,
            instance=os.urandom(8),
            entropy=SystemRandom(),
            clock=time.monotonic,
            changed=self._dirty.set,
            audit=audit,
        )
        self._naming = Naming.of(settings, identity, self._routes, link.resolver)
        self._routes.services = self._naming.services
        self._mesh.use_policy(self._guard.policy)
        self._report = Report(self._mesh, self._guard)
        self._membership = membership(
            identity, self._mesh, self._endpoint, self.counters, settings.node
        )
        self._discovery = discovery(
            identity, self._mesh, self.counters, audit, lambda: self.endpoints, settings.discovery
        )
        self._watch = Watch(self, self._mesh, self._guard, self._membership)
        self._device: Device | None = None
        self._tasks = Tasks(name, self._fail)
        self._failure: Exception | None = None
        self._settled, self._settled_by = False, 0.0

    # -- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring the tunnel up. Raises HostError; then nothing of it is left."""
        try:
            self._endpoint.bind()
            await self._watch.open(self.settings.monitoring)
            self._underlay = await self._monitor.start()
            await self._measure()
            if self.settings.full_tunnel:
                # While name servers can be asked without the tunnel.
                await self._mesh.dialer.names.learn(site.named(self.settings))
            self._device = await self._upkeep.attach(self._desired())
            forwarder = Forwarder(
                self._device, self.counters, self._mesh.snapshot(), time.monotonic, self._mesh
            )
            # In one turn of the loop: who comes finds all that may be asked here, and is noticed
            # by all that follow peers.
            self._endpoint.open(self._mesh)
            self._mesh.start(forwarder, self.settings.overlay.peers)
            if self._membership is not None:
                self._membership.start()
            found_by = self.settings.discovery
            self._discovery.start(found_by.routes, found_by.bootstrap_nodes)
            self._device.start(forwarder.outbound, self._fail)
            await self._upkeep.complete()
            if self._failure is not None:
                raise self._failure
        except BaseException:
            await self.stop()
            raise
        self._settled_by = time.monotonic() + SETTLE_TIME
        self.state = TunnelState.RUNNING
        self._tasks.keep(self._follow())
        self._tasks.keep(self._discovery.run())
        if self._membership is not None:
            self._tasks.keep(self._membership.run())
        self._tasks.start(self._settle())
        self._tasks.keep(self._keep_house())

    async def stop(self) -> None:
        """Take the tunnel down: peers told, device and routes gone, socket closed. Idempotent."""
        self.state = TunnelState.STOPPING
        await take_down(
            self.name,
            self._tasks.close,
            self._watch.close,
            *(() if self._membership is None else (self._membership.close,)),
            self._discovery.close,
            self._mesh.close,
            self._endpoint.close,
            *(() if self._device is None else (self._device.close,)),
            self._monitor.close,
            self._guard.close,
            self._link.remove,
            self._keep_exits,
        )

    async def reload(self, settings: Settings) -> None:
        """Use other settings from now on, where a running tunnel can.

        Raises ConfigError: what differs needs the tunnel to go down and up again; IdentityError:
        the certificate or the revocation list on disk is damaged.
        """
        check_fixed(self.settings, settings)
        if self._membership is not None:
            await self._membership.reload()
        before, self.settings = self.settings, settings
        try:
            self._serve()
            await self._guard.reload(settings)
        except ConfigError:
            self.settings = before
            self._serve()
            raise
        await self._measure()
        self._mesh.use_policy(self._guard.policy)
        self._mesh.want_configured(settings.overlay.peers)
        self._discovery.use(settings.discovery.routes, settings.discovery.bootstrap_nodes)
        self._dirty.set()

    async def renew(self) -> datetime:
        """Renew this node's certificate now and return its end. Raises: see `Controller.renew`."""
        if self._membership is None:
            raise ConfigError(f"network {self.network} has pinned peers, and no authority to renew")
        return await self._membership.renew()

    # -- what the bus publishes --------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the tunnel runs and what its configured peers serve is in `host_config`.

        A peer that does not answer is waited for no longer than SETTLE_TIME.
        """
        return self.state is TunnelState.RUNNING and (
            self._settled or time.monotonic() >= self._settled_by
        )

    @property
    def network(self) -> str:
        """Name of the network."""
        return self.settings.network.name or self.name

    @property
    def host_config(self) -> HostConfig | None:
        """What the OS has, or is to have; None before the tunnel comes up."""
        return self._upkeep.config

    @property
    def node_id(self) -> NodeId:
        """This node."""
        return self._identity.member.node_id

    @property
    def node_name(self) -> str:
        """This node's name, as its certificate says."""
        return self._identity.member.name

    @property
    def listen_port(self) -> int:
        """The UDP port that is bound."""
        return self._endpoint.local_address.port

    @property
    def endpoints(self) -> Sequence[UnderlayAddress]:
        """Where other machines may reach this node, the most likely first."""
        return site.endpoints(self.settings.discovery, self._underlay, self.listen_port)

    @property
    def link(self) -> LinkOwnerName:
        """Who owns the link."""
        return LinkOwnerName(self._link.name)

    @property
    def offers(self) -> Sequence[Prefix]:
        """Prefixes that this node leads others to."""
        return site.offers(self.settings)

    @property
    def refusals(self) -> Sequence[str]:
        """What was not taken: prefixes, offers, and what the link's owner cannot have."""
        return (*self._refused, *self._link.limits, *self._upkeep.trouble)

    @property
    def peer_count(self) -> int:
        """How many peers there are."""
        return self._report.peer_count

    @property
    def peers_revision(self) -> object:
        """Something else whenever `peers` may be."""
        return self._report.peers_revision

    @property
    def route_count(self) -> int:
        """How many routes there are."""
        return self._report.route_count

    @property
    def routes_revision(self) -> object:
        """Something else whenever `routes` may be."""
        return self._report.routes_revision

    def peers(self, start: int, count: int) -> Sequence[PeerStatus]:
        """Return at most count peers from the start-th on, by name, then id."""
        return self._report.peers(start, count)

    def routes(self, start: int, count: int) -> Sequence[RouteStatus]:
        """Return at most count routes from the start-th on, by prefix, then preference."""
        return self._report.routes(start, count)

    async def lookup(self, address: Address) -> LookupResult:
        """Say where packets to address go, after the DHT was asked."""
        asked = await self._discovery.ask(address, LOOKUP_PATIENCE)
        return self._report.lookup(address, asked=asked)

    async def ping(self, node: str) -> PingResult:
        """Ask a node for a sign of life. Raises ConfigError, UnreachableError."""
        return await self._report.ping(node)

    async def policy_test(
        self, source: str, destination: Address, protocol: str, port: int | None
    ) -> PolicyVerdict:
        """Say what the policy in force does with a packet. Raises ConfigError."""
        return self._report.policy_test(source, destination, protocol, port)

    # -- inside ------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Say to the overlay what the settings make this node serve. Raises ConfigError."""
        self._mesh.serve(
            site.owned(self.settings, self._identity.member),
            forwarding=site.forwarding(self.settings),
            lan=self._lan,
            mtu=self._mtu(),
        )

    def _mtu(self) -> int:
        configured = self.settings.network.mtu
        return configured or self._path_mtu

    def _desired(self) -> HostConfig:
        """Return what the OS is to have now, and note what was refused."""
        known = (self.settings, self._identity.member, self._mesh, self._underlay)
        wanted = host_config(*known, self._mtu(), self.listen_port, self._guard)
        found = self._naming.into(wanted)
        self._mesh.outside.route(found.config.prefixes)
        offers, published = self._mesh.offers.refusals, self._discovery.refusals
        self._refused = (*found.refusals, *offers, *published)
        return found.config

    def _fail(self, error: Exception) -> None:
        """Fail at once, so that nobody takes the tunnel for one that runs while it is ended."""
        self._failure = error
        if self.state is TunnelState.RUNNING:
            self.state = TunnelState.FAILED
            self._lost(self, error)

    async def _follow(self) -> None:
        """Bring the OS to each new desired state, one at a time, and tell the bus."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._upkeep.again_in):
                    await self._dirty.wait()
            self._dirty.clear()
            settled, begun = self._mesh.peers.settled(), time.thread_time()
            desired = self._desired()
            rest = REST * (time.thread_time() - begun)
            await self._upkeep.bring(desired)
            self._settled = settled
            self._changed()
            await asyncio.sleep(rest)

    def _underlay_changed(self, underlay: Underlay) -> None:
        log.info("tunnel %s: the host's network changed", self.name)
        self._underlay = underlay
        self._mesh.underlay_changed()
        self._discovery.moved()
        self._tasks.start(self._measure())
        self._dirty.set()

    async def _measure(self) -> None:
        """Find out what of the settings depends on the host's own network."""
        path_mtu = await site.path_mtu(self.settings)
        if path_mtu != self._path_mtu:
            self._path_mtu = path_mtu
            self._dirty.set()
        self._lan = await site.lan(self.settings, self._underlay)
        self._serve()

    async def _settle(self) -> None:
        """Publish `ready` when its time has come even if no peer ever answers."""
        await asyncio.sleep(SETTLE_TIME)
        self._changed()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            self._guard.expire()
