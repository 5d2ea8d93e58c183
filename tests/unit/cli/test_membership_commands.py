"""What invite, join and leave decide on the machine itself: endpoints, settings, who starts it."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import segno

from quicether.cli import examine, exits, invite, keys, membership, network, stored
from quicether.cli.activation import activations
from quicether.config.load import load
from quicether.config.values import HostPort
from quicether.errors import ConfigError, HostError, IdentityError
from quicether.identity.invite_code import InviteCode
from quicether.identity.store import NetworkStore
from support import json_answers
from support.fake_programs import FakePrograms

ROOT = Path(__file__).parents[3]
SERVICE = "org.freedesktop.NetworkManager.quicether"
LAN = ip_network("192.168.7.0/24")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own, without a service. Returns its /etc/quicether."""
    monkeypatch.setenv("QUICETHER_ETC", str(tmp_path / "etc"))
    monkeypatch.setenv("QUICETHER_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nobus")
    return tmp_path / "etc"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakePrograms]:
    """Return a function that puts fakes of nmcli and systemctl in place."""

    def make(**options: bool) -> FakePrograms:
        fakes = FakePrograms(tmp_path / "bin", **options)
        monkeypatch.setenv("PATH", fakes.path)
        return fakes

    return make


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return a function that runs a command with --json and returns its answer."""

    def run(*words: str) -> Any:
        parser = argparse.ArgumentParser("quicether")
        parser.add_argument("--json", action="store_true")
        subparsers = parser.add_subparsers()
        for module in (network, keys, invite, membership):
            module.add_commands(subparsers)
        arguments = parser.parse_args(["--json", *words])
        capsys.readouterr()
        assert arguments.func(arguments) == 0
        return json_answers.check(words, capsys.readouterr().out)

    return run


# Endpoints in a code


@pytest.mark.parametrize(
    ("own", "chosen"),
    [
        (["192.0.2.1", "2001:db8::1"], ["192.0.2.1", "2001:db8::1"]),
        (["9.9.9.9", "2001:db8::1"], ["9.9.9.9"]),
        (["192.168.1.2", "9.9.9.9"], ["9.9.9.9"]),
        (["10.0.0.1", "10.0.1.1", "10.0.2.1"], ["10.0.0.1", "10.0.1.1"]),
        (["2001:db8::1", "2001:db8::2", "2001:db8::3"], ["2001:db8::1", "2001:db8::2"]),
        ([], []),
    ],
)
def test_a_code_carries_the_few_endpoints_that_help(own: list[str], chosen: list[str]) -> None:
    found = invite.reachable(HostPort(host, 9000) for host in own)
    assert [endpoint.host for endpoint in found] == chosen


# Settings


def test_settings_hold_what_the_certificate_allows(machine: Path) -> None:
    assert stored.write("home", [LAN], ["home@192.0.2.1:9000"])
    settings = load([machine / "home.toml"], {}, {})
    assert settings.network.name == "home"
    assert settings.network.advertise_subnets == (LAN,)
    assert [str(peer) for peer in settings.overlay.peers] == ["home@192.0.2.1:9000"]
    assert (machine / "home.toml").stat().st_mode & 0o777 == 0o644


def test_settings_that_are_there_stay(machine: Path) -> None:
    stored.write("home", [LAN], [])
    assert stored.write("home", [LAN], [])
    mine = '[network]\nname = "home"\nmtu = 1300\n'
    (machine / "home.toml").write_text(mine)
    assert not stored.write("home", [LAN], [])
    assert (machine / "home.toml").read_text() == mine
    assert stored.remove("home")
    assert not stored.remove("home")


def test_a_second_network_gets_a_device_and_a_port_of_its_own(machine: Path) -> None:
    for name in ("home", "office", "lab"):
        (machine / "networks" / name).mkdir(parents=True)
        assert stored.write(name, [], [])
    found = [load([machine / f"{name}.toml"], {}, {}) for name in ("home", "office", "lab")]
    assert [each.network.tun_name for each in found] == ["quicether0", "quicether1", "quicether2"]
    assert [each.discovery.dht_port for each in found] == [9000, 9001, 9002]


# NetworkManager or systemd


def test_networkmanager_gets_a_profile_named_quicether(
    programs: Callable[..., FakePrograms],
) -> None:
    fakes = programs()
    profile = activations("home")[0]
    assert profile.command == "nmcli connection up quicether"
    profile.add()
    profile.up()
    assert fakes.changes() == [
        "nmcli connection add type vpn vpn-type quicether con-name quicether vpn.data network=home",
        "nmcli connection up quicether",
    ]


def test_a_profile_of_the_network_is_used_as_it_is(programs: Callable[..., FakePrograms]) -> None:
    fakes = programs()
    fakes.has_profiles(
        "2222|org.freedesktop.NetworkManager.openvpn|office|network = home",
        f"3333|{SERVICE}|quicether|mtu = 1300, network = office",
        f"4444|{SERVICE}|my home|network = home, mtu = 1300",
    )
    profile = activations("home")[0]
    profile.add()
    assert fakes.changes() == []
    assert profile.command == "nmcli connection up 'my home'"
    assert profile.remove()
    assert fakes.changes() == ["nmcli connection delete 4444"]


def test_the_second_network_s_profile_bears_its_name(
    programs: Callable[..., FakePrograms],
) -> None:
    programs().has_profiles(f"3333|{SERVICE}|quicether|network = office")
    assert activations("home")[0].command == "nmcli connection up quicether-home"
    assert not activations("home")[0].remove()


def test_what_networkmanager_refuses_is_one_sentence(
    programs: Callable[..., FakePrograms],
) -> None:
    fakes = programs()
    fakes.has_trouble("Error: Connection activation failed: no valid secrets\nHint: see journal\n")
    with pytest.raises(HostError, match="nmcli connection up failed: Connection activation") as no:
        activations("home")[0].up()
    assert "\n" not in str(no.value)
    fakes.has_trouble("Error: Connection activation failed: Could not find source connection.\n")
    with pytest.raises(HostError, match="default route, and there is none now"):
        activations("home")[0].up()


def test_without_networkmanager_the_unit_is_enabled(programs: Callable[..., FakePrograms]) -> None:
    fakes = programs(networkmanager=False)
    (unit,) = activations("my-home")
    unit.add()
    unit.up()
    assert unit.command == "systemctl start quicether@my-home.service"
    assert fakes.changes() == [
        "systemctl --quiet enable quicether@my-home.service",
        "systemctl start quicether@my-home.service",
    ]
    assert not unit.remove()
    fakes.enabled()
    assert unit.remove()
    assert fakes.changes()[-1] == "systemctl --quiet disable --now quicether@my-home.service"


def test_with_neither_there_is_still_a_command(programs: Callable[..., FakePrograms]) -> None:
    programs(networkmanager=False, systemd=False)
    with pytest.raises(HostError, match="quicether up home"):
        activations("home")


# The commands


def test_create_makes_the_network_and_its_first_node(
    machine: Path, programs: Callable[..., FakePrograms], run: Callable[..., Any]
) -> None:
    fakes = programs()
    answer = run("network", "create", "home", "--name", "attic", "--prefix", str(LAN))
    assert (answer["created"], answer["up"]) == (True, True)
    assert (answer["node"]["name"], answer["node"]["prefixes"]) == ("attic", [str(LAN)])
    assert fakes.changes()[-1] == "nmcli connection up quicether"
    store = NetworkStore.of_system("home")
    assert store.load_identity(datetime.now(UTC)).member.prefixes == (LAN,)
    serial = store.certificate().serial_number
    again = run("network", "create", "home", "--no-up")
    assert (again["created"], again["up"], again["settings_current"]) == (False, False, True)
    assert store.certificate().serial_number == serial
    assert again["next"] == "nmcli connection up quicether"


def test_create_keeps_what_it_made_when_the_tunnel_does_not_come_up(
    machine: Path, programs: Callable[..., FakePrograms], run: Callable[..., Any]
) -> None:
    programs().has_trouble("Error: the plugin is missing\n")
    with pytest.raises(HostError, match="the plugin is missing"):
        run("network", "create", "home", "--name", "attic")
    assert (machine / "home.toml").exists()
    assert NetworkStore.of_system("home").load_identity(datetime.now(UTC)).member.name == "attic"


def test_an_invitation_needs_somebody_who_answers(
    machine: Path, programs: Callable[..., FakePrograms], run: Callable[..., Any]
) -> None:
    programs()
    with pytest.raises(ConfigError, match="not the authority of any network"):
        run("invite", "laptop")
    run("network", "create", "home", "--no-up", "--name", "attic")
    with pytest.raises(HostError, match="the tunnel of network home is not up on this machine"):
        run("invite", "laptop")
    answer = run("invite", "laptop", "--endpoint", "vpn.example.net", "--prefix", str(LAN))
    code = InviteCode.parse(answer["code"])
    assert code.endpoints == (("vpn.example.net", 9000),)
    assert code.network == "home"
    assert not answer["tunnel_up"]
    with pytest.raises(ConfigError, match="this machine is the authority of network home"):
        run("join", *answer["code"].split("-"))
    with pytest.raises(IdentityError, match="the authority of network home, which would end"):
        run("leave")
    run("network", "create", "office", "--authority-only")
    with pytest.raises(ConfigError, match=r"several networks \(home, office\)"):
        run("invite", "laptop", "--endpoint", "vpn.example.net")
    with pytest.raises(IdentityError, match="quicether network create office"):
        run("invite", "laptop", "--endpoint", "vpn.example.net", "--network", "office")


def test_a_copy_of_a_network_s_folder_is_left_alone(
    machine: Path, programs: Callable[..., FakePrograms], run: Callable[..., Any]
) -> None:
    programs()
    run("network", "create", "home", "--no-up", "--name", "attic")
    copy = machine / "networks/home.bak"
    shutil.copytree(machine / "networks/home", copy)
    assert run("invite", "laptop", "--endpoint", "vpn.example.net")["network"] == "home"
    assert run("network", "revoke", "attic")["revoked"] == 1
    assert [each["network"] for each in run("network", "list")["networks"]] == ["home"]
    texts = [finding.text for finding in examine.examine()[1]]
    assert f"{copy} is left alone: its name is no network's" in texts


def test_a_terminal_shows_the_code_as_a_picture_too(
    machine: Path, programs: Callable[..., FakePrograms], run: Callable[..., Any]
) -> None:
    programs()
    run("network", "create", "home", "--no-up", "--name", "attic")
    ours, theirs = pty.openpty()
    words = ("invite", "laptop", "--endpoint", "vpn.example.net")
    invite = subprocess.Popen(
        [sys.executable, "-m", "quicether.cli.main", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "service"), "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    assert invite.communicate(timeout=30)[1]
    assert invite.returncode == 0
    lines = shown.decode().replace("\r\n", "\n")
    code, _, picture = lines.partition("\n")
    assert InviteCode.parse(code).endpoints == (("vpn.example.net", 9000),)
    expected = io.StringIO()
    segno.make(code, error="l").terminal(expected, compact=True)
    assert picture == expected.getvalue()
    assert "█" in picture
    # It fits a terminal of 80 columns.
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in picture.splitlines()) <= 80


class Input(io.StringIO):
    """Standard input, a terminal or not."""

    def __init__(self, text: str, *, terminal: bool) -> None:
        super().__init__(text)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(("words", "terminal"), [(["-"], False), (["-"], True), ([], True)])
def test_a_code_can_be_kept_out_of_the_command_line(
    machine: Path,
    programs: Callable[..., FakePrograms],
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    terminal: bool,
) -> None:
    programs()
    run("network", "create", "home", "--no-up", "--name", "attic")
    code = run("invite", "laptop", "--endpoint", "vpn.example.net")["code"]
    monkeypatch.setattr("sys.stdin", Input(f"{code.lower()}\n", terminal=terminal))
    # It was read: what is wrong is that this machine made it itself.
    with pytest.raises(ConfigError, match="this machine is the authority of network home"):
        run("join", *words)


def test_without_a_code_and_a_terminal_join_is_wrong_usage(
    machine: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Input("AAAAA-BBBBB", terminal=False))
    with pytest.raises(exits.UsageError, match="- reads it from standard input"):
        run("join")
    with pytest.raises(exits.UsageError, match="mistyped or cut off"):
        run("join", "-")


def test_revoke_says_whether_anybody_was_told(
    machine: Path, programs: Callable[..., FakePrograms], run: Callable[..., Any]
) -> None:
    programs()
    run("network", "create", "home", "--no-up", "--name", "attic")
    key = run("keygen", "home")["public_key"]
    run("network", "sign", "home", "--name", "attic", "--public-key", key)
    assert run("network", "revoke", "attic")["told"] is False
    assert run("network", "revoke", "home", "attic")["list_number"] == 1


def test_only_root_may(
    machine: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    monkeypatch.delenv("QUICETHER_ETC")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for words in (["network", "create", "home"], ["invite", "laptop"], ["leave"]):
        with pytest.raises(exits.NotPermittedError, match="needs root: sudo quicether"):
            run(*words)
