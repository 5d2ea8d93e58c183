"""The search for the size of a path, against paths that carry exactly so much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicether.transport.path_mtu import (
    CONFIRM_AFTER,
    FLOOR,
    MAX_TRIES,
    RAISE_AFTER,
    STEP,
    PathMtu,
)

TIMEOUT = 0.2
BASE = 1252
CEILING = 1472


class Path:
    """A path that carries payloads of at most `carries` bytes, in virtual time."""

    def __init__(self, carries: int, base: int = BASE, ceiling: int = CEILING) -> None:
        self.now = 100.0
        self.carries = carries
        self.probes: list[int] = []
        self.search = PathMtu(base, ceiling, self.now)

    def settle(self, until: float | None = None) -> None:
        """Let the search run until it has nothing to do for a while, or until a time."""
        while (deadline := self.search.deadline) is not None and deadline <= (
            until if until is not None else self.now + 60
        ):
            self.now = max(self.now, deadline)
            size = self.search.probe(self.now, TIMEOUT, alive=True)
            if size is not None:
                self.probes.append(size)
                if size <= self.carries:
                    self.search.acknowledged(size, self.now + 0.01)
            assert len(self.probes) < 2000

    def use(self, seconds: float) -> None:
        """Send full-sized payloads for a time."""
        until = self.now + seconds
        while self.now < until:
            self.search.used(self.search.size, self.now)
            self.settle(self.now)
            self.now += 0.1


def test_an_ordinary_path_takes_two_probes() -> None:
    path = Path(CEILING)
    path.settle()
    assert path.search.size == CEILING
    assert path.probes == [BASE, CEILING]
    assert path.search.deadline is None


@given(st.integers(FLOOR, CEILING), st.integers(FLOOR, CEILING))
def test_any_size_is_found_to_within_the_step(carries: int, base: int) -> None:
    path = Path(carries, base)
    path.settle()
    path.use(4 * CONFIRM_AFTER)
    path.settle()
    assert carries - STEP < path.search.size <= carries
    assert len(path.probes) < 40


@given(st.integers(FLOOR, CEILING), st.integers(FLOOR, CEILING))
def test_a_change_of_the_path_is_followed(before: int, after: int) -> None:
    path = Path(before)
    path.settle()
    path.carries = after
    began = path.now
    path.use(8.0)
    path.settle()
    assert path.search.size <= after
    if after < before:
        assert after - STEP < path.search.size
    path.now = began + RAISE_AFTER + 60
    path.settle()
    assert after - STEP < path.search.size <= after


def test_a_path_in_constant_use_is_tried_for_more_in_time() -> None:
    path = Path(1300)
    path.settle()
    path.carries = CEILING
    path.use(RAISE_AFTER + 5)
    assert path.search.size == CEILING


def test_an_idle_path_is_not_probed() -> None:
    path = Path(CEILING)
    path.settle()
    path.now += 10_000
    assert path.search.probe(path.now, TIMEOUT, alive=True) is None


def test_small_packets_confirm_nothing() -> None:
    path = Path(CEILING)
    path.settle()
    path.now += 10
    assert not path.search.used(FLOOR, path.now)
    assert path.search.used(FLOOR + 1, path.now)


def test_a_dead_path_says_nothing_about_its_size() -> None:
    search = PathMtu(BASE, CEILING, 0.0)
    search.acknowledged(BASE, 0.1)
    search.acknowledged(CEILING, 0.2)
    assert search.used(CEILING, 5.0)
    now = 5.0
    for _ in range(20 * MAX_TRIES):
        assert search.probe(now, TIMEOUT, alive=False) == CEILING
        now += TIMEOUT
    assert search.size == CEILING


def test_what_the_interface_refuses_is_not_tried_again() -> None:
    search = PathMtu(BASE, 9000, 0.0)
    search.acknowledged(BASE, 0.1)
    assert search.probe(0.1, TIMEOUT, alive=True) == 9000
    search.refused(9000, 0.2)
    size = search.probe(0.2, TIMEOUT, alive=True)
    assert size is not None
    assert size < 9000
    search.acknowledged(9000, 0.3)
    assert search.size == BASE


def test_a_recheck_keeps_what_still_passes_and_finds_what_does_not() -> None:
    path = Path(1400)
    path.settle()
    found = path.search.size
    path.search.recheck(CEILING, path.now)
    assert path.search.size == found
    path.settle()
    assert path.search.size == found
    path.carries = CEILING
    path.search.recheck(CEILING, path.now)
    path.settle()
    assert path.search.size == CEILING
    path.carries = 1300
    path.search.recheck(CEILING, path.now)
    path.settle()
    assert 1300 - STEP < path.search.size <= 1300
    path.search.recheck(1250, path.now)
    assert path.search.size == 1250


def test_a_late_acknowledgement_of_a_large_probe_counts() -> None:
    search = PathMtu(BASE, CEILING, 0.0)
    search.acknowledged(BASE, 0.0)
    now = 0.0
    while search.probe(now, TIMEOUT, alive=True) == CEILING:
        now += TIMEOUT
    search.acknowledged(CEILING, now)
    assert search.size == CEILING


@pytest.mark.parametrize("ceiling", [0, 500, FLOOR, FLOOR + 1])
def test_the_floor_is_kept_whatever_the_interface_says(ceiling: int) -> None:
    search = PathMtu(BASE, ceiling, 0.0)
    assert search.size >= FLOOR
