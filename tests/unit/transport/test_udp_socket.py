"""The batching socket on loopback: order, offloads, a full buffer, what is too large."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Self

import pytest

from quicether.counters import Counters
from quicether.errors import HostError
from quicether.model import DropReason, UnderlayAddress
from quicether.transport import udp_socket
from quicether.transport.udp_socket import MAX_BACKLOG, Arrival, SocketAddress, UdpSocket


class Recorder:
    """A socket on loopback that keeps what arrives. An async context manager."""

    def __init__(self, host: str = "127.0.0.1", mark: int | None = None) -> None:
        self.arrived: list[Arrival] = []
        self.writable = 0
        self.heard: Callable[[], None] = lambda: None
        self.counters = Counters()
        self._changed = asyncio.Event()
        self.socket = UdpSocket(
            UnderlayAddress(host, 0),
            counters=self.counters,
            mark=mark,
            on_arrivals=self._on_arrivals,
            on_writable=self._on_writable,
        )
        self.socket.listen()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def name(self) -> SocketAddress:
        return self.socket.socket_address(self.socket.local_address)

    @property
    def datagrams(self) -> list[bytes]:
        return [datagram for arrival in self.arrived for datagram in arrival.datagrams]

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not wanted():
                self._changed.clear()
                await self._changed.wait()

    def _on_arrivals(self, arrivals: list[Arrival]) -> None:
        self.arrived += arrivals
        self.heard()
        self._changed.set()

    def _on_writable(self) -> None:
        self.writable += 1
        self._changed.set()


class ReluctantSocket:
    """A socket whose kernel answers `sendmsg` with errors first; all else is the real one's."""

    def __init__(self, real: socket.socket, errors: list[int]) -> None:
        self._real = real
        self.errors = errors

    def sendmsg(self, *arguments: Any) -> int:
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, os.strerror(code))
        return self._real.sendmsg(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


SIZES = [1400] * 70 + [100, 1400, 1400, 20, 30, 30, 1200, 1] + [52] * 130


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_batches_of_any_sizes_arrive_in_order_and_whole(host: str) -> None:
    async def main() -> None:
        async with Recorder(host) as here, Recorder(host) as there:
            sent = [bytes([n % 256]) * size for n, size in enumerate(SIZES)]
            to = there.socket.socket_address(
                UnderlayAddress("::1" if ":" in host else host, there.socket.local_address.port)
            )
            assert here.socket.send(sent, to) == 0
            await there.until(lambda: len(there.datagrams) == len(sent))
            # A short datagram that the kernel had joined to longer ones once came with old bytes.
            assert there.datagrams == sent
            # Fewer system calls than datagrams: the offloads are at work.
            assert len(there.arrived) < len(sent) / 4
            arrival = there.arrived[0]
            there.socket.send([b"back"], arrival.remote, arrival.source)
            await here.until(lambda: here.datagrams == [b"back"])
            assert here.arrived[0].remote[1] == there.socket.local_address.port

    asyncio.run(main())


class WatchedSocket:
    """A socket that notes each datagram that it gives, and that it has no more."""

    def __init__(self, real: socket.socket, seen: list[str]) -> None:
        self._real = real
        self._seen = seen

    def recvmsg_into(self, *arguments: Any) -> Any:
        try:
            found = self._real.recvmsg_into(*arguments)
        except BlockingIOError:
            self._seen.append("no more")
            raise
        self._seen.append("read")
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_where_one_comes_at_a_time_it_does_not_wait_for_the_look_for_another() -> None:
    """The look costs a cold processor tens of microseconds, twice a ping on each side."""

    async def main() -> None:
        async with Recorder() as here, Recorder() as there:
            seen: list[str] = []
            there.socket._socket = WatchedSocket(there.socket._socket, seen)  # type: ignore[assignment]
            there.heard = lambda: seen.append("handed over")
            for number in range(3):
                here.socket.send([bytes((number,))], there.name)
                await there.until(lambda: len(there.datagrams) == number + 1)  # noqa: B023
            assert seen[:3] == ["read", "no more", "handed over"]
            assert seen[3:6] == ["read", "handed over", "no more"]
            # A burst is taken together again after its first.
            seen.clear()
            here.socket.send([b"a"], there.name)
            here.socket.send([b"b"], there.name)
            here.socket.send([b"c"], there.name)
            await there.until(lambda: len(there.datagrams) == 6)
            assert seen[-4:] == ["read", "read", "no more", "handed over"]

    asyncio.run(main())


def test_a_socket_that_is_closed_by_what_arrived_is_read_no_more() -> None:
    async def main() -> None:
        async with Recorder() as here, Recorder() as there:
            here.socket.send([b"1"], there.name)
            await there.until(lambda: there.datagrams == [b"1"])
            there.heard = there.socket.close
            here.socket.send([b"2"], there.name)
            await there.until(lambda: there.datagrams == [b"1", b"2"])
            assert there.counters.drops == {}

    asyncio.run(main())


def test_a_full_socket_keeps_the_order_and_says_when_it_takes_more() -> None:
    async def main() -> None:
        async with Recorder() as here, Recorder() as there:
            here.socket._socket = ReluctantSocket(here.socket._socket, [errno.EAGAIN])  # type: ignore[assignment]
            here.socket.send([b"1", b"2"], there.name)
            assert here.socket.full
            here.socket.send([b"3"], there.name)
            await there.until(lambda: len(there.datagrams) == 3)
            assert there.datagrams == [b"1", b"2", b"3"]
            await here.until(lambda: here.writable == 1)
            assert not here.socket.full

    asyncio.run(main())


def test_what_waits_for_a_full_socket_is_bound() -> None:
    async def main() -> None:
        async with Recorder() as here, Recorder() as there:
            here.socket._socket = ReluctantSocket(here.socket._socket, [errno.EAGAIN] * 2)  # type: ignore[assignment]
            for number in range(MAX_BACKLOG + 10):
                here.socket.send([number.to_bytes(2, "big")], there.name)
            assert here.counters.drops[DropReason.QUEUE_FULL] == 10
            await there.until(lambda: len(there.datagrams) == MAX_BACKLOG)
            assert there.datagrams[0] == (10).to_bytes(2, "big")

    asyncio.run(main())


def test_errors_of_the_kernel_cost_what_they_concern() -> None:
    async def main() -> None:
        async with Recorder() as here, Recorder() as there:
            reluctant = ReluctantSocket(here.socket._socket, [errno.EMSGSIZE])
            here.socket._socket = reluctant  # type: ignore[assignment]
            assert here.socket.send([b"large"], there.name) == 1
            # A batch is then tried one by one; only what is too large by itself is lost.
            reluctant.errors = [errno.EMSGSIZE]
            assert here.socket.send([b"aa", b"bb"], there.name) == 0
            reluctant.errors = [errno.EPERM]
            assert here.socket.send([b"cc"], there.name) == 0
            assert here.counters.drops == {DropReason.UNREACHABLE: 1}
            # A device without checksum offload refuses segmentation for good.
            reluctant.errors = [errno.EIO]
            assert here.socket.send([b"dd", b"ee"], there.name) == 0
            await there.until(lambda: len(there.datagrams) == 4)
            assert there.datagrams == [b"aa", b"bb", b"dd", b"ee"]

    asyncio.run(main())


def test_a_datagram_larger_than_any_interface_is_reported() -> None:
    async def main() -> None:
        async with Recorder() as here, Recorder() as there:
            assert here.socket.send([bytes(65_530)], there.name) == 1
            limit = here.socket.largest_payload(there.name)
            assert limit == 65_535 - 28

    asyncio.run(main())


def test_addresses_are_written_as_the_family_wants_them() -> None:
    async def main() -> None:
        async with Recorder("::") as both, Recorder() as four:
            mapped = both.socket.socket_address(UnderlayAddress("192.0.2.1", 9))
            assert mapped == ("::ffff:192.0.2.1", 9, 0, 0)
            assert udp_socket.ip_headers(mapped) == 28
            six = both.socket.socket_address(UnderlayAddress("2001:db8::1", 9))
            assert udp_socket.ip_headers(six) == 48
            with pytest.raises(HostError, match="IPv6"):
                four.socket.socket_address(UnderlayAddress("2001:db8::1", 9))

    asyncio.run(main())


@pytest.mark.skipif(os.geteuid() != 0, reason="SO_MARK needs CAP_NET_ADMIN")
def test_a_socket_that_is_closed_still_says_where_it_was() -> None:
    async def main() -> None:
        async with Recorder() as recorder:
            port = recorder.socket.local_address.port
        assert recorder.socket.local_address.port == port != 0

    asyncio.run(main())


def test_the_mark_is_on_the_socket() -> None:
    async def main() -> None:
        async with Recorder(mark=0x51) as marked:
            assert marked.socket._socket.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x51

    asyncio.run(main())
