"""What a client that means harm can do to the service: nothing that others notice."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant

from quicether.bus.connection import BusConnection
from quicether.bus.contract import (
    BUS_NAME,
    MANAGER_INTERFACE,
    ROOT_PATH,
    TUNNEL_INTERFACE,
    ErrorName,
    tunnel_path,
)
from quicether.bus.dispatch import MAX_CALLS_OF_SENDER, MAX_CALLS_OF_USER
from quicether.bus.guard import MAX_BODY
from quicether.bus.service import BusService
from support.bus_client import PROPERTIES, BusClient, Refused, client
from support.fake_controller import FakeController
from support.fake_polkit import FakePolkit
from support.private_bus import PrivateBus, connection

ERROR = "org.freedesktop.DBus.Error."
TURN = 1.0
"""Seconds of processor time that one turn of the event loop, and so the data path's wait, may
take under attack; other programs of a busy machine do not count."""
DEADLINE = 30.0


class Bench:
    """A service with a tunnel of many peers, an ordinary client and the address for others."""

    def __init__(
        self, address: str, service: BusService, controller: FakeController, ordinary: BusClient
    ) -> None:
        self.address = address
        self.service = service
        self.controller = controller
        self.ordinary = ordinary
        self.longest_turn = 0.0

    async def still_works(self) -> None:
        """The ordinary client is answered, and the loop was never held up for long."""
        assert await self.ordinary.get(MANAGER_INTERFACE, "Version") == "1.2.3"
        assert self.longest_turn < TURN

    async def measure(self) -> None:
        """Keep the most processor time that was spent between two ticks."""
        before = time.process_time()
        while True:
            await asyncio.sleep(0.005)
            now = time.process_time()
            self.longest_turn = max(self.longest_turn, now - before)
            before = now


@asynccontextmanager
async def bench(address: str) -> AsyncIterator[Bench]:
    async with connection(address) as polkit_bus, client(address) as ordinary:
        await FakePolkit().start(polkit_bus)
        controller = FakeController("home")
        service = BusService(controller, "1.2.3", address=address)
        await service.open()
        controller.grow("home", 256)
        it = Bench(address, service, controller, ordinary)
        measuring = asyncio.ensure_future(it.measure())
        try:
            yield it
        finally:
            measuring.cancel()
            await service.close()


def run(test: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        with PrivateBus() as bus:
            async with bench(bus.address) as it:
                await test(it)

    asyncio.run(main())


def get_peers(bus: MessageBus) -> Message:
    """A call with a large answer."""
    return Message(
        BUS_NAME,
        tunnel_path("home"),
        PROPERTIES,
        "Get",
        signature="ss",
        body=["org.quicether1.Tunnel", "Peers"],
        serial=bus.next_serial(),
    )


def slow_ping(bus: MessageBus) -> Message:
    """A call that is answered when the controller's tunnel lets it."""
    return Message(
        BUS_NAME,
        tunnel_path("home"),
        TUNNEL_INTERFACE,
        "Ping",
        signature="s",
        body=["slow"],
        serial=bus.next_serial(),
    )


def join(bus: MessageBus, code: str) -> Message:
    """A call of Join."""
    return Message(
        BUS_NAME,
        ROOT_PATH,
        MANAGER_INTERFACE,
        "Join",
        signature="s",
        body=[code],
        serial=bus.next_serial(),
    )


async def send_raw(bus: MessageBus, *messages: Message | bytes) -> None:
    """Write to the bus behind dbus-next's back, which cannot send a flood itself."""
    data = b"".join(
        each if isinstance(each, bytes) else bytes(each._marshall()) for each in messages
    )
    await asyncio.get_running_loop().sock_sendall(bus._sock, data)


