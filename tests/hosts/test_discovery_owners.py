"""The five sites of test_discovery again, with other owners of their links."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from support.hosts import Manager
from support.town import NAMES, SHARED, Town, side_by_side, town

MANAGERS: dict[str, tuple[Manager, ...]] = {
    "networkd": ("networkd", "networkd", "networkd", "none", "none"),
    "netlink": ("none", "none", "none", "none", "none"),
    "a mix": ("networkmanager", "networkd", "none", "networkd", "networkmanager"),
}
OWNERS = {"networkmanager": "networkmanager", "networkd": "networkd", "none": "netlink"}


@pytest.fixture(scope="module", params=list(MANAGERS))
def scene(
    request: pytest.FixtureRequest, installed: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Town]:
    managers = MANAGERS[request.param]
    with town(installed, tmp_path_factory.mktemp("town"), managers) as scene:
        links = [site.status()["link"] for site in scene.sites.values()]
        assert links == [OWNERS[manager] for manager in managers]
        yield scene


def test_every_pair_reaches_the_others_lan(scene: Town) -> None:
    sites = list(scene.sites.values())
    assert [site.host.name for site in sites] == [*NAMES]
    for site in sites:
        for other in sites:
            if other is not site:
                site.wait_for(other.lan, 15)
    side_by_side(*(partial(site.reach_all, sites) for site in sites))


def test_a_prefix_advertised_later_comes_and_one_withdrawn_goes_within_ten_seconds(
    scene: Town,
) -> None:
    for name in NAMES[:3]:
        changing = scene.sites[name]
        others = [site for site in scene.sites.values() if site is not changing]
        for advertised in ((changing.lan, SHARED), (changing.lan,)):
            changing.advertise(*advertised)
            since = time.monotonic()
            for site in others:
                left = 10 - (time.monotonic() - since)
                site.wait_for(SHARED, left, gone=SHARED not in advertised)
