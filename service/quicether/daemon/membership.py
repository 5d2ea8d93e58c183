"""One tunnel's membership in a network that has an authority."""

from __future__ import annotations

import time

from quicether.counters import Counters
from quicether.identity.store import NetworkStore, NodeIdentity
from quicether.identity.trust import AuthorityTrust
from quicether.overlay.membership import Membership
from quicether.overlay.mesh import Mesh
from quicether.registry.client import RegistrarClient
from quicether.transport.endpoint import Endpoint


def membership(
    identity: NodeIdentity, mesh: Mesh, endpoint: Endpoint, counters: Counters
) -> Membership | None:
    """Return what keeps a node a member; None where peers are pinned and nobody certifies.

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
        registrar=registrar,
        counters=counters,
        clock=time.monotonic,
    )
