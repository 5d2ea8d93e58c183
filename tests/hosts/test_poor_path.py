"""The way between café and home is narrow and loses packets; what is fetched arrives whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.home import NAS, Story, story
from support.relay import Impairment, Relay
from support.transfer import Payload, carry_both_ways

HOME_MTU = 1380
"""Bytes that the line to home takes; both hosts believe in 1500."""


@pytest.fixture(scope="module")
def joined(installed: list[Path]) -> Iterator[Story]:
    """The story over a line that loses one frame in a hundred, then one that takes 1380 bytes."""
    with story(installed, home_mtu=HOME_MTU, impairment=Impairment(loss=0.01)) as scene:
        scene.found_network()
        scene.add_profiles()
        scene.up(scene.home)
        scene.up(scene.laptop)
        yield scene


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_100_megabytes_arrive_whole_both_ways(joined: Story, family: int, tmp_path: Path) -> None:
    assert isinstance(joined.cafe_cable, Relay)
    before = joined.cafe_cable.counts()
    carry_both_ways(joined, family, Payload.make(tmp_path, 100_000_000, seed=family))
    # The path was as poor as it should be: 100 MB there and back are 150,000 frames and more.
    now = joined.cafe_cable.counts()
    assert now["carried"] - before["carried"] > 100_000
    assert now["lost"] - before["lost"] > 500


def test_a_ping_too_large_for_the_path_is_told_what_fits(joined: Story) -> None:
    ping = ["ping", "-M", "do", "-c", "3", "-s", "1380", "-W", "1", NAS[0]]
    said = joined.laptop.run(ping, check=False)
    # The kernel learnt it from the ICMP error for the first one, or of earlier traffic.
    assert "Frag needed" in said.stdout or "message too long" in said.stderr
