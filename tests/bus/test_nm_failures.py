"""The NetworkManager plugin when something fails: its signals, and what the journal says."""

from __future__ import annotations

import signal

import pytest
from dbus_next.signature import Variant

from quicether.bus import contract
from quicether.bus.contract import ErrorName
from support.fake_networkmanager import REPLY, profile
from support.plugin_bench import Bench, run


@pytest.mark.parametrize(
    ("name", "sentence", "reason"),
    [
        (ErrorName.INVALID, "listen-port '99999' is not a port from 0 to 65535", 1),
        (ErrorName.FAILED, "UDP port 9000 is taken by another program", 1),
        (ErrorName.ALREADY_UP, "tunnel home is up with other settings", 1),
        (ErrorName.NOT_AUTHORIZED, "polkit did not answer", 0),
        (ErrorName.IDENTITY, "the certificate of cafe-laptop expired on 2026-01-01", 0),
        (ErrorName.NOT_TRUSTED, "the authority does not accept this node", 0),
    ],
)
def test_a_refusal_by_the_service_is_a_failure_with_its_sentence(
    name: ErrorName, sentence: str, reason: int
) -> None:
    async def test(it: Bench) -> None:
        it.service.failing_with = (name, sentence)
        assert await it.networkmanager.connect(profile()) == (REPLY, None)
        await it.networkmanager.until_gone()
        assert it.signals == [
            ("StateChanged", 3),
            ("ConnectInteractive reply", None),
            ("Failure", reason),
            ("StateChanged", 5),
            ("StateChanged", 6),
        ]
        output = await it.output()
        assert f"quicether: {sentence}" in output
        assert "Traceback" not in output

    run(test)


def test_a_desired_state_that_makes_no_sense_is_a_bad_ip_config() -> None:
    async def test(it: Bench) -> None:
        it.service.host_config["addresses"] = Variant("as", [])
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(6)
        assert ("Failure", 2) in it.networkmanager.entries
        assert it.service.tunnels == {}

    run(test)


def test_a_tunnel_that_fails_later_is_a_failure_with_its_sentence() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        it.service.fail("home", "the certificate expired on 2026-01-01")
        await it.networkmanager.until_gone()
        assert it.signals == [("Failure", 1), ("StateChanged", 5), ("StateChanged", 6)]
        assert it.service.calls[-1] == ("Down", ["home"])
        assert "the certificate expired on 2026-01-01" in await it.output()

    run(test)


def test_a_tunnel_that_the_service_lost_is_a_failure_with_its_sentence() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        it.service.lose("home", "device quicether0 was removed")
        await it.networkmanager.until_gone()
        assert it.signals == [("Failure", 1), ("StateChanged", 5), ("StateChanged", 6)]
        assert "device quicether0 was removed" in await it.output()

    run(test)


def test_a_tunnel_that_somebody_took_down_ends_the_connection() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        await it.service.down("home")
        await it.networkmanager.until_gone()
        assert "tunnel home was taken down" in await it.output()

    run(test)


def test_a_service_that_vanishes_ends_the_connection_within_a_second() -> None:
    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        it.service.bus.disconnect()
        await it.networkmanager.until_state(6, deadline=1)
        assert it.signals == [("Failure", 1), ("StateChanged", 5), ("StateChanged", 6)]
        assert "org.quicether1" in await it.output()

    run(test)


def test_a_service_that_is_stopped_is_waited_for_although_its_last_words_come_at_once() -> None:
    """The tunnel's end and the service's were seen together, and taken for a crash."""

    async def test(it: Bench) -> None:
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(4)
        it.networkmanager.entries.clear()
        it.plugin.send_signal(signal.SIGSTOP)
        it.service.lose("home", "")
        await it.service.bus.release_name(contract.BUS_NAME)
        it.plugin.send_signal(signal.SIGCONT)
        await it.networkmanager.until_state(3)
        assert it.signals[0] == ("StateChanged", 3), "which means that it is reconnecting"

    run(test)


def test_a_service_that_vanishes_while_starting_ends_the_connection() -> None:
    async def test(it: Bench) -> None:
        it.service.gate.clear()
        await it.networkmanager.connect(profile())
        await it.service.until(lambda: bool(it.service.calls))
        it.service.bus.disconnect()
        await it.networkmanager.until_state(6, deadline=1)

    run(test)


def test_without_a_service_the_journal_says_so() -> None:
    async def test(it: Bench) -> None:
        await it.service.bus.release_name(contract.BUS_NAME)
        await it.networkmanager.connect(profile())
        await it.networkmanager.until_state(6)
        assert "org.quicether1 cannot be used" in await it.output()

    run(test)


def test_a_service_that_never_answers_is_given_up_before_networkmanager_does() -> None:
    async def test(it: Bench) -> None:
        it.service.gate.clear()
        await it.networkmanager.connect(profile(timeout=Variant("u", 2)))
        await it.networkmanager.until(lambda entries: ("Failure", 1) in entries, deadline=2)
        await it.networkmanager.until_state(6)

    run(test)
