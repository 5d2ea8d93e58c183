"""The units, the D-Bus policy and polkit's actions as installed, on a whole host."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import seat
from support.hosts import WholeHost

SERVICE = "quicether.service"
INSTANCE = "quicether@home.service"
JOIN = "quicether-join.service"
GDBUS = ["gdbus", "call", "--system", "--dest", "org.quicether1", "--object-path"]


@pytest.fixture(scope="module")
def host(installed: list[Path]) -> Iterator[WholeHost]:
    with WholeHost("units", manager="none", layers=installed) as host:
        made = host.run(["quicether", "network", "create", "home"])
        if "Node " not in made.stdout:
            host.run(["quicether", "network", "sign", "home", "--name", "laptop", "--local"])
        host.run(["systemctl", "disable", "--now", INSTANCE, SERVICE])
        yield host


@pytest.fixture
def up(host: WholeHost) -> Iterator[WholeHost]:
    host.run(["systemctl", "start", INSTANCE])
    yield host
    host.run(["systemctl", "stop", SERVICE])
    host.run(["systemctl", "reset-failed"])


def main_pid(host: WholeHost) -> int:
    return int(host.run(["systemctl", "show", "--property=MainPID", "--value", SERVICE]).stdout)


def state(host: WholeHost, unit: str) -> str:
    return host.run(["systemctl", "is-active", unit], check=False).stdout.strip()


def is_up(host: WholeHost) -> bool:
    found = host.run(["quicether", "status", "--json"], check=False)
    return found.returncode == 0 and any(
        tunnel["ready"] for tunnel in json.loads(found.stdout)["tunnels"]
    )


def test_units_are_right_and_hardened(host: WholeHost) -> None:
    folder = "/usr/lib/systemd/system"
    units = (SERVICE, INSTANCE, JOIN, "quicether-join.socket")
    found = host.run(["systemd-analyze", "verify", *(f"{folder}/{unit}" for unit in units)])
    assert found.stdout + found.stderr == ""
    # The one that joins is root, because it writes root's files, and speaks with the inviter.
    for unit, most in ((SERVICE, 2.0), (INSTANCE, 2.0), (JOIN, 2.1)):
        score = host.run(["systemd-analyze", "security", unit]).stdout.splitlines()[-1]
        match = re.search(r"exposure level for .*: ([0-9.]+)", score)
        assert match is not None, score
        assert float(match[1]) <= most, score


def test_the_service_is_no_root_process_and_holds_one_capability(up: WholeHost) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in up.run(["cat", f"/proc/{main_pid(up)}/status"]).stdout.splitlines()
        if ":\t" in line
    )
    uid = up.run(["id", "-u", "quicether"]).stdout.strip()
    assert set(status["Uid"].split()) == {uid}
    for capabilities in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == 1 << 12  # CAP_NET_ADMIN
    assert status["NoNewPrivs"].strip() == "1"


def test_a_unit_has_started_when_packets_can_flow(up: WholeHost) -> None:
    up.run(["systemctl", "restart", INSTANCE])
    assert is_up(up)


def test_the_service_is_started_by_the_first_call(host: WholeHost) -> None:
    assert state(host, SERVICE) == "inactive"
    assert host.run(["quicether", "status"], check=False).returncode == 3
    host.run(["quicether", "up", "home"])
    assert state(host, SERVICE) == "active"
    assert is_up(host)
    host.run(["systemctl", "stop", SERVICE])


def test_a_killed_service_comes_back_with_its_tunnel(up: WholeHost) -> None:
    up.run(["kill", "-KILL", str(main_pid(up))])
    up.wait_until(lambda: not is_up(up), 5, "the tunnel to be gone")
    up.wait_until(lambda: is_up(up), 5, "the tunnel to be back")
    assert state(up, INSTANCE) == "active"


def test_a_service_that_hangs_is_restarted_with_its_tunnel(up: WholeHost) -> None:
    folder = up.root / f"run/systemd/system/{SERVICE}.d"
    folder.mkdir(parents=True)
    (folder / "watchdog.conf").write_text("[Service]\nWatchdogSec=2\n")
    try:
        up.run(["systemctl", "daemon-reload"])
        up.run(["systemctl", "restart", SERVICE])
        up.wait_until(lambda: is_up(up), 10, "the tunnel")
        before = main_pid(up)
        up.run(["kill", "-STOP", str(before)])
        up.wait_until(lambda: main_pid(up) not in (0, before), 15, "systemd to start it again")
        up.wait_until(lambda: is_up(up), 10, "the tunnel to be back")
        assert "Watchdog timeout" in up.run(["journalctl", "-u", SERVICE, "--no-pager"]).stdout
    finally:
        shutil.rmtree(folder)
        up.run(["systemctl", "daemon-reload"])


def test_stopping_is_quick_and_leaves_nothing(up: WholeHost) -> None:
    start = time.monotonic()
    up.run(["systemctl", "stop", SERVICE])
    assert time.monotonic() - start < 2
    assert state(up, INSTANCE) == "inactive"
    assert "quicether0" not in up.run(["ip", "-oneline", "link"]).stdout
    result = ["systemctl", "show", "--property=Result", "--value", SERVICE]
    assert up.run(result).stdout.strip() == "success"


def test_polkit_lets_everybody_look_and_only_administrators_act(up: WholeHost) -> None:
    """A user who is not at an active seat, as over ssh."""
    assert up.run(["quicether", "status"], user="nobody").returncode == 0
    for words, action in (
        (["down", "home"], "connect"),
        (["up", "work"], "connect"),
        (["reload", "home"], "configure"),
        (["start", "--pin", f"{'11' * 20}=10.0.0.0/8"], "connect"),
    ):
        home = {"HOME": "/nonexistent"}
        found = up.run(["quicether", *words], user="nobody", check=False, env=home)
        assert found.returncode == 4, found
        assert f"org.quicether1.{action}" in found.stderr
        assert "sudo" in found.stderr
    assert is_up(up)


def test_a_user_at_the_machine_may_connect_and_not_change_trust(up: WholeHost) -> None:
    """The same user, at an active seat and from elsewhere."""
    shutil.copy(Path(seat.__file__), up.root / "tmp/seat.py")
    up.run(["systemctl", "start", "systemd-logind.service"])
    up.run(["useradd", "alice"])
    at_the_seat = ["/opt/quicether/bin/python", "/tmp/seat.py", "alice"]
    assert up.run([*at_the_seat, "quicether", "down", "home"]).returncode == 0
    assert up.run([*at_the_seat, "quicether", "up", "home"]).returncode == 0
    pin = ["start", "--network", "work", "--pin", f"{'11' * 20}=10.0.0.0/8"]
    for words, action in ((["reload", "home"], "configure"), (pin, "trust")):
        found = up.run([*at_the_seat, "quicether", *words], check=False)
        assert found.returncode == 4, found
        assert f"org.quicether1.{action}" in found.stderr
    stored = up.root / "etc/quicether/home.toml"
    before = stored.read_text()
    stored.write_text(f'{before}[security]\naudit_log = "journal"\n')
    manager = ["org.quicether1", "/org/quicether1", "org.quicether1.Manager"]
    without = ["busctl", "call", *manager, "Up", "sa{ss}a{sv}", "x", "1", "network", "home", "0"]
    found = up.run([*at_the_seat, *without], check=False)
    assert found.returncode != 0
    assert "org.quicether1.configure" in found.stderr, "the stored audit would be left out"
    found = up.run([*at_the_seat, "busctl", "call", *manager, "Join", "s", "CODE"], check=False)
    assert found.returncode != 0
    assert "you may not change who is trusted" in found.stderr
    assert "org.quicether1.trust" in found.stderr
    stored.write_text(before)
    home = {"HOME": "/nonexistent"}
    found = up.run(["quicether", "down", "home"], user="alice", check=False, env=home)
    assert found.returncode == 4
    assert is_up(up)


def test_nobody_else_can_be_the_service(host: WholeHost) -> None:
    program = (
        "from jeepney import DBusErrorResponse\n"
        "from jeepney.bus_messages import message_bus\n"
        "from jeepney.io.blocking import Proxy, open_dbus_connection\n"
        "bus = Proxy(message_bus, open_dbus_connection('SYSTEM'))\n"
        "try:\n    print(bus.RequestName('org.quicether1'))\n"
        "except DBusErrorResponse as error:\n    print(error.name)\n"
    )
    found = host.run(["/opt/quicether/bin/python", "-c", program], user="nobody")
    assert found.stdout.strip() == "org.freedesktop.DBus.Error.AccessDenied"


def test_the_api_works_from_busctl_and_gdbus(up: WholeHost) -> None:
    path = "/org/quicether1/tunnel/home"
    tree = up.run(["busctl", "tree", "--list", "org.quicether1"]).stdout.split()
    assert path in tree
    introspected = up.run(["busctl", "introspect", "org.quicether1", path]).stdout
    assert re.search(r"^\.Ping\s+method\s+s\s+a\{sv\}", introspected, re.M)
    get = ["busctl", "get-property", "org.quicether1", path, "org.quicether1.Tunnel", "State"]
    assert up.run(get).stdout == 's "running"\n'
    lookup = [*GDBUS, path, "--method", "org.quicether1.Tunnel.Lookup", "10.9.9.9"]
    assert "'address': <'10.9.9.9'>" in up.run(lookup).stdout
    documented = ["gdbus", "introspect", "--system", "-d", "org.quicether1", "-o", path]
    assert "Says where packets to an address go" in up.run(documented).stdout


def test_the_examples_of_the_manual_were_run(up: WholeHost) -> None:
    page = up.run(["cat", "/usr/share/man/man5/org.quicether1.5"]).stdout
    blocks = re.findall(r"^\.nf\n(.*?)\n\.fi$", page, re.M | re.S)
    commands = [line.replace("\\-", "-") for block in blocks for line in block.splitlines()]
    commands.remove("busctl monitor org.quicether1")  # runs until interrupted
    (join,) = (line for line in commands if line.endswith("Join s CODE"))
    commands.remove(join)  # needs an inviter: test_joining.py runs it
    assert len(commands) >= 4
    for command in commands:
        up.run(["sh", "-c", command])
    assert not is_up(up)


def test_manual_and_completion_are_where_shells_find_them(host: WholeHost) -> None:
    for path in (
        "/usr/share/man/man1/quicether.1",
        "/usr/share/man/man5/quicether.toml.5",
        "/usr/share/man/man5/org.quicether1.5",
        "/usr/share/bash-completion/completions/quicether",
    ):
        host.run(["test", "-s", path])
