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
from quicether_nm.revival import NETWORK_MANAGER, revive
from quicether_nm.service import Service
from quicether_nm.states import State

log = logging.getLogger(__name__)

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

    NetworkManager that left a connection alone is given time to be back, and the connection then.
    Raises HostError: no bus, the bus ended, or the name is not to be had.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    left = await _serve_networkmanager(bus_name, journal, told, persist=persist)
    if not left or told.is_set():
        return
    log.info("NetworkManager left a connection that is up; waiting for it to be back")
    stopped = asyncio.ensure_future(told.wait())
    reviving = asyncio.ensure_future(revive(left))
    await asyncio.wait([reviving, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if reviving.done():
        if reviving.result():
            log.info("NetworkManager is back and was asked for the connection again")
    else:
        reviving.cancel()
        await asyncio.wait([reviving])


async def _serve_networkmanager(
    bus_name: str, journal: JournalHandler | None, told: asyncio.Event, *, persist: bool
) -> str:
    """Serve until the end; return the uuid of the profile that was up when NetworkManager left.

    "" where none was. The end of the bus counts as such, too. told: set when the process is to
    end. Raises HostError: as `_serve`.
    """
    stop = asyncio.Event()
    try:
        bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    except (OSError, AuthError, InvalidAddressError) as error:
        raise HostError(f"the system bus cannot be reached: {error}") from error

    idle = _IdleTimer(stop, persist=persist)
    profile = left = ""

    def on_profile(uuid: str) -> None:
        nonlocal profile
        profile = uuid
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

    def on_left() -> None:
        nonlocal left
        left = left or (profile if plugin.is_wanted else "")
        stop.set()

    # Started in NetworkManager's unit with KillMode=process, we outlive it.
    await watch_name(bus, NETWORK_MANAGER, on_left)
    await _own(bus, bus_name)
    idle.on_state(State.INIT)
    ended = asyncio.ensure_future(bus.wait_for_disconnect())
    ending = [asyncio.ensure_future(event.wait()) for event in (stop, told)]
    await asyncio.wait([ended, *ending], return_when=asyncio.FIRST_COMPLETED)
    for each in ending:
        each.cancel()
    if ended.done():
        on_left()
        sentence = f"the connection to the system bus ended: {ended.exception()!r}"
        if not left:
            raise HostError(sentence)
        log.error("%s", sentence)
        return left
    if left and bus.connected:
        # The next NetworkManager may give it to the next process before the tunnel is down.
        await _disown(bus, bus_name)
    await plugin.close()
    if bus.connected:
        bus.disconnect()
    await asyncio.wait([ended])
    if (fault := ended.exception()) is not None:
        log.debug("the bus went away meanwhile: %r", fault)
    return left


async def _own(bus: MessageBus, name: str) -> None:
    try:
        reply = await bus.request_name(name, NameFlag.DO_NOT_QUEUE)
    except DBusError as error:
        raise HostError(f"bus name {name}: {error}") from error
    if reply is not RequestNameReply.PRIMARY_OWNER:
        raise HostError(f"bus name {name} belongs to another process")


async def _disown(bus: MessageBus, name: str) -> None:
    try:
        await bus.release_name(name)
    except (DBusError, OSError, EOFError) as error:
        log.debug("bus name %s: %s", name, error)


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
