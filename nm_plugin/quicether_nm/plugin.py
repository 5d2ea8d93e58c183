"""One VPN connection: NetworkManager's calls in, the service's tunnel behind, signals out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Protocol

from quicether.errors import IdentityError, QuicEtherError, TrustError, UnreachableError
from quicether_nm.busclient import BusEndedError
from quicether_nm.ipconfig import BadHostConfigError, NetworkConfig, Typed, network_config
from quicether_nm.profile import Connection, Profile, parse_profile
from quicether_nm.service import ServiceLeftError
from quicether_nm.states import Event, Failure, Signal, State, after

log = logging.getLogger(__name__)

READY_PATIENCE: Final = 2.5
"""Seconds that the first configuration waits for a peer, so that it holds the peer's prefixes.

The tunnel is up without one too, and `nmcli connection up` is to return within 5 s then.
"""

RETURN_PATIENCE: Final = 4.2
"""Seconds that a service which was stopped may take to be back, as a restart of it does.

A service that stays away is to be shown as down within 5 s.
"""

CLOSE_PATIENCE: Final = 5.0
"""Seconds that the program waits for the tunnel's end before it leaves the bus."""

Argument = int | Mapping[str, Typed]
Send = Callable[[Signal, Argument], Awaitable[None]]


class TunnelService(Protocol):
    """What the plugin needs of the service; see service.Service."""

    @property
    def host_config(self) -> Mapping[str, object]:
        """What the OS is to have for the tunnel now; empty while unknown."""

    async def up(self, profile: Profile) -> None:
        """Bring the tunnel up. Raises QuicEtherError."""

    async def wait_ready(self, patience: float) -> bool:
        """Wait for packets to flow. Raises QuicEtherError."""

    async def wait_change(self) -> None:
        """Wait for a change. Raises QuicEtherError: the tunnel or the service ended."""

    async def wait_return(self, patience: float) -> bool:
        """Wait for a service that left the bus in good order; tell whether it is back."""

    async def down(self) -> None:
        """Take the tunnel down. Raises QuicEtherError."""


