"""Requests and answers, each on a bidirectional stream of its own.

A body goes out, ended by FIN, and the answer comes back on the same stream, ended by FIN. How many
a peer may have under way is bound by QUIC itself (MAX_STREAMS); how large a body is, by the
stream's flow control. What is refused is reset.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from quicether.counters import Counters
from quicether.errors import ProtocolError, QuicEtherError, UnreachableError
from quicether.model import DropReason
from quicether.transport.engine import MAX_REQUESTS
from quicether.transport.messages import MAX_RPC
from quicether.transport.session import Session

log = logging.getLogger(__name__)

MAX_WAITING: Final = 256
"""Requests to one peer that may wait until another one is answered."""
ABANDONED: Final = 1
"""Error code of a stream that was given up (RFC 9000 section 19.4)."""


class Requests:
    """The requests under way with one peer, in both directions.

    serve: answers a request of the peer; an exception resets its stream.
    """

    def __init__(
        self,
        session: Session,
        serve: Callable[[bytes], Awaitable[bytes]],
        counters: Counters,
    ) -> None:
        self._session = session
        self._serve = serve
        self._counters = counters
        self._slots = asyncio.Semaphore(MAX_REQUESTS)
        self._waiting = 0
        self._answers: dict[int, tuple[asyncio.Future[bytes], bytearray]] = {}
        self._bodies: dict[int, bytearray] = {}
        self._held: list[tuple[int, bytes]] = []
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._open = False
        self._ended: str | None = None

    def open(self) -> None:
        """Begin to answer; what came before was kept."""
        self._open = True
        held, self._held = self._held, []
        for stream_id, body in held:
            self._start(stream_id, body)

    async def ask(self, body: bytes, patience: float) -> bytes:
        """Send a request and return its answer.

        patience: seconds. Raises UnreachableError: no answer in time, or the session ended;
        ProtocolError: the body or the answer is larger than `MAX_RPC` bytes.
        """
        if len(body) > MAX_RPC:
            raise ProtocolError(f"a request of {len(body)} bytes; at most {MAX_RPC} are allowed")
        if self._waiting >= MAX_WAITING:
            self._counters.drop(DropReason.RPC_LIMITED)
            raise UnreachableError(f"{MAX_WAITING} requests to the peer are waiting already")
        self._waiting += 1
        try:
            async with asyncio.timeout(patience):
                async with self._slots:
                    return await self._exchange(body)
        except TimeoutError:
            raise UnreachableError(f"no answer within {patience:g} s") from None
        finally:
            self._waiting -= 1

    async def _exchange(self, body: bytes) -> bytes:
        if self._ended is not None:
            raise UnreachableError(self._ended)
        stream_id = self._session.open_stream()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[stream_id] = (answer, bytearray())
        self._session.send_stream(stream_id, body, end=True)
        try:
            return await answer
        finally:
            del self._answers[stream_id]
            if answer.cancelled() or answer.exception() is not None:
                self._session.give_up_stream(stream_id, ABANDONED)

    def data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Take the next bytes of a request's or an answer's stream."""
        ours = bool(stream_id & 1) is not self._session.initiated
        if ours:
            self._answer_data(stream_id, data, end=end)
        elif not stream_id & 2:
            self._request_data(stream_id, data, end=end)

    def reset(self, stream_id: int) -> None:
        """The peer gave a stream up."""
        if stream_id in self._answers:
            answer, _ = self._answers[stream_id]
            if not answer.done():
                answer.set_exception(UnreachableError("the peer refused the request"))
            return
        self._bodies.pop(stream_id, None)
        self._held = [each for each in self._held if each[0] != stream_id]
        task = self._tasks.get(stream_id)
        if task is not None:
            task.cancel()
        self._session.give_up_stream(stream_id, ABANDONED)

    def end(self, reason: str) -> None:
        """The session is over: nothing more is asked or answered."""
        self._ended = reason
        for answer, _ in self._answers.values():
            if not answer.done():
                answer.set_exception(UnreachableError(reason))
        for task in self._tasks.values():
            task.cancel()
        self._bodies.clear()
        self._held.clear()

    def _answer_data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        entry = self._answers.get(stream_id)
        if entry is None or entry[0].done():
            return
        answer, body = entry
        body += data
        if len(body) > MAX_RPC:
            answer.set_exception(
                ProtocolError(f"an answer of more than {MAX_RPC} bytes, the most that is allowed")
            )
        elif end:
            answer.set_result(bytes(body))

    def _request_data(self, stream_id: int, data: bytes, *, end: bool) -> None:
        body = self._bodies.setdefault(stream_id, bytearray())
        body += data
        busy = len(self._tasks) + len(self._held) >= MAX_REQUESTS
        if len(body) > MAX_RPC or (end and busy):
            del self._bodies[stream_id]
            self._counters.drop(DropReason.RPC_LIMITED)
            self._session.give_up_stream(stream_id, ABANDONED)
        elif end:
            del self._bodies[stream_id]
            if self._open:
                self._start(stream_id, bytes(body))
            else:
                self._held.append((stream_id, bytes(body)))

    def _start(self, stream_id: int, body: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(stream_id, body))
        self._tasks[stream_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(stream_id, None))

    async def _answer(self, stream_id: int, body: bytes) -> None:
        try:
            answer = await self._serve(body)
            if len(answer) > MAX_RPC:
                raise ProtocolError(f"an answer of {len(answer)} bytes; at most {MAX_RPC}")
        except QuicEtherError as error:
            log.debug("a request of %s is refused: %s", self._session.remote, error)
            self._session.give_up_stream(stream_id, ABANDONED)
        except Exception:
            log.exception("a request of %s failed", self._session.remote)
            self._session.give_up_stream(stream_id, ABANDONED)
        else:
            if not self._session.closed:
                self._session.send_stream(stream_id, answer, end=True)
