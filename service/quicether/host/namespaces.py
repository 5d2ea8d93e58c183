"""Named network namespaces, as `ip netns add` makes them."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path
from typing import Final

from pyroute2 import netns

from quicether.errors import HostError

_NAMESPACES: Final = Path("/run/netns")


def open_namespace(namespace: str) -> int:
    """Return a descriptor of a named network namespace. Raises HostError: there is none."""
    try:
        # O_NONBLOCK: what is no namespace is refused later, and must not hang us before.
        return os.open(_NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise HostError(
            f"network namespace {namespace!r} does not exist; `ip netns add {namespace}` makes it"
        ) from None
    except OSError as refusal:
        raise HostError(f"network namespace {namespace!r}: {refusal.strerror}") from refusal


def rtnetlink_socket_in(namespace: str) -> int:
    """Return the descriptor of a rtnetlink socket that lives in a named network namespace.

    A socket belongs for ever to the namespace of the thread that made it, so a thread that ends
    at once makes it: no other thread changes its namespace, and nothing is forked.
    Raises HostError: no such namespace, or we may not enter it.
    """
    descriptor = open_namespace(namespace)
    outcome: list[int | OSError] = []

    def make() -> None:
        try:
            netns.setns(descriptor, flags=0, fork=False)
            made = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
            outcome.append(made.detach())
        except OSError as refusal:
            outcome.append(refusal)

    thread = threading.Thread(target=make, name=f"enter {namespace}")
    thread.start()
    thread.join()
    os.close(descriptor)
    if isinstance(outcome[0], int):
        return outcome[0]
    if outcome[0].errno == errno.EPERM:
        raise HostError(
            f"network namespace {namespace!r} cannot be entered: "
            "namespace mode needs CAP_SYS_ADMIN beside CAP_NET_ADMIN"
        )
    raise HostError(f"network namespace {namespace!r} cannot be entered: {outcome[0]}")
