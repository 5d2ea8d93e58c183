"""Holds what commands print under `--json` to the documented schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator

SCHEMA: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "service/man/quicether-json.schema.json").read_text()
)
_LINES: Final = frozenset({"start", "stop", "up", "down", "reload", "ping"})
"""Commands that print one object a line."""


def command_of(words: Sequence[str]) -> str:
    """Return what the schema calls the command that words call."""
    plain = [word for word in words if not word.startswith("-")]
    both = "-".join(plain[:2])
    return both if both in SCHEMA["$defs"] else plain[0]


def check(words: Sequence[str], text: str) -> Any:
    """Return what text says, the answer of a command; the last one where it is several lines.

    Raises jsonschema.ValidationError: it is not what the schema says.
    """
    command = command_of(words)
    answers = [json.loads(each) for each in (text.splitlines() if command in _LINES else [text])]
    for answer in answers:
        validator(command).validate(answer)
    return answers[-1]


def validator(command: str | None = None) -> Draft202012Validator:
    """Return what judges the answers of a command, or of any."""
    only = {} if command is None else {"$ref": f"#/$defs/{command}", "anyOf": [{}]}
    return Draft202012Validator({**SCHEMA, **only})
