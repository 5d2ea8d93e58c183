"""A fault of our own costs one session, and none of the others that its caller has to serve."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from quicether.model import UnderlayAddress

log: Final = logging.getLogger(__name__)


class Fallible(Protocol):
    """What can be ended because of a fault."""

    @property
    def remote(self) -> UnderlayAddress:
        """Where the peer is."""

    def fail(self) -> None:
        """End at once because of a fault of our own."""


_S = TypeVar("_S", bound=Fallible)
_P = ParamSpec("_P")


def contained(
    method: Callable[Concatenate[_S, _P], None],
) -> Callable[Concatenate[_S, _P], None]:
    """Let a fault in a method end its session, and reach nobody who called it."""

    @functools.wraps(method)
    def run(session: _S, /, *args: _P.args, **named: _P.kwargs) -> None:
        try:
            method(session, *args, **named)
        except Exception:
            log.exception("a fault of our own ends the connection to %s", session.remote)
            session.fail()

    return run
