"""The D-Bus service: a controller's tunnels on the bus, and their changes as signals."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from quicether.bus import api
from quicether.bus.authorise import Authority, PolkitAuthority
from quicether.bus.bindings import Bindings
from quicether.bus.connection import BusConnection
from quicether.bus.contract import BUS_NAME, ROOT_PATH, tunnel_path
from quicether.bus.controller import Controller
from quicether.bus.dispatch import Dispatcher, Exported, properties
from quicether.bus.interface import Changes
from quicether.bus.objects import ManagerObject, TunnelObject
from quicether.bus.wire import encode
from quicether.errors import HostError

PUBLISH_INTERVAL: Final = 0.2
"""Seconds between two rounds of signals; the first change after quiet is told at once."""

REST: Final = 4.0
"""Times the processor's time of a round that is waited behind it, because packets come first."""

Published: TypeAlias = dict[str, tuple[str, Any]]
"""Name of a property → (signature, value), as it was told last; of one that is only invalidated,
its revision."""


class BusService:
    """Publishes a controller on the bus until it is closed.

    authority: who decides what callers may do; polkit where it is None.
    connection: not yet open, to be shared with others; made where it is None.
    address: of the bus for the latter; the system bus where it is None.
    """

    def __init__(
        self,
        controller: Controller,
        version: str,
        *,
        authority: Authority | None = None,
        connection: BusConnection | None = None,
        address: str | None = None,
    ) -> None:
        self._controller = controller
        self._connection = connection or BusConnection(api.ACCEPTED_SIGNATURES, address)
        authority = authority or PolkitAuthority(self._connection)
        self._bindings = Bindings(controller)
        self._manager = ManagerObject(controller, authority, self._bindings, version)
        self._tunnels: dict[str, TunnelObject] = {}
        self._told: dict[str, tuple[Exported, Published]] = {}
        self._dispatcher = Dispatcher(self._connection, authority, self)
        self._changed = asyncio.Event()
        self._publisher: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, publish and take the name. Raises HostError."""
        await self._connection.open(self._dispatcher.receive, self._vanished)
        self._controller.subscribe(self._changed.set)
        self._refresh()
        self._told = {path: (found, _watched(found)) for path, found in self._exports()}
        self._publisher = asyncio.get_running_loop().create_task(self._publish_changes())
        await self._connection.request_name(BUS_NAME)

    async def wait_closed(self) -> None:
        """Return after `close`. Raises HostError: the bus went away, or publishing failed."""
        closed = asyncio.ensure_future(self._connection.wait_closed())
        waiting = {closed} if self._publisher is None else {closed, self._publisher}
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        for task in done:
            if not task.cancelled():
                task.result()

    async def close(self) -> None:
        """Stop to take calls, end those that run, tell the end, leave the bus. Idempotent."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.cancel()
            await asyncio.wait([publisher])
            # Who follows a tunnel can tell by it an end in good order from a crash.
            with contextlib.suppress(HostError):
                await self._publish()
        await self._dispatcher.close()
        await self._bindings.close()
        await self._connection.close()

    def _vanished(self, name: str) -> None:
        self._dispatcher.vanished(name)
        self._bindings.vanished(name)

    # The tree of objects, for the dispatcher.

    def find(self, path: str) -> Exported | None:
        """See `Objects.find`."""
        if path == ROOT_PATH:
            return self._manager
        self._refresh()
        return self._tunnels.get(path)

    def children(self, path: str) -> Sequence[str]:
        """See `Objects.children`."""
        self._refresh()
        below = path.rstrip("/") + "/"
        known = (ROOT_PATH, *self._tunnels)
        names = {
            found[len(below) :].partition("/")[0] for found in known if found.startswith(below)
        }
        return sorted(names)

    def managed(self) -> Mapping[str, Exported]:
        """See `Objects.managed`."""
        self._refresh()
        return dict(self._tunnels)

    def manages(self, path: str) -> bool:
        """See `Objects.manages`."""
        return path == ROOT_PATH

    def _refresh(self) -> None:
        """Make the tree what the controller has now, whether or not it was told yet."""
        now = {tunnel_path(view.name): view for view in self._controller.tunnels.values()}
        for path in self._tunnels.keys() - now.keys():
            self._bindings.forget(self._tunnels.pop(path).view.name)
        for path, view in now.items():
            known = self._tunnels.get(path)
            if known is None or known.view is not view:
                self._tunnels[path] = TunnelObject(view)

    # Signals.

    async def _publish_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            begun = time.thread_time()
            await self._publish()
            await asyncio.sleep(max(PUBLISH_INTERVAL, REST * (time.thread_time() - begun)))

    async def _publish(self) -> None:
        self._refresh()
        exports = self._exports()
        for path, (exported, _) in list(self._told.items()):
            if (path, exported) not in exports:
                del self._told[path]
                await self._signal_objects("InterfacesRemoved", path, [exported.interface.name])
        for path, exported in exports:
            if path in self._told:
                await self._signal_changes(path, exported)
            else:
                self._told[path] = exported, _watched(exported)
                added = {exported.interface.name: properties(exported)}
                await self._signal_objects("InterfacesAdded", path, added)

    def _exports(self) -> list[tuple[str, Exported]]:
        return [(ROOT_PATH, self._manager), *self._tunnels.items()]

    async def _signal_objects(self, member: str, path: str, content: Any) -> None:
        signal = next(found for found in api.OBJECT_MANAGER.signals if found.name == member)
        content_signature = signal.carries[1].signature
        await self._connection.signal(
            ROOT_PATH,
            api.OBJECT_MANAGER.name,
            member,
            f"o{content_signature}",
            [path, encode(content_signature, content)],
        )

    async def _signal_changes(self, path: str, exported: Exported) -> None:
        told, now = self._told[path][1], _watched(exported)
        self._told[path] = exported, now
        different = {name for name in now if now[name] != told[name]}
        how = {item.name: item.changes for item in exported.interface.properties}
        changed = {name: now[name] for name in different if how[name] is not Changes.INVALIDATES}
        invalidated = sorted(name for name in different if how[name] is Changes.INVALIDATES)
        if different:
            await self._connection.signal(
                path,
                api.PROPERTIES.name,
                "PropertiesChanged",
                "sa{sv}as",
                [exported.interface.name, encode("a{sv}", changed), invalidated],
            )


def _watched(exported: Exported) -> Published:
    """Return the properties whose changes are told, as they are now."""
    watched: Published = {}
    for item in exported.interface.properties:
        if item.changes is Changes.TOLD:
            watched[item.name] = item.signature, exported.get(item.name)
        elif item.changes is Changes.INVALIDATES:
            # Of these there may be a million, and this is done several times a second.
            watched[item.name] = item.signature, exported.revision(item.name)
    return watched
