"""What all tests share: tests/hosts needs root, and a failure there comes with the journals."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support import hosts
from support.install import installed_layer

HOSTS = Path(__file__).with_name("hosts")

# How long an example takes says more about the machine than about the code; and nothing is kept.
settings.register_profile(
    "shared", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in tests/hosts, and skip it where it cannot work."""
    for item in items:
        if HOSTS in item.path.parents:
            item.add_marker(pytest.mark.hosts)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="network namespaces need root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the journals of the hosts that outlive a failed test (those of fixtures)."""
    report = yield
    if report.failed:
        for host in list(hosts.live):
            report.sections.append((f"journal of {host.name}", host.journal()))
    return report


@pytest.fixture(scope="session")
def installed() -> list[Path]:
    """Layers for `WholeHost(layers=…)` with QuicEther installed as a user would have it."""
    return installed_layer()
