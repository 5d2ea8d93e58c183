"""`quicether`: the command line. Offline questions need no service, all else goes over D-Bus."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from quicether import __version__
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
    words = list(sys.argv[1:] if argv is None else argv)
    known = {name for names in MODULES.values() for name in names}
    first = words[0] if words and words[0] in known else None
    arguments = build_parser(first).parse_args(words)
    try:
        code: int = arguments.func(arguments)
        sys.stdout.flush()
    except QuicEtherError as error:
        print(f"quicether: {error}", file=sys.stderr)
        return _exit_code(error)
    except PermissionError as error:
        print(f"quicether: {error.filename}: permission denied; use sudo", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _exit_code(error: QuicEtherError) -> int:
    client = sys.modules.get("quicether.cli.client")  # read only by what talks to the service
    if client is not None and isinstance(error, client.NoDaemonError):
        return int(client.ExitCode.NO_DAEMON)
    if client is not None and isinstance(error, client.NotPermittedError):
        return int(client.ExitCode.NOT_PERMITTED)
    return 1


if __name__ == "__main__":
    sys.exit(main())
