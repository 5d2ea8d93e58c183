"""A network in a scratch folder, made at a fixed time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from quicether.identity.authority import Authority
from quicether.identity.keys import NodeKey
from quicether.identity.registrar import Registrar
from quicether.identity.store import NetworkStore

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LAN = ip_network("192.168.77.0/24")


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., NetworkStore]:
    """Return the files of network `name` on the machine `host`."""

    def make(host: str = "home", name: str = "home") -> NetworkStore:
        return NetworkStore(tmp_path / host / "etc", tmp_path / host / "var", name)

    return make


@pytest.fixture
def store(make_store: Callable[..., NetworkStore]) -> NetworkStore:
    return make_store()


@pytest.fixture
def authority(store: NetworkStore, now: datetime) -> Authority:
    return Authority.create(store.directory, "home", now)


@pytest.fixture
def member_store(store: NetworkStore, authority: Authority, now: datetime) -> NetworkStore:
    """A machine with key and certificate, which also has the authority."""
    certificate = authority.sign(store.node_key().public_raw, "home", now=now, prefixes=[LAN])
    store.install(certificate, authority.certificate, now)
    return store


@pytest.fixture
def server(authority: Authority, store: NetworkStore) -> NodeKey:
    """The key of the node that invites, certifies and renews."""
    return store.node_key()


@pytest.fixture
def registrar(authority: Authority, store: NetworkStore) -> Registrar:
    return Registrar(store)


@pytest.fixture
def run_together() -> Callable[..., None]:
    """Return a function that runs others in threads at once and raises what they raise."""

    def run(*calls: Callable[[], object]) -> None:
        with ThreadPoolExecutor(len(calls)) as pool:
            for future in [pool.submit(call) for call in calls]:
                future.result(timeout=30)

    return run
