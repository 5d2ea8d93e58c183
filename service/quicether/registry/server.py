"""How root's programs answer the daemon, and `quicether-registrar`, the one that signs.

systemd starts such a program as root when the daemon, which is user `quicether`, connects. One
question at a time, each from its own connection, and it ends when nobody asked for a while.

The registrar has no network, no capability, and only /etc/quicether to write. Whoever takes the
daemon over gets no more out of it than an invitation's secret or a member's key could get anyway.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from quicether.errors import HostError, IdentityError, ProtocolError, QuicEtherError
from quicether.identity.registrar import Registrar
from quicether.identity.store import NetworkStore
from quicether.registry.messages import MAX_MESSAGE, Answer, M, Question, decode, encode

log = logging.getLogger(__name__)

IDLE: Final = 30.0
"""Seconds without a question after which the process ends; systemd goes on listening."""
PATIENCE: Final = 2.0
"""Seconds that whoever connected has for its question."""
_FIRST_FD: Final = 3
"""The first socket that systemd passes, sd_listen_fds(3)."""


def serve(
    listener: socket.socket, kind: type[M], answer: Callable[[M], bytes], idle: float = IDLE
) -> None:
    """Answer questions of a kind until none came for idle seconds.

    answer: returns the answer's body, or raises a QuicEtherError, which is told.
    """
    listener.settimeout(idle)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return
        with connection:
            connection.settimeout(PATIENCE)
            try:
                _serve_one(connection, kind, answer)
            except OSError as error:
                log.warning("a question was not answered: %s", error)


def _serve_one(connection: socket.socket, kind: type[M], answer: Callable[[M], bytes]) -> None:
    data = connection.recv(MAX_MESSAGE + 1)
    if not data:
        return
    try:
        if len(data) > MAX_MESSAGE:
            raise ProtocolError(f"a question of more than {MAX_MESSAGE} bytes")
        reply = Answer(body=answer(decode(data, kind)))
    except QuicEtherError as error:
        log.warning("%s", error)
        reply = Answer.of_error(error)
    except Exception:
        # A fault of ours; the next question may well be fine. The daemon is told by
        # the end of the connection.
        log.exception("a question could not be answered")
        return
    connection.send(encode(reply))


def answer_from_files(question: Question) -> bytes:
    """Answer with the authority that lies below /etc/quicether (or QUICETHER_ETC).

    Raises ConfigError, ProtocolError, TrustError, IdentityError.
    """
    store = NetworkStore.of_system(question.network)
    if not store.has_authority:
        raise IdentityError(f"this machine is not the authority of network {store.name}")
    return Registrar(store).answer(question.body, question.server_key, datetime.now(UTC))


def passed_socket(program: str) -> socket.socket:
    """Return the socket that systemd listens on for us.

    Raises HostError: there is none; this program is not started by hand.
    """
    mine = os.environ.get("LISTEN_PID") == str(os.getpid())
    if not mine or os.environ.get("LISTEN_FDS") != "1":
        raise HostError(f"{program} is started by systemd: {program}.socket")
    return socket.socket(fileno=_FIRST_FD)


def run(program: str, kind: type[M], answer: Callable[[M], bytes]) -> int:
    """Be a program of root's: answer what is asked, see `serve`.

    Returns the exit status: 0 nothing more to do, 1 failed.
    """
    prefix = "<4>" if os.environ.get("JOURNAL_STREAM") else ""
    logging.basicConfig(level=logging.INFO, format=f"{prefix}%(message)s", stream=sys.stderr)
    os.umask(0o077)
    try:
        with passed_socket(program) as listener:
            serve(listener, kind, answer)
    except QuicEtherError as error:
        log.error("%s", error)  # noqa: TRY400 - a sentence says it all
        return 1
    return 0


def main() -> int:
    """Sign for machines that were invited; return the exit status."""
    return run("quicether-registrar", Question, answer_from_files)


if __name__ == "__main__":
    sys.exit(main())
