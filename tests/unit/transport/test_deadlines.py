"""Deadlines of many objects on one timer."""

from __future__ import annotations

import asyncio

from quicether.transport.deadlines import Deadlines


class Alarm:
    """Keeps when it rang; rings again every `again` seconds if that is set."""

    def __init__(self, deadlines: Deadlines, again: float | None = None) -> None:
        self.deadline: float | None = None
        self.scheduled: float | None = None
        self.rang: list[float] = []
        self._deadlines = deadlines
        self._again = again

    def on_deadline(self, now: float) -> None:
        self.rang.append(now)
        if self._again is not None:
            self._deadlines.arm(self, now + self._again)


def test_each_is_called_at_its_last_deadline_and_never_early() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop)
        start = loop.time()
        plain, later, sooner, never, dropped = (Alarm(deadlines) for _ in range(5))
        deadlines.arm(plain, start + 0.02)
        deadlines.arm(later, start + 0.01)
        deadlines.arm(later, start + 0.05)
        deadlines.arm(sooner, start + 5)
        deadlines.arm(sooner, start + 0.03)
        deadlines.arm(never, None)
        deadlines.arm(dropped, start + 0.01)
        deadlines.arm(dropped, None)
        await asyncio.sleep(0.15)
        for alarm, at in ((plain, 0.02), (later, 0.05), (sooner, 0.03)):
            (rang,) = alarm.rang
            assert start + at <= rang < start + at + 0.1
        assert never.rang == dropped.rang == []
        deadlines.close()

    asyncio.run(main())


def test_one_that_is_due_again_at_once_starves_nobody() -> None:
    """A deadline within the timer's granularity once kept the event loop for itself."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop)
        busy, other = Alarm(deadlines, again=0.0), Alarm(deadlines)
        deadlines.arm(busy, loop.time())
        deadlines.arm(other, loop.time() + 0.01)
        await asyncio.sleep(0.05)
        assert len(busy.rang) > 2
        assert len(other.rang) == 1
        deadlines.close()

    asyncio.run(main())
