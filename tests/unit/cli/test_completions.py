"""Completions as shells run them: commands, words below them, and flags."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
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
        (f"quicether policy check {COMPLETIONS}/_q", {f"{COMPLETIONS}/_quicether"}),
    ],
)
def test_bash_completes_commands_flags_values_and_files(words: str, offered: set[str]) -> None:
    assert bash(*words.split(" ")) == offered


def zsh(line: str) -> str:
    """Return what zsh makes of a line when its user presses the tabulator's key."""
    begin = (
        f"fpath=({COMPLETIONS} $fpath); autoload -Uz compinit; compinit -D -u; "
        'show() { print -r -- "<$BUFFER>"; BUFFER= }; zle -N show; bindkey "^O" show; '
        "print re''ady\n"
    )
    ours, its = pty.openpty()
    shell = subprocess.Popen(
        ["setsid", "--ctty", "zsh", "-f", "-i"],
        stdin=its,
        stdout=its,
        stderr=its,
        env={"PATH": "/usr/bin:/bin", "TERM": "dumb", "COLUMNS": "400"},
    )
    try:
        os.write(ours, begin.encode())
        read_until(ours, b"ready")
        os.write(ours, f"{line}\t\x0f".encode())
        printed = read_until(ours, b">").decode()
        assert "not found" not in printed, "zsh ran a part of the completion"
        return printed.rpartition("<")[2].rstrip("> \r\n")
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
        os.close(its)


def read_until(terminal: int, mark: bytes) -> bytes:
    printed, end = b"", time.monotonic() + 30
    while mark not in printed:
        readable, _, _ = select.select([terminal], [], [], max(end - time.monotonic(), 0))
        assert readable, printed
        printed += os.read(terminal, 65536)
    return printed


@installed("zsh")
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("quicether stat", "quicether status"),
        ("quicether network cr", "quicether network create"),
        ("quicether leave --p", "quicether leave --purge"),
        ("quicether start --role g", "quicether start --role gateway"),
        ("quicether start --peer x", "quicether start --peer x"),
        (
            f"quicether policy check {COMPLETIONS}/_q",
            f"quicether policy check {COMPLETIONS}/_quicether",
        ),
    ],
)
def test_zsh_completes_commands_flags_values_and_files(line: str, completed: str) -> None:
    assert zsh(line) == completed


@installed("fish")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("quicether st", {"start", "stop", "status"}),
        ("quicether network cr", {"create"}),
        ("quicether leave --p", {"--purge"}),
        ("quicether start --role ", {"standard", "gateway"}),
        (f"quicether policy check {COMPLETIONS}/_q", {f"{COMPLETIONS}/_quicether"}),
    ],
)
def test_fish_completes_commands_flags_values_and_files(line: str, offered: set[str]) -> None:
    found = run("fish", "-N", "-c", f"source {COMPLETIONS}/quicether.fish; complete -C '{line}'")
    assert {each.partition("\t")[0] for each in found.splitlines()} >= offered
