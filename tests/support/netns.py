"""Network namespaces: making them, and acting inside one without leaving the process."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from support.commands import run_command
from support.sweep import NAMESPACES

Result = TypeVar("Result")
_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


def create(name: str) -> None:
    """Make a namespace with loopback up and IPv6 addresses usable at once.

    Duplicate address detection is off: it would make every new IPv6 address wait for a second.
    """
    run_command(["ip", "netns", "add", name])
    batch(name, ["link set lo up"])
    sysctl(
        name,
        {
            "net.ipv6.conf.all.disable_ipv6": "0",
            "net.ipv6.conf.default.accept_dad": "0",
            "net.ipv6.conf.default.dad_transmits": "0",
            "net.ipv6.conf.all.accept_dad": "0",
        },
    )


def batch(name: str, commands: Sequence[str]) -> None:
    """Run several `ip` commands in the namespace, in one process."""
    run_command(["ip", "-n", name, "-batch", "-"], input="\n".join(commands) + "\n")


def tc(name: str, command: str) -> None:
    """Run one `tc` command in the namespace."""
    run_command(["tc", "-n", name, *command.split()])


def sysctl(name: str, values: dict[str, str]) -> None:
    """Set kernel parameters of the namespace (those below `net.`)."""
    run_command(
        ["ip", "netns", "exec", name, "sysctl", "-qw", *(f"{k}={v}" for k, v in values.items())]
    )


def inside(name: str, act: Callable[[], Result]) -> Result:
    """Call `act` in a thread that is in the namespace; sockets made there stay there."""
    results: list[Result] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            descriptor = os.open(NAMESPACES / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                    error = ctypes.get_errno()
                    raise OSError(error, f"setns {name}: {os.strerror(error)}")
            finally:
                os.close(descriptor)
            results.append(act())
        except BaseException as failure:  # noqa: BLE001 - handed to the caller's thread
            failures.append(failure)

    thread = threading.Thread(target=body, name=f"in {name}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def on_loop(name: str, act: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine on a loop of its own in the namespace, for 20 seconds at most."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await act()

    inside(name, lambda: asyncio.run(bounded()))
