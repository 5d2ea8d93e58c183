"""Takes what was built apart again, however much of it there is and whatever fails on the way."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from quicether.errors import QuicEtherError

log = logging.getLogger(__name__)


async def take_down(name: str, *steps: Callable[[], Awaitable[None] | None]) -> None:
    """Run every step, in order; one that fails is logged and keeps none behind it from running.

    name: of the tunnel, for the journal.
    """
    for step in steps:
        try:
            ending = step()
            if ending is not None:
                await ending
        except QuicEtherError as error:
            log.warning("tunnel %s: while taking it down: %s", name, error)
        except Exception:
            log.exception("tunnel %s: a fault of our own while taking it down", name)
