"""What the host room asks of the system bus; whoever has a connection to it lends it."""

from __future__ import annotations

from typing import Any, Protocol


class SystemBus(Protocol):
    """Calls methods of other services. `bus.connection.BusConnection` is one."""

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
    ) -> list[Any]:
        """Return what the method gives. Raises HostError: it refused, or there is no answer."""
