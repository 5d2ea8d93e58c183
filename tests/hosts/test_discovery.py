"""Sites that know one address find each other's LANs, and lose what is withdrawn or dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from support.town import RECORD_LIFE, SHARED, Site, Town, looked_up, side_by_side, town

SHARED_HOST = "10.77.0.1"
GRACE = 3.0
"""Seconds until a route that is no longer wanted is gone from the OS."""


@pytest.fixture(scope="module")
def scene(installed: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(installed, tmp_path_factory.mktemp("town")) as scene:
        yield scene


@dataclass(frozen=True, slots=True)
class Death:
    """A site that was killed hard, when (monotonic seconds), and how long traffic took to move."""

    site: Site
    when: float
    took: float


@pytest.fixture(scope="module")
def death(scene: Town) -> Death:
    """Kill the node that hq sends packets for SHARED to, and cut its line, with another left."""
    hq, depot, farm = (scene.sites[name] for name in ("hq", "depot", "farm"))
    for site in (depot, farm):
        site.host.run(["ip", "address", "replace", f"{SHARED_HOST}/32", "dev", "lo"])
        site.advertise(site.lan, SHARED)
    hq.host.wait_until(lambda: hq.reaches(SHARED_HOST), 10, f"{SHARED_HOST} to answer")
    used = looked_up(hq, SHARED_HOST)
    assert used in ("depot", "farm")
    victim = scene.sites[used]
    when = time.monotonic()
    scene.internet.cut(victim.port)
    victim.host.close()
    hq.host.wait_until(lambda: hq.reaches(SHARED_HOST), 10, "traffic to move to the second owner")
    return Death(victim, when, time.monotonic() - when)


def test_every_pair_reaches_the_others_lan(scene: Town) -> None:
    sites = list(scene.sites.values())[:5]
    for site in sites:
        for other in sites:
            if other is not site:
                site.wait_for(other.lan, 15)
    side_by_side(*(partial(site.reach_all, sites) for site in sites))


def test_a_sixth_is_reachable_from_all_within_five_seconds_of_joining(scene: Town) -> None:
    sites = list(scene.sites.values())
    sixth = scene.join("yard")
    assert sixth.node is not None
    sixth.node.up()
    joined = time.monotonic()
    for site in sites:
        site.wait_for(sixth.lan, 5 - (time.monotonic() - joined))
        site.reach_all([sixth], deadline=5 - (time.monotonic() - joined))


def test_a_prefix_advertised_later_comes_and_one_withdrawn_goes_within_ten_seconds(
    scene: Town,
) -> None:
    sites = list(scene.sites.values())
    depot = scene.sites["depot"]
    others = [site for site in sites if site is not depot]
    depot.advertise(depot.lan, SHARED)
    since = time.monotonic()
    for site in others:
        site.wait_for(SHARED, 10 - (time.monotonic() - since))
    depot.advertise(depot.lan)
    since = time.monotonic()
    for site in others:
        site.wait_for(SHARED, 10 - (time.monotonic() - since), gone=True)


def test_lookup_says_who_owns_an_address_and_that_nobody_does(scene: Town) -> None:
    plant = scene.sites["plant"]
    assert looked_up(plant, scene.sites["shop"].address) == "shop"
    assert looked_up(plant, "10.99.0.1") is None


def test_a_rogue_gets_no_packet_for_what_its_certificate_does_not_cover(scene: Town) -> None:
    hq, shop, depot = (scene.sites[name] for name in ("hq", "shop", "depot"))
    nobodys = "172.20.0.0/16"
    den = scene.join("den")
    assert den.node is not None
    den.node.close()
    robbed = depot.status()
    spec = {
        # Nobody's, the whole of another's LAN, and the piece of it with the machine.
        "prefixes": [nobodys, depot.lan, f"{depot.address}/31"],
        "victim": robbed["node_id"],
        "address": next(each for each in robbed["addresses"] if ":" not in each),
        "lan": depot.lan,
        "nodes": [hq.underlay, shop.underlay],
    }
    roots = {"QUICETHER_ETC": str(den.node.store.etc), "QUICETHER_VAR": str(den.node.store.var)}
    rogue = den.host.popen(
        [sys.executable, "-m", "support.rogue_process", json.dumps(spec)],
        env={"PYTHONPATH": os.pathsep.join(sys.path), **roots},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert rogue.stdout is not None
    results = json.loads(rogue.stdout.readline())["results"]
    # Others may have connected to it meanwhile, and are lied to as well.
    assert {hq.underlay, shop.underlay} <= results.keys()
    assert {answer for answers in results.values() for answer in answers} == {"REFUSED"}
    for site in (hq, shop):
        assert site.has_route(depot.lan)
        assert looked_up(site, depot.address) == "depot"
        assert leads_to(site, "den") == set()
        site.reach_all([depot])
        # A route of the user's own leads the packets to the tunnel, which is to know no way.
        site.host.run(["ip", "route", "replace", nobodys, "dev", "quicether0"])
        assert not site.reaches("172.20.0.1")
        site.host.run(["ip", "route", "del", nobodys, "dev", "quicether0"])
        assert looked_up(site, "172.20.0.1") is None
        assert counted(site, "drop-record-not-covered") > 0
        assert counted(site, "drop-record-signature") > 0
    output, _ = rogue.communicate()
    assert json.loads(output) == {"packets": 0}


def test_a_prefix_that_covers_an_own_network_is_refused_until_it_is_accepted(scene: Town) -> None:
    depot, farm = scene.sites["depot"], scene.sites["farm"]
    farm.host.run(["ip", "link", "add", "annex", "type", "bridge"])
    farm.host.run(["ip", "address", "add", "10.77.0.200/25", "dev", "annex"])
    farm.host.run(["ip", "link", "set", "annex", "up"])
    try:
        depot.advertise(depot.lan, SHARED)
        farm.host.wait_until(lambda: refused(farm, SHARED), 10, f"{SHARED} to be refused")
        (sentence,) = refused(farm, SHARED)
        assert "10.77.0.128/25" in sentence
        assert "accept-conflicts" in sentence
        assert not farm.has_route(SHARED)
        farm.advertise(farm.lan, accept_conflicts=[SHARED])
        farm.wait_for(SHARED, 5)
        assert refused(farm, SHARED) == []
    finally:
        farm.host.run(["ip", "link", "del", "annex"])
        farm.advertise(farm.lan)
        depot.advertise(depot.lan)


def test_traffic_moves_to_the_second_owner_within_ten_seconds(death: Death) -> None:
    assert death.took < 10


def test_what_a_killed_node_advertised_is_gone_when_its_record_ends(
    scene: Town, death: Death
) -> None:
    left = death.when + RECORD_LIFE + GRACE - time.monotonic()
    for site in scene.sites.values():
        if site not in (death.site, scene.sites.get("den")):
            site.wait_for(death.site.lan, max(left, 1), gone=True)


def counted(site: Site, what: str) -> int:
    """Return one of the running totals that a whole host shows."""
    return int(site.status()["counters"].get(what, 0))


def leads_to(site: Site, node: str) -> set[str]:
    """Return the prefixes that a whole host sends to a node, but for the node's own addresses."""
    found = json.loads(site.host.run(["quicether", "routes", "--json"]).stdout)["routes"]
    prefixes = {route["prefix"] for route in found if route["node_name"] == node}
    return {each for each in prefixes if not each.startswith("100.") and "/128" not in each}


def refused(site: Site, prefix: str) -> list[str]:
    """Return what a whole host says of a prefix that it gives no route."""
    return [text for text in site.status()["refusals"] if text.startswith(f"prefix {prefix} ")]