async def answers(bus: MessageBus, *messages: Message | bytes) -> list[Message]:
    """Send all calls at once and wait for all their answers."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[Message]] = []
    for message in messages:
        answer: asyncio.Future[Message] = loop.create_future()
        waiting.append(answer)
        serial = (
            int.from_bytes(message[8:12], sys.byteorder)
            if isinstance(message, bytes)
            else message.serial
        )
        bus._method_return_handlers[serial] = partial(_answered, answer)
    await send_raw(bus, *messages)
    return await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE)


def _answered(answer: asyncio.Future[Message], reply: Message | None, error: object) -> None:
    if reply is None:
        answer.set_exception(ConnectionError(str(error)))
    else:
        answer.set_result(reply)


def up(bus: MessageBus, options: dict[str, str], how: dict[str, Variant]) -> Message:
    """A call of Up."""
    return Message(
        BUS_NAME,
        ROOT_PATH,
        MANAGER_INTERFACE,
        "Up",
        signature="sa{ss}a{sv}",
        body=["work", options, how],
        serial=bus.next_serial(),
    )


def test_a_thousand_calls_at_once_get_answers_or_a_refusal() -> None:
    async def test(it: Bench) -> None:
        async with connection(it.address) as hostile:
            found = await answers(hostile, *(get_peers(hostile) for _ in range(1000)))
        kinds = Counter(answer.error_name or "answered" for answer in found)
        assert kinds.keys() == {"answered", f"{ERROR}LimitsExceeded"}
        assert kinds["answered"] >= MAX_CALLS_OF_SENDER
        await it.still_works()

    run(test)


def test_a_thousand_codes_at_once_get_an_answer_or_a_refusal() -> None:
    async def test(it: Bench) -> None:
        async with connection(it.address) as hostile:
            found = await answers(hostile, *(join(hostile, "AAAAA-BBBBB") for _ in range(1000)))
        kinds = Counter(answer.error_name for answer in found)
        assert kinds.keys() == {ErrorName.INVALID.value, f"{ERROR}LimitsExceeded"}
        assert not it.controller.calls
        await it.still_works()

    run(test)


def test_others_are_answered_while_a_client_floods() -> None:
    async def test(it: Bench) -> None:
        over = False

        async def flood(hostile: MessageBus) -> int:
            rounds = 0
            while not over:
                await answers(hostile, *(get_peers(hostile) for _ in range(64)))
                rounds += 1
            return rounds

        async with connection(it.address) as hostile:
            flooding = asyncio.ensure_future(flood(hostile))
            for _ in range(3):
                await asyncio.wait_for(it.still_works(), DEADLINE)
            assert not flooding.done()
            over = True
            assert await flooding >= 1

    run(test)


def test_one_user_with_many_connections_keeps_nobody_else_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight connections with 32 slow calls each were all that the service worked on at once."""

    async def test(it: Bench) -> None:
        mine = it.ordinary.bus.unique_name

        async def user_of(_: BusConnection, name: str) -> int:
            return 0 if name == mine else 1000

        monkeypatch.setattr(BusConnection, "user_of", user_of)
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(connection(it.address)) for _ in range(10)
            ]
            floods = [
                asyncio.ensure_future(
                    answers(each, *(slow_ping(each) for _ in range(MAX_CALLS_OF_SENDER)))
                )
                for each in connections
            ]
            everything = len(connections) * MAX_CALLS_OF_SENDER
            async with asyncio.timeout(DEADLINE):
                while it.service._dispatcher.refused < everything - MAX_CALLS_OF_USER:
                    await it.still_works()
            it.controller.tunnels["home"].ping_gate.set()
            found = [answer for flood in floods for answer in await flood]
        refused = [each for each in found if each.error_name == f"{ERROR}LimitsExceeded"]
        assert len(found) - len(refused) == MAX_CALLS_OF_USER
        await it.still_works()

    run(test)


def test_a_client_that_never_reads_its_answers() -> None:
    async def test(it: Bench) -> None:
        async with connection(it.address) as hostile:
            hostile._loop.remove_reader(hostile._fd)
            await send_raw(hostile, *(get_peers(hostile) for _ in range(300)))
            await it.still_works()
            hostile._loop.add_reader(hostile._fd, hostile._message_reader)
        await it.still_works()

    run(test)


def test_clients_that_vanish_in_the_middle() -> None:
    async def test(it: Bench) -> None:
        for _ in range(20):
            async with connection(it.address) as hostile:
                calls = [get_peers(hostile) for _ in range(20)]
                await send_raw(hostile, up(hostile, {}, {"bound": Variant("b", True)}), *calls)
        await it.still_works()
        await it.controller.until(lambda: "work" not in it.controller.tunnels)

    run(test)


