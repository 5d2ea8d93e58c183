"""When a peer is asked whether it is there, and when it is given up."""

from __future__ import annotations

import pytest

from quicether.transport.endpoint import KeepAlive
from quicether.transport.liveness import (
    ASK_EVERY,
    KEEPALIVE,
    KEEPALIVE_ACCEPTED,
    KEEPALIVE_MAPPED,
    PATIENCE,
    PATIENCE_AFTER_CHANGE,
    Liveness,
    PeerWatch,
)

PTO = 0.05
ALL = 1 << 62
"""As the highest number that a peer acknowledged: it has everything."""


def silent_until_gone(watch: PeerWatch, probe_timeout: float = PTO) -> tuple[int, float]:
    """Run a watch on a peer that says nothing; return the questions and the time of giving up."""
    asked = 0
    while True:
        now = watch.deadline
        match watch.due(now, probe_timeout):
            case Liveness.ASK:
                asked += 1
            case Liveness.GONE:
                return asked, now
        assert asked < 100
        assert watch.deadline > now


@pytest.mark.parametrize(("initiated", "pause"), [(True, KEEPALIVE), (False, KEEPALIVE_ACCEPTED)])
def test_an_idle_peer_is_asked_now_and_then(initiated: bool, pause: float) -> None:
    watch = PeerWatch(initiated=initiated, now=0.0)
    assert watch.due(pause - 0.1, PTO) is Liveness.FINE
    for _ in range(5):
        now = watch.deadline
        assert watch.due(now, PTO) is Liveness.ASK
        watch.heard(ALL, now + 0.02)
        assert watch.deadline == pytest.approx(now + 0.02 + pause)


def test_one_question_serves_both_sides() -> None:
    ours, theirs = PeerWatch(initiated=True, now=0.0), PeerWatch(initiated=False, now=0.0)
    for _ in range(10):
        assert ours.deadline < theirs.deadline
        now = ours.deadline
        assert ours.due(now, PTO) is Liveness.ASK
        theirs.heard(ALL, now + 0.01)
        ours.heard(ALL, now + 0.02)


def test_a_peer_that_does_not_answer_traffic_is_gone_after_the_patience() -> None:
    watch = PeerWatch(initiated=True, now=0.0)
    watch.awaits(7, 3.0)
    watch.awaits(7, 3.5)
    asked, gone = silent_until_gone(watch)
    assert gone == pytest.approx(3.0 + PATIENCE)
    assert asked == pytest.approx(PATIENCE / ASK_EVERY - 1)


def test_an_idle_peer_that_is_dead_is_gone_after_keepalive_and_patience() -> None:
    _, gone = silent_until_gone(PeerWatch(initiated=True, now=0.0))
    assert gone == pytest.approx(KEEPALIVE + PATIENCE)


def test_for_the_mapping_of_a_nat_a_peer_is_asked_less_often_and_given_up_as_fast() -> None:
    watch = PeerWatch(initiated=True, now=0.0)
    watch.keep_alive(KeepAlive.MAPPED, 1.0)
    assert watch.deadline == 1.0 + KEEPALIVE_MAPPED
    watch.heard(ALL, 2.0)
    _, gone = silent_until_gone(watch)
    assert gone == pytest.approx(2.0 + KEEPALIVE_MAPPED + PATIENCE)


def test_a_changed_network_is_checked_at_once_and_with_less_patience() -> None:
    watch = PeerWatch(initiated=True, now=0.0)
    watch.network_changed(5.0)
    assert watch.due(5.0, PTO) is Liveness.ASK
    _, gone = silent_until_gone(watch)
    assert gone == pytest.approx(5.0 + PATIENCE_AFTER_CHANGE)
    watch = PeerWatch(initiated=True, now=0.0)
    watch.network_changed(5.0)
    watch.heard(ALL, 5.1)
    watch.awaits(7, 6.0)
    assert silent_until_gone(watch)[1] == pytest.approx(6.0 + PATIENCE)


def test_a_slow_path_gets_its_time() -> None:
    watch = PeerWatch(initiated=True, now=0.0)
    watch.awaits(7, 1.0)
    assert silent_until_gone(watch, probe_timeout=2.0)[1] == pytest.approx(1.0 + 12.0)


def test_an_answer_in_time_is_enough() -> None:
    watch = PeerWatch(initiated=True, now=0.0)
    for second in range(100):
        watch.awaits(7, float(second))
        assert watch.due(second + 0.5, PTO) is Liveness.FINE
        watch.heard(ALL, second + 0.6)


def test_who_rests_asks_nobody_but_notices_when_an_answer_stays_out() -> None:
    watch = PeerWatch(initiated=True, now=0.0)
    watch.keep_alive(KeepAlive.RESTING, 1.0)
    assert watch.due(100_000.0, PTO) is Liveness.FINE
    watch.awaits(7, 100_000.0)
    _, gone = silent_until_gone(watch)
    assert gone == pytest.approx(100_000.0 + PATIENCE)


def test_who_rests_stays_at_rest_when_something_is_heard_until_it_is_woken() -> None:
    watch = PeerWatch(initiated=True, now=0.0)
    watch.keep_alive(KeepAlive.RESTING, 1.0)
    watch.heard(ALL, 50.0)
    assert watch.due(100_000.0, PTO) is Liveness.FINE
    watch.keep_alive(KeepAlive.AWAKE, 100_000.0)
    assert watch.deadline == 100_000.0 + KEEPALIVE


def test_what_answers_nothing_leaves_the_answer_due() -> None:
    watch = PeerWatch(initiated=True, now=0.0)
    watch.awaits(7, 1.0)
    for tenth in range(10, 20):
        watch.heard(6, tenth / 10)
    assert watch.unanswered(2.0) == 1.0
    assert watch.due(2.0, PTO) is Liveness.ASK
    watch.heard(7, 2.1)
    assert watch.unanswered(3.0) == 0.0


def test_a_question_is_answered_by_what_acknowledges_it_and_by_nothing_earlier() -> None:
    watch = PeerWatch(initiated=True, now=0.0)
    assert watch.due(KEEPALIVE, PTO) is Liveness.ASK
    watch.awaits(9, KEEPALIVE)
    watch.heard(8, KEEPALIVE + 0.1)
    assert watch.unanswered(KEEPALIVE + 1) == 1.0
    watch.heard(9, KEEPALIVE + 1)
    assert watch.unanswered(KEEPALIVE + 2) == 0.0
