"""One non-blocking UDP socket that reads and writes in batches.

The kernel's segmentation offloads carry up to 64 datagrams of one size through one system call:
UDP_SEGMENT on the way out, UDP_GRO on the way in (udp(7)). Packets leave with DF set and the
kernel's own path-MTU cache is not asked (IP_PMTUDISC_PROBE), because ICMP can be forged or lost:
`path_mtu` finds the size by itself (RFC 8899).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Final

from quicether.counters import Counters
from quicether.errors import HostError
from quicether.model import DropReason, UnderlayAddress

SocketAddress = tuple[str, int] | tuple[str, int, int, int]

BATCH: Final = 64
"""Most datagrams that one segmentation offload carries (UDP_MAX_SEGMENTS of the kernel)."""
READS_PER_WAKEUP: Final = 16
"""System calls before the event loop gets its turn; each brings up to `BATCH` datagrams."""
SOCKET_BUFFER: Final = 4 << 20
MAX_BACKLOG: Final = 512
"""Datagrams already sealed that may wait for a socket that is full."""

_MAX_READ: Final = 65_536
_GSO_BYTES: Final = 65_000
_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_IP_MTU_DISCOVER: Final = 10
_IP_MTU: Final = 14
_IPV6_MTU_DISCOVER: Final = 23
_IPV6_MTU: Final = 24
_PMTUDISC_PROBE: Final = 3
_SO_RCVBUFFORCE: Final = 33
_SO_SNDBUFFORCE: Final = 32
_IP_PKTINFO: Final = 8
_IN_PKTINFO: Final = struct.Struct("@i4s4s")
_IN6_PKTINFO: Final = struct.Struct("@16si")
_INT: Final = struct.Struct("@i")
_U16: Final = struct.Struct("@H")
_ANCILLARY_SPACE: Final = socket.CMSG_SPACE(_IN6_PKTINFO.size) + socket.CMSG_SPACE(_INT.size)
_IPV4_HEADERS: Final = 28
_IPV6_HEADERS: Final = 48

Source = tuple[int, int, bytes]
"""An ancillary item that makes a datagram leave from the address at which the peer reached us."""


@dataclass(slots=True)
class Arrival:
    """Datagrams that came from one address in one system call.

    source: what to hand to `UdpSocket.send` to answer from the address they were sent to.
    """

    remote: SocketAddress
    source: Source | None
    datagrams: list[bytes]


class UdpSocket:
    """A bound UDP socket on an event loop.

    local_address: what it is bound to, or was.
    on_arrivals: called with everything that one wakeup brought.
    on_writable: called when a socket that was full takes datagrams again.
    """

    def __init__(
        self,
        bind: UnderlayAddress,
        *,
        counters: Counters,
        mark: int | None,
        on_arrivals: Callable[[list[Arrival]], None],
        on_writable: Callable[[], None],
    ) -> None:
        """Bind the socket. Raises HostError: the address or port cannot be had."""
        self._counters = counters
        self._on_arrivals = on_arrivals
        self._on_writable = on_writable
        self._mark = mark
        self._dual = ip_address(bind.host).version == 6
        self._loop = asyncio.get_running_loop()
        self._backlog: deque[tuple[list[bytes], SocketAddress, Source | None]] = deque()
        self._backlog_datagrams = 0
        self._buffer = memoryview(bytearray(_MAX_READ))
        self._ancillary: list[tuple[int, int, bytes]] = []
        self._ancillary_says: tuple[int | None, Source | None] = (None, None)
        self._segmentation = True
        self._sparse = False
        self._socket = self._bind(bind)
        # Kept, because a tunnel is asked for its port while it goes down, too.
        self.local_address = UnderlayAddress.of_socket(self._socket.getsockname())

    def listen(self) -> None:
        """Begin to read. What came since the socket was bound has waited in the kernel."""
        self._loop.add_reader(self._socket.fileno(), self._readable)

    @property
    def full(self) -> bool:
        """Whether the kernel's buffer is full: what is sent now waits in the backlog."""
        return bool(self._backlog)

    def close(self) -> None:
        """Free the socket; a backlog is lost. Idempotent."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._backlog.clear()
        self._socket.close()

    def socket_address(self, address: UnderlayAddress) -> SocketAddress:
        """Return address as this socket's family writes it.

        Raises HostError: an IPv6 address on a socket that is bound to IPv4.
        """
        number = ip_address(address.host)
        if not self._dual:
            if number.version == 6:
                raise HostError(f"{address} is IPv6, but the socket is bound to IPv4 alone")
            return address.host, address.port
        if isinstance(number, IPv4Address):
            return f"::ffff:{number}", address.port, 0, 0
        return str(number), address.port, 0, 0

    def largest_payload(self, remote: SocketAddress) -> int | None:
        """Return the most bytes of UDP payload that the local interface takes towards remote.

        None: there is no route.
        """
        family = self._socket.family
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                if self._mark is not None:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
                probe.connect(remote)
                if is_ipv4(remote):
                    return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU) - _IPV4_HEADERS
                return probe.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU) - _IPV6_HEADERS
            except OSError:
                return None

    def send(
        self, datagrams: Sequence[bytes], remote: SocketAddress, source: Source | None = None
    ) -> int:
        """Send datagrams in order, now or as soon as the socket takes them.

        Returns how many were lost because they are larger than the local interface takes.
        """
        if self._backlog:
            self._wait(list(datagrams), remote, source)
            return 0
        too_large = 0
        start, count = 0, len(datagrams)
        while start < count:
            stop = self._run_of_equal_size(datagrams, start) if self._segmentation else start + 1
            try:
                self._send_run(datagrams[start:stop], remote, source)
            except (BlockingIOError, InterruptedError):
                self._wait(list(datagrams[start:]), remote, source)
                return too_large
            except OSError as error:
                if stop - start > 1 and error.errno in (errno.EMSGSIZE, errno.EINVAL):
                    too_large += self._send_singly(datagrams[start:stop], remote, source)
                elif stop - start > 1 and error.errno == errno.EIO:
                    self._segmentation = False  # no checksum offload on that device (udp(7))
                    continue
                elif error.errno == errno.EMSGSIZE:
                    too_large += 1
                else:
                    # No route, no buffer, a firewall's REJECT: lost as on any other link.
                    self._counters.drop(DropReason.UNREACHABLE, stop - start)
            start = stop
        return too_large

    def _send_singly(
        self, datagrams: Sequence[bytes], remote: SocketAddress, source: Source | None
    ) -> int:
        too_large = 0
        for datagram in datagrams:
            try:
                self._send_run([datagram], remote, source)
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    too_large += 1
                else:
                    self._counters.drop(DropReason.UNREACHABLE)
        return too_large

    def _send_run(self, run: Sequence[bytes], remote: SocketAddress, source: Source | None) -> None:
        ancillary: list[Source] = [] if source is None else [source]
        if len(run) > 1:
            ancillary.append((_SOL_UDP, _UDP_SEGMENT, _U16.pack(len(run[0]))))
        self._socket.sendmsg(run, ancillary, 0, remote)

    @staticmethod
    def _run_of_equal_size(datagrams: Sequence[bytes], start: int) -> int:
        """Return the end of the run that one UDP_SEGMENT carries: the last one may be shorter."""
        size = len(datagrams[start])
        end = min(len(datagrams), start + min(BATCH, _GSO_BYTES // size))
        for index in range(start + 1, end):
            length = len(datagrams[index])
            if length != size:
                return index + 1 if length < size else index
        return max(end, start + 1)

    def _wait(self, datagrams: list[bytes], remote: SocketAddress, source: Source | None) -> None:
        if not self._backlog:
            self._loop.add_writer(self._socket.fileno(), self._writable)
        self._backlog.append((datagrams, remote, source))
        self._backlog_datagrams += len(datagrams)
        while self._backlog_datagrams > MAX_BACKLOG and len(self._backlog) > 1:
            oldest, _, _ = self._backlog.popleft()
            self._backlog_datagrams -= len(oldest)
            self._counters.drop(DropReason.QUEUE_FULL, len(oldest))

    def _writable(self) -> None:
        backlog, self._backlog = self._backlog, deque()
        self._backlog_datagrams = 0
        self._loop.remove_writer(self._socket.fileno())
        while backlog:
            self.send(*backlog.popleft())
            if self._backlog:
                self._backlog.extend(backlog)
                self._backlog_datagrams = sum(len(entry[0]) for entry in self._backlog)
                return
        self._on_writable()

    def _readable(self) -> None:
        arrivals: list[Arrival] = []
        for count in range(READS_PER_WAKEUP):
            try:
                arrival = self._read()
            except (BlockingIOError, InterruptedError):
                self._sparse = count == 1
                break
            if arrival is None:
                continue
            arrivals.append(arrival)
            if self._sparse:
                # One at a time came lately: it does not wait for a look for another.
                self._sparse = False
                self._on_arrivals(arrivals)
                arrivals = []
                if self._socket.fileno() < 0:
                    return
        if arrivals:
            self._on_arrivals(arrivals)

    def _read(self) -> Arrival | None:
        """Return what one system call brings; None for what had to be dropped.

        Raises BlockingIOError: nothing is there.
        """
        try:
            size, ancillary, flags, remote = self._socket.recvmsg_into(
                [self._buffer], _ANCILLARY_SPACE
            )
        except (BlockingIOError, InterruptedError):
            raise
        except OSError:
            # A queued error of an earlier send (ICMP); the next call reads on.
            self._counters.drop(DropReason.UNREACHABLE)
            return None
        if flags & socket.MSG_TRUNC:
            self._counters.drop(DropReason.MALFORMED)
            return None
        if size == 0:
            return None
        if ancillary != self._ancillary:
            # Most that arrives says the same as what came before.
            self._ancillary, self._ancillary_says = ancillary, _read_ancillary(ancillary)
        segment, source = self._ancillary_says
        if segment is None or segment >= size:
            return Arrival(remote, source, [self._buffer[:size].tobytes()])
        # The last of the datagrams that the kernel joined may be shorter than the others.
        cuts = range(0, size, segment)
        datagrams = [self._buffer[at : min(at + segment, size)].tobytes() for at in cuts]
        return Arrival(remote, source, datagrams)

    def _bind(self, bind: UnderlayAddress) -> socket.socket:
        family = socket.AF_INET6 if self._dual else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if self._mark is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            _enlarge(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF)
            _enlarge(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF)
            if self._dual:
                dual = int(bind.host != "::")
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, dual)
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            if not self._dual or bind.host == "::":
                sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
            if not self._dual:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
            sock.bind((bind.host, bind.port))
        except OSError as error:
            sock.close()
            raise HostError(f"cannot listen on UDP {bind}: {error.strerror or error}") from error
        return sock


def is_ipv4(address: SocketAddress) -> bool:
    """Tell whether a socket address reaches an IPv4 host, mapped into IPv6 or not."""
    return len(address) == 2 or address[0].startswith("::ffff:")


def ip_headers(address: SocketAddress) -> int:
    """Return how many bytes the IP and UDP headers take towards address."""
    return _IPV4_HEADERS if is_ipv4(address) else _IPV6_HEADERS


def _read_ancillary(
    ancillary: Sequence[tuple[int, int, bytes]],
) -> tuple[int | None, Source | None]:
    """Return the size of the datagrams that the kernel joined, if any, and how to answer."""
    segment, source = None, None
    for level, kind, data in ancillary:
        if level == _SOL_UDP and kind == _UDP_GRO:
            segment = _INT.unpack(data)[0]
        else:
            source = _answer_source(level, kind, data)
    return segment, source


def _answer_source(level: int, kind: int, data: bytes) -> Source | None:
    """Turn the packet info of a datagram that arrived into that of its answer."""
    if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
        address, _ = _IN6_PKTINFO.unpack(data)
        return level, kind, _IN6_PKTINFO.pack(address, 0)
    if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
        _, address, _ = _IN_PKTINFO.unpack(data)
        return level, kind, _IN_PKTINFO.pack(0, address, bytes(4))
    return None


def _enlarge(sock: socket.socket, force: int, option: int) -> None:
    """Ask for a large buffer: past the system's limit where CAP_NET_ADMIN allows, else up to it."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
