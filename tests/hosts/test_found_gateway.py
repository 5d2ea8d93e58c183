"""A gateway that nobody named, found in the DHT, stands in while the direct way does not work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.commands import wait_until
from support.hosts import LightHost
from support.sites import SERVER, WEST, Sites, sites
from support.stream import Stream

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Two sites that know each other alone, and a gateway that east has to find."""
    with sites(tmp_path_factory.mktemp("found"), named=False) as scene:
        wait_until(lambda: is_found(scene), 15, "east finds the gateway", on_timeout=scene.east.log)
        yield scene


def is_found(scene: Sites) -> bool:
    """Tell whether east knows from the DHT that g1 forwards to west's site."""
    return ("gateway", "g1", "discovered") in {
        (route["next_hop"], route["node_name"], route["source"])
        for route in scene.east.routes()
        if route["prefix"] == WEST
    }


def test_a_gateway_that_was_found_carries_what_the_direct_way_loses(found: Sites) -> None:
    with Stream(found.server, found.client, SERVER) as stream:
        wait_until(stream.received, 5, "the transfer begins")
        found.direct.silence()
        cut, still = found.wait_until_moved(stream, "g1", deadline=5)
        found.direct.resume()
        back = found.wait_for_way(None, deadline=10)
        print(f"noticed after {cut:.1f} s, stood still for {still:.1f} s, back after {back:.1f} s")
        assert still < 5
        stream.finish()


def test_a_way_that_is_dead_in_one_direction_is_left_and_taken_back(found: Sites) -> None:
    with Stream(found.server, found.client, SERVER) as stream:
        wait_until(stream.received, 5, "the transfer begins")
        with losing(found.east.host, found.direct.a.ifname):
            # East hears nothing of west, and west everything of east. West has to leave the way at
            # once; east, whose packets arrive, when it sees that nothing answers them.
            cut, still = found.wait_until_moved(stream, "g1", deadline=15)
        back = found.wait_for_way(None, deadline=10)
        print(f"noticed after {cut:.1f} s, stood still for {still:.1f} s, back after {back:.1f} s")
        assert still < 5
        stream.finish()


@contextmanager
def losing(host: LightHost, device: str) -> Iterator[None]:
    """Drop all that comes to a host on a device."""
    chain = f'type filter hook input priority 0; iifname "{device}" drop;'
    host.run(["nft", "-f", "-"], input=f"table inet lossy {{ chain way_in {{ {chain} }}; }}")
    try:
        yield
    finally:
        host.run(["nft", "delete", "table", "inet", "lossy"])
