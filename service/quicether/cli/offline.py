"""What the commands that need no daemon share: types of their arguments, and how they answer."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from quicether.cli import output
from quicether.config import values
from quicether.errors import ConfigError
from quicether.identity.addresses import check_overlay_address
from quicether.identity.names import check_group_name, check_network_name, check_node_name

T = TypeVar("T")

_SPAN: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def say(arguments: argparse.Namespace, answer: Mapping[str, Any], text: str) -> None:
    """Print an answer on standard output: as JSON under --json, else as text for a person."""
    if arguments.json:
        output.print_json(answer)
    else:
        print(text)


def note(text: str) -> None:
    """Tell a person what a script that reads standard output should not see."""
    print(text, file=sys.stderr)


def moment(value: datetime) -> str:
    """Return a time as JSON answers hold it: RFC 3339 in UTC, to the second."""
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return parse as the type of an argparse argument: its ConfigError becomes wrong usage."""

    def typed(text: str) -> T:
        try:
            return parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def length_of_time(low: timedelta, high: timedelta) -> Callable[[str], timedelta]:
    """Return the type of an argument that is a length of time such as 90d, 12h or 30m."""

    def parse(text: str) -> timedelta:
        match = _SPAN.fullmatch(text)
        if match is None:
            raise ConfigError(f"{text!r} is not a length of time such as 90d, 12h or 30m")
        found = timedelta(**{_UNITS[match[2]]: int(match[1])})
        if not low <= found <= high:
            raise ConfigError(f"{text!r} is not from {_span(low)} to {_span(high)}")
        return found

    return argument(parse)


def _span(length: timedelta) -> str:
    return f"{length.days}d" if length.days else f"{length.seconds // 60}m"


network_name: Final = argument(check_network_name)
node_name: Final = argument(check_node_name)
group_name: Final = argument(check_group_name)
prefix: Final = argument(values.prefix)
address: Final = argument(values.address)
overlay_address: Final = argument(lambda text: check_overlay_address(values.address(text)))
