"""A dbus-daemon of a test's own, with what it can activate; nothing of the machine's buses."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

from dbus_next.aio.message_bus import MessageBus

_CONFIG: Final = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={directory}/bus</listen>
  <servicedir>{directory}/services</servicedir>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class PrivateBus:
    """A running dbus-daemon.

    activatable: bus name → command that the daemon starts when somebody calls the name.
    """

    def __init__(self, activatable: Mapping[str, Sequence[str]] | None = None) -> None:
        self._activatable = activatable or {}
        self._directory = tempfile.TemporaryDirectory(prefix="quicether-bus-")
        self.path: Final = Path(self._directory.name)
        self.address: Final = f"unix:path={self.path}/bus"
        self._daemon: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        services = self.path / "services"
        services.mkdir()
        for name, command in self._activatable.items():
            (services / f"{name}.service").write_text(
                f"[D-BUS Service]\nName={name}\nExec={' '.join(command)}\n"
            )
        config = self.path / "bus.conf"
        config.write_text(_CONFIG.format(directory=self.path))
        self._daemon = subprocess.Popen(
            ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._daemon.stdout is not None
        if not self._daemon.stdout.readline():
            raise RuntimeError("dbus-daemon did not start")
        return self

    def kill(self) -> None:
        """End the daemon, and with it every connection."""
        assert self._daemon is not None
        self._daemon.terminate()
        self._daemon.wait()

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self._daemon is not None
        assert self._daemon.stdout is not None
        self._daemon.stdout.close()
        self._directory.cleanup()


@asynccontextmanager
async def connection(address: str) -> AsyncIterator[MessageBus]:
    """Be connected to the bus at address."""
    bus = await MessageBus(address).connect()
    ended = asyncio.ensure_future(bus.wait_for_disconnect())
    try:
        yield bus
    finally:
        if not ended.done():
            bus.disconnect()
        with contextlib.suppress(EOFError):
            await ended
        # dbus-next leaves its socket to the garbage collector, which warns.
        bus._stream.close()
        bus._sock.close()
