"""The OS gets each desired state, and what it refused once more."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_interface

import pytest

from quicether.daemon.upkeep import AGAIN_AFTER, AGAIN_LONGEST, Upkeep
from quicether.errors import HostError
from quicether.host.desired import HostConfig
from support.fake_link_owner import FakeLinkOwner


def state(number: int) -> HostConfig:
    return HostConfig("quicether0", 1380, (ip_interface(f"100.64.0.{number}/32"),))


class Scene:
    """A link owner that may refuse, and a clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.owner = FakeLinkOwner()
        self.upkeep = Upkeep("home", self.owner, lambda: self.now)
        asyncio.run(self.upkeep.attach(state(1)))

    def bring(self, number: int) -> None:
        asyncio.run(self.upkeep.bring(state(number)))


def test_a_state_is_put_on_the_machine_once() -> None:
    scene = Scene()
    scene.bring(2)
    scene.bring(2)
    assert scene.owner.applied == [state(2)]
    assert scene.upkeep.config == state(2)
    assert scene.upkeep.again_in is None


def test_what_was_refused_is_tried_again_later_and_ever_more_rarely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It stayed missing until something else changed."""
    scene = Scene()
    scene.owner.refusal = HostError("networkd did not answer within 25 s")
    scene.bring(2)
    assert scene.upkeep.trouble == ("networkd did not answer within 25 s",)
    waits = []
    for _ in range(6):
        wait = scene.upkeep.again_in
        assert wait is not None
        waits.append(wait)
        scene.now += wait / 2
        scene.bring(2)
        assert scene.upkeep.again_in == wait / 2
        scene.now += wait / 2
        scene.bring(2)
    assert waits == [AGAIN_AFTER, 10.0, 20.0, 40.0, AGAIN_LONGEST, AGAIN_LONGEST]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    scene.owner.refusal = None
    scene.now += AGAIN_LONGEST
    scene.bring(2)
    assert scene.owner.applied == [state(2)]
    assert scene.upkeep.trouble == ()
    assert scene.upkeep.again_in is None


def test_a_new_state_does_not_wait_for_one_that_was_refused() -> None:
    scene = Scene()
    scene.owner.refusal = HostError("no")
    scene.bring(2)
    scene.owner.refusal = None
    scene.bring(3)
    assert scene.owner.applied == [state(3)]
