"""An event loop whose clock leaps to the next timer, so that minutes pass in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable


class _Leap(selectors.DefaultSelector):
    """Waits for nothing: where the loop would wait, its clock moves instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits, and no timer is set"
            self.now += max(timeout, 0.0)
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        return self._leap.now


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Run scene in virtual time. It starts at 0."""

    async def run() -> None:
        await scene()

    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        runner.run(run())


async def passes(condition: Callable[[], object], deadline: float) -> float:
    """Let time pass until condition holds; return how much it took.

    Raises TimeoutError: more than deadline seconds.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(deadline):
        while not condition():  # noqa: ASYNC110 - time is what is waited for
            await asyncio.sleep(0.01)
    return loop.time() - began
