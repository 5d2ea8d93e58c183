"""What commands end with, and that it is a sentence: whoever calls, whatever is wrong."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from jeepney import HeaderFields

from quicether.cli.client import _error
from quicether.cli.exits import exit_code
from quicether.cli.main import MODULES, main

ROOT = Path(__file__).parents[3]
NOBODY = 65534


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with network home, in a folder that others may look into."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("QUICETHER_ETC", f"{folder}/etc")
        monkeypatch.setenv("QUICETHER_VAR", f"{folder}/var")
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={folder}/nobus")
        monkeypatch.setenv("EDITOR", "true")
        assert main(["network", "create", "home", "--authority-only"]) == 0
        assert main(["network", "sign", "home", "--local", "--name", "attic"]) == 0
        yield folder


@contextmanager
def nobody() -> Iterator[None]:
    """Act as an ordinary user."""
    for module in (*MODULES, "client", "founding", "local", "stored"):
        importlib.import_module(f"quicether.cli.{module}")  # the checkout may be closed to others
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@as_root
@pytest.mark.parametrize(
    "words",
    [
        "network sign home --local --name attic",
        "network revoke home attic",
        "network install home bundle.pem",
        "network create home --name attic",
        "keygen home",
        "config edit",
        "config edit home",
    ],
)
def test_an_ordinary_user_is_told_to_use_sudo(
    machine: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    main(["network", "sign", "home", "--local", "--name", "attic", "--out", "bundle.pem"])
    (machine / "etc/home.toml").write_text("")
    capsys.readouterr()
    with nobody():
        assert main(words.split()) == 4
    err = capsys.readouterr().err
    assert err.startswith("quicether: ")
    assert "use sudo" in err
    assert err.count("\n") == 1


@as_root
def test_an_ordinary_user_may_look(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with nobody():
        assert main(["network", "list"]) == 0
        assert main(["network", "show", "home"]) == 0
    out, err = capsys.readouterr()
    assert "home  attic  " in out
    assert "this node: attic" in out
    assert err == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("start --mtu x", "--mtu: 'x' is neither auto nor"),
        ("start --advertise-subnet 10.0.0.1/8", "--advertise-subnet: 10.0.0.1/8 has host bits"),
        ("start --config missing.toml", "--config: there is no file"),
        ("invite a --endpoint a --endpoint b --endpoint c --endpoint d --endpoint e", "5 are"),
        ("invite a --valid 0s", "argument --valid: '0s' is not from 1m to 3650d"),
        ("invite a --valid 999999w", "argument --valid: '999999w' is not from"),
        ("invite a --expires 1s", "argument --expires: '1s' is not from 1m to 30d"),
        ("network create config", "argument NETWORK: network name 'config' is taken"),
        ("network create policy", "argument NETWORK: network name 'policy' is taken"),
        ("network sign home --local --name a --address 127.0.0.1", "127.0.0.1 is loopback, so"),
        ("network sign home --local --name a --address fe80::1%eth0", "is link-local, so no node"),
        ("network sign home --local --name a --address fd00::1%eth0", "is of one link, so"),
        ("network sign home --local --name a --address 255.255.255.255", "is broadcast, so"),
        ("invite a --endpoint fe80::1%eth0", "is link-local, so it means nothing on another"),
        ("invite a --endpoint [fe80::1]:9000", "is link-local, so it means nothing on another"),
        ("join AAAAA-BBBBB", "the invitation code is mistyped or cut off"),
    ],
)
@pytest.mark.usefixtures("machine")
def test_a_wrong_value_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], words: str, sentence: str
) -> None:
    try:
        code: object = main(words.split())
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert sentence in capsys.readouterr().err


def test_what_is_wrong_in_a_file_is_no_wrong_usage(
    machine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICETHER_NETWORK_MTU", "x")
    assert main(["start", "--tun-name", "a b"]) == 1
    assert "QUICETHER_NETWORK_MTU: 'x'" in capsys.readouterr().err
    assert main(["start", "--mtu", "1300"]) == 3


def test_a_masked_unit_means_that_the_service_does_not_run() -> None:
    name = "org.freedesktop.systemd1.UnitMasked"
    header = SimpleNamespace(fields={HeaderFields.error_name: name})
    error = _error(SimpleNamespace(header=header, body=("Unit quicether.service is masked.",)))
    assert exit_code(error) == 3
    assert str(error) == "the service cannot be started: Unit quicether.service is masked."


@pytest.mark.parametrize(
    "address", ["garbage", "unix:", "unix:path", "tcp:host=localhost,port=1", "unix:path=/dev/null"]
)
def test_a_bus_address_that_is_none(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    assert main(["status"]) == 3
    assert "there is no system bus to reach the service on" in capsys.readouterr().err


def quicether(words: str, redirection: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell would."""
    command = f"{sys.executable} -m quicether.cli.main {words} {redirection}"
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "service"),
            "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere",
        },
        timeout=30,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


@pytest.mark.parametrize("words", ["version", "--help", "config show --all", "doctor --json"])
def test_output_that_goes_nowhere_is_an_error(words: str) -> None:
    full = quicether(words, ">/dev/full")
    assert full.returncode == 1
    assert full.stderr == "quicether: standard output: No space left on device\n"
    closed = quicether(words, ">&-")
    assert (closed.returncode, closed.stderr) == (1, "quicether: standard output is closed\n")


def test_streams_that_are_closed_are_no_trouble() -> None:
    assert quicether("up home", "<&-").returncode == 3
    done = quicether("up home", "2>&-")
    assert (done.returncode, done.stdout) == (3, "")


def test_an_encoding_without_the_characters_of_a_sentence_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert "\\u2192 systemctl start quicether" in quicether("doctor", "").stdout
    quicether("doctor --json", "").stdout.encode("ascii")
