"""How the newest revocation list reaches every node within seconds, and what it does there.

Lists have numbers. On every new connection the side that opened it says its number, and so does
every node to all its peers when it takes a newer list. Whoever is behind asks for the list, and
whoever hears of a higher number asks back. A list is only believed for the authority's signature,
so the worst that a lying member can do is to be asked once for a list that it does not have.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from quicether.errors import IdentityError, ProtocolError, TrustError, UnreachableError
from quicether.identity.revocation import RevocationList
from quicether.identity.trust import AuthorityTrust
from quicether.overlay.mesh import Mesh
from quicether.transport.endpoint import CloseCode, Connection
from quicether.transport.messages import RpcKind

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds that a peer has to answer."""
_NUMBER_BYTES: Final = 8
_ASK: Final = bytes([RpcKind.REVOCATION])


class Revocations:
    """Implements `neighbours.RpcService` for RpcKind.REVOCATION.

    keep: writes the list in force to disk.
    """

    def __init__(
        self, trust: AuthorityTrust, mesh: Mesh, keep: Callable[[RevocationList], None]
    ) -> None:
        self._trust = trust
        self._mesh = mesh
        self._keep = keep
        self._saving = asyncio.Lock()
        self._asked: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def number(self) -> int:
        """Number of the list in force, 0 without one."""
        revocations = self._trust.revocations
        return 0 if revocations is None else revocations.number

    def connected(self, connection: Connection) -> None:
        """Compare numbers with a new peer, if it was this side that came."""
        if connection.initiated:
            self._exchange_with(connection)

    async def answer(self, connection: Connection, body: bytes) -> bytes:
        """Answer a peer's number with the list if ours is newer, else with nothing."""
        if len(body) != _NUMBER_BYTES:
            raise ProtocolError(f"a revocation number of {len(body)} bytes, not {_NUMBER_BYTES}")
        number = int.from_bytes(body)
        if number > self.number:
            self._exchange_with(connection)
        revocations = self._trust.revocations
        return b"" if revocations is None or revocations.number <= number else revocations.der

    async def take(self, der: bytes) -> bool:
        """Put a list in force if it is newer: cut off whom it names, and pass it on.

        Returns whether it was newer. Raises TrustError: it is not the authority's;
        IdentityError: it is in force, but was not written to disk.
        """
        if not self._trust.accept_revocations(der):
            return False
        log.info("revocation list %d is in force", self.number)
        self.cut()
        for connection in self._mesh.peers.connections().values():
            self._exchange_with(connection)
        async with self._saving:
            if self._trust.revocations is not None:
                await asyncio.to_thread(self._keep, self._trust.revocations)
        return True

    def cut(self) -> None:
        """Close every connection of a revoked member and forget its routes."""
        for member in self._mesh.expel(
            self._trust.is_revoked, CloseCode.REVOKED, "the certificate is revoked"
        ):
            log.warning("node %s (%s) is revoked and cut off", member.name, member.node_id)

    async def close(self) -> None:
        """Stop asking."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _exchange_with(self, connection: Connection) -> None:
        """Tell a peer our number and take its list if that is newer; one at a time with each."""
        if connection in self._asked:
            return
        self._asked.add(connection)
        self._spawn(self._exchange(connection))

    async def _exchange(self, connection: Connection) -> None:
        name = connection.member.name
        said = -1
        try:
            # Again if a newer list came meanwhile, which the peer was not told of.
            while said != self.number:
                said = self.number
                body = _ASK + said.to_bytes(_NUMBER_BYTES)
                der = await connection.request(body, PATIENCE)
                if der:
                    self._asked.discard(connection)
                    await self.take(der)
                    return
        except UnreachableError as error:
            log.debug("%s was not asked for revocations: %s", name, error)
        except (ProtocolError, TrustError) as error:
            log.warning("node %s offers a revocation list that is refused: %s", name, error)
        except IdentityError as error:
            log.error("%s", error)  # noqa: TRY400 - a sentence says it all
        except Exception:
            log.exception("a fault of our own while revocations were compared with %s", name)
        finally:
            self._asked.discard(connection)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
