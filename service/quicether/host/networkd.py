"""The link owned by systemd-networkd: it makes the device and all on it from two files of ours.

Whoever may write in /run/systemd/network may replace what networkd has for every other link, and
may write .link files, which udev reads as root. So the daemon may not: root's tmpfiles make links
of fixed names there that lead into a folder of ours, one pair for each of SLOTS.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Final

from quicether.dataplane.tun import Tun
from quicether.errors import HostError
from quicether.host.desired import HostConfig
from quicether.host.detect import NETWORKD, has_owner
from quicether.host.kernel_events import until
from quicether.host.kernel_state import KernelState, Wanted, wanted
from quicether.host.networkd_files import SLOTS, device_of, file_names, netdev, network
from quicether.host.rtnetlink import Rtnetlink
from quicether.host.system_bus import SystemBus

log = logging.getLogger(__name__)

DIRECTORY: Final = Path("/run/quicether-networkd")
"""Where our files are; the service's own user may write there."""
LINKS: Final = Path("/run/systemd/network")
"""Where networkd looks, and finds links to our files."""
PATIENCE: Final = 5.0
"""Seconds that networkd may take to make the device and its addresses."""
_PATH: Final = "/org/freedesktop/network1"
_ROOT: Final = 0


class NetworkdOwner:
    """Implements `LinkOwner` on systemd-networkd.

    limits: as for `NetlinkOwner`.
    """

    def __init__(self, bus: SystemBus) -> None:
        """Ask networkd over bus to read what is written."""
        self._bus = bus
        self._tun: Tun | None = None
        self._device: str | None = None
        self._slot = 0
        self._adopted = False
        self._text = ""
        self.limits: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`networkd`."""
        return "networkd"

    async def attach(self, config: HostConfig) -> Tun:
        """Let networkd make the device and return it opened.

        A device that an earlier run left is kept as it is, also by a networkd that cannot be told
        anything now. Raises HostError; then nothing is left of the attempt.
        """
        if self._tun is not None:
            raise HostError(f"device {self._tun.name} is attached already")
        if config.netns is not None:
            raise HostError(
                f"netns {config.netns!r}: systemd-networkd has no device there; use link = netlink"
            )
        self._slot = _slot(config.device)
        self._device = config.device
        try:
            user = None if os.geteuid() == _ROOT else pwd.getpwuid(os.geteuid()).pw_name
            made, _ = file_names(self._slot)
            self._adopted = config.device in _taken() and await _exists(config.device)
            self._write(made, netdev(config.device, user))
            goal = await self._ask(config)
            await self._await_link(config.device)
            self._tun = Tun.open(config.device, outlive_us=True)
            await self._await_addresses(config.device, goal.state)
        except HostError:
            await self.remove()
            raise
        return self._tun

    async def apply(self, config: HostConfig) -> None:
        """Rewrite the file and let networkd do the difference. Raises HostError."""
        if self._tun is None:
            raise HostError("no device is attached")
        await self._ask(config)

    async def remove(self) -> None:
        """Take away the files, and the device with all that is on it. Idempotent.

        Without a bus they stay: it is being restarted, and so is the service, whose next run
        adopts them.
        """
        device, self._device = self._device, None
        if self._tun is not None:
            self._tun.close()
            self._tun = None
        self._text = ""
        if device is None:
            return
        try:
            await has_owner(self._bus, NETWORKD)
        except HostError as error:
            log.warning("%s is left as it is: %s", device, error)
            return
        await _forget(self._bus, {device: self._slot})

    async def _ask(self, config: HostConfig) -> Wanted:
        """Write the .network file, and tell networkd unless it says what it said before.

        A networkd that is not on the bus, and has the device already, is a limit and no failure.
        """
        goal = wanted(config, addressing=True, ipv6=True)
        text = network(config, goal.state)
        limits = goal.refused
        if text != self._text:
            _, file = file_names(self._slot)
            self._write(file, text)
            try:
                await _reload(self._bus)
                self._text = text
            except _Deaf as error:
                if not self._adopted:
                    raise
                limits += (str(error),)
        for limit in limits:
            if limit not in self.limits:
                log.warning("%s", limit)
        self.limits = limits
        return goal

    def _write(self, name: str, text: str) -> None:
        """Put a whole file in the place of the old one; networkd reads as another user."""
        target = DIRECTORY / name
        scratch = DIRECTORY / f".{name}.new"
        try:
            scratch.write_text(text)
            scratch.chmod(0o644)
            scratch.replace(target)
        except OSError as refusal:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise HostError(f"{target} cannot be written: {refusal.strerror}") from refusal

    async def _await_link(self, device: str) -> None:
        netlink = Rtnetlink.open()
        try:

            async def exists() -> bool:
                return await netlink.link_index(device) is not None

            if not await until(exists, PATIENCE):
                raise HostError(f"systemd-networkd made no device {device} in {PATIENCE:g} s")
        finally:
            netlink.close()

    async def _await_addresses(self, device: str, goal: KernelState) -> None:
        """Return when packets can flow. A machine without IPv6 never has those addresses."""
        expected = {address for address in goal.addresses if address.version == 4}
        netlink = Rtnetlink.open()
        try:
            index = await netlink.link_index(device)

            async def are_there() -> bool:
                return index is not None and expected <= await netlink.addresses(index)

            if not await until(are_there, PATIENCE):
                raise HostError(
                    f"systemd-networkd put no addresses on {device} in {PATIENCE:g} s; "
                    f"`networkctl status {device}` says more"
                )
        finally:
            netlink.close()


def leftovers() -> Set[str]:
    """Return the devices of all our files: of tunnels that run, or that a crash left."""
    return _taken().keys()


async def clean_networkd_leftovers(bus: SystemBus, devices: Set[str]) -> None:
    """Take away the files and devices of tunnels of a daemon that crashed.

    Raises HostError: networkd did not take it in; files and devices are gone all the same.
    """
    left = {device: slot for device, slot in _taken().items() if device in devices}
    for device in left:
        log.info("cleaning what a crash left of %s to systemd-networkd", device)
    if left:
        await _forget(bus, left)


async def _forget(bus: SystemBus, devices: Mapping[str, int]) -> None:
    """Take away devices and their files. devices: slot by name."""
    for slot in devices.values():
        for file in file_names(slot):
            (DIRECTORY / file).unlink(missing_ok=True)
    try:
        await _reload(bus)
    finally:
        for device in devices:
            await _delete_link(device)


class _Deaf(HostError):
    """networkd is not on the bus, so it cannot be told anything."""


async def _reload(bus: SystemBus) -> None:
    if not await has_owner(bus, NETWORKD):
        # Not to be started by the call: it may run, and only have missed a restart of the bus.
        raise _Deaf(
            f"systemd-networkd is not on the bus ({NETWORKD}), so that it hears of no change; "
            "`systemctl restart systemd-networkd` mends it"
        )
    await bus.call(NETWORKD, _PATH, f"{NETWORKD}.Manager", "Reload")


def _taken() -> dict[str, int]:
    """Return the slots that have a file, by the device that it makes."""
    taken: dict[str, int] = {}
    for slot in SLOTS:
        made, _ = file_names(slot)
        with contextlib.suppress(FileNotFoundError):
            taken[device_of((DIRECTORY / made).read_text(errors="replace"))] = slot
    return taken


def _slot(device: str) -> int:
    """Return the slot of a device, else one that is free.

    Raises HostError: all are taken, or networkd would not find our files.
    """
    taken = _taken()
    free = [slot for slot in SLOTS if slot not in taken.values()]
    if device not in taken and not free:
        raise HostError(
            f"systemd-networkd has {len(SLOTS)} tunnels already, which is the most; "
            "use link = netlink"
        )
    slot = taken.get(device, free[0] if free else 0)
    for file in file_names(slot):
        if (LINKS / file).resolve() != (DIRECTORY / file).resolve():
            raise HostError(
                f"{LINKS / file} does not lead to {DIRECTORY / file}; "
                "as root: systemd-tmpfiles --create quicether.conf"
            )
    return slot


async def _exists(device: str) -> bool:
    netlink = Rtnetlink.open()
    try:
        return await netlink.link_index(device) is not None
    finally:
        netlink.close()


async def _delete_link(device: str) -> None:
    netlink = Rtnetlink.open()
    try:
        index = await netlink.link_index(device)
        if index is not None:
            await netlink.delete_link(index)
    finally:
        netlink.close()
