"""Runs one DHT machine: its clock, its timers, and its questions over connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from quicether.dht.contact import Contact
from quicether.dht.contents import RecordRefused
from quicether.dht.events import Event, SendRequest
from quicether.dht.node import DhtNode
from quicether.dht.records import Record, Verifier
from quicether.errors import QuicEtherError
from quicether.model import Member, NodeId, UnderlayAddress
from quicether.overlay.neighbours import AuditEvents
from quicether.overlay.pool import Pool
from quicether.transport.endpoint import Connection
from quicether.transport.messages import RpcKind

log = logging.getLogger(__name__)

CLOCK_STEP: Final = 1.0
"""Seconds by which the host's clock has to be set for records to be judged by the new time."""


class AuditedVerifier:
    """Judges records, and has those that do not count written down.

    sender: who handed over what is judged now.
    """

    def __init__(self, verifier: Verifier, audit: AuditEvents) -> None:
        self.sender: Member | NodeId | None = None
        self._verifier = verifier
        self._audit = audit

    def verify(self, wire: bytes, wall: float) -> Record:
        """Return the record. wall: seconds since 1970. Raises RecordRefused."""
        try:
            return self._verifier.verify(wire, wall)
        except RecordRefused as refusal:
            self._audit.record_refused(self.sender, str(refusal))
            raise

    def forget(self, owner: NodeId) -> None:
        """Judge everything of an owner anew."""
        self._verifier.forget(owner)


class DhtDriver:
    """The edge around a `DhtNode`. Implements `neighbours.RpcService`.

    After every call of the machine `pump` does what it asks for and passes on what it tells.
    """

    def __init__(
        self,
        node: DhtNode,
        pool: Pool,
        verifier: AuditedVerifier,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        told: Callable[[Event], None],
    ) -> None:
        """verifier: the node's. clock: monotonic seconds. wall: seconds since 1970.

        told: gets every event that is not the driver's own.
        """
        self.node: Final = node
        self._pool = pool
        self._verifier = verifier
        self._clock = clock
        self._wall = wall
        self._told = told
        self._timer: asyncio.TimerHandle | None = None
        self._questions: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self) -> None:
        """Begin."""
        self.node.start(self._clock())
        self.pump()

    async def drain(self, patience: float) -> None:
        """Do what is due and wait until every question is answered, at most patience seconds."""
        end = self._clock() + patience
        self._on_timer()
        while self._questions and (left := end - self._clock()) > 0:
            await asyncio.wait(self._questions, timeout=left)

    async def close(self) -> None:
        """Stop; no question is waited for."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for question in tuple(self._questions):
            question.cancel()
        await asyncio.gather(*self._questions, return_exceptions=True)

    async def answer(self, connection: Connection, body: bytes) -> bytes:
        """Answer the question of a peer. Raises ProtocolError: it is malformed."""
        self._pool.used(connection.member.node_id)
        self._verifier.sender = connection.member
        try:
            return self.node.handle_request(contact_of(connection), body, self._clock())
        finally:
            self._verifier.sender = None
            self.pump()

    def connected(self, connection: Connection) -> None:
        """Take note of a peer that can be asked."""
        self.node.add_contact(contact_of(connection), self._clock())
        self.pump()

    def pump(self) -> None:
        """Do what the machine asks for, tell what it tells, and set its timer."""
        if self._closed:
            return
        while events := self.node.poll():
            for event in events:
                if isinstance(event, SendRequest):
                    self._send(event)
                else:
                    self._do(self._told, event)
        self._set_timer()

    def _send(self, request: SendRequest) -> None:
        task = asyncio.get_running_loop().create_task(self._ask(request))
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    async def _ask(self, request: SendRequest) -> None:
        contact = request.contact
        answer: bytes | None = None
        try:
            async with asyncio.timeout(request.timeout):
                connection = await self._pool.reach(contact.node_id, contact.endpoints)
                body = bytes([RpcKind.DHT]) + request.body
                answer = await connection.request(body, request.timeout)
        except (TimeoutError, QuicEtherError):
            log.debug("node %s does not answer", contact.node_id.short)
        except Exception:
            log.exception("node %s cannot be asked by a fault of our own", contact.node_id.short)
        if answer is None:
            self._do(self.node.failed, request.call, self._clock())
        else:
            self._verifier.sender = connection.member
            self._do(self.node.response, request.call, answer, self._clock())
            self._verifier.sender = None
        self.pump()

    @staticmethod
    def _do(action: Callable[..., None], *arguments: object) -> None:
        """Call the machine, or who hears of it. A fault in one place must not stop the others."""
        try:
            action(*arguments)
        except Exception:
            log.exception("a fault in the discovery of nodes and prefixes")

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.node.next_timer()
        if due is not None:
            delay = max(due - self._clock(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        now = self._clock()
        offset = self._wall() - now
        if abs(offset - self.node.clock_offset) > CLOCK_STEP:
            self.node.clock_offset = offset
        self._do(self.node.handle_timers, now)
        self.pump()


def contact_of(connection: Connection) -> Contact:
    """Return a connected peer as a contact: where we see it, and the port that it listens at."""
    remote, port = connection.remote, connection.hello.listen_port
    endpoints = dict.fromkeys((remote, UnderlayAddress(remote.host, port or remote.port)))
    return Contact.of(connection.member.node_id, *endpoints)
