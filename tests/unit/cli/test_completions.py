"""Completions as shells run them: commands, words below them, and flags."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

COMPLETIONS = Path(__file__).parents[3] / "service/completions"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def installed(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


def bash(*words: str) -> set[str]:
    """Return what bash offers for the last of words."""
    program = (
        f'. {COMPLETIONS}/quicether.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        "function=$(complete -p quicether); function=${function#*-F }; "
        '${function%% *}; printf "%s\n" "${COMPREPLY[@]}"'
    )
    return set(run("bash", "-c", program, "bash", *words).split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("quicether st", {"start", "stop", "status"}),
        ("quicether network ", {"create", "sign", "install", "revoke", "list", "show"}),
        ("quicether network cr", {"create"}),
        ("quicether network create --auth", {"--authority-only"}),
        ("quicether start --role ", {"standard", "gateway"}),
        ("quicether start --advertise", {"--advertise-subnet"}),
        ("quicether peers --w", {"--watch"}),
        ("quicether leave --p", {"--purge"}),
    ],
)
def test_bash_completes_commands_flags_and_values(words: str, offered: set[str]) -> None:
    assert bash(*words.split(" ")) == offered


@installed("zsh")
def test_zsh_loads_its_completion() -> None:
    load = (
        f"fpath=({COMPLETIONS} $fpath); autoload -Uz compinit; compinit -D -u; "
        "autoload +X -Uz _quicether; print ${_comps[quicether]}; whence -w _quicether"
    )
    assert run("zsh", "-f", "-c", load) == "_quicether\n_quicether: function\n"


@installed("fish")
@pytest.mark.parametrize(
    ("line", "offered"),
    [("quicether st", {"start", "stop", "status"}), ("quicether network cr", {"create"})],
)
def test_fish_completes(line: str, offered: set[str]) -> None:
    found = run("fish", "-N", "-c", f"source {COMPLETIONS}/quicether.fish; complete -C '{line}'")
    assert {each.partition("\t")[0] for each in found.splitlines()} >= offered
