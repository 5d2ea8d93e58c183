"""`quicether` against the real D-Bus service on a private bus, with a fake daemon behind it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicether import __version__
from quicether.cli.main import main
from support import json_answers
from support.private_bus import PrivateBus
from support.service_process import ENVIRONMENT, service


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUICETHER_ETC", str(tmp_path / "etc"))
    monkeypatch.setenv("QUICETHER_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/no-bus")
    (tmp_path / "etc").mkdir()


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateBus]:
    with PrivateBus() as it:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", it.address)
        yield it


@pytest.fixture
def home(bus: PrivateBus) -> Iterator[None]:
    with service(bus, "home"):
        yield


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_up_and_down(bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
    with service(bus):
        assert run(capsys, "up", "home") == (0, "tunnel home is up\n", "")
        code, out, _ = run(capsys, "up", "home", "--json")
        assert (code, out) == (1, "")
        assert run(capsys, "reload", "home") == (0, "tunnel home is reloaded\n", "")
        assert run(capsys, "start", "--json")[1] == '{"tunnel": "quicether", "state": "up"}\n'
        assert run(capsys, "stop") == (0, "tunnel home is down\ntunnel quicether is down\n", "")
        assert run(capsys, "stop") == (0, "", "")
        assert run(capsys, "down", "home") == (1, "", "quicether: tunnel home is not up\n")


def test_up_returns_when_packets_can_flow(
    bus: PrivateBus, capsys: pytest.CaptureFixture[str]
) -> None:
    """So does the unit of a network with it, whose start is what others wait for."""
    with service(bus, "--ready-after=0.5"):
        assert run(capsys, "up", "home") == (0, "tunnel home is up\n", "")
        assert json.loads(run(capsys, "status", "--json")[1])["tunnels"][0]["ready"]


def test_up_does_not_wait_for_ever_for_packets_to_flow(
    bus: PrivateBus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quicether.cli.client.READY_PATIENCE", 0.2)
    with service(bus, "--ready-after=60"):
        assert run(capsys, "up", "home") == (0, "tunnel home is up\n", "")
        assert not json.loads(run(capsys, "status", "--json")[1])["tunnels"][0]["ready"]


def test_start_takes_files_variables_and_flags_in_this_order(
    bus: PrivateBus,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tmp_path / ".config/quicether/config.toml"
    own.parent.mkdir(parents=True)
    own.write_text('[network]\nmtu = 1300\ntun_name = "quicether7"\n[node]\nrole = "gateway"\n')
    monkeypatch.setenv("QUICETHER_NETWORK_MTU", "1310")
    with service(bus):
        words = ("--mtu", "99", "--forward-subnet", "10.0.0.0/8")
        code, _, err = run(capsys, "start", *words)
        assert (code, err) == (2, "quicether: --mtu: '99' is neither auto nor 576 to 65535 bytes\n")
        words = ("--forward-subnet", "10.0.0.0/8", "--forward-subnet", "10.1.0.0/16")
        assert run(capsys, "start", *words)[0] == 0
        monkeypatch.setenv("QUICETHER_NETWORK_MTU", "many")
        code, _, err = run(capsys, "start")
        assert err == (
            "quicether: QUICETHER_NETWORK_MTU: 'many' is neither auto nor 576 to 65535 bytes\n"
        )
        code, _, err = run(capsys, "start", "--config", str(tmp_path / "missing.toml"))
        assert (code, err) == (
            2,
            f"quicether: --config: there is no file {tmp_path}/missing.toml\n",
        )


TABLES = [
    ("status",),
    ("peers",),
    ("routes",),
    ("lookup", "192.168.1.9"),
    ("ping", "home", "-c", "2", "-i", "0.1"),
]


@pytest.mark.usefixtures("home")
def test_tables_fit_80_columns_and_have_no_colour_in_a_pipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in TABLES:
        code, out, err = run(capsys, *words)
        assert (code, err) == (0, ""), words
        assert "\x1b" not in out
        assert max(len(line) for line in out.splitlines()) <= 80, out


@pytest.mark.usefixtures("home")
def test_what_tables_say(capsys: pytest.CaptureFixture[str]) -> None:
    status = run(capsys, "status")[1]
    assert re.search(r"^tunnel +home \(network homenet\)$", status, re.M)
    assert re.search(r"^dropped +3 no-route$", status, re.M)
    assert re.search(r"^refused +172\.16\.0\.0/12 covers 172\.16\.3\.0/24 of eth0$", status, re.M)
    peers = run(capsys, "peers")[1]
    assert re.search(r"^home +1111111111 +203\.0\.113\.7:9000 +12\.3 ms +connected$", peers, re.M)
    assert re.search(r"^office +2222222222 +via home$", peers, re.M)
    routes = run(capsys, "routes")[1]
    assert re.search(r"^10\.0\.0\.0/8 +home +gateway +discovered +used$", routes, re.M)
    assert re.search(r"^192\.168\.7\.0/24 +local +configured +used$", routes, re.M)
    lookup = run(capsys, "lookup", "192.168.1.9")[1]
    assert f"next hop   node home {'11' * 20}" in lookup
    code, out, _ = run(capsys, "lookup", "8.8.8.8")
    assert code == 1
    assert "none and none was found in the network" in out
    ping = run(capsys, "ping", "office", "-c", "1")[1]
    assert ping == "1: office (2222222222) via home: 12.3 ms\n"
    code, out, _ = run(capsys, "ping", "attic", "-c", "1")
    assert (code, out) == (1, "1: attic did not answer within 5 s\n")
    assert run(capsys, "ping", "cellar", "-c", "9") == (
        1,
        "",
        "quicether: node 'cellar' is not known\n",
    )


@pytest.mark.usefixtures("home")
def test_json_is_what_the_schema_says(capsys: pytest.CaptureFixture[str]) -> None:
    others: tuple[tuple[str, ...], ...] = (
        ("lookup", "8.8.8.8"),
        ("ping", "attic", "-c", "1"),
        ("reload", "home"),
        ("down", "home"),
        ("up", "home"),
        ("start",),
        ("stop",),
        ("version",),
    )
    for words in (*TABLES, *others):
        json_answers.check(words, run(capsys, *words, "--json")[1])


def test_many_peers_come_in_parts_and_all_arrive(
    bus: PrivateBus, capsys: pytest.CaptureFixture[str]
) -> None:
    with service(bus, "--peers=1000", "home"):
        _, out, _ = run(capsys, "peers", "--json")
        assert [peer["name"] for peer in json.loads(out)["peers"]] == [f"n{n}" for n in range(1000)]


def test_several_tunnels_have_to_be_named(
    bus: PrivateBus, capsys: pytest.CaptureFixture[str]
) -> None:
    with service(bus, "home", "work"):
        code, _, err = run(capsys, "peers")
        assert code == 1
        assert err == ("quicether: several tunnels are up (home, work); name one with --tunnel\n")
        assert run(capsys, "peers", "--tunnel", "work")[0] == 0
        code, _, err = run(capsys, "peers", "-t", "attic")
        assert err == "quicether: tunnel attic is not up; up is: home, work\n"


def test_exit_codes(bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "status")
    assert code == 3
    assert err.startswith("quicether: the service is not running; `quicether up` or")
    assert run(capsys, "down", "home")[0] == 3
    assert run(capsys, "up", "home")[0] == 3
    with service(bus, "--refusing", "home"):
        for words in (("status",), ("up", "home"), ("down", "home"), ("ping", "home")):
            code, _, err = run(capsys, *words)
            assert code == 4
            assert re.fullmatch(r"quicether: you may not: org\.quicether1\.\w+ is refused\n", err)
    wrong: tuple[tuple[str, ...], ...] = (
        ("explode",),
        (),
        ("lookup", "10.0.0"),
        ("up", "../etc"),
        ("ping", "home", "-c", "0"),
    )
    for usage in wrong:
        with pytest.raises(SystemExit) as ended:
            main(usage)
        assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_no_bus_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "status")
    assert code == 3
    assert err.startswith("quicether: there is no system bus to reach the service on")
    assert run(capsys, "version") == (0, f"quicether {__version__}\n", "")


@pytest.mark.usefixtures("home")
def test_watch_repeats_until_interrupted_and_json_is_a_line_each() -> None:
    # Whoever runs the tests in the background ignores the interrupt, and so would what they start.
    attentive = ["env", "--default-signal=INT", sys.executable]
    process = subprocess.Popen(
        [*attentive, "-m", "quicether.cli.main", "peers", "--json", "--watch", "0.1"],
        env={**ENVIRONMENT, "DBUS_SYSTEM_BUS_ADDRESS": os.environ["DBUS_SYSTEM_BUS_ADDRESS"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for _ in range(3):
            assert json.loads(process.stdout.readline())["tunnel"] == "home"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        process.stdout.close()


@pytest.mark.usefixtures("home")
def test_a_terminal_gets_colour() -> None:
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "quicether.cli.main", "peers"],
        env={
            **ENVIRONMENT,
            "DBUS_SYSTEM_BUS_ADDRESS": os.environ["DBUS_SYSTEM_BUS_ADDRESS"],
            "TERM": "xterm-256color",
        },
        stdin=theirs,
        stdout=theirs,
    )
    os.close(theirs)
    try:
        found = b""
        deadline = time.monotonic() + 10
        while b"connected" not in found and time.monotonic() < deadline:
            if select.select([mine], [], [], 1)[0]:
                found += os.read(mine, 65536)
        assert process.wait(10) == 0
        assert b"\x1b[32mconnected" in found
    finally:
        process.kill()
        process.wait()
        os.close(mine)


def test_a_command_that_needs_no_service_starts_quickly() -> None:
    fastest = min(_seconds_of("version") for _ in range(3))
    assert fastest < 0.5


def _seconds_of(*words: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "quicether.cli.main", *words],
        env=ENVIRONMENT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start
