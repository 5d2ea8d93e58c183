"""The daemon's side: carries questions of machines to the registrar, and its answers back."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Final

from quicether.errors import HostError
from quicether.registry.messages import MAX_MESSAGE, Answer, Question, decode, encode

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
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        with socket.socket(socket.AF_UNIX, kind) as connection:
            try:
                async with asyncio.timeout(PATIENCE):
                    loop = asyncio.get_running_loop()
                    await loop.sock_connect(connection, str(self._path))
                    await loop.sock_sendall(connection, encode(question))
                    data = await loop.sock_recv(connection, MAX_MESSAGE + 1)
            except TimeoutError:
                raise HostError(
                    f"the registrar at {self._path} did not answer within {PATIENCE:g} s"
                ) from None
            except OSError as error:
                raise HostError(
                    f"the registrar cannot be reached at {self._path}: {error.strerror}; run: "
                    "systemctl start quicether-registrar.socket"
                ) from error
        if not data:
            raise HostError("the registrar failed; see journalctl -u quicether-registrar")
        return decode(data, Answer).result()
