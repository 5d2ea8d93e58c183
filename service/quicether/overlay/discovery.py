"""Finds who owns what and where they are, and lets others find this node: the DHT at work.

    records that are followed, answers of lookups  ->  Findings  ->  OverlayRoutes.discovered
    what this node serves, where it is seen        ->  Advertiser  ->  signed records

With `routes = auto`, or a list, the index keys of those prefixes are followed, so that changes
come by themselves. Whatever a packet asks for beyond that is looked up.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Final

from quicether.config.values import HostPort
from quicether.dht.events import (
    BootstrapWanted,
    Event,
    Joined,
    LookupDone,
    Published,
    RecordFound,
    RecordGone,
)
from quicether.dht.keyspace import gateway_key, node_key
from quicether.errors import ConfigError, UnreachableError
from quicether.model import Address, NodeId, Prefix, UnderlayAddress
from quicether.overlay.advertise import Advertiser, RenewableSigner, advertisement
from quicether.overlay.bootstrap import Bootstrap
from quicether.overlay.dht_driver import DhtDriver
from quicether.overlay.findings import Findings
from quicether.overlay.gateways import Offers
from quicether.overlay.mesh import Mesh
from quicether.overlay.observed import Observations
from quicether.overlay.outside import locations_of
from quicether.overlay.pool import Pool
from quicether.overlay.questions import Questions, followed_keys
from quicether.transport.endpoint import Connection
from quicether.transport.messages import RpcKind

log = logging.getLogger(__name__)

HOUSEKEEPING: Final = 2.0
"""Seconds between looks at what is idle, over or gone."""
LINGER: Final = 10.0
"""Seconds for which the word of a peer counts after its connection was lost."""
LOCATE_AGAIN: Final = 3.0
"""Seconds after which a node that is still not connected is looked for once more."""
SEEK_ANEW: Final = 30.0
"""Seconds after which a node that a gateway stands in for is looked for once more."""
MAX_LOCATED: Final = 1024
MAX_RIVALS: Final = 2
"""Other owners of a node's prefixes that are connected to beside it."""
RIVALS_OF: Final = 256
"""Prefixes of a node that are looked at for that."""
SAVE_EVERY: Final = 300.0
SAVE_AFTER_JOIN: Final = 5.0
_NEVER: Final = (float("-inf"), False)
FAREWELL: Final = 1.0
"""Seconds that a node that leaves takes at most to withdraw what it said."""


