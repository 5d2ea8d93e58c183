"""The kernel's TUN device, read and written in batches on the event loop."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from fcntl import ioctl
from pathlib import Path
from struct import pack
from typing import Final, Self

from quicether.counters import Counters
from quicether.dataplane.coalesce import PLAIN, coalesce
from quicether.errors import HostError
from quicether.model import DropReason

BATCH: Final = 64
"""Packets read in one wakeup of the loop, so that a busy device starves nothing else."""
_VNET: Final = len(PLAIN)
_MAX_READ: Final = 65535 + _VNET

_CLONE = Path("/dev/net/tun")
_IFNAMSIZ = 16
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB


class Tun:
    """An attached TUN device without packet information header. Implements `Device`."""

    def __init__(self, name: str, descriptor: int) -> None:
        """Take over an attached, non-blocking descriptor. Made by `open`."""
        self._name = name
        self._descriptor = descriptor
        self._loop: asyncio.AbstractEventLoop | None = None
        self._receive: Callable[[list[bytes]], None] | None = None
        self._lost: Callable[[HostError], None] | None = None
        self._paused = False
        self._sparse = False

    @classmethod
    def open(cls, name: str, *, outlive_us: bool = False) -> Self:
        """Attach to the TUN device called name; the kernel makes it where there is none.

        outlive_us: the device stays when the descriptor closes, as for one that networkd made.
        Otherwise it goes with this process, however the process ends.
        Raises HostError: no TUN support, not permitted, or the name belongs to something else.
        """
        encoded = name.encode()
        if not 0 < len(encoded) < _IFNAMSIZ:
            raise HostError(f"device name {name!r} is not 1 to {_IFNAMSIZ - 1} bytes long")
        try:
            descriptor = os.open(_CLONE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as refusal:
            raise HostError(f"{_CLONE} cannot be opened: {refusal.strerror}") from refusal
        try:
            ioctl(
                descriptor,
                _TUNSETIFF,
                pack("16sH22x", encoded, _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR),
            )
            if not outlive_us:
                ioctl(descriptor, _TUNSETPERSIST, 0)
        except OSError as refusal:
            os.close(descriptor)
            raise HostError(f"TUN device {name}: {_explain(refusal)}") from refusal
        return cls(name, descriptor)

    @property
    def name(self) -> str:
        """The interface's name."""
        return self._name

    def start(
        self,
        receive: Callable[[list[bytes]], None],
        lost: Callable[[HostError], None] | None = None,
    ) -> None:
        """Call receive with each batch that the kernel routes to the device."""
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._lost = lost
        if not self._paused:
            self._loop.add_reader(self._descriptor, self._read)

    def pause(self, paused: bool) -> None:
        """Stop or resume reading; the kernel's own queue (txqueuelen packets) then drops."""
        if paused == self._paused:
            return
        self._paused = paused
        if self._loop is None or self._descriptor < 0:
            return
        if paused:
            self._loop.remove_reader(self._descriptor)
        else:
            self._loop.add_reader(self._descriptor, self._read)

    def write(self, packets: Sequence[bytes], counters: Counters) -> None:
        """Give packets to the kernel. What it refuses is counted as DropReason.DEVICE.

        A refusal is a full receive queue, a device that is down, or a packet the kernel takes
        for malformed: the next packet may pass again.
        """
        descriptor = self._descriptor
        for pieces in coalesce(packets):
            try:
                os.writev(descriptor, pieces)
            except OSError:
                counters.drop(DropReason.DEVICE, max(1, len(pieces) - 2))

    def close(self) -> None:
        """Stop reading and free the descriptor. Idempotent."""
        if self._descriptor < 0:
            return
        if self._loop is not None and not self._paused:
            self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1

    def _read(self) -> None:
        descriptor = self._descriptor
        read = os.read
        receive = self._receive
        batch: list[bytes] = []
        count = 0
        try:
            while count < BATCH:
                batch.append(read(descriptor, _MAX_READ)[_VNET:])
                count += 1
                if self._sparse and receive is not None:
                    # One packet at a time came lately: it does not wait for a look for another.
                    self._sparse = False
                    receive(batch)
                    batch = []
                    if self._paused or self._descriptor < 0:
                        return
        except BlockingIOError:
            self._sparse = count == 1
        except OSError as failure:
            self._give_up(failure)
        if batch and receive is not None:
            receive(batch)

    def _give_up(self, failure: OSError) -> None:
        """Stop reading a device that is gone: it would be readable for ever."""
        self.close()
        if self._lost is not None:
            self._lost(HostError(f"device {self._name} was taken away: {failure.strerror}"))


def _explain(refusal: OSError) -> str:
    """Return why TUNSETIFF failed, for a person."""
    match refusal.errno:
        case errno.EBUSY:
            return "another process holds it"
        case errno.EPERM:
            return "not permitted; the daemon needs CAP_NET_ADMIN"
        case errno.EINVAL:
            return "the name belongs to a device that is no TUN device of this kind"
        case _:
            return refusal.strerror or str(refusal)
