"""One tunnel's membership in a network that has an authority."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from quicether.config.settings import NodeSettings
from quicether.counters import Counters
from quicether.identity.store import NetworkStore, NodeIdentity
from quicether.identity.trust import AuthorityTrust
from quicether.overlay.membership import Membership
from quicether.overlay.mesh import Mesh
from quicether.registry.client import RegistrarClient
from quicether.transport.endpoint import Endpoint


def membership(
    identity: NodeIdentity, mesh: Mesh, endpoint: Endpoint, counters: Counters, node: NodeSettings
) -> Membership | None:
    """Return what keeps a node a member; None where peers are pinned and nobody certifies.

    node: where identity was read from.
    Where this machine has the authority's key, others can join and renew here.
    """
    trust = identity.trust
    if not isinstance(trust, AuthorityTrust):
        return None
    store = NetworkStore.of_system(trust.network)
    registrar = None
    if store.has_authority:
        registrar = RegistrarClient(trust.network, identity.key.public_raw)
    return Membership(
        store,
        identity,
        trust,
        mesh,
        endpoint,
        load=lambda: store.load_identity(datetime.now(UTC), node.key_file, node.certificate_file),
        registrar=registrar,
        counters=counters,
        clock=time.monotonic,
    )
