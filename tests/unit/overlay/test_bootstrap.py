"""How a node finds the first others: the file with the peers of the last run, and addresses."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from quicether.config.values import HostPort
from quicether.dht.contact import Contact
from quicether.errors import ConfigError, UnreachableError
from quicether.model import NodeId, UnderlayAddress
from quicether.overlay import peers
from quicether.overlay.bootstrap import (
    AT_ONCE,
    MAX_CACHED,
    Bootstrap,
    PeerCache,
    read_cache,
    write_cache,
)
from quicether.overlay.peers import PeerTable, TargetKind
from support.dht_samples import contact

ME = NodeId(bytes(20))
WHERE = ["11.0.0.1", 9000]
NAME = HostPort("home.example", 9000)
NUMBER = HostPort("192.0.2.1", 9000)


def content(**changes: Any) -> bytes:
    """A cache file with one peer, changed."""
    peer = {"node": "01" * 20, "endpoints": [WHERE], **changes}
    return json.dumps({"version": 1, "peers": [peer]}).encode()


def test_what_is_written_is_what_is_read() -> None:
    six = UnderlayAddress("2001:db8::1", 1)
    contacts = [contact(1), Contact.of(NodeId(bytes([2]) * 20), six, *contact(1).endpoints)]
    assert read_cache(write_cache(contacts)) == contacts


def test_the_file_is_bounded() -> None:
    many = [contact(number) for number in range(1, MAX_CACHED + 20)]
    assert read_cache(write_cache(many)) == many[:MAX_CACHED]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b"[" * 10_000,
        b'{"version": 1, "peers": {}}',
        b'{"version": 1, "peers": [7]}',
        b'{"version": 2, "peers": []}',
        json.dumps({"version": 1, "peers": [json.loads(content())["peers"][0]] * 65}).encode(),
        content(node="01"),
        content(node=7),
        content(endpoints=[]),
        content(endpoints={}),
        content(endpoints=[WHERE] * 5),
        content(endpoints=[["home.example", 9000]]),
        content(endpoints=[["0.0.0.0", 9000]]),
        content(endpoints=[["224.0.0.1", 9000]]),
        content(endpoints=[WHERE[:1]]),
        content(endpoints=[["11.0.0.1", 0]]),
        content(endpoints=[["11.0.0.1", "9000"]]),
        # The next four used to take the tunnel down.
        content(endpoints=[["11.0.0.1", 70_000]]),
        content(endpoints=[["11.0.0.1", -1]]),
        content(endpoints=[["11.0.0.1", float("inf")]]),
        content(endpoints=[["11.0.0.1", 10**400]]),
    ],
)
def test_what_is_no_cache_file_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="the peer cache is damaged"):
        read_cache(data)


def test_a_damaged_file_is_set_aside_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "peers.json"
    damaged = content(endpoints=[["11.0.0.1", 70_000]])
    path.write_bytes(damaged)
    cache = PeerCache(path)
    with caplog.at_level(logging.WARNING):
        assert cache.load() == []
    assert not path.exists()
    assert path.with_name("peers.json.damaged").read_bytes() == damaged
    assert "set aside" in caplog.text
    asyncio.run(cache.save([contact(1)]))
    assert PeerCache(path).load() == [contact(1)]


def test_something_that_is_no_file_is_set_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.symlink_to("elsewhere")
    assert PeerCache(path).load() == []
    assert not path.is_symlink()


def test_no_file_is_no_peers_and_no_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert PeerCache(tmp_path / "peers.json").load() == []
    assert caplog.text == ""


def test_the_file_is_replaced_whole_and_only_when_it_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "peers.json"
    cache = PeerCache(path)
    asyncio.run(cache.save([contact(1)]))
    first = path.stat().st_ino
    asyncio.run(cache.save([contact(1)]))
    assert path.stat().st_ino == first

    def interrupted(*_args: Any, **_named: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        asyncio.run(cache.save([contact(2)]))
    assert PeerCache(path).load() == [contact(1)]
    assert [each.name for each in tmp_path.iterdir()] == ["peers.json"]


def test_what_could_not_be_written_is_written_the_next_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It used to count as written."""
    folder = tmp_path / "later"
    cache = PeerCache(folder / "peers.json")
    asyncio.run(cache.save([contact(1)]))
    assert "not kept for the next start" in caplog.text
    folder.mkdir()
    asyncio.run(cache.save([contact(1)]))
    assert PeerCache(folder / "peers.json").load() == [contact(1)]


