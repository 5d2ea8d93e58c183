"""`quicether network` and `quicether keygen`, on two machines that share no file but a bundle."""

from __future__ import annotations

import argparse
import io
import re
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from quicether.cli import keys, network
from quicether.errors import ConfigError, IdentityError, QuicEtherError
from quicether.identity.keys import NodeKey, public_pem
from quicether.identity.store import NetworkStore
from quicether.identity.trust import AuthorityTrust
from support import json_answers

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command on a machine and returns its standard output."""

    def run(host: str, *words: str) -> str:
        monkeypatch.setenv("QUICETHER_ETC", str(tmp_path / host / "etc"))
        monkeypatch.setenv("QUICETHER_VAR", str(tmp_path / host / "var"))
        monkeypatch.chdir(tmp_path)
        parser = argparse.ArgumentParser("quicether")
        parser.add_argument("--json", action="store_true")
        subparsers = parser.add_subparsers()
        network.add_commands(subparsers)
        keys.add_commands(subparsers)
        arguments = parser.parse_args(words)
        arguments.code = arguments.func(arguments)
        run.code = arguments.code  # type: ignore[attr-defined]
        return capsys.readouterr().out

    return run


@pytest.fixture
def on(run: Run) -> Callable[..., Any]:
    """Return a function that runs a command with --json and returns its answer."""
    return lambda host, *words: json_answers.check(words, run(host, "--json", *words))


def identity(tmp_path: Path, host: str) -> Any:
    store = NetworkStore(tmp_path / host / "etc", tmp_path / host / "var", "home")
    return store.load_identity(datetime.now(UTC))


def test_two_machines_trust_each_other_after_five_commands(run: Run, tmp_path: Path) -> None:
    run("home", "network", "create", "home", "--authority-only")
    run("home", "network", "sign", "home", "--local", "--name", "home", "--prefix", "10.7.0.0/16")
    key = run("laptop", "keygen", "home").strip()
    run("home", "network", "sign", "home", "--name", "laptop", "--public-key", key,
        "--out", "laptop.pem")  # fmt: skip
    said = run("laptop", "network", "install", "home", "laptop.pem")
    assert "laptop" in said
    home, laptop = identity(tmp_path, "home"), identity(tmp_path, "laptop")
    now = datetime.now(UTC)
    assert home.trust.judge(laptop.certificate_der, now).name == "laptop"
    assert [str(p) for p in laptop.trust.judge(home.certificate_der, now).prefixes] == [
        "10.7.0.0/16"
    ]
    assert not (tmp_path / "laptop/etc/networks/home/authority.key").exists()


def test_every_option_of_sign_is_in_the_certificate(on: Callable[..., Any]) -> None:
    on("home", "network", "create", "home", "--authority-only", "--address-pool", "10.99.0.0/24")
    answer = on(
        "home", "network", "sign", "home", "--name", "a",
        "--public-key", NodeKey.generate().public_text,
        "--prefix", "192.168.1.0/24", "--prefix", "fd12::/64", "--address", "10.99.0.9",
        "--group", "it", "--group", "ops", "--valid", "12h",
    )  # fmt: skip
    assert answer["addresses"][0] == "10.99.0.9"
    assert answer["addresses"][1].startswith("fd")
    assert answer["prefixes"] == ["192.168.1.0/24", "fd12::/64"]
    assert answer["groups"] == ["it", "ops"]
    left = datetime.fromisoformat(answer["not_after"]) - datetime.now(UTC)
    assert timedelta(hours=11, minutes=59) < left <= timedelta(hours=12)
    assert answer["bundle"].count("BEGIN CERTIFICATE") == 2


def test_bundle_alone_goes_to_standard_output(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("home", "network", "create", "home", "--authority-only")
    (tmp_path / "key.pub").write_text(run("laptop", "keygen", "home"))
    bundle = run("home", "network", "sign", "home", "--name", "laptop", "--public-key", "key.pub")
    assert bundle.startswith("-----BEGIN CERTIFICATE")
    stdin = io.TextIOWrapper(io.BytesIO(bundle.encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    run("laptop", "network", "install", "home", "-")
    assert identity(tmp_path, "laptop").member.name == "laptop"


def test_public_key_may_be_pem(run: Run, tmp_path: Path) -> None:
    run("home", "network", "create", "home", "--authority-only")
    (tmp_path / "key.pem").write_bytes(public_pem(NodeKey.generate().public_raw))
    assert run("home", "network", "sign", "home", "--name", "a", "--public-key", "key.pem")


def test_commands_may_be_repeated(on: Callable[..., Any]) -> None:
    first = on("home", "network", "create", "home", "--authority-only")
    second = on("home", "network", "create", "home", "--authority-only")
    assert (first["created"], second["created"]) == (True, False)
    assert first["network_id"] == second["network_id"]
    assert on("home", "keygen", "home") == on("home", "keygen", "home")
    sign = ("network", "sign", "home", "--local", "--name", "home")
    assert on("home", *sign)["addresses"] == on("home", *sign)["addresses"]
    assert on("home", "network", "revoke", "home", "home")["list_number"] == 1
    assert on("home", "network", "revoke", "home", "home")["list_number"] == 1


def test_network_is_not_made_again_with_another_pool(run: Run) -> None:
    run("home", "network", "create", "home", "--authority-only")
    with pytest.raises(ConfigError, match="exists already with address pool 100"):
        run("home", "network", "create", "home", "--authority-only", "--address-pool", "10.0.0.0/8")


def test_member_does_not_make_the_network_anew(run: Run) -> None:
    run("home", "network", "create", "home", "--authority-only")
    key = run("laptop", "keygen", "home").strip()
    run("home", "network", "sign", "home", "--name", "l", "--public-key", key, "--out", "l.pem")
    run("laptop", "network", "install", "home", "l.pem")
    with pytest.raises(IdentityError, match=r"authority\.crt exists already"):
        run("laptop", "network", "create", "home", "--authority-only")
    with pytest.raises(IdentityError, match="this machine is not the network's authority"):
        run("laptop", "network", "sign", "home", "--local", "--name", "l")


def test_bundle_of_another_machine_is_refused(run: Run) -> None:
    run("home", "network", "create", "home", "--authority-only")
    key = run("laptop", "keygen", "home").strip()
    run("home", "network", "sign", "home", "--name", "l", "--public-key", key, "--out", "l.pem")
    with pytest.raises(IdentityError, match="this machine is node"):
        run("desk", "network", "install", "home", "l.pem")


def test_revoked_node_is_refused_by_the_others(run: Run, tmp_path: Path) -> None:
    test_two_machines_trust_each_other_after_five_commands(run, tmp_path)
    laptop = identity(tmp_path, "laptop")
    assert "revoked by list 1" in run("home", "network", "revoke", "home", "laptop")
    trust = identity(tmp_path, "home").trust
    assert isinstance(trust, AuthorityTrust)
    assert trust.is_revoked(laptop.member)
    assert "revoked" in run("home", "network", "show", "home")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "is missing"),
        (b"", "is damaged"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is damaged"),
        (b"x" * (65 << 10), "larger than"),
    ],
)
def test_bad_bundle_is_refused(run: Run, tmp_path: Path, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / "l.pem").write_bytes(content)
    with pytest.raises(IdentityError, match=match):
        run("laptop", "network", "install", "home", "l.pem")


def test_folder_for_a_bundle_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=f"bundle {tmp_path}: a folder, not a plain file"):
        run("laptop", "network", "install", "home", str(tmp_path))


def test_bundle_of_one_certificate_is_refused(run: Run) -> None:
    run("home", "network", "create", "home", "--authority-only")
    with pytest.raises(IdentityError, match="holds 1 certificates"):
        run("laptop", "network", "install", "home", "home/etc/networks/home/authority.crt")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("create", "Home"), "network name 'Home'"),
        (("create", "home", "--address-pool", "fd00::/8"), "not an IPv4 prefix"),
        (("sign", "home", "--name", "A", "--local"), "node name 'A'"),
        (("sign", "home", "--name", "a"), "--public-key.*--local.*required"),
        (("sign", "home", "--name", "a", "--local", "--public-key", "x"), "not allowed with"),
        (("sign", "home", "--name", "a", "--local", "--prefix", "10.0.0.1/8"), "10.0.0.1/8"),
        (("sign", "home", "--name", "a", "--local", "--address", "x"), "'x' is not an IPv4"),
        (("sign", "home", "--name", "a", "--local", "--group", "*"), "group name"),
        (("sign", "home", "--name", "a", "--local", "--valid", "1y"), "length of time such as"),
        (("show",), "required"),
        ((), "required"),
    ],
)
def test_wrong_usage_ends_with_2_and_names_the_value(
    run: Run, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], match: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run("home", "network", *words)
    assert caught.value.code == 2
    assert re.search(match, capsys.readouterr().err)


@pytest.mark.parametrize("key", ["AAAA", "x" * 5000, "/dev/null"])
def test_bad_public_key_is_refused(run: Run, key: str) -> None:
    run("home", "network", "create", "home", "--authority-only")
    with pytest.raises(QuicEtherError, match="public key"):
        run("home", "network", "sign", "home", "--name", "a", "--public-key", key)


def test_list_and_show_say_what_is_wrong(run: Run, on: Callable[..., Any], tmp_path: Path) -> None:
    assert "in no network" in run("home", "network", "list")
    with pytest.raises(IdentityError, match="not on this machine"):
        run("home", "network", "show", "home")
    run("home", "network", "create", "home", "--authority-only")
    assert on("home", "network", "show", "home")["problem"] == "this machine has no certificate"
    assert run.code == 1  # type: ignore[attr-defined]
    run("home", "network", "sign", "home", "--local", "--name", "home", "--group", "it")
    shown = on("home", "network", "show", "home")
    assert run.code == 0  # type: ignore[attr-defined]
    assert shown["authority"] is True
    assert [node["name"] for node in shown["nodes"]] == ["home"]
    assert on("home", "network", "list")["networks"][0]["name"] == "home"
    text = run("home", "network", "show", "home")
    assert "this node: home" in text
    (tmp_path / "home/etc/networks/home/authority.crt").write_text("rubbish")
    assert "is damaged" in on("home", "network", "list")["networks"][0]["problem"]


def test_files_have_the_right_modes(run: Run, tmp_path: Path) -> None:
    test_two_machines_trust_each_other_after_five_commands(run, tmp_path)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert modes == {
        "home/etc/networks/home/.lock": 0o600,
        "home/etc/networks/home/authority.crt": 0o644,
        "home/etc/networks/home/authority.key": 0o600,
        "home/etc/networks/home/issued.json": 0o600,
        "home/etc/networks/home/node.crt": 0o644,
        "home/var/home/node.key": 0o600,
        "laptop.pem": 0o644,
        "laptop/etc/networks/home/.lock": 0o600,
        "laptop/etc/networks/home/authority.crt": 0o644,
        "laptop/etc/networks/home/node.crt": 0o644,
        "laptop/var/home/node.key": 0o600,
    }
