"""Everything that is checked and measured, by name: `nox --list`.

With `--no-venv` the sessions use the environment that nox itself runs in, as `./bootstrap test`
does; otherwise each gets its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2026.2"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "unit", "fuzz", "bus", "sim", "hosts"]

SHELL = ["bootstrap", ".ci/run", *sorted(map(str, Path("tests").rglob("*.sh")))]


def prepare(session: nox.Session) -> None:
    """Install the exact tested set, where the session has an environment of its own."""
    if session.venv_backend != "none":
        session.install("--no-deps", "-r", "requirements/dev.txt")


def pytest(session: nox.Session, *folders: str) -> None:
    prepare(session)
    session.run("python", "-m", "pytest", *folders, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Format and lint, of Python and of shell where shellcheck is installed (bootstrap does)."""
    prepare(session)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    if shutil.which("shellcheck"):
        session.run("shellcheck", *SHELL, external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Types, strictly."""
    prepare(session)
    session.run("mypy", "-p", "quicether", "-p", "quicether_nm", "-p", "support")


@nox.session
def unit(session: nox.Session) -> None:
    """Pure code, in milliseconds."""
    pytest(session, "tests/unit")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Every parser against rubbish."""
    pytest(session, "tests/fuzz")


@nox.session
def bus(session: nox.Session) -> None:
    """The D-Bus API on a private bus."""
    pytest(session, "tests/bus")


@nox.session
def sim(session: nox.Session) -> None:
    """Thousands of DHT nodes in virtual time: figures and a plot in tests/sim/results.

    `nox -s sim -- --nodes 10000` plays a larger network; it takes an hour.
    """
    prepare(session)
    arguments = session.posargs or ["--nodes", "100", "1000", "--minutes", "15"]
    paths = {"PYTHONPATH": "tests:service"}
    session.run("python", "-m", "sim.run", "--out", "tests/sim/results", *arguments, env=paths)


@nox.session
def hosts(session: nox.Session) -> None:
    """Whole hosts in namespaces; needs root."""
    pytest(session, "tests/hosts")


@nox.session
def bench(session: nox.Session) -> None:
    """Figures: two hosts beside the competition (needs root), and the routing table.

    `sudo ./bootstrap bench` installs the competition first.
    """
    prepare(session)
    if session.venv_backend != "none":
        session.install("--no-deps", "-r", "requirements/bench.txt")
    paths = {"PYTHONPATH": "tests:service:nm_plugin"}
    session.run("python", "-m", "bench", *session.posargs, env=paths)
