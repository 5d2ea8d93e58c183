"""The plugin's state table: what follows what, with which signals, and what is refused how."""

from __future__ import annotations

import itertools

import pytest

from quicether_nm.states import (
    TRANSITIONS,
    Event,
    IllegalTransitionError,
    Signal,
    State,
    VpnError,
    after,
)


def walk(*events: Event) -> list[str]:
    """Return the signals of a whole life, StateChanged with the number of the state."""
    state, signals = State.INIT, []
    for event in events:
        transition = after(state, event)
        state = transition.state
        signals += [
            f"{signal}({state.value})" if signal is Signal.STATE_CHANGED else signal.value
            for signal in transition.signals
        ]
    return signals


def test_success_announces_config_before_families_before_started() -> None:
    assert walk(Event.CONNECT, Event.CONFIGURED) == [
        "StateChanged(3)",
        "Config",
        "Ip4Config",
        "Ip6Config",
        "StateChanged(4)",
    ]


def test_a_change_while_started_changes_no_state() -> None:
    assert walk(Event.CONNECT, Event.CONFIGURED, Event.CONFIGURED)[5:] == [
        "Config",
        "Ip4Config",
        "Ip6Config",
    ]


@pytest.mark.parametrize("before", [(), (Event.CONFIGURED,)])
def test_failure_gives_its_reason_before_the_state(before: tuple[Event, ...]) -> None:
    signals = walk(Event.CONNECT, *before, Event.FAILED, Event.ENDED)
    assert signals[-3:] == ["Failure", "StateChanged(5)", "StateChanged(6)"]


def test_disconnect_is_no_failure() -> None:
    signals = walk(Event.CONNECT, Event.CONFIGURED, Event.DISCONNECT, Event.ENDED)
    assert signals[-2:] == ["StateChanged(5)", "StateChanged(6)"]
    assert "Failure" not in signals


def test_a_restart_of_the_service_is_a_reconnect_with_its_whole_configuration() -> None:
    signals = walk(Event.CONNECT, Event.CONFIGURED, Event.LEFT, Event.CONFIGURED)
    assert signals[5:] == ["StateChanged(3)", "Config", "Ip4Config", "Ip6Config", "StateChanged(4)"]


def test_a_service_that_stays_away_is_a_failure() -> None:
    signals = walk(Event.CONNECT, Event.CONFIGURED, Event.LEFT, Event.FAILED, Event.ENDED)
    assert signals[5:] == ["StateChanged(3)", "Failure", "StateChanged(5)", "StateChanged(6)"]


def test_a_connection_may_be_ended_while_the_service_is_away() -> None:
    signals = walk(Event.CONNECT, Event.CONFIGURED, Event.LEFT, Event.DISCONNECT, Event.ENDED)
    assert signals[5:] == ["StateChanged(3)", "StateChanged(5)", "StateChanged(6)"]


def test_a_stopped_connection_may_start_again() -> None:
    assert walk(Event.CONNECT, Event.FAILED, Event.ENDED, Event.CONNECT)[-1] == "StateChanged(3)"


@pytest.mark.parametrize(
    ("state", "event", "name"),
    [
        (State.STARTING, Event.CONNECT, VpnError.STARTING_IN_PROGRESS),
        (State.STARTED, Event.CONNECT, VpnError.ALREADY_STARTED),
        (State.STOPPING, Event.CONNECT, VpnError.STOPPING_IN_PROGRESS),
        (State.STOPPING, Event.DISCONNECT, VpnError.STOPPING_IN_PROGRESS),
        (State.STOPPED, Event.DISCONNECT, VpnError.ALREADY_STOPPED),
        (State.INIT, Event.DISCONNECT, VpnError.ALREADY_STOPPED),
        (State.STOPPED, Event.CONFIGURED, VpnError.WRONG_STATE),
        (State.STARTING, Event.LEFT, VpnError.WRONG_STATE),
    ],
)
def test_illegal_transitions_have_the_error_that_networkmanager_knows(
    state: State, event: Event, name: VpnError
) -> None:
    with pytest.raises(IllegalTransitionError) as caught:
        after(state, event)
    assert caught.value.name is name
    assert state.name.lower() in str(caught.value)


def test_every_pair_is_either_in_the_table_or_refused() -> None:
    for state, event in itertools.product(State, Event):
        if (state, event) in TRANSITIONS:
            assert after(state, event) is TRANSITIONS[state, event]
        else:
            with pytest.raises(IllegalTransitionError):
                after(state, event)
