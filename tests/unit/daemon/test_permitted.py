"""Which prefixes of the overlay are of use to this host, by its policy."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from quicether.config.settings import Settings
from quicether.daemon import permitted
from quicether.daemon.guard import Guard
from quicether.daemon.host_config import host_config
from quicether.daemon.permitted import Permitted
from quicether.host.underlay import Underlay
from quicether.model import Member, NextHop, NodeId, Prefix
from quicether.overlay.desired import MAX_REFUSALS, HostRoutes
from quicether.overlay.routes import OverlayRoutes
from quicether.policy.load import read_policy
from quicether.policy.ruleset import RuleSet
from support.fake_endpoint import FakeUnderlay
from support.mesh_nodes import Node
from support.policies import rules
from support.virtual_time import passes, play

NET = ip_network("10.0.0.0/8")
HOME_LAN, SHOP_LAN, MY_LAN = (ip_network(f"10.{number}.0.0/16") for number in (1, 2, 3))


def member(number: int, name: str, *groups: str) -> Member:
    address = ip_address(f"100.64.0.{number}")
    return Member(NodeId(bytes([number]) * 20), name, b"", (address,), (NET,), frozenset(groups))


ME, HOME, SHOP = member(1, "me", "staff"), member(2, "home"), member(3, "shop")


def of_use(
    *lines: str,
    mine: Iterable[Prefix] = (),
    home: Member = HOME,
    always: Iterable[Prefix] = (),
) -> HostRoutes:
    """What is kept of two LANs under a policy."""
    routes = OverlayRoutes(ME)
    for owner, lan in ((home, HOME_LAN), (SHOP, SHOP_LAN)):
        routes.discovered(owner, NextHop.to_node(owner.node_id), [lan])
    found = HostRoutes((HOME_LAN, SHOP_LAN), ("as before",))
    return Permitted(rules(*lines, groups="[groups.staff]\n"), ME, mine).of(found, routes, always)


def test_a_prefix_without_a_rule_is_left_out_and_said() -> None:
    found = of_use("allow me home tcp 22")
    assert found.prefixes == (HOME_LAN,)
    assert found.refusals == (
        "as before",
        f"prefix {SHOP_LAN}: the policy lets nothing pass between it and this node",
    )


@pytest.mark.parametrize("rule", ["me 10.1.0.7", "group:staff home", "* 10.1.0.0/16 udp", "me *"])
def test_one_packet_that_this_node_may_send_there_is_enough(rule: str) -> None:
    assert HOME_LAN in of_use(f"allow {rule}").prefixes


@pytest.mark.parametrize("rule", ["home me", "home 100.64.0.1 tcp 22", "home 10.3.0.9"])
def test_so_is_one_that_may_come_from_there_because_it_is_answered(rule: str) -> None:
    assert of_use(f"allow {rule}", mine=[MY_LAN]).prefixes == (HOME_LAN,)


def test_what_others_may_do_with_each_other_is_no_reason() -> None:
    assert of_use("allow home shop", "allow shop 10.1.0.0/16", mine=[MY_LAN]).prefixes == ()


def test_without_a_lan_nobody_comes_for_it() -> None:
    assert of_use("allow home 10.3.0.9").prefixes == ()


def test_an_exit_answers_whom_it_lets_out() -> None:
    everything = ip_network("0.0.0.0/0")
    assert of_use("allow home 8.8.8.8", mine=[everything]).prefixes == (HOME_LAN,)


def test_all_that_is_of_use_is_left_as_it_is() -> None:
    assert of_use("allow * *") == HostRoutes((HOME_LAN, SHOP_LAN), ("as before",))


def test_what_the_user_sends_somewhere_is_kept_with_what_lies_inside() -> None:
    assert of_use(always=[SHOP_LAN]).prefixes == (SHOP_LAN,)
    assert of_use(always=[NET]).prefixes == (HOME_LAN, SHOP_LAN)


def test_a_prefix_of_a_gateway_alone_has_no_known_owner() -> None:
    routes = OverlayRoutes(ME)
    routes.discovered(HOME, NextHop.via_gateway(HOME.node_id), [SHOP_LAN])
    found = HostRoutes((SHOP_LAN,))
    assert Permitted(rules("allow * home"), ME, ()).of(found, routes, ()).prefixes == ()
    assert Permitted(rules("allow me 10.2.0.0/16"), ME, ()).of(found, routes, ()) == found


def test_an_owner_is_judged_anew_by_a_new_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permitted, "MAX_REMEMBERED", 1)
    routes = OverlayRoutes(ME)
    judge = Permitted(
        rules(
            "allow me group:open",
            "allow group:guests me",
            groups="[groups.open]\n[groups.guests]\n",
        ),
        ME,
        (),
    )
    found = HostRoutes((HOME_LAN, SHOP_LAN))
    for groups, kept in (((), ()), (("open",), (HOME_LAN,)), ((), ()), (("guests",), (HOME_LAN,))):
        home = member(2, "home", *groups)
        for owner, lan in ((home, HOME_LAN), (SHOP, SHOP_LAN)):
            routes.discovered(owner, NextHop.to_node(owner.node_id), [lan])
        assert judge.of(found, routes, ()).prefixes == kept


def test_nothing_is_judged_again_while_nothing_is_different() -> None:
    """It took 0.3 s with as many routes as the OS gets, whenever anything at all changed."""
    routes = OverlayRoutes(ME)
    routes.discovered(HOME, NextHop.to_node(HOME.node_id), [HOME_LAN])
    routes.discovered(SHOP, NextHop.to_node(SHOP.node_id), [SHOP_LAN])
    judge = Permitted(rules("allow me home"), ME, ())
    found = HostRoutes((HOME_LAN, SHOP_LAN))
    first = judge.of(found, routes, ())
    routes.reachable(HOME.node_id, reachable=True, rtt=0.01)
    assert judge.of(found, routes, ()) is first
    assert first.prefixes == (HOME_LAN,)
    assert judge.of(found, routes, [SHOP_LAN]).prefixes == (HOME_LAN, SHOP_LAN)
    assert judge.of(found, routes, ()).prefixes == (HOME_LAN,)
    routes.discovered(HOME, NextHop.to_node(HOME.node_id), [HOME_LAN, SHOP_LAN])
    assert judge.of(found, routes, ()).prefixes == (HOME_LAN, SHOP_LAN)
    routes.forget(HOME.node_id)
    assert judge.of(found, routes, ()).prefixes == ()


def test_of_many_the_number_is_said() -> None:
    many = tuple(ip_network(f"10.9.{number}.0/24") for number in range(MAX_REFUSALS + 5))
    found = Permitted(rules(), ME, ()).of(HostRoutes(many), OverlayRoutes(ME), ())
    assert len(found.refusals) == MAX_REFUSALS + 1
    assert found.refusals[-1] == "5 more prefixes are of no use by the policy"


def test_a_policy_that_is_loaded_again_counts_at_once(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    rule = '[[rules]]\nid = "r1"\nsubject = "node1"\nobject = "{}"\naction = "allow"\n'
    file.write_text(rule.format("*"))
    settings = Settings.from_options({"policy-file": str(file)})

    async def scene() -> None:
        underlay = FakeUnderlay()
        me, home = Node(underlay, 1), Node(underlay, 2, HOME_LAN)
        await home.start()
        await me.start(home)
        await passes(lambda: me.hop("10.1.0.9"), 5)
        guard = Guard(settings, RuleSet(read_policy(file)))

        def prefixes() -> tuple[Prefix, ...]:
            wanted = host_config(settings, me.member, me.mesh, Underlay(), 1420, 9000, guard)
            return wanted.config.prefixes

        assert HOME_LAN in prefixes()
        assert guard.permitted(me.member, ()) is guard.permitted(me.member, ())
        for target, routed in (("10.2.0.0/16", False), ("10.1.0.9", True), ("node3", False)):
            file.write_text(rule.format(target))
            # In a thread; virtual time would rush by.
            guard._policy.use(RuleSet(read_policy(file)))
            assert (HOME_LAN in prefixes()) is routed
            assert ip_network("100.64.0.0/10") in prefixes()
        guard.close()
        for node in (home, me):
            await node.stop()

    play(scene)