class Plugin:
    """Walks the states of one connection at a time.

    send: sends a signal to NetworkManager; raises BusEndedError. on_state: told each new state.
    on_profile: told the uuid of the profile that is connected from now on.
    """

    def __init__(
        self,
        service: TunnelService,
        send: Send,
        *,
        on_state: Callable[[State], None],
        on_profile: Callable[[str], None],
    ) -> None:
        self._service = service
        self._send = send
        self._on_state = on_state
        self._on_profile = on_profile
        self._state = State.INIT
        self._sent: NetworkConfig | None = None
        self._deserted = False
        self._holding: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        """The connection's state."""
        return self._state

    @property
    def is_wanted(self) -> bool:
        """Whether NetworkManager wants the connection, and only others may have ended it.

        A bus that ends takes everybody along, and the service's end may be seen first.
        """
        return self._state in (State.STARTING, State.STARTED) or self._deserted

    async def connect(self, connection: Connection) -> None:
        """Begin to bring the connection's tunnel up; what comes of it is told by signals.

        Raises ConfigError: the profile is wrong. IllegalTransitionError: not in this state.
        """
        after(self._state, Event.CONNECT)
        self._on_profile(str(connection.get("connection", {}).get("uuid", "")))
        profile = parse_profile(connection)
        self._sent = None
        self._deserted = False
        # Before the first await, so that a Disconnect right behind finds something to end.
        self._holding = asyncio.create_task(_while_bus_lasts(partial(self._hold, profile)))
        await self._step(Event.CONNECT)

    async def disconnect(self) -> None:
        """Begin to take the tunnel down. Raises IllegalTransitionError: not in this state."""
        after(self._state, Event.DISCONNECT)
        self._deserted = False
        if self._holding is not None:
            self._holding.cancel()
        self._ending = asyncio.create_task(_while_bus_lasts(self._end))
        await self._step(Event.DISCONNECT)

    async def close(self) -> None:
        """Leave no tunnel behind, whatever the state.

        What takes longer than CLOSE_PATIENCE is left to the service: the tunnel is bound to us.
        """
        if self._state in (State.STARTING, State.STARTED):
            await self.disconnect()
        tasks = [task for task in (self._holding, self._ending) if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_PATIENCE)

    async def _hold(self, profile: Profile) -> None:
        """Keep the tunnel up until it ends or the task is cancelled; a restart is no end."""
        try:
            while True:
                try:
                    await self._follow(profile)
                except ServiceLeftError as left:
                    await self._await_return(profile, left)
        except BusEndedError:
            raise
        except QuicEtherError as error:
            log.error("%s: %s", profile.ident, error)  # noqa: TRY400 - a sentence says it all
            self._deserted = isinstance(error, UnreachableError)
            await self._fail(_reason(error))
        except Exception:
            log.exception("%s: a fault in the plugin", profile.ident)
            await self._fail(Failure.CONNECT_FAILED)

    async def _follow(self, profile: Profile) -> None:
        """Bring the tunnel up and follow its changes. Raises QuicEtherError: it ended."""
        self._sent = None
        await self._service.up(profile)
        if not await self._service.wait_ready(min(READY_PATIENCE, profile.timeout / 4)):
            log.warning("%s: no peer is reached yet, the tunnel is up all the same", profile.ident)
        while True:
            await self._configure(profile)
            await self._service.wait_change()

    async def _await_return(self, profile: Profile, left: ServiceLeftError) -> None:
        """Wait for a service that was stopped under us. Raises left: it stays away."""
        if self._state is not State.STARTED:
            raise left
        log.warning("%s: the service was stopped; waiting for it to be back", profile.ident)
        await self._step(Event.LEFT)
        if not await self._service.wait_return(RETURN_PATIENCE):
            raise left

    async def _configure(self, profile: Profile) -> None:
        """Tell NetworkManager what changed since the last time.

        Raises BadHostConfigError: there is nothing that could be told, now or before.
        """
        if not self._service.host_config:
            return
        try:
            network = network_config(
                self._service.host_config, ipv4=profile.ipv4, ipv6=profile.ipv6
            ).following(self._sent)
        except BadHostConfigError as error:
            # NetworkManager would end a working connection for it.
            if self._sent is None:
                raise
            log.error("%s: kept what was before: %s", profile.ident, error)  # noqa: TRY400
            return
        for sentence in network.left_out:
            if self._sent is None or sentence not in self._sent.left_out:
                log.warning("%s: %s", profile.ident, sentence)
        signals = network.signals_since(self._sent)
        self._sent = network
        if signals:
            await self._step(Event.CONFIGURED, signals)

    async def _fail(self, reason: Failure) -> None:
        await self._step(Event.FAILED, {Signal.FAILURE: reason})
        await self._end()

    async def _end(self) -> None:
        try:
            await self._service.down()
        except QuicEtherError as error:
            log.error("the tunnel did not go down: %s", error)  # noqa: TRY400
        await self._step(Event.ENDED)

    async def _step(self, event: Event, arguments: Mapping[Signal, Argument] | None = None) -> None:
        """Go where event leads and send the signals that belong to it, as far as they are given."""
        transition = after(self._state, event)
        self._state = transition.state
        self._on_state(transition.state)
        log.debug("%s: %s", event, transition.state.name)
        for signal in transition.signals:
            if signal is Signal.STATE_CHANGED:
                await self._send(signal, transition.state.value)
            elif arguments is not None and signal in arguments:
                await self._send(signal, arguments[signal])


async def _while_bus_lasts(work: Callable[[], Awaitable[None]]) -> None:
    """Do work; the end of the bus ends it, and the program says so in one place, `main`."""
    try:
        await work()
    except BusEndedError as error:
        log.debug("%s", error)


def _reason(error: QuicEtherError) -> Failure:
    """Return the reason that NetworkManager shows for error."""
    if isinstance(error, BadHostConfigError):
        return Failure.BAD_IP_CONFIG
    if isinstance(error, TrustError | IdentityError):
        return Failure.LOGIN_FAILED
    return Failure.CONNECT_FAILED
