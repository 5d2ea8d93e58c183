"""One tunnel's discovery: the DHT machine, its edge, and what it needs of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from random import SystemRandom

from quicether.config.settings import DiscoverySettings
from quicether.counters import Counters
from quicether.dht.contact import Contact
from quicether.dht.core import DhtConfig
from quicether.dht.events import Event
from quicether.dht.node import DhtNode
from quicether.dht.records import RecordVerifier
from quicether.identity.store import NetworkStore, NodeIdentity
from quicether.model import UnderlayAddress
from quicether.overlay.advertise import RenewableSigner
from quicether.overlay.bootstrap import Bootstrap, PeerCache
from quicether.overlay.dht_driver import AuditedVerifier, DhtDriver
from quicether.overlay.discovery import Discovery
from quicether.overlay.mesh import Mesh
from quicether.overlay.neighbours import AuditEvents
from quicether.overlay.pool import Pool


def discovery(
    identity: NodeIdentity,
    mesh: Mesh,
    counters: Counters,
    audit: AuditEvents,
    endpoints: Callable[[], Iterable[UnderlayAddress]],
    settings: DiscoverySettings,
) -> Discovery:
    """Return what finds others for a tunnel, and lets them find it; it does nothing yet.

    endpoints: where this host may be reached, best first.
    """
    trust, me, clock = identity.trust, identity.member.node_id, time.monotonic
    signer = RenewableSigner(
        trust.network_id, me, identity.certificate_der, identity.key.private.sign
    )
    verifier = AuditedVerifier(RecordVerifier(trust), audit)
    node = DhtNode(
        Contact.of(me),
        trust.network_id,
        verifier,
        signer,
        counters,
        SystemRandom(),
        time.time() - clock(),
        DhtConfig(longest_ttl=settings.record_life),
    )
    pool = Pool(mesh.peers, mesh.wake, clock)
    cache = PeerCache(NetworkStore.of_system(trust.network).peers_path)

    def driver(told: Callable[[Event], None]) -> DhtDriver:
        return DhtDriver(node, pool, verifier, clock=clock, wall=time.time, told=told)

    return Discovery(
        mesh,
        pool,
        Bootstrap(mesh.peers, mesh.wake, cache, clock),
        driver,
        signer,
        trust.network_id,
        endpoints=endpoints,
        clock=clock,
        wall=time.time,
    )
