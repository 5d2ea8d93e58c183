"""One node's membership while its tunnel runs: joining of others, renewal, revocation.

Puts together `gate`, `renewal` and `revocations` for a network with an authority, and reads and
writes what belongs to them on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from quicether.counters import Counters
from quicether.errors import ConfigError, IdentityError
from quicether.identity.store import NetworkStore, NodeIdentity
from quicether.identity.trust import AuthorityTrust
from quicether.model import Member
from quicether.overlay.gate import Gate, Registrar
from quicether.overlay.mesh import Mesh
from quicether.overlay.renewal import CAPABILITY, Renewal
from quicether.overlay.revocations import Revocations
from quicether.transport.endpoint import Connection, Endpoint
from quicether.transport.messages import RpcKind

log = logging.getLogger(__name__)


class Membership:
    """Runs between `start` and `close`.

    registrar: this machine's own, None where another machine has the authority.
    """

    def __init__(
        self,
        store: NetworkStore,
        identity: NodeIdentity,
        trust: AuthorityTrust,
        mesh: Mesh,
        endpoint: Endpoint,
        *,
        load: Callable[[], NodeIdentity],
        registrar: Registrar | None,
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        """load: reads the node's identity again from where identity was. clock: monotonic seconds.

        load raises IdentityError: something is missing or damaged.
        """
        self._store = store
        self._load = load
        self._trust = trust
        self._mesh = mesh
        self._endpoint = endpoint
        self._member = identity.member
        self._revocations = Revocations(trust, mesh, store.save_revocations)
        self._renewal = Renewal(
            identity.key,
            trust,
            identity.certificate,
            authorities=self._authorities,
            registrar=registrar,
            renewed=self._renewed,
            now=lambda: datetime.now(UTC),
        )
        self._gate = None if registrar is None else Gate(registrar, counters, clock)

    def start(self) -> None:
        """Begin to answer, and to compare lists with peers."""
        self._mesh.follow(self._connected)
        self._mesh.answer_with(RpcKind.REVOCATION, self._revocations)
        if self._gate is not None:
            self._mesh.capabilities |= {CAPABILITY}
            self._mesh.answer_with(RpcKind.AUTHORITY, self._gate)
            self._endpoint.accept_enrolment(self._gate)

    async def run(self) -> None:
        """Look at the certificate's end as long as the tunnel is up, until cancelled."""
        await self._renewal.run()

    async def close(self) -> None:
        """Stop. Idempotent."""
        await self._revocations.close()

    async def reload(self) -> None:
        """Take what commands on this machine changed: the revocation list and the certificate.

        Raises IdentityError: one of them is damaged; ConfigError: the node has another key now.
        """
        identity = self._load()
        node, running = identity.member.node_id, self._member.node_id
        if node != running:
            raise ConfigError(
                f"this machine's key is node {node.short}'s now, which needs the tunnel to go down "
                f"and up again; it runs as node {running.short}"
            )
        revocations = self._store.load_revocations(self._trust.authority)
        if revocations is not None:
            await self._revocations.take(revocations.der)
        certificate = identity.certificate
        if certificate != self._renewal.certificate:
            self._renewal.certificate = certificate
            self._use(certificate)
            self._renewal.look_again()

    async def renew(self) -> datetime:
        """Renew this node's certificate now and return its end, UTC; see `Renewal.renew`."""
        await self._renewal.renew()
        return self.certificate_end

    @property
    def certificate_end(self) -> datetime:
        """When the node's present certificate ends, UTC."""
        return self._renewal.certificate.not_valid_after_utc

    def _connected(self, connection: Connection) -> None:
        self._revocations.connected(connection)
        if CAPABILITY in connection.hello.capabilities:
            self._renewal.look_again()

    def _authorities(self) -> Iterable[Connection]:
        return [
            connection
            for connection in self._mesh.peers.connections().values()
            if CAPABILITY in connection.hello.capabilities
        ]

    def _renewed(self, certificate: x509.Certificate, member: Member) -> None:
        try:
            self._store.keep_renewed(certificate)
        except IdentityError as error:
            # In force all the same: the next renewal may find the disk in order.
            log.error("%s", error)  # noqa: TRY400 - a sentence says it all
        log.info("the certificate of node %s is renewed until %s", member.name, member.not_after)
        if (member.addresses, member.prefixes) != (self._member.addresses, self._member.prefixes):
            log.warning("the new certificate has other addresses or prefixes; restart the tunnel")
        self._use(certificate)

    def _use(self, certificate: x509.Certificate) -> None:
        self._endpoint.update_identity(certificate)
        if self._mesh.discovery is not None:
            self._mesh.discovery.renewed(certificate.public_bytes(Encoding.DER))
