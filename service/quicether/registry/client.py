"""The daemon's side: carries questions to root's programs, and their answers back."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final

from quicether.errors import HostError
from quicether.registry.messages import MAX_MESSAGE, Answer, Message, Question, decode, encode

PROGRAM: Final = "quicether-registrar"
SOCKET: Final = Path("/run/quicether-registrar")
"""Where systemd listens for the registrar; in a folder that only root can change."""
PATIENCE: Final = 10.0
"""Seconds from connecting to the answer, the registrar's own start included."""


class RegistrarClient:
    """Asks the registrar in the name of one network's node.

    server_key: raw public key that the node shows in TLS handshakes.
    """

    def __init__(self, network: str, server_key: bytes, path: Path = SOCKET) -> None:
        self._network = network
        self._server_key = server_key
        self._path = path

    async def answer(self, body: bytes) -> bytes:
        """Return the authority's answer to a question to join or to renew.

        Raises ProtocolError, TrustError, IdentityError: as `identity.registrar.Registrar.answer`;
        HostError: the registrar cannot be reached.
        """
        question = Question(network=self._network, server_key=self._server_key, body=body)
        return await ask(PROGRAM, question, self._path, PATIENCE)


async def ask(program: str, question: Message, path: Path, patience: float) -> bytes:
    """Return the body that a program of root's answers.

    path: where systemd listens for it. patience: seconds from connecting to the answer.
    Raises the error that the program tells; HostError: it cannot be reached, does not answer.
    """
    kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_UNIX, kind) as connection:
        try:
            async with asyncio.timeout(patience):
                loop = asyncio.get_running_loop()
                await loop.sock_connect(connection, str(path))
                await loop.sock_sendall(connection, encode(question))
                data = await loop.sock_recv(connection, MAX_MESSAGE + 1)
        except TimeoutError:
            raise HostError(f"{program} at {path} did not answer within {patience:g} s") from None
        except OSError as error:
            raise HostError(
                f"{program} cannot be reached at {path}: {error.strerror}; run: "
                f"systemctl start {program}.socket"
            ) from error
    if not data:
        raise HostError(f"{program} failed; see journalctl -u {program}")
    return decode(data, Answer).result()
