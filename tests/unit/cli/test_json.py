"""The JSON schema has every command, takes what they print, and nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quicether.cli import diagnose
from quicether.cli.main import build_parser, main
from support import json_answers
from support.json_answers import SCHEMA, validator


def commands(parser: argparse.ArgumentParser | None = None) -> Iterator[str]:
    """Yield the words of every command that takes `--json`, with hyphens."""
    parser = parser or build_parser()
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        assert "--json" in parser._option_string_actions
        yield "-".join(parser.prog.split()[1:])
    for group in groups:
        for below in group.choices.values():
            yield from commands(below)


def test_the_schema_has_every_command_and_its_answers_are_closed() -> None:
    mine = {each["$ref"].removeprefix("#/$defs/") for each in SCHEMA["anyOf"]}
    assert mine == set(commands()) - {"logs"}
    validator().check_schema(SCHEMA)
    for part in SCHEMA["$defs"].values():
        assert "properties" not in part or part["additionalProperties"] is False


@pytest.mark.parametrize(
    "rubbish",
    [{}, [], None, "up", {"tunnel": "home"}, {"tunnel": "home", "state": "sideways"},
     {"version": "1", "more": 1}, {"tunnel": "home", "peers": [{"name": "x"}]}],
)  # fmt: skip
def test_nothing_else_is_an_answer(rubbish: Any) -> None:
    # An empty file of settings, and a machine on which nothing is looked at, are answers.
    allowed = {"config-show"} if rubbish == {} else {"doctor"} if rubbish == [] else set()
    taken = {command for command in commands() if command != "logs"
             if validator(command).is_valid(rubbish)}  # fmt: skip
    assert taken == allowed
    assert validator().is_valid(rubbish) == bool(allowed)


@pytest.mark.parametrize(
    "words",
    [
        "config show",
        "config show --all",
        "config edit",
        "config validate",
        "doctor",
        "diag -o bundle.tar.gz",
        "keygen home",
        "policy check policy.toml",
        "policy test --from laptop --to 10.0.0.5",
        "version",
    ],
)
def test_answers_are_what_the_schema_says(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("etc", "var"):
        monkeypatch.setenv(f"QUICETHER_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDITOR", "true")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setattr(diagnose, "_PROGRAMS", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/config.toml").write_text(
        '[network]\nmtu = 1300\nadvertise_subnets = ["10.0.0.0/8"]\n'
    )
    (tmp_path / "policy.toml").write_text('[groups.staff]\nmembers = ["laptop"]\n')
    main([*words.split(), "--json"])
    json_answers.check(words.split(), capsys.readouterr().out)