def test_no_peers_do_not_replace_those_of_the_last_run(tmp_path: Path) -> None:
    cache = PeerCache(tmp_path / "peers.json")
    asyncio.run(cache.save([contact(1)]))
    asyncio.run(cache.save([]))
    assert cache.load() == [contact(1)]


class Start:
    """A bootstrap, what it wants, and how often it has attempts started."""

    def __init__(self, folder: Path, last_run: Sequence[Contact] = ()) -> None:
        self.now = 0.0
        self.woken = 0
        self.peers = PeerTable(ME, Random(1))
        path = folder / "peers.json"
        path.write_bytes(write_cache(last_run))
        self.bootstrap = Bootstrap(self.peers, self._wake, PeerCache(path), lambda: self.now)
        self.bootstrap.load()

    def _wake(self) -> None:
        self.woken += 1

    def wanted(self, kind: TargetKind) -> list[str]:
        return [str(each.expect or each.key) for each in self.peers.targets() if each.kind is kind]


def test_all_addresses_are_tried_side_by_side(tmp_path: Path) -> None:
    start = Start(tmp_path)
    start.bootstrap.use([NAME, NUMBER, NAME])
    start.bootstrap.wanted(urgent=False)
    due = start.peers.due(start.now)
    assert [each.locations for each in due] == [(NAME,), (NUMBER,)]
    assert start.woken == 1


def test_an_address_that_is_no_longer_configured_is_forgotten(tmp_path: Path) -> None:
    start = Start(tmp_path)
    start.bootstrap.use([NAME, NUMBER])
    start.bootstrap.wanted(urgent=False)
    start.bootstrap.use([NUMBER])
    assert [each.locations for each in start.peers.targets()] == [(NUMBER,)]


def test_the_peers_of_the_last_run_are_asked_when_nobody_else_is_there(tmp_path: Path) -> None:
    start = Start(tmp_path, [contact(number) for number in range(1, AT_ONCE + 3)])
    start.bootstrap.wanted(urgent=False)
    assert start.wanted(TargetKind.CONTACT) == []
    start.bootstrap.wanted(urgent=True)
    assert start.wanted(TargetKind.CONTACT) == [
        str(contact(number).node_id) for number in range(1, AT_ONCE + 1)
    ]
    start.bootstrap.wanted(urgent=True)
    assert len(start.wanted(TargetKind.CONTACT)) == AT_ONCE + 2


def test_the_peers_of_the_last_run_are_tried_in_turn_for_ever(tmp_path: Path) -> None:
    start = Start(tmp_path, [contact(1)])
    for _ in range(3):
        start.now += 10.0
        start.bootstrap.wanted(urgent=True)
        (target,) = start.peers.due(start.now)
        start.peers.tried(target, contact(1).endpoints)
        error = UnreachableError("nobody is there")
        start.peers.attempt_failed(target, None, error, start.now)
        start.peers.forget_spent(found_somebody=False)
        assert start.peers.targets() == ()


def test_more_than_can_be_wanted_is_said_and_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(peers, "MAX_TARGETS", 1)
    start = Start(tmp_path)
    start.bootstrap.use([NAME, NUMBER])
    start.bootstrap.wanted(urgent=True)
    assert "at most 1 peers are kept" in caplog.text
    assert len(start.peers.targets()) == 1
