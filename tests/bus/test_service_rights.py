"""Who may call what of the D-Bus API: polkit is asked, and obeyed."""

from __future__ import annotations

import asyncio

import pytest
from dbus_next.signature import Variant

from quicether.bus.contract import MANAGER_INTERFACE, ErrorName
from support.bus_client import OBJECT_MANAGER, client
from support.fake_polkit import Answer
from support.service_bench import Bench, refusal, run


def test_polkit_is_asked_for_each_kind_of_call() -> None:
    async def test(it: Bench) -> None:
        it.polkit.default = Answer.NO
        me = it.me
        for action, call in (
            ("status", me.get(MANAGER_INTERFACE, "Version")),
            ("status", me.call(OBJECT_MANAGER, "GetManagedObjects")),
            ("status", me.tunnel("home", "Ping", "s", "home")),
            ("connect", me.up("home")),
            ("connect", me.down("home")),
            ("configure", me.call(MANAGER_INTERFACE, "Reload", "s", "home")),
        ):
            name, sentence = await refusal(call)
            assert name == ErrorName.NOT_AUTHORIZED
            assert f"polkit refuses org.quicether1.{action}" in sentence
            assert it.polkit.asked[-1] == (str(me.bus.unique_name), f"org.quicether1.{action}", 0)
        assert it.controller.calls == []

    run(test, "home")


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({"pinned-peers": f"{'11' * 20}=10.0.0.0/8"}, "org.quicether1.trust"),
        ({"audit-log": "journal"}, "org.quicether1.configure"),
    ],
)
def test_options_that_widen_trust_or_name_files_need_a_right_of_their_own(
    options: dict[str, str], action: str
) -> None:
    async def test(it: Bench) -> None:
        it.polkit.answers[action] = Answer.CHALLENGE
        await it.me.up("home", {"mtu": "1300"})
        name, sentence = await refusal(it.me.up("work", options))
        assert name == ErrorName.NOT_AUTHORIZED
        assert "administrator's password" in sentence
        await it.me.up("work", options, interactive=True)
        assert it.polkit.asked[-1][1:] == (action, 1)

    run(test)


@pytest.mark.parametrize(
    "how", [{}, {"bound": Variant("b", True)}, {"private": Variant("b", True)}]
)
def test_a_wrong_setting_is_named_even_where_the_tunnel_is_up(how: dict[str, Variant]) -> None:
    """Beside an option that is privileged the answer was AlreadyUp, whatever else was wrong."""

    async def test(it: Bench) -> None:
        options = {"policy-file": "/etc/quicether/policy.toml", "advertise-subnet": "10.0.0.0/8"}
        name, sentence = await refusal(it.me.up("home", options, how))
        assert name == ErrorName.INVALID
        assert "advertise-subnet" in sentence

    run(test, "home")


def test_a_privileged_option_does_not_cover_for_another_that_is_left_out() -> None:
    async def test(it: Bench) -> None:
        it.polkit.answers["org.quicether1.configure"] = Answer.NO
        how = {"transient": Variant("b", True)}
        name, _ = await refusal(it.me.up("x", {"pinned-peers": f"{'11' * 20}=10.0.0.0/8"}, how))
        assert name == ErrorName.NOT_AUTHORIZED
        assert it.controller.calls == []

    run(test)


def test_what_leaves_out_stored_trust_needs_the_right_to_configure() -> None:
    """`transient`, or another name for the tunnel, took the stored policy and audit away."""

    async def test(it: Bench) -> None:
        it.polkit.answers["org.quicether1.configure"] = Answer.NO
        transient = {"transient": Variant("b", True)}
        name, _ = await refusal(it.me.up("x", {"network": "home"}, transient))
        assert name == ErrorName.NOT_AUTHORIZED
        it.polkit.answers["org.quicether1.configure"] = Answer.YES
        private = transient | {"private": Variant("b", True)}
        name, sentence = await refusal(it.me.up("x", {"network": "home"}, private))
        assert name == ErrorName.NOT_AUTHORIZED
        assert sentence.startswith("policy-file would not be as it is stored")
        assert it.controller.calls == []
        await it.me.up("x", {"network": "home"}, transient)

    run(test)


def test_a_prompt_goes_away_with_its_caller() -> None:
    async def test(it: Bench) -> None:
        it.polkit.default = Answer.SILENCE
        async with client(it.address) as other:
            rising = asyncio.ensure_future(other.up("home", interactive=True))
            await it.polkit.news.wait()
            it.polkit.news.clear()
        await asyncio.wait_for(it.polkit.news.wait(), 5)
        assert it.polkit.cancelled == ["quicether-1"]
        rising.cancel()
        await asyncio.gather(rising, return_exceptions=True)
        assert it.controller.calls == []

    run(test)


def test_a_polkit_that_fails_lets_nobody_in() -> None:
    async def test(it: Bench) -> None:
        it.polkit.default = Answer.FAILURE
        name, sentence = await refusal(it.me.up("home"))
        assert name == ErrorName.FAILED
        assert sentence == (
            "polkit cannot decide about org.quicether1.connect: "
            "Action org.quicether1.connect is not registered"
        )
        assert it.controller.calls == []

    run(test)
