"""`quicether`: the command line. Offline questions need no service, all else goes over D-Bus."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from quicether import __version__
from quicether.cli.exits import ExitCode, exit_code, refused_by_system
from quicether.errors import QuicEtherError

MODULES: Final = {
    "tunnel": ("start", "stop", "up", "down", "reload"),
    "show": ("status", "peers", "routes", "lookup", "ping", "version"),
    "network": ("network",),
    "invite": ("invite",),
    "membership": ("join", "renew", "leave"),
    "keys": ("keygen",),
    "policy": ("policy",),
    "configuration": ("config",),
    "doctor": ("doctor",),
    "diagnose": ("logs", "diag"),
}
"""Module of `quicether.cli` → the commands that it adds, in the order of `--help`."""
EPILOG: Final = (
    "Exit codes: 0 ok, 1 failed, 2 usage, 3 the service does not run, 4 not permitted. "
    "`quicether COMMAND --help` says more."
)


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser.

    command: the only one that is needed, so that the others' modules stay unread; None for all.
    """
    parser = argparse.ArgumentParser(
        prog="quicether",
        description="A private, encrypted network of your own machines, without a server.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"quicether {__version__}")
    subparsers = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    for module, commands in MODULES.items():
        if command is None or command in commands:
            importlib.import_module(f"quicether.cli.{module}").add_commands(subparsers)
    for leaf in _leaves(parser):
        leaf.add_argument("--json", action="store_true", help="answer in JSON, for scripts")
    return parser


def _leaves(parser: argparse.ArgumentParser) -> Iterable[argparse.ArgumentParser]:
    """Yield the parsers of the commands proper, each once."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups and "--json" not in parser._option_string_actions:
        yield parser
    for group in groups:
        for below in dict.fromkeys(group.choices.values()):
            yield from _leaves(below)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if not _streams():
        return int(ExitCode.FAILED)
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except QuicEtherError as error:
        needs_sudo = refused_by_system(error) and os.geteuid() != 0
        print(f"quicether: {error}{'; use sudo' if needs_sudo else ''}", file=sys.stderr)
        code = exit_code(error)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        _drop_output()  # whoever read it has had enough
        code = ExitCode.OK
    except OSError as error:
        if error.filename is None:
            _drop_output()
        where = error.filename or "standard output"
        hint = "; use sudo" if isinstance(error, PermissionError) and os.geteuid() != 0 else ""
        print(f"quicether: {where}: {error.strerror or error}{hint}", file=sys.stderr)
        code = exit_code(error)
    return int(code)


def _run(words: list[str]) -> int:
    known = {name for names in MODULES.values() for name in names}
    first = words[0] if words and words[0] in known else None
    try:
        arguments = build_parser(first).parse_args(words)
    except SystemExit:
        sys.stdout.flush()  # what --help printed may have nowhere to go
        raise
    code: int = arguments.func(arguments)
    return code


def _streams() -> bool:
    """Have all three streams, whatever this process was started with; False: no output is."""
    for name, mode in (("stdin", "r"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - stays open
    if sys.stdout is None:
        print("quicether: standard output is closed", file=sys.stderr)
        return False
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A sentence may hold what a terminal's encoding has no character for.
        sys.stdout.reconfigure(errors="backslashreplace")
    return True


def _drop_output() -> None:
    """Forget what could not be printed, or Python would try, and complain, again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