class Discovery:
    """Implements `neighbours.Discovery` for one tunnel, between `start` and `close`.

    Its owner keeps `run` running: what fails there is the tunnel's failure.
    """

    def __init__(
        self,
        mesh: Mesh,
        pool: Pool,
        bootstrap: Bootstrap,
        driver: Callable[[Callable[[Event], None]], DhtDriver],
        signer: RenewableSigner,
        network_id: bytes,
        *,
        endpoints: Callable[[], Iterable[UnderlayAddress]],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """driver: makes the driver of this node's DHT machine, from who gets its events.

        endpoints: where this host may be reached, best first. clock: monotonic seconds. wall:
        seconds since 1970.
        """
        self.refusals: tuple[str, ...] = ()
        self._mesh = mesh
        self._pool = pool
        self._bootstrap = bootstrap
        self._driver = driver(self._told)
        self._node = self._driver.node
        self._signer = signer
        self._network_id = network_id
        self._endpoints = endpoints
        self._clock = clock
        self._wall = wall
        self._findings = Findings()
        self._changed: set[NodeId] = set()
        self._advertiser = Advertiser(self._node)
        self._advertised: tuple[Sequence[Prefix], Offers] = ((), mesh.offers)
        self._observations = Observations()
        self._watched: set[int] = set()
        self._lookups: dict[int, Callable[[LookupDone], None]] = {}
        self._questions = Questions(network_id, self._find, self._found, clock)
        self._located: OrderedDict[NodeId, tuple[float, bool]] = OrderedDict()
        self._lost: dict[NodeId, float] = {}
        self._save_at = float("inf")
        self._running = False

    # -- life --------------------------------------------------------------------------------

    def start(self, routes: str | tuple[Prefix, ...], bootstrap: Iterable[HostPort]) -> None:
        """Begin. routes, bootstrap: as in the settings."""
        self._running = True
        self._mesh.discovery = self
        self._mesh.follow(self._connected)
        self._mesh.answer_with(RpcKind.DHT, self._driver)
        self._bootstrap.load()
        self.use(routes, bootstrap)
        self._driver.start()
        self.advertise(self._mesh.hello().prefixes, self._mesh.offers)

    async def run(self) -> None:
        """Keep house as long as the tunnel is up; to be cancelled before `close`."""
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            await self._keep_house()

    def use(self, routes: str | tuple[Prefix, ...], bootstrap: Iterable[HostPort]) -> None:
        """Follow other prefixes, and use other bootstrap addresses, from now on."""
        now = self._clock()
        keys = followed_keys(self._network_id, routes)
        for key in self._watched - keys:
            self._node.unwatch(key)
        for key in keys - self._watched:
            self._node.watch(key, now)
        self._watched = keys
        self._bootstrap.use(bootstrap)
        self._bootstrap.wanted(urgent=not self._node.joined)
        self._driver.pump()

    async def close(self) -> None:
        """Withdraw what this node said, keep the peers for the next run, and stop. Idempotent."""
        if not self._running:
            return
        self._running = False
        self._mesh.discovery = None
        await self._bootstrap.save(self._node.contacts())
        self._advertiser.withdraw_all(self._clock())
        await self._driver.drain(FAREWELL)
        await self._driver.close()
        self._questions.close()

    # -- what others ask and say ----------------------------------------------------------------

    def look_up(self, destination: bytes) -> bool:
        """Begin to look for the prefix of a packed address; False: known to have none."""
        begun = self._node.joined and self._questions.begin(destination, self._watched)
        self._driver.pump()
        return begun

    async def ask(self, address: Address, patience: float) -> bool:
        """Look for the owner of an address and wait for the outcome; False: nobody to ask."""
        self._questions.forget(address.packed)
        if not self._node.joined or not self._questions.begin(address.packed, set()):
            return False
        self._driver.pump()
        await self._questions.wait(address.packed, patience)
        return True

    def locate(self, node: NodeId) -> bool:
        """Begin to look for where a node is; False: there is nobody to ask."""
        now = self._clock()
        asked, hope = self._located.get(node, _NEVER)
        if now < asked + LOCATE_AGAIN:
            return hope
        hope = self._look_for(node, now)
        for rival in self._rivals(node):
            if now >= self._located.get(rival, _NEVER)[0] + LOCATE_AGAIN:
                self._look_for(rival, now)
        self._driver.pump()
        return hope

    def seek(self, node: NodeId) -> None:
        """Try a node again where it was found, as often as asked; look for it anew at times."""
        asked, _ = self._located.get(node, _NEVER)
        if self._clock() < asked + SEEK_ANEW:
            self._reach(node)
        else:
            self.locate(node)

    def advertise(self, owned: Sequence[Prefix], offers: Offers) -> None:
        """Let everybody find what this node owns and forwards for, in place of earlier."""
        self._advertised = (tuple(owned), offers)
        self._advertise()

    def observed(self, peer: NodeId, address: UnderlayAddress) -> None:
        """A peer says where it sees this node."""
        before = self._observations.agreed
        self._observations.take(peer, address)
        if self._observations.agreed != before:
            self._advertise()

    def moved(self) -> None:
        """The host's own network changed."""
        self._observations.forget()
        self._mesh.outside.moved()
        self._advertise()

    def forget(self, node: NodeId) -> None:
        """Believe nothing of a node any more: it was revoked."""
        self._node.forget_node(node, self._clock())
        self._findings.forget(node)
        self._located.pop(node, None)
        self._driver.pump()
        self._changed.discard(node)

    def renewed(self, certificate: bytes) -> None:
        """Sign everything anew with another certificate, DER, for the same key."""
        self._signer.certificate = certificate
        self._node.renew_signatures(self._clock())
        self._driver.pump()

    # -- what the DHT machine tells --------------------------------------------------------------

    def _told(self, event: Event) -> None:
        match event:
            case RecordFound(record):
                self._findings.follow(record)
                self._mark(record.owner)
            case RecordGone(record, reason, withdrawal):
                content, owner = record.content, record.member.name
                log.info("%s %s of %s is gone: %s", content.kind, content, owner, reason)
                self._findings.unfollow(record)
                if withdrawal is not None:
                    self._findings.withdrawn(withdrawal)
                self._mark(record.owner)
            case LookupDone():
                self._lookups.pop(event.lookup)(event)
            case BootstrapWanted(urgent):
                if urgent:
                    # Who is connected is there, even if it could not answer when it was asked.
                    for connection in self._mesh.peers.connections().values():
                        self._driver.connected(connection)
                self._bootstrap.wanted(urgent=urgent)
            case Joined(contacts):
                log.info("the network is found; %d of its nodes are known", contacts)
                self._save_at = self._clock() + SAVE_AFTER_JOIN
            case Published(key, holders):
                log.debug("key %040x is kept by %d nodes", key, holders)

    def _mark(self, node: NodeId) -> None:
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._apply)
        self._changed.add(node)

    def _apply(self) -> None:
        """Bring the routes in line with the records of those nodes that changed."""
        changed, self._changed = self._changed, set()
        for node in changed:
            member = self._findings.member(node) or self._mesh.routes.member(node)
            if member is None or node == self._mesh.me.node_id:
                continue
            for next_hop, prefixes in self._findings.routes(node).items():
                self._mesh.routes.discovered(member, next_hop, prefixes)
        if changed:
            self._mesh.wake()

    # -- lookups -----------------------------------------------------------------------------

    def _find(self, key: int, done: Callable[[LookupDone], None]) -> None:
        """Look for the records under a key. Raises UnreachableError: too many lookups run."""
        self._lookups[self._node.find(key, self._clock())] = done

    def _take(self, found: LookupDone) -> None:
        for withdrawal in found.withdrawals:
            self._findings.withdrawn(withdrawal)
            self._changed.add(withdrawal.owner)
        for record in found.records:
            if record.owner != self._mesh.me.node_id:
                self._changed |= self._findings.asked(record, self._wall())
        self._apply()

    def _found(self, destination: bytes, found: LookupDone | None) -> bool:
        """Take what a question for an address brought; tell whether its owner is known now.

        found: None when all has come.
        """
        if found is not None:
            self._take(found)
        hop = self._mesh.routes.fib.lookup(destination)
        if hop is None:
            if found is None:
                self._mesh.nobody_has(destination)
            return False
        if hop.node is not None and self._mesh.peers.active(hop.node) is None:
            self.locate(hop.node)
        return self._mesh.routes.fib.owner(destination) is not None

    def _look_for(self, node: NodeId, now: float) -> bool:
        """Look for one node, wherever it may be; False: there is nobody to ask."""
        self._note(node, now, hope=True)
        known = self._reach(node)
        try:
            self._find(node_key(self._network_id, node), partial(self._has_located, node))
            self._find(gateway_key(self._network_id, node), self._take)
        except UnreachableError as error:
            log.debug("node %s is not looked for: %s", node.short, error)
            self._note(node, now, hope=known)
        return known or self._node.joined

    def _has_located(self, node: NodeId, found: LookupDone) -> None:
        self._take(found)
        if self._mesh.peers.active(node) is None and not self._reach(node):
            self._note(node, self._clock(), hope=False)
            self._mesh.nobody_finds(node)

    def _reach(self, node: NodeId) -> bool:
        """Connect to where a node is known to be; False: no place is known."""
        contact = next((c for c in self._node.contacts() if c.node_id == node), None)
        endpoints = self._findings.addresses(node)
        locations = locations_of((*endpoints, *(contact.endpoints if contact else ())))
        if not locations:
            return False
        try:
            self._mesh.want(node, locations)
        except ConfigError as error:
            log.warning("node %s is not connected to: %s", node.short, error)
            return False
        return True

    def _note(self, node: NodeId, now: float, *, hope: bool) -> None:
        self._located[node] = (now, hope)
        self._located.move_to_end(node)
        if len(self._located) > MAX_LOCATED:
            self._located.popitem(last=False)

    def _rivals(self, node: NodeId) -> list[NodeId]:
        """Return other nodes at which the prefixes of a node that does not answer may be had.

        Those that were looked for longest ago: where most of many are dead, all have their turn.
        """
        routes, active = self._mesh.routes, self._mesh.peers.active
        rivals = {
            other: None
            for prefix in islice(routes.owned_by(node), RIVALS_OF)
            for route in routes.candidates(prefix)
            if (other := route.next_hop.node) is not None
            and other != node
            and active(other) is None
        }
        by_turn = sorted(rivals, key=lambda other: self._located.get(other, _NEVER)[0])
        return by_turn[:MAX_RIVALS]

    # -- upkeep ------------------------------------------------------------------------------

    def _connected(self, connection: Connection) -> None:
        self._pool.connected(connection)
        self._driver.connected(connection)

    def _advertise(self) -> None:
        seen_at = (*self._endpoints(), *self._observations.agreed)
        capabilities = self._mesh.hello().capabilities
        found = advertisement(self._mesh.me, seen_at, capabilities, *self._advertised)
        self.refusals = found.refusals
        self._advertiser.publish(found.contents, self._clock())
        self._driver.pump()

    async def _keep_house(self) -> None:
        now = self._clock()
        self._pool.sweep()
        contacts = self._node.contacts()
        self._mesh.peers.forget_spent(found_somebody=bool(contacts))
        self._changed |= self._findings.expire(self._wall())
        self._let_go(now)
        self._apply()
        self._advertise()
        if now >= self._save_at:
            self._save_at = now + SAVE_EVERY
            await self._bootstrap.save(contacts)

    def _let_go(self, now: float) -> None:
        """Believe peers that are gone, and that nobody configured, no longer on their word."""
        configured = self._mesh.peers.configured()
        known = {member.node_id for member in self._mesh.routes.members()}
        gone = {node for node in known - configured if self._mesh.peers.active(node) is None}
        self._lost = {node: self._lost.get(node, now) for node in gone}
        before = self._mesh.routes.fib
        for node, since in self._lost.items():
            if now - since >= LINGER:
                self._mesh.routes.unannounced(node)
        if self._mesh.routes.fib is not before:
            self._mesh.wake()
