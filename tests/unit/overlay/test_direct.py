"""When the direct way to a node counts: at once, or only after it has proven itself."""

from __future__ import annotations

import pytest

from quicether.model import NodeId
from quicether.overlay.direct import (
    DETOUR_AGAIN,
    FIRST_HOLD,
    FORGIVEN_AFTER,
    LONGEST_HOLD,
    OVERDUE,
    DirectWays,
)

NODE = NodeId(b"\x01" * 20)


@pytest.fixture
def ways() -> DirectWays:
    found = DirectWays()
    found.up(NODE, 0.0)
    return found


def until_it_counts(ways: DirectWays, now: float) -> float:
    """Answer a question every half second; return when the way counts again."""
    began = now
    while not ways.counts(NODE):
        assert ways.unproven() == [NODE]
        now += 0.5
        ways.answered(NODE, now, now + 0.01)
        assert now < began + 100
    return now - began


def test_the_first_connection_counts_at_once(ways: DirectWays) -> None:
    assert ways.counts(NODE)
    assert ways.unproven() == []
    assert not ways.counts(NodeId(b"\x02" * 20))


def test_an_overdue_answer_raises_a_doubt(ways: DirectWays) -> None:
    ways.overdue(NODE, OVERDUE - 0.1, 0.02, 10.0)
    assert ways.counts(NODE)
    ways.overdue(NODE, OVERDUE, 0.02, 10.1)
    assert not ways.counts(NODE)


def test_a_slow_way_gets_its_time(ways: DirectWays) -> None:
    ways.overdue(NODE, 3.0, 0.6, 10.0)
    assert ways.counts(NODE)
    ways.overdue(NODE, 3.7, 0.6, 10.7)
    assert not ways.counts(NODE)


def test_a_way_that_failed_counts_again_after_it_held(ways: DirectWays) -> None:
    ways.down(NODE, 100.0)
    assert not ways.counts(NODE)
    assert ways.unproven() == []
    ways.up(NODE, 105.0)
    assert not ways.counts(NODE)
    assert until_it_counts(ways, 105.0) == FIRST_HOLD


def test_an_answer_to_an_earlier_question_proves_nothing(ways: DirectWays) -> None:
    ways.overdue(NODE, OVERDUE, None, 10.0)
    ways.answered(NODE, 10.0 + FIRST_HOLD - 0.1, 20.0)
    assert not ways.counts(NODE)
    ways.answered(NODE, 10.0 + FIRST_HOLD, 20.0)
    assert ways.counts(NODE)


def test_without_an_answer_a_connection_alone_is_no_proof(ways: DirectWays) -> None:
    ways.down(NODE, 1.0)
    ways.up(NODE, 2.0)
    ways.overdue(NODE, 0.0, None, 500.0)
    assert not ways.counts(NODE)


def test_each_failure_of_the_last_minute_doubles_the_time(ways: DirectWays) -> None:
    now, holds = 0.0, []
    for _ in range(7):
        ways.down(NODE, now)
        ways.up(NODE, now)
        holds.append(until_it_counts(ways, now))
        now += holds[-1]
    assert holds[:4] == [2.0, 4.0, 8.0, 16.0]
    assert max(holds) == LONGEST_HOLD


def test_failures_are_forgiven(ways: DirectWays) -> None:
    ways.down(NODE, 0.0)
    ways.up(NODE, FORGIVEN_AFTER)
    assert ways.counts(NODE)


def test_a_link_that_fails_every_few_seconds_is_left_alone() -> None:
    ways, changes, counted = DirectWays(), 0, False
    for second in range(0, 60, 6):
        ways.up(NODE, float(second))
        for tick in range(6):
            now = second + tick / 2
            ways.answered(NODE, now, now)
            changes, counted = changes + (ways.counts(NODE) is not counted), ways.counts(NODE)
        ways.down(NODE, second + 3.0)
    assert changes <= 4


def test_packets_by_a_gateway_raise_a_doubt_that_one_answer_settles(ways: DirectWays) -> None:
    assert ways.detoured(NODE, 10.0)
    assert not ways.counts(NODE)
    assert not ways.detoured(NODE, 10.1)
    ways.answered(NODE, 10.0, 10.02)
    assert ways.counts(NODE)
    assert not ways.detoured(NODE, 10.1 + DETOUR_AGAIN / 2)
    assert ways.detoured(NODE, 10.1 + DETOUR_AGAIN)


def test_a_second_connection_changes_nothing(ways: DirectWays) -> None:
    ways.overdue(NODE, OVERDUE, None, 10.0)
    ways.up(NODE, 10.5)
    assert not ways.counts(NODE)


def test_nodes_that_are_gone_are_forgotten(ways: DirectWays) -> None:
    ways.down(NODE, 10.0)
    ways.expire(10.0 + FORGIVEN_AFTER)
    ways.up(NODE, 10.0 + FORGIVEN_AFTER)
    assert ways.counts(NODE)
    ways.answered(NodeId(b"\x02" * 20), 0.0, 0.0)
    ways.overdue(NodeId(b"\x02" * 20), 9.0, None, 0.0)


def test_a_gateway_goes_by_whether_a_node_answers_not_by_how_long_that_held() -> None:
    ways = DirectWays()
    assert not ways.answers(NODE)
    ways.up(NODE, 0.0)
    ways.overdue(NODE, OVERDUE, None, 10.0)
    assert not ways.answers(NODE)
    ways.overdue(NODE, 0.0, None, 10.5)
    assert ways.answers(NODE)
    assert not ways.counts(NODE)
    ways.down(NODE, 11.0)
    assert not ways.answers(NODE)
