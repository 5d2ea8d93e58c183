"""`quicether start`, `stop`, `up`, `down`, `reload`: what the service is told to do."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from quicether.bus.contract import DEFAULT_TUNNEL, How
from quicether.cli import output
from quicether.cli.exits import UsageError
from quicether.config import values
from quicether.config.options import OPTIONS, Kind, Option
from quicether.errors import QuicEtherError


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of `quicether`."""
    start = subparsers.add_parser(
        "start",
        help="bring the tunnel up with settings given here",
        description="Bring a tunnel up. Settings come from /etc/quicether, then the user's own "
        "~/.config/quicether/config.toml, then variables QUICETHER_SECTION_KEY, then the flags "
        "here; later ones override earlier ones. The service is started where it does not run.",
    )
    start.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="take the settings of this file instead of those below /etc/quicether",
    )
    for option in OPTIONS.values():
        _add_option(start, option)
    start.set_defaults(func=_start)

    stop = subparsers.add_parser("stop", help="take the tunnel down, or all of them")
    stop.add_argument("-t", "--tunnel", metavar="NAME", help="only this one")
    stop.set_defaults(func=_stop)

    for name, function, text in (
        ("up", _up, "bring a stored tunnel up"),
        ("down", _down, "take a tunnel down"),
        ("reload", _reload, "read a tunnel's configuration and policy again"),
    ):
        command = subparsers.add_parser(name, help=text)
        command.add_argument("name", metavar="NAME", type=_tunnel_name, help="tunnel or network")
        command.set_defaults(func=function)


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    default = f" Default: {option.default}." if option.default else ""
    parser.add_argument(
        option.flag,
        dest=f"option.{option.key}",
        action="append",
        metavar=_metavar(option),
        choices=option.choices or None,
        help=(option.doc + default).replace("%", "%%"),
    )


def _metavar(option: Option) -> str | None:
    if option.choices:
        return None
    words = {
        Kind.BOOL: "yes|no",
        Kind.PREFIXES: "PREFIX",
        Kind.ROUTES: "auto|none|PREFIX",
        Kind.ADDRESSES: "ADDRESS",
        Kind.ENDPOINT: "ADDRESS:PORT",
        Kind.ENDPOINTS: "HOST:PORT",
        Kind.PEERS: "[NODE@]HOST:PORT",
        Kind.PINS: "NODEID=PREFIX+PREFIX",
        Kind.STATIC_ROUTES: "PREFIX=NODE",
        Kind.NODES: "NODE",
        Kind.PATH: "FILE",
        Kind.MTU: "auto|N",
        Kind.NUMBER: "N",
        Kind.DOMAINS: "DOMAIN",
    }
    return words.get(option.kind, option.kind.name)


def _tunnel_name(text: str) -> str:
    try:
        return values.tunnel(text)
    except QuicEtherError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def given_options(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the options that flags gave, as text; a flag given twice counts last, or adds up."""
    found = {}
    for option in OPTIONS.values():
        given: list[str] | None = getattr(arguments, f"option.{option.key}", None)
        if given:
            found[option.key] = " ".join(given) if option.kind.plural else given[-1]
    return found


def _start(arguments: argparse.Namespace) -> int:
    from quicether.config.load import ConfigFile, read_file, settle, user_file
    from quicether.errors import ConfigError

    files: list[ConfigFile] = []
    for path in (user_file(os.environ), arguments.config):
        file = None if path is None else read_file(path)
        if file is not None:
            files.append(file)
        elif path is not None and path == arguments.config:
            raise UsageError(f"--config: there is no file {path}")
    try:
        settings = settle(files, os.environ, given_options(arguments))
    except ConfigError as error:
        settle(files, os.environ, {})  # has an error of its own, where no flag is to blame
        raise UsageError(str(error)) from None
    tunnel = settings.network.name or DEFAULT_TUNNEL
    how: dict[str, tuple[str, Any]] = (
        {How.TRANSIENT.value: ("b", True)} if arguments.config is not None else {}
    )
    return _bring_up(arguments, tunnel, settings.to_options(), how)


def _up(arguments: argparse.Namespace) -> int:
    return _bring_up(arguments, arguments.name, {}, {})


def _bring_up(
    arguments: argparse.Namespace,
    tunnel: str,
    options: dict[str, str],
    how: dict[str, tuple[str, Any]],
) -> int:
    from quicether.cli.client import daemon

    with daemon() as service:
        service.up(tunnel, options, how)
    _say(arguments, tunnel, "up")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    from quicether.cli.client import daemon

    with daemon() as service:
        names = sorted(found["Name"][1] for found in service.tunnels().values())
        for name in names if arguments.tunnel is None else [arguments.tunnel]:
            service.down(name)
            _say(arguments, name, "down")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    from quicether.cli.client import daemon

    with daemon() as service:
        service.down(arguments.name)
    _say(arguments, arguments.name, "down")
    return 0


def _reload(arguments: argparse.Namespace) -> int:
    from quicether.cli.client import daemon

    with daemon() as service:
        service.reload(arguments.name)
    _say(arguments, arguments.name, "reloaded")
    return 0


def _say(arguments: argparse.Namespace, tunnel: str, state: str) -> None:
    if arguments.json:
        output.print_json({"tunnel": tunnel, "state": state}, lines=True)
    else:
        print(f"tunnel {tunnel} is {state}")
