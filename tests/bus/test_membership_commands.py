"""invite, renew, revoke and leave with the real D-Bus service, and a fake daemon behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quicether.cli.main import main
from quicether.identity.invite_code import InviteCode
from support import json_answers
from support.fake_programs import FakePrograms
from support.private_bus import PrivateBus
from support.service_process import service

NETWORK = "homenet"
"""The network of every fake tunnel."""

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateBus]:
    """A bus, and a machine that has the authority of the network and is its node attic."""
    monkeypatch.setenv("QUICETHER_ETC", str(tmp_path / "etc"))
    monkeypatch.setenv("QUICETHER_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("PATH", FakePrograms(tmp_path / "bin").path)
    with PrivateBus() as it:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", it.address)
        yield it


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command with --json; code, answer, standard error."""

    def run(*words: str) -> tuple[int, Any, str]:
        code = main([*words, "--json"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, json_answers.check(words, out) if out else None, err

    return run


def test_a_code_carries_where_the_tunnel_is_reached(bus: PrivateBus, run: Run) -> None:
    with service(bus, "home"):
        assert run("network", "create", NETWORK, "--name", "attic")[1]["up"]
        code, answer, said = run("invite", "laptop", "--prefix", "192.168.7.0/24")
        assert (code, said) == (0, "")
        assert InviteCode.parse(answer["code"]).endpoints == (("192.0.2.1", 9000),)
        assert answer["tunnel_up"]
        assert main(["invite", "phone"]) == 0


def test_the_code_alone_is_on_standard_output(
    bus: PrivateBus, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with service(bus, "home"):
        run("network", "create", NETWORK, "--name", "attic")
        assert main(["invite", "laptop"]) == 0
    out, err = capsys.readouterr()
    assert InviteCode.parse(out).network == NETWORK
    assert "sudo quicether join\nwhich asks for the code." in err
    assert out.strip() not in err


def test_renew_goes_to_the_tunnel_that_is_meant(bus: PrivateBus, run: Run) -> None:
    with service(bus, "home"):
        assert run("renew")[1] == {"network": NETWORK, "not_after": "2023-11-14T22:13:20Z"}
        assert run("renew", NETWORK)[0] == 0
        code, _, said = run("renew", "office")
        assert (code, said.count("\n")) == (1, 1)
        assert "the tunnel of network office is not up" in said
    with service(bus, "home", "office"):
        assert "several tunnels are up" in run("renew")[2]
    assert run("renew")[0] == 3


def test_revoking_reaches_the_tunnel(bus: PrivateBus, run: Run) -> None:
    with service(bus, "home"):
        run("network", "create", NETWORK, "--name", "attic")
        assert run("network", "revoke", "attic")[1]["told"] is True


@pytest.mark.parametrize("words", [["renew"], ["network", "revoke", "attic"]])
def test_who_may_not_is_told_so(bus: PrivateBus, run: Run, words: list[str]) -> None:
    run("network", "create", NETWORK, "--name", "attic")
    with service(bus, "--refusing", "home"):
        code, _, said = run(*words)
        assert code == 4
        assert said.count("\n") == 1


def test_leaving_takes_the_tunnel_down(
    bus: PrivateBus, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("network", "create", NETWORK, "--name", "attic")
    # As a machine that is a member only.
    for name in ("authority.key", "issued.json"):
        (tmp_path / "etc/networks" / NETWORK / name).unlink()
    with service(bus, "home"):
        answer = run("leave")[1]
        assert str(tmp_path / f"etc/{NETWORK}.toml") in answer["removed"]
        assert answer["key_kept"]
        assert run("status")[1]["tunnels"] == []
    assert not (tmp_path / "etc/networks" / NETWORK).exists()
