"""The states of a NetworkManager VPN plugin: one table of what may follow what. Pure.

A transition names the signals that tell NetworkManager of it, in the order in which they must be
sent: it activates a connection on Config and the families that Config announced, and it takes a
Failure for the reason of the next StateChanged.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from quicether.errors import QuicEtherError


class State(enum.IntEnum):
    """NMVpnServiceState, the argument of StateChanged and property State."""

    INIT = 1
    STARTING = 3
    STARTED = 4
    STOPPING = 5
    STOPPED = 6


class Event(enum.StrEnum):
    """What can happen to a VPN connection."""

    CONNECT = "connect"
    """NetworkManager asks for the connection."""
    CONFIGURED = "configured"
    """The service told what the OS is to have, first or anew."""
    LEFT = "left"
    """The service took the tunnel down and left the bus, as it does when it is restarted."""
    DISCONNECT = "disconnect"
    """NetworkManager ends the connection."""
    FAILED = "failed"
    """The tunnel did not come up, or it ended by itself."""
    ENDED = "ended"
    """The service has taken the tunnel down."""


class Signal(enum.StrEnum):
    """Signals of org.freedesktop.NetworkManager.VPN.Plugin that this plugin sends."""

    STATE_CHANGED = "StateChanged"
    CONFIG = "Config"
    IP4_CONFIG = "Ip4Config"
    IP6_CONFIG = "Ip6Config"
    FAILURE = "Failure"


class Failure(enum.IntEnum):
    """NMVpnPluginFailure, the argument of signal Failure."""

    LOGIN_FAILED = 0
    CONNECT_FAILED = 1
    BAD_IP_CONFIG = 2


class VpnError(enum.StrEnum):
    """Names of the D-Bus errors that NetworkManager knows from a VPN plugin."""

    FAILED = "org.freedesktop.NetworkManager.VPN.Error.Failed"
    STARTING_IN_PROGRESS = "org.freedesktop.NetworkManager.VPN.Error.StartingInProgress"
    ALREADY_STARTED = "org.freedesktop.NetworkManager.VPN.Error.AlreadyStarted"
    STOPPING_IN_PROGRESS = "org.freedesktop.NetworkManager.VPN.Error.StoppingInProgress"
    ALREADY_STOPPED = "org.freedesktop.NetworkManager.VPN.Error.AlreadyStopped"
    WRONG_STATE = "org.freedesktop.NetworkManager.VPN.Error.WrongState"
    BAD_ARGUMENTS = "org.freedesktop.NetworkManager.VPN.Error.BadArguments"


class IllegalTransitionError(QuicEtherError):
    """An event came in a state that has no place for it.

    name: the D-Bus error to answer NetworkManager with.
    """

    def __init__(self, state: State, event: Event, name: VpnError) -> None:
        super().__init__(f"{event} is not possible while the connection is {state.name.lower()}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Transition:
    """The next state, and the signals to send for it in their order."""

    state: State
    signals: tuple[Signal, ...]


_STATE_ALONE: Final = (Signal.STATE_CHANGED,)
_CONFIGS: Final = (Signal.CONFIG, Signal.IP4_CONFIG, Signal.IP6_CONFIG)

TRANSITIONS: Final[Mapping[tuple[State, Event], Transition]] = MappingProxyType(
    {
        (State.INIT, Event.CONNECT): Transition(State.STARTING, _STATE_ALONE),
        (State.STOPPED, Event.CONNECT): Transition(State.STARTING, _STATE_ALONE),
        (State.STARTING, Event.CONFIGURED): Transition(
            State.STARTED, (*_CONFIGS, Signal.STATE_CHANGED)
        ),
        (State.STARTED, Event.CONFIGURED): Transition(State.STARTED, _CONFIGS),
        # To NetworkManager 4 → 3 means that the VPN is reconnecting.
        (State.STARTED, Event.LEFT): Transition(State.STARTING, _STATE_ALONE),
        (State.STARTING, Event.DISCONNECT): Transition(State.STOPPING, _STATE_ALONE),
        (State.STARTED, Event.DISCONNECT): Transition(State.STOPPING, _STATE_ALONE),
        (State.STARTING, Event.FAILED): Transition(
            State.STOPPING, (Signal.FAILURE, Signal.STATE_CHANGED)
        ),
        (State.STARTED, Event.FAILED): Transition(
            State.STOPPING, (Signal.FAILURE, Signal.STATE_CHANGED)
        ),
        (State.STOPPING, Event.ENDED): Transition(State.STOPPED, _STATE_ALONE),
    }
)
"""Every legal transition. A pair that is not here raises."""

_REFUSALS: Final[Mapping[tuple[State, Event], VpnError]] = MappingProxyType(
    {
        (State.STARTING, Event.CONNECT): VpnError.STARTING_IN_PROGRESS,
        (State.STARTED, Event.CONNECT): VpnError.ALREADY_STARTED,
        (State.STOPPING, Event.CONNECT): VpnError.STOPPING_IN_PROGRESS,
        (State.STOPPING, Event.DISCONNECT): VpnError.STOPPING_IN_PROGRESS,
        (State.STOPPED, Event.DISCONNECT): VpnError.ALREADY_STOPPED,
        (State.INIT, Event.DISCONNECT): VpnError.ALREADY_STOPPED,
    }
)


def after(state: State, event: Event) -> Transition:
    """Return what follows when event happens in state.

    Raises IllegalTransitionError: the table has no such transition.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        name = _REFUSALS.get((state, event), VpnError.WRONG_STATE)
        raise IllegalTransitionError(state, event, name) from None
