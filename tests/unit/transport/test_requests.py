"""Requests to a peer are bounded, and each ends: with an answer, a refusal, or the connection."""

from __future__ import annotations

import asyncio

import pytest

from quicether.errors import ProtocolError, TrustError, UnreachableError
from quicether.model import DropReason
from quicether.transport import messages, requests
from quicether.transport.endpoint import CloseCode
from quicether.transport.engine import MAX_REQUESTS
from support.certificates import Network
from support.endpoints import RecordedEndpoint, join


def test_requests_are_bound_in_size_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(requests, "MAX_WAITING", 2 * MAX_REQUESTS)
        network = Network()
        async with (
            RecordedEndpoint(network.member("a"), network.trust()) as a,
            RecordedEndpoint(network.member("b"), network.trust()) as b,
        ):
            ours, _ = await join(a, b)
            with pytest.raises(ProtocolError):
                await ours.request(bytes(messages.MAX_RPC + 1), 5)
            largest = bytes(range(256)) * 256
            assert await ours.request(largest, 5) == largest[::-1]

            running = 0
            most = 0
            release = asyncio.Event()

            async def slowly(body: bytes) -> bytes:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await release.wait()
                running -= 1
                return body

            b.events.answer = slowly
            waiting = [
                asyncio.create_task(ours.request(bytes((number,)), 10))
                for number in range(2 * MAX_REQUESTS)
            ]
            await b.events.until(lambda: running == MAX_REQUESTS)
            with pytest.raises(UnreachableError, match="waiting already"):
                await ours.request(b"one too many", 10)
            assert a.counters.drops[DropReason.RPC_LIMITED] == 1
            release.set()
            answers = await asyncio.gather(*waiting)
            assert answers == [bytes((number,)) for number in range(2 * MAX_REQUESTS)]
            assert most == MAX_REQUESTS

    asyncio.run(main())


def test_an_answer_that_fails_resets_its_stream_alone() -> None:
    async def main() -> None:
        network = Network()
        async with (
            RecordedEndpoint(network.member("a"), network.trust()) as a,
            RecordedEndpoint(network.member("b"), network.trust()) as b,
        ):
            ours, _ = await join(a, b)

            async def refuse(body: bytes) -> bytes:
                raise TrustError("not for you")

            b.events.answer = refuse
            with pytest.raises(UnreachableError, match="refused the request"):
                await ours.request(b"please", 5)

            async def too_much(body: bytes) -> bytes:
                return bytes(messages.MAX_RPC + 1)

            b.events.answer = too_much
            with pytest.raises(UnreachableError, match="refused the request"):
                await ours.request(b"please", 5)

            async def never(body: bytes) -> bytes:
                await asyncio.Event().wait()
                return body

            b.events.answer = never
            with pytest.raises(UnreachableError, match="no answer within"):
                await ours.request(b"please", 0.2)
            b.events.answer = None
            assert await ours.request(b"abc", 5) == b"cba"

    asyncio.run(main())


def test_requests_end_with_the_connection() -> None:
    async def main() -> None:
        network = Network()
        async with (
            RecordedEndpoint(network.member("a"), network.trust()) as a,
            RecordedEndpoint(network.member("b"), network.trust()) as b,
        ):
            ours, theirs = await join(a, b)

            async def hang_up(body: bytes) -> bytes:
                theirs.close(CloseCode.DONE, "enough")
                return body

            b.events.answer = hang_up
            with pytest.raises(UnreachableError, match="enough"):
                await ours.request(b"please", 5)

    asyncio.run(main())
