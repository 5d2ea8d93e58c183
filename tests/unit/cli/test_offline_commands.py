"""Commands that need no service: config, version, help; and what was generated from them."""

from __future__ import annotations

import argparse
import tarfile
from pathlib import Path

import pytest

from quicether.cli.configuration import template
from quicether.cli.diagnose import archive
from quicether.cli.main import MODULES, build_parser, main
from quicether.config.load import ConfigFile, settle
from quicether.config.options import OPTIONS
from quicether.config.settings import Settings

SERVICE = Path(__file__).parents[3] / "service"


@pytest.fixture(autouse=True)
def etc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("QUICETHER_ETC", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


def test_config_show_is_a_file_that_means_the_same(
    etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (etc / "config.toml").write_text(
        '[network]\nmtu = 1300\nadvertise_subnets = ["10.0.0.0/8"]\n[overlay]\nlan_access = false\n'
    )
    for words in (("config", "show"), ("config", "show", "--all")):
        assert main(words) == 0
        shown = settle([ConfigFile("shown", capsys.readouterr().out)], {}, {})
        stored = settle([ConfigFile("stored", (etc / "config.toml").read_text())], {}, {})
        for section in Settings.model_fields:
            assert getattr(shown, section) == getattr(stored, section)


def test_config_validate_says_what_is_wrong(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = etc / "mine.toml"
    path.write_text("[network]\nmtu = 7\n")
    assert main(["config", "validate", str(path)]) == 1
    assert capsys.readouterr().err == (
        f"quicether: {path}: [network] mtu: 7 is neither auto nor 576 to 65535 bytes\n"
    )
    path.write_text("[network]\nmtu = 1300\n")
    assert main(["config", "validate", str(path)]) == 0
    assert main(["config", "validate"]) == 1


def test_config_edit_refuses_what_is_wrong_and_keeps_the_old(
    etc: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = etc / "home.toml"
    monkeypatch.setenv("VISUAL", "")
    monkeypatch.setenv("EDITOR", "sh -c 'echo \"[network]\nmtu = 1300\" >$0'")
    assert main(["config", "edit", "home"]) == 0
    assert path.read_text() == "[network]\nmtu = 1300\n"
    assert path.stat().st_mode & 0o777 == 0o644
    monkeypatch.setenv("EDITOR", "sh -c 'echo \"[network]\nmtu = 7\" >$0'")
    assert main(["config", "edit", "home"]) == 1
    assert f"{path} was left as it was" in capsys.readouterr().err
    assert path.read_text() == "[network]\nmtu = 1300\n"
    assert [entry.name for entry in etc.iterdir()] == ["home.toml"]
    monkeypatch.setenv("EDITOR", "false")
    assert main(["config", "edit", "home"]) == 1


@pytest.mark.parametrize("editor", ['"', "false", "/nowhere/editor", "rm"])
def test_an_editor_that_fails_changes_nothing(
    etc: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    editor: str,
) -> None:
    monkeypatch.setenv("TMPDIR", str(etc))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor)
    assert main(["config", "edit"]) == 1
    assert capsys.readouterr().err.startswith("quicether: ")
    assert list(etc.iterdir()) == []


@pytest.mark.parametrize(
    "editor",
    ["sh -c 'printf \"# \\\\344\" >$0'", "sh -c 'echo \"# mine\" >$0; exit 1'"],
    ids=["no-utf-8", "ends-badly"],
)
def test_what_was_written_is_kept_where_it_cannot_be_taken(
    etc: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    editor: str,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(etc))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor)
    assert main(["config", "edit"]) == 1
    draft = Path(capsys.readouterr().err.strip().partition("is kept in ")[2])
    assert draft.read_bytes().startswith(b"# ")
    assert not (etc / "config.toml").exists()


def test_config_edit_keeps_a_file_private_and_makes_its_folder(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICETHER_ETC", str(etc / "new"))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "true")
    path = etc / "new/config.toml"
    assert main(["config", "edit"]) == 0
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    assert main(["config", "edit"]) == 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_template_names_every_setting_and_is_right() -> None:
    text = template()
    assert settle([ConfigFile("template", text)], {}, {}) == Settings()
    settings = "\n".join(
        line.removeprefix("# ") if " = " in line else line for line in text.splitlines()
    )
    full = settle([ConfigFile("template", settings)], {}, {})
    for option in OPTIONS.values():
        assert f"# {option.field} = " in text
        assert option.field in getattr(full, option.section).model_fields_set


def test_one_command_and_all_commands_are_the_same_parser() -> None:
    whole = {leaf.prog: leaf.format_help() for leaf in _leaves_of(None)}
    for commands in MODULES.values():
        for command in commands:
            for leaf in _leaves_of(command):
                assert whole[leaf.prog] == leaf.format_help()


def _leaves_of(command: str | None) -> list[argparse.ArgumentParser]:
    parser = build_parser(command)
    return [
        leaf
        for group in parser._actions
        if hasattr(group, "choices") and isinstance(group.choices, dict)
        for leaf in group.choices.values()
    ]


@pytest.mark.parametrize(
    "file",
    ["man/quicether.1", "completions/quicether.bash", "completions/_quicether",
     "completions/quicether.fish"],
)  # fmt: skip
def test_generated_files_know_every_command_and_flag(file: str) -> None:
    text = (SERVICE / file).read_text().replace("\\-", "-")
    for command, flags in every_flag():
        assert command in text, f"{command}: run `python service/generate.py`"
        for flag in flags:
            word = flag.lstrip("-") if file.endswith("fish") else flag
            assert word in text, f"{command} {flag}: run `python service/generate.py`"


def every_flag() -> list[tuple[str, list[str]]]:
    found = []
    pending = [build_parser()]
    while pending:
        parser = pending.pop()
        flags = [flag for action in parser._actions for flag in action.option_strings]
        flags = [flag for flag in flags if flag not in ("-h", "--help")]
        found.append((parser.prog.split()[-1], flags))
        for action in parser._actions:
            if isinstance(action.choices, dict):
                pending += action.choices.values()
    return found


def test_the_manual_of_settings_knows_every_option() -> None:
    text = (SERVICE / "man/quicether.toml.5").read_text().replace("\\-", "-")
    for option in OPTIONS.values():
        assert f"Flag {option.flag}, vpn.data {option.key}, variable {option.variable}." in text


def test_the_archive_of_diag_holds_private_files(tmp_path: Path) -> None:
    path = tmp_path / "diag.tar.gz"
    path.write_bytes(archive({"a.txt": "one", "b.txt": "zwei"}, "diag"))
    with tarfile.open(path) as tar:
        assert [(entry.name, entry.mode) for entry in tar] == [
            ("diag/a.txt", 0o600),
            ("diag/b.txt", 0o600),
        ]
