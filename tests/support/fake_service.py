"""A fake of the service org.quicether1: its D-Bus contract without any overlay behind it.

In a test's own process `FakeService` is driven by its methods. As a program
(`python -m support.fake_service`, on the system bus) it makes a TUN device for each tunnel and is
driven through interface `CONTROL` on the manager's object.
"""
# ruff: noqa: ANN201, F722, F821, UP037
# mypy: disable-error-code="name-defined, no-untyped-def, syntax, untyped-decorator, valid-type"

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, PropertyAccess
from dbus_next.errors import DBusError
from dbus_next.message import Message
from dbus_next.service import ServiceInterface, dbus_property, method
from dbus_next.signature import Variant

from quicether.bus import contract
from quicether.bus.contract import ErrorName, HostConfigKey, How, TunnelState
from quicether.config.options import OPTIONS

CONTROL: Final = "org.quicether1.FakeControl"
HOST_CONFIG: Final[Mapping[str, Variant]] = {
    HostConfigKey.DEVICE.value: Variant("s", "quicether0"),
    HostConfigKey.MTU.value: Variant("u", 1380),
    HostConfigKey.ADDRESSES.value: Variant("as", ["100.64.0.1/32", "fd12:3456:789a::1/128"]),
    HostConfigKey.PREFIXES.value: Variant("as", ["192.168.1.0/24", "fd12:3456:789a:1::/64"]),
    HostConfigKey.DNS_SERVERS.value: Variant("as", []),
    HostConfigKey.DNS_DOMAINS.value: Variant("as", []),
    HostConfigKey.DNS_DEFAULT.value: Variant("b", False),
    HostConfigKey.FULL_TUNNEL.value: Variant("b", False),
    HostConfigKey.GATEWAY.value: Variant("s", "192.0.2.2"),
}
"""What a tunnel wants of the OS at first."""


class FakeTunnel(ServiceInterface):
    """One tunnel's object."""

    def __init__(self, name: str, host_config: Mapping[str, Variant], *, ready: bool) -> None:
        super().__init__(contract.TUNNEL_INTERFACE)
        self.tunnel = name
        self.since = time.monotonic()
        self.host_config = dict(host_config)
        self.ready = ready
        self.state = TunnelState.RUNNING

    @dbus_property(access=PropertyAccess.READ)
    def Name(self) -> "s":
        return self.tunnel

    @dbus_property(access=PropertyAccess.READ)
    def State(self) -> "s":
        return self.state.value

    @dbus_property(access=PropertyAccess.READ)
    def Ready(self) -> "b":
        return self.ready

    @dbus_property(access=PropertyAccess.READ)
    def Since(self) -> "d":
        return self.since

    @dbus_property(access=PropertyAccess.READ)
    def HostConfig(self) -> "a{sv}":
        return self.host_config


class FakeManager(ServiceInterface):
    """The manager's object."""

    def __init__(self, service: FakeService) -> None:
        super().__init__(contract.MANAGER_INTERFACE)
        self._service = service

    @method()
    async def Up(self, tunnel: "s", options: "a{ss}", how: "a{sv}") -> "o":
        return await self._service.up(tunnel, options, how)

    @method()
    async def Down(self, tunnel: "s"):
        await self._service.down(tunnel)

    @dbus_property(access=PropertyAccess.READ)
    def Failures(self) -> "a{ss}":
        return self._service.failures


class FakeControl(ServiceInterface):
    """What the program is driven by."""

    def __init__(self, service: FakeService) -> None:
        super().__init__(CONTROL)
        self._service = service

    @method()
    def Change(self, tunnel: "s", host_config: "a{sv}"):
        self._service.change(tunnel, host_config)

    @method()
    def Fail(self, tunnel: "s", sentence: "s"):
        self._service.fail(tunnel, sentence)

    @method()
    def Calls(self) -> "s":
        return json.dumps(self._service.calls)


