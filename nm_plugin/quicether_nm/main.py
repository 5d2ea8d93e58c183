"""The program that NetworkManager starts for a connection: nm-quicether-service."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Final

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, NameFlag, RequestNameReply
from dbus_next.errors import AuthError, DBusError, InvalidAddressError

from quicether.errors import HostError, QuicEtherError
from quicether.journal import JournalHandler, start_logging
from quicether_nm.busclient import watch_name
from quicether_nm.interface import BUS_NAME, PluginInterface, send_signal
from quicether_nm.plugin import Plugin
from quicether_nm.service import Service
from quicether_nm.states import State

log = logging.getLogger(__name__)

NETWORK_MANAGER: Final = "org.freedesktop.NetworkManager"
IDLE_SECONDS: Final = {State.INIT: 30.0, State.STOPPED: 1.0}
"""How long to stay in a state without a connection: NetworkManager connects right after it started
us, and it starts a process of its own for the next connection."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until NetworkManager has no more use for us; return the exit status."""
    options = _parser().parse_args(arguments)
    journal = start_logging(
        "nm-quicether-service", logging.DEBUG if options.debug else logging.INFO
    )
    try:
        asyncio.run(_serve(options.bus_name, journal, persist=options.persist))
    except QuicEtherError as error:
        log.error("%s", error)  # noqa: TRY400 - a sentence for a person
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nm-quicether-service",
        description="NetworkManager's VPN plugin for QuicEther; NetworkManager starts it.",
    )
    parser.add_argument("--bus-name", default=BUS_NAME, type=_bus_name, metavar="NAME")
    parser.add_argument("--persist", action="store_true", help="do not quit when idle")
    parser.add_argument("--debug", action="store_true", help="log every step")
    return parser


def _bus_name(text: str) -> str:
    if text != BUS_NAME and not text.startswith(f"{BUS_NAME}."):
        raise argparse.ArgumentTypeError(f"{text!r} is not {BUS_NAME} or below it")
    return text


async def _serve(bus_name: str, journal: JournalHandler | None, *, persist: bool) -> None:
    """Own bus_name until idle, told to stop, or left alone by NetworkManager.

    Raises HostError: no bus, the bus ended, or the name is not to be had.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    except (OSError, AuthError, InvalidAddressError) as error:
        raise HostError(f"the system bus cannot be reached: {error}") from error

    idle = _IdleTimer(stop, persist=persist)

    def on_profile(uuid: str) -> None:
        if journal is not None:
            journal.fields["NM_CONNECTION"] = uuid

    service = Service(bus)
    plugin = Plugin(
        service,
        lambda name, argument: send_signal(bus, name, argument),
        on_state=idle.on_state,
        on_profile=on_profile,
    )
    PluginInterface(bus, plugin)
    await service.watch()
    # Started in NetworkManager's unit with KillMode=process, we outlive it.
    await watch_name(bus, NETWORK_MANAGER, stop.set)
    await _own(bus, bus_name)
    idle.on_state(State.INIT)
    ended = asyncio.ensure_future(bus.wait_for_disconnect())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        stopped.cancel()
        raise HostError(f"the connection to the system bus ended: {ended.exception()!r}")
    await plugin.close()
    bus.disconnect()
    await asyncio.wait([ended])


async def _own(bus: MessageBus, name: str) -> None:
    try:
        reply = await bus.request_name(name, NameFlag.DO_NOT_QUEUE)
    except DBusError as error:
        raise HostError(f"bus name {name}: {error}") from error
    if reply is not RequestNameReply.PRIMARY_OWNER:
        raise HostError(f"bus name {name} belongs to another process")


class _IdleTimer:
    """Sets stop once the plugin has been without a connection for a while."""

    def __init__(self, stop: asyncio.Event, *, persist: bool) -> None:
        self._stop = stop
        self._persist = persist
        self._timer: asyncio.TimerHandle | None = None

    def on_state(self, state: State) -> None:
        """Start or stop the clock, whichever the state asks for."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if state in IDLE_SECONDS and not self._persist:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(IDLE_SECONDS[state], self._stop.set)


if __name__ == "__main__":
    sys.exit(main())
