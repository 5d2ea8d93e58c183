"""What runs in a tunnel's background does not end unseen."""

from __future__ import annotations

import asyncio
import logging

import pytest

from quicether.daemon.tasks import Tasks
from quicether.errors import HostError


async def outcome(error: Exception, *, needed: bool) -> list[str]:
    """Let work fail with error, and return what the tunnel's owner was told."""
    told: list[Exception] = []

    async def work() -> None:
        raise error

    tasks = Tasks("home", told.append)
    (tasks.keep if needed else tasks.start)(work())
    for _ in range(5):
        await asyncio.sleep(0)
    await tasks.close()
    return list(map(str, told))


@pytest.mark.parametrize("needed", [True, False])
def test_a_fault_of_our_own_is_the_tunnels_failure_and_in_the_journal(
    needed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    told = asyncio.run(outcome(KeyError("eth0"), needed=needed))
    assert told == ["'eth0'"]
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize(("needed", "told"), [(True, ["refused"]), (False, [])])
def test_what_the_host_refused_ends_the_tunnel_only_where_it_needs_the_work(
    needed: bool, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert asyncio.run(outcome(HostError("refused"), needed=needed)) == told
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_closing_cancels_what_runs_and_tells_nobody() -> None:
    async def scenario() -> None:
        told: list[Exception] = []
        tasks = Tasks("home", told.append)
        asleep = asyncio.Event()

        async def work() -> None:
            asleep.set()
            await asyncio.Event().wait()

        tasks.keep(work())
        await asleep.wait()
        await tasks.close()
        assert told == []

    asyncio.run(scenario())