class FakeService:
    """The whole service.

    ready: whether tunnels are ready at once. gate: Up waits for it. failing_with: error that Up
    answers with. leaving: Down waits for it with the tunnel stopping. devices: make real devices.
    calls: (member, arguments) of all that was called, in order.
    """

    def __init__(self, bus: MessageBus, *, devices: bool = False) -> None:
        self.bus = bus
        self.ready = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.leaving = asyncio.Event()
        self.leaving.set()
        self.failing_with: tuple[ErrorName, str] | None = None
        self.host_config: dict[str, Variant] = dict(HOST_CONFIG)
        self.tunnels: dict[str, FakeTunnel] = {}
        self.failures: dict[str, str] = {}
        self.calls: list[tuple[str, Any]] = []
        self._devices = devices
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Take the service's name."""
        self.bus.export(contract.ROOT_PATH, FakeManager(self))
        self.bus.export(contract.ROOT_PATH, FakeControl(self))
        await self.bus.request_name(contract.BUS_NAME)

    async def until(self, done: Callable[[], bool], deadline: float = 5.0) -> None:
        """Wait until the calls so far have led to what is asked for."""
        try:
            async with asyncio.timeout(deadline):
                while not done():
                    await self._news.wait()
                    self._news.clear()
        except TimeoutError:
            raise AssertionError(f"after {deadline} s only {self.calls}") from None

    async def up(self, name: str, options: dict[str, str], how: dict[str, Variant]) -> str:
        self._news.set()
        self.calls.append(("Up", [name, options, {key: each.value for key, each in how.items()}]))
        await self.gate.wait()
        if self.failing_with is not None:
            raise DBusError(self.failing_with[0].value, self.failing_with[1])
        for key in options:
            if key not in OPTIONS:
                raise DBusError(ErrorName.INVALID.value, f"option {key!r} is not known")
        if name in self.tunnels:
            raise DBusError(ErrorName.ALREADY_UP.value, f"tunnel {name} is up already")
        assert how[How.BOUND].value is True
        if self._devices:
            _ip("tuntap", "add", self.host_config["device"].value, "mode", "tun")
        tunnel = self.tunnels[name] = FakeTunnel(name, self.host_config, ready=self.ready)
        self.bus.export(contract.tunnel_path(name), tunnel)
        self._news.set()
        return contract.tunnel_path(name)

    async def down(self, name: str) -> None:
        self._news.set()
        self.calls.append(("Down", [name]))
        tunnel = self.tunnels.get(name)
        if tunnel is None:
            raise DBusError(ErrorName.NOT_FOUND.value, f"tunnel {name} is not up")
        tunnel.state = TunnelState.STOPPING
        tunnel.emit_properties_changed({"State": tunnel.state.value})
        await self.leaving.wait()
        if self._devices:
            _ip("link", "del", tunnel.host_config["device"].value)
        del self.tunnels[name]
        self.bus.unexport(contract.tunnel_path(name))

    async def leave(self, *, say_stopping: bool) -> None:
        """Leave the bus in good order, as the service does when it is stopped: tunnels first.

        say_stopping: changes are told with a delay, which the end may come before.
        """
        for name, tunnel in list(self.tunnels.items()):
            if say_stopping:
                tunnel.state = TunnelState.STOPPING
                tunnel.emit_properties_changed({"State": tunnel.state.value})
            del self.tunnels[name]
            self.bus.unexport(contract.tunnel_path(name))
        await self.bus.release_name(contract.BUS_NAME)

    async def come_back(self) -> None:
        """Be on the bus again."""
        await self.bus.request_name(contract.BUS_NAME)

    def change(self, name: str, host_config: Mapping[str, Variant]) -> None:
        """Want something else of the OS: the entries of host_config replace their like.

        A tunnel that is not up wants it when it comes up.
        """
        tunnel = self.tunnels.get(name)
        if tunnel is None:
            self.host_config |= host_config
            return
        tunnel.host_config |= host_config
        tunnel.emit_properties_changed({"HostConfig": tunnel.host_config})

    def become_ready(self, name: str) -> None:
        """Reach the first peer."""
        tunnel = self.tunnels[name]
        tunnel.ready = True
        tunnel.emit_properties_changed({"Ready": True, "HostConfig": tunnel.host_config})

    def lose(self, name: str, sentence: str | None = None) -> None:
        """Let a tunnel end at once by itself, or because somebody else took it down."""
        if sentence is not None:
            self.failures[name] = sentence
        del self.tunnels[name]
        self.bus.unexport(contract.tunnel_path(name))

    def fail(self, name: str, sentence: str) -> None:
        """Let a tunnel fail."""
        self.failures[name] = sentence
        tunnel = self.tunnels[name]
        tunnel.state = TunnelState.FAILED
        tunnel.emit_properties_changed({"State": tunnel.state.value})


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


async def control(bus: MessageBus, member: str, signature: str, *body: Any) -> Message:
    """Drive a fake that runs as a program."""
    reply = await bus.call(
        Message(
            contract.BUS_NAME,
            contract.ROOT_PATH,
            CONTROL,
            member,
            signature=signature,
            body=[*body],
        )
    )
    assert reply is not None
    return reply


async def _main() -> None:
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    await FakeService(bus, devices="--devices" in sys.argv).start()
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    asyncio.run(_main())
