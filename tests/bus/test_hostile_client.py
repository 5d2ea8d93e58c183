"""What a client that means harm can do to the service: nothing that others notice."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest
from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant

from quicether.bus.connection import BusConnection
from quicether.bus.contract import BUS_NAME, MANAGER_INTERFACE, ErrorName
from quicether.bus.dispatch import MAX_CALLS_OF_SENDER, MAX_CALLS_OF_USER
from quicether.bus.guard import MAX_BODY
from support.bus_client import Refused, client
from support.hostile_client import (
    DEADLINE,
    Bench,
    answers,
    get_peers,
    join,
    run,
    send_raw,
    slow_ping,
    up,
)
from support.private_bus import connection

ERROR = "org.freedesktop.DBus.Error."


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
