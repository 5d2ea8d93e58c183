"""What an administrator stored for a network counts under every name of a tunnel of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from quicether.bus.controller import UpRequest
from quicether.daemon.stored import overridden, settle
from quicether.errors import ConfigError

POLICY = '[security]\npolicy_file = "/etc/quicether/policy.toml"\naudit_log = "journal"\n'
STORED = UpRequest()
TRANSIENT = UpRequest(transient=True)
HOME = {"network": "home"}


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICETHER_ETC", str(tmp_path))
    (tmp_path / "networks/home").mkdir(parents=True)
    (tmp_path / "policy.toml").write_text("[groups.admins]\nmembers = []\n")
    return tmp_path


def test_the_stored_tunnel_itself_changes_nothing(etc: Path) -> None:
    (etc / "home.toml").write_text(POLICY)
    assert overridden("home", {}, STORED) == ()
    assert overridden("home", {"mtu": "1300"}, STORED) == ()


def test_neither_transient_nor_another_name_leaves_out_policy_and_audit(etc: Path) -> None:
    (etc / "home.toml").write_text(POLICY)
    assert overridden("home", HOME, TRANSIENT) == ("policy-file", "audit-log")
    assert overridden("x", HOME, STORED) == ("policy-file", "audit-log")
    assert overridden("x", {}, STORED) == ("policy-file", "audit-log"), "the only network"


@pytest.mark.parametrize("file", ["config.toml", "road.toml"])
def test_a_network_may_be_stored_under_any_name(etc: Path, file: str) -> None:
    (etc / file).write_text(POLICY + '[network]\nname = "home"\n')
    assert overridden("home", {}, STORED) == ("policy-file", "audit-log")
    assert overridden(file.removesuffix(".toml").replace("config", "quicether"), {}, STORED) == ()


def test_another_network_in_place_of_the_stored_one(etc: Path) -> None:
    (etc / "networks/work").mkdir()
    (etc / "home.toml").write_text(POLICY)
    (etc / "work.toml").write_text("")
    assert overridden("work", HOME, STORED) == ("policy-file", "audit-log")


def test_a_network_of_which_nothing_is_stored_has_the_defaults(etc: Path) -> None:
    assert overridden("x", HOME, TRANSIENT) == ()
    assert overridden("x", HOME | {"audit-log": "journal"}, TRANSIENT) == ("audit-log",)


def test_a_variable_of_the_service_counts_too(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICETHER_SECURITY_AUDIT_LOG", "journal")
    assert overridden("x", HOME, STORED) == ()
    assert overridden("x", HOME, TRANSIENT) == ("audit-log",)


def test_a_broken_configuration_is_no_way_around_it(etc: Path) -> None:
    (etc / "home.toml").write_text("[security\n")
    with pytest.raises(ConfigError, match=r"home\.toml"):
        overridden("x", HOME, STORED)


@pytest.mark.parametrize("network", ["Home", "hom", "work"])
def test_a_network_that_is_not_here_is_said_with_those_that_are(etc: Path, network: str) -> None:
    """The sentence was about characters of a name, or a certificate that is missing."""
    (etc / "networks/attic").mkdir()
    with pytest.raises(ConfigError) as caught:
        settle(network, {"network": network}, STORED)
    assert str(caught.value) == (
        f"network: there is no {network!r} here. This machine knows attic, home; make one with "
        "`quicether network create NAME`, or join one"
    )
    pins = {"pinned-peers": f"{'11' * 20}=10.0.0.0/8"}
    assert settle(network, {"network": network} | pins, STORED)[1] == network


def test_which_network_is_meant(etc: Path) -> None:
    assert settle("quicether", {}, STORED)[1] == "home"
    (etc / "networks/work").mkdir()
    with pytest.raises(ConfigError, match="home, work"):
        settle("x", {"mtu": "1300"}, STORED)