def test_huge_arguments_are_not_even_parsed() -> None:
    async def test(it: Bench) -> None:
        huge = {f"{number:020}": "x" for number in range(500_000)}
        async with connection(it.address) as hostile:
            data = bytes(up(hostile, huge, {})._marshall())
            await asyncio.sleep(0.05)  # a tick, which counts the marshalling
            it.longest_turn = 0.0
            found = await answers(hostile, data, join(hostile, "A" * 10_000_000))
        for method, reply in zip(("Up", "Join"), found, strict=True):
            assert reply.error_name == f"{ERROR}InvalidArgs"
            assert reply.body[0].startswith(f"{method}: the arguments have ")
            assert reply.body[0].endswith(f"at most {MAX_BODY} are taken")
        await it.still_works()

    run(test)


def test_wrong_types_are_refused_by_name() -> None:
    async def test(it: Bench) -> None:
        nested: Any = Variant("s", "deep")
        for _ in range(20):
            nested = Variant("v", nested)
        async with client(it.address) as hostile:
            for signature, body in (("", []), ("i", [7]), ("as", [["CODE"]]), ("v", [nested])):
                with pytest.raises(Refused) as caught:
                    await hostile.call(MANAGER_INTERFACE, "Join", signature, *body)
                assert caught.value.name == f"{ERROR}InvalidArgs"
            for signature, body in (
                ("", []),
                ("i", [7]),
                ("as", [["home"]]),
                ("sa{ss}", ["home", {}]),
                ("sa{sv}a{sv}", ["home", {"mtu": Variant("u", 1300)}, {}]),
                ("sa{ss}a{sv}s", ["home", {}, {}, "more"]),
                ("v", [nested]),
            ):
                with pytest.raises(Refused) as caught:
                    await hostile.call(MANAGER_INTERFACE, "Up", signature, *body)
                assert caught.value.name == f"{ERROR}InvalidArgs"
            with pytest.raises(Refused, match="how: owner has type 'v'"):
                await hostile.up("home", {}, {"owner": nested})
            with pytest.raises(Refused, match="16384 are taken"):
                await hostile.up("work", {"peers": "x" * 20_000})
        await it.still_works()

    run(test)


def test_new_signatures_leave_nothing_behind() -> None:
    async def test(it: Bench) -> None:
        async with client(it.address) as hostile:
            for number in range(50):
                # This same process marshals the call: forget what that left of it.
                odd = f"({'i' * (number + 3)})"
                wrong = {"bound": Variant(SignatureTree(odd), [1] * (number + 3))}
                data = bytes(up(hostile.bus, {}, wrong)._marshall())
                SignatureTree._cache.pop(odd, None)
                await send_raw(hostile.bus, data)
                await it.still_works()
        assert not [odd for odd in SignatureTree._cache if odd.startswith("(iii")]

    run(test)


def test_messages_of_unknown_types_and_flags_are_skipped() -> None:
    async def test(it: Bench) -> None:
        for byte, value in ((1, 5), (1, 200), (2, 0xF0)):
            hostile = await MessageBus(it.address).connect()
            data = bytearray(get_peers(hostile)._marshall())
            data[byte] = value
            await send_raw(hostile, bytes(data))
            await it.still_works()
            hostile._sock.shutdown(socket.SHUT_RDWR)
            await asyncio.wait([asyncio.ensure_future(hostile.wait_for_disconnect())])
            hostile._stream.close()
            hostile._sock.close()

    run(test)


def test_signals_and_replies_that_nobody_asked_for_are_skipped() -> None:
    async def test(it: Bench) -> None:
        async with connection(it.address) as hostile:
            forged = Message(
                BUS_NAME,
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "NameOwnerChanged",
                message_type=MessageType.SIGNAL,
                signature="sss",
                body=[str(it.ordinary.bus.unique_name), str(it.ordinary.bus.unique_name), ""],
            )
            await it.ordinary.up("work", {}, {"bound": Variant("b", True)})
            for _ in range(200):
                await hostile.send(forged)
                await hostile.send(
                    Message(
                        BUS_NAME,
                        message_type=MessageType.METHOD_RETURN,
                        reply_serial=2,
                        signature="s",
                        body=["forged"],
                    )
                )
            await it.still_works()
            assert "work" in it.controller.tunnels

    run(test)


def test_memory_stays_bounded_under_a_flood() -> None:
    async def test(it: Bench) -> None:
        async def flood() -> None:
            async with connection(it.address) as hostile:
                large = {"name": "x" * 30_000}
                await send_raw(hostile, *(up(hostile, large, {}) for _ in range(400)))
            await it.still_works()

        await flood()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(3):
            await flood()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB
        await it.still_works()

    run(test)
