"""`quicether policy check` and `quicether policy test`, without a daemon."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from quicether.cli import policy
from quicether.config import load
from quicether.errors import ConfigError
from quicether.policy.load import PolicyError
from support import json_answers

GOOD = """
[groups.staff]
members = ["laptop"]

[groups.guests]

[[rules]]
id = "web"
subject = "group:staff"
object = "10.0.0.0/24"
action = "allow"
protocols = "tcp"
ports = 443

[[rules]]
id = "ping"
subject = "group:guests"
object = "home"
action = "allow"
protocols = "icmp"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(GOOD)
    return path


def run(*words: object) -> int:
    parser = argparse.ArgumentParser("quicether")
    parser.add_argument("--json", action="store_true")
    policy.add_commands(parser.add_subparsers())
    arguments = parser.parse_args([str(word) for word in words])
    code: int = arguments.func(arguments)
    return code


def test_a_good_file_is_called_good(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("policy", "check", file) == 0
    assert capsys.readouterr().out == f"{file}: good, 2 rules and 2 groups\n"


def test_every_mistake_of_a_bad_file_is_printed(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(GOOD.replace('"allow"', '"permit"'))
    assert run("policy", "check", file) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{file}: line 11, rule 'web': action: 'permit' is neither allow nor deny"
    assert len(lines) == 2


def test_mistakes_are_told_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(GOOD.replace("443", "70000"))
    assert run("--json", "policy", "check", file) == 1
    answer = json_answers.check(("policy", "check"), capsys.readouterr().out)
    assert answer == {
        "file": str(file),
        "ok": False,
        "problems": [
            {
                "line": 13,
                "rule": "'web'",
                "sentence": "ports: port 70000 is not from 0 to 65535",
            }
        ],
    }


@pytest.mark.parametrize(
    ("words", "code", "rule"),
    [
        ("--from laptop --to 10.0.0.5 --port 443/tcp", 0, "web"),
        ("--from laptop --to 10.0.0.5 --port 80/tcp", 1, "default"),
        ("--from laptop --to 10.0.0.5 --port 443/udp", 1, "default"),
        ("--from laptop --to 10.0.1.5 --port 443/tcp", 1, "default"),
        ("--from phone --to 10.0.0.5 --port 443/tcp", 1, "default"),
        ("--from phone --to 10.0.0.5 --port 443/tcp --group staff=phone,tablet", 0, "web"),
        ("--from phone --to fd00::1 --owner home --group guests=phone", 0, "ping"),
        ("--from phone --to fd00::1 --owner office --group guests=phone", 1, "default"),
        ("--from phone --to 100.64.0.2 --owner home --group guests=phone --port icmp", 0, "ping"),
        (f"--from {'ab' * 20} --to 10.0.0.5 --group staff={'ab' * 20} --port 443/tcp", 0, "web"),
    ],
)
def test_the_verdict_and_its_rule(
    file: Path, words: str, code: int, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--json", "policy", "test", file, *words.split()) == code
    answer = json_answers.check(("policy", "test"), capsys.readouterr().out)
    assert (answer["allowed"], answer["rule"]) == (code == 0, rule)


def test_the_verdict_is_a_sentence(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("policy", "test", file, "--from", "laptop", "--to", "10.0.0.5", "--port", "443/tcp")
    assert capsys.readouterr().out == (
        "laptop to 10.0.0.5, tcp port 443, is allowed by rule 'web' "
        "(allow group:staff to 10.0.0.0/24).\n"
    )


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUICETHER_ETC", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    return tmp_path / load.DEFAULT_FILE


def test_without_a_file_the_configured_one_is_asked(file: Path, configuration: Path) -> None:
    configuration.write_text(f'[security]\npolicy_file = "{file}"\n')
    words = ("policy", "test", "--from", "laptop", "--to", "10.0.0.5", "--port")
    assert run(*words, "443/tcp") == 0
    assert run(*words, "80/tcp") == 1


def test_without_a_file_the_networks_own_is_asked_where_there_is_one(
    file: Path, configuration: Path
) -> None:
    words = ("policy", "test", "--from", "laptop", "--to", "10.0.0.5", "--port", "80/tcp")
    for network in ("home", "work"):
        configuration.with_name(f"{network}.toml").write_text(f"[network]\nname = '{network}'\n")
        (configuration.parent / "networks" / network).mkdir(parents=True)
    configuration.with_name("home.toml").write_text(f"[security]\npolicy_file = '{file}'\n")
    assert run(*words) == 1
    configuration.with_name("work.toml").write_text("[security]\npolicy_file = '/etc/other'\n")
    with pytest.raises(ConfigError, match="write which one is asked"):
        run(*words)


@pytest.mark.usefixtures("configuration")
def test_without_any_policy_members_reach_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("policy", "test", "--from", "laptop", "--to", "10.0.0.5") == 0
    assert "there is no policy file" in capsys.readouterr().out


def test_a_bad_file_is_not_asked(file: Path) -> None:
    file.write_text("rules = 1")
    with pytest.raises(PolicyError):
        run("policy", "test", file, "--from", "laptop", "--to", "10.0.0.5")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--from laptop --to nowhere", "'nowhere' is not an IPv4 or IPv6 address"),
        ("--from Laptop --to 10.0.0.1", "node name 'Laptop' is not"),
        ("--from 0123456789 --to 10.0.0.1", "write the node's name or all 40 digits"),
        ("--from laptop --to 10.0.0.1 --port 443", "protocol"),
        ("--from laptop --to 10.0.0.1 --port tcp", "has no port; write it before the protocol"),
        ("--from laptop --to 10.0.0.1 --port 70000/tcp", "port 70000 is not from 0 to 65535"),
        ("--from laptop --to 10.0.0.1 --port 1-2/tcp", "is not one port and its protocol"),
        ("--from laptop --to 10.0.0.1 --port 1/icmp", "is not one port and its protocol"),
        ("--from laptop --to 10.0.0.1 --group staff", "is not a group and its nodes"),
        ("--from laptop --to 10.0.0.1 --group Staff=phone", "group name 'Staff' is not"),
    ],
)
def test_wrong_words_are_wrong_usage(
    file: Path, words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run("policy", "test", file, *words.split())
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err
