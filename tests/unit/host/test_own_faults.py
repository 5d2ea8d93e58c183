"""A fault of our own behind what the kernel told is in the journal at once, and is survived."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from quicether.host import monitor, rule_watch
from quicether.host.monitor import UnderlayMonitor
from quicether.host.rule_watch import RuleWatch
from quicether.host.underlay import Underlay

PATIENCE = 5.0


class FakeListener:
    """A kernel that says, when a test wants it, that something happened."""

    happened: Callable[[], None]

    def __init__(
        self, groups: int, heard: Callable[[Any], None], missed: Callable[[], None]
    ) -> None:
        FakeListener.happened = staticmethod(missed)

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.exc_info is not None]


def test_rules_are_put_back_after_a_fault(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one nobody watched over the rules any more, and the journal never said so."""
    monkeypatch.setattr(rule_watch, "Listener", FakeListener)

    async def scene() -> None:
        calls: asyncio.Queue[None] = asyncio.Queue()

        async def restore() -> None:
            calls.put_nowait(None)
            if not faults(caplog):
                raise KeyError("rule")

        watch = RuleWatch(restore)
        watch.open()
        for _ in range(2):
            FakeListener.happened()
            await asyncio.wait_for(calls.get(), PATIENCE)
            await asyncio.sleep(0)
        await watch.close()

    asyncio.run(scene())
    assert faults(caplog) == ["a fault of our own while routing rules were put back"]


def test_a_change_of_the_network_is_told_after_a_fault(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "Listener", FakeListener)

    async def read(*_: object) -> Underlay:
        return Underlay()

    monkeypatch.setattr(monitor, "read_underlay", read)

    async def scene() -> None:
        told: asyncio.Queue[Underlay] = asyncio.Queue()

        def changed(underlay: Underlay) -> None:
            told.put_nowait(underlay)
            if not faults(caplog):
                raise KeyError("uplink")

        watch = UnderlayMonitor(changed, lambda _: False, settle=0)
        await watch.start()
        for _ in range(2):
            FakeListener.happened()
            await asyncio.wait_for(told.get(), PATIENCE)
            await asyncio.sleep(0)
        watch.close()

    asyncio.run(scene())
    assert faults(caplog) == ["a fault of our own in what follows a change of the host's network"]
