"""What `./bootstrap` says to a wrong command, and what it needs from the requirements."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[2]


def bootstrap(*arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    # The script comes by standard input's folder: an ordinary user may not be able to read ours.
    command = ["sh", "-s", "--", *arguments]
    with (CHECKOUT / "bootstrap").open() as script:
        return subprocess.run(
            command, stdin=script, capture_output=True, text=True, cwd="/", user=user, check=False
        )


def pins(name: str) -> dict[str, str]:
    lines = (CHECKOUT / "requirements" / name).read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and line[0] not in "#-")
    return {canonicalize_name(package): version for package, version in pairs}


@pytest.mark.parametrize(
    "arguments",
    [(), ("nonsense",), ("install", "--now"), ("uninstall", "--purge", "x"), ("--help",)],
)
def test_wrong_command_shows_usage_and_exits_with_2(arguments: tuple[str, ...]) -> None:
    done = bootstrap(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sudo ./bootstrap demo")
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["demo", "test", "bench", "install", "uninstall"])
def test_without_root_it_says_so_in_one_sentence_and_exits_with_4(command: str) -> None:
    done = bootstrap(command, user=65534 if os.geteuid() == 0 else None)
    assert done.returncode == 4
    assert done.stderr == f"bootstrap: {command} needs root; run: sudo ./bootstrap {command}\n"


def test_the_tested_set_is_within_the_ranges_that_pyproject_accepts() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    service, dev = pins("service.txt"), pins("dev.txt") | pins("bench.txt")
    groups = project["dependency-groups"].values()
    wanted = [(text, service) for text in project["project"]["dependencies"]]
    wanted += [(text, service) for text in project["build-system"]["requires"]]
    wanted += [(text, dev) for group in groups for text in group if isinstance(text, str)]
    for text, tested in wanted:
        requirement = Requirement(text)
        version = tested.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in the tested set"
        assert requirement.specifier.contains(version), f"{text} excludes the tested {version}"
