"""A small HTTP server for a few pages on one local address, bounded in every way.

It runs on the event loop beside the data path: a request is read once, up to MAX_REQUEST bytes and
PATIENCE seconds, is answered from one string, and its connection is closed. Who comes while
MAX_CLIENTS are served is turned away unread.
"""

from __future__ import annotations

import asyncio
import errno
import http
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from quicether.config.values import HostPort
from quicether.errors import HostError

log = logging.getLogger(__name__)

MAX_CLIENTS: Final = 8
MAX_REQUEST: Final = 8192
"""Bytes of a request line and its headers."""
PATIENCE: Final = 5.0
"""Seconds that a client has to send its request, and to take the answer."""
_BACKLOG: Final = 16
_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to one request."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: http.HTTPStatus = http.HTTPStatus.OK


class HttpServer:
    """Serves pages at one address. setting: what a sentence calls where the address stands.

    pages: path → what makes the page; called once a request, on the event loop.
    """

    def __init__(
        self, setting: str, address: HostPort, pages: Mapping[str, Callable[[], Page]]
    ) -> None:
        self._setting = setting
        self._address = address
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begin to serve. Raises HostError: the address is taken or is none of this host's."""
        try:
            self._server = await asyncio.start_server(
                self._accept,
                self._address.host,
                self._address.port,
                limit=MAX_REQUEST,
                backlog=_BACKLOG,
            )
        except OSError as error:
            raise HostError(f"{self._setting}: {self._address} {_reason(error)}") from error

    async def close(self) -> None:
        """Stop, and drop whoever is being served. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        clients = tuple(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or len(self._clients) >= MAX_CLIENTS:
            writer.transport.abort()
            return
        client = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(_END)
                method, page = self._page(head)
                writer.write(_answer(page, with_body=method != "HEAD"))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (
            TimeoutError,
            OSError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
        ) as error:
            log.debug("%s: a client went or was too slow: %r", self._setting, error)
        finally:
            writer.transport.abort()

    def _page(self, head: bytes) -> tuple[str, Page]:
        """Return the method of a request and the page that answers it."""
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "", _error(http.HTTPStatus.BAD_REQUEST)
        method, target, _ = words
        make = self._pages.get(target.partition("?")[0])
        if make is None:
            return method, _error(http.HTTPStatus.NOT_FOUND)
        if method not in ("GET", "HEAD"):
            return method, _error(http.HTTPStatus.METHOD_NOT_ALLOWED)
        return method, make()


def _error(status: http.HTTPStatus) -> Page:
    return Page(f"{status.value} {status.phrase}\n".encode(), status=status)


def _answer(page: Page, *, with_body: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if page.status is http.HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    head = "\r\n".join(lines).encode("latin-1") + _END
    return head + page.body if with_body else head


def _reason(error: OSError) -> str:
    """Return the end of a sentence that says why an address cannot be served."""
    match error.errno:
        case errno.EADDRINUSE:
            return "is in use by another program or tunnel; choose another port"
        case errno.EADDRNOTAVAIL | None:  # None: asyncio's own sentence, from Python 3.12 on
            return "is not an address of this host; 127.0.0.1 always is"
        case errno.EACCES:
            return "may not be opened by the service; choose a port from 1024 on"
    return f"cannot be opened: {error.strerror or error}"
