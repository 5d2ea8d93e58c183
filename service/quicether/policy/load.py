"""From the text of a policy file to its checked content, or to where it is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from quicether.errors import ConfigError
from quicether.identity.names import check_group_name
from quicether.plainfile import read_plain
from quicether.policy.rules import MAX_RULES, Group, PolicyFile, Rule, Selector, SelectorKind

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
_REPORTED: Final = 100
"""Problems that one error lists."""
_KNOWN: Final[Mapping[str, Sequence[str]]] = {
    "": tuple(PolicyFile.model_fields),
    "groups": tuple(Group.model_fields),
    "rules": tuple(Rule.model_fields),
}

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*=")

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a policy file.

    line: counted from 1; None where it cannot be told. rule: id of the rule, or its number.
    sentence: what is wrong with which field and value, and what would be right.
    """

    sentence: str
    line: int | None = None
    rule: str | None = None

    def __str__(self) -> str:
        where = [] if self.line is None else [f"line {self.line}"]
        if self.rule is not None:
            where.append(f"rule {self.rule}")
        return f"{', '.join(where)}: {self.sentence}" if where else self.sentence


class PolicyError(ConfigError):
    """A policy file that is not used. problems: at least one, in the order of the file."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.name = name
        self.problems = tuple(problems)
        more = len(problems) - 1
        tail = f" (and {more} more)" if more else ""
        super().__init__(f"policy {name}: {problems[0]}{tail}")


def read_policy(path: Path) -> PolicyFile:
    """Return the checked content of a policy file.

    Raises PolicyError: it cannot be read, is too large, or has mistakes.
    """
    try:
        raw = read_plain(path, MAX_FILE_BYTES)
    except OSError as error:
        raise PolicyError(
            str(path), [Problem(f"cannot be read: {error.strerror or error}")]
        ) from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise PolicyError(str(path), [Problem("is not UTF-8 text", line)]) from None
    return parse_policy(text, str(path))


def parse_policy(text: str, name: str = "file") -> PolicyFile:
    """Return the checked content of the text of a policy file. Pure.

    name: what errors call it. Raises PolicyError: anything is wrong; it lists every mistake.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(name, [_toml_problem(error, text)]) from None
    except RecursionError:
        raise PolicyError(name, [Problem("is nested too deeply for a policy")]) from None
    lines = _line_numbers(text)
    try:
        policy = PolicyFile.model_validate(content)
    except ValidationError as error:
        problems = [_problem(each, content, lines) for each in error.errors()[:_REPORTED]]
    else:
        problems = list(_contradictions(policy, lines))[:_REPORTED]
        if not problems:
            return policy
    raise PolicyError(name, problems)


def _toml_problem(error: tomllib.TOMLDecodeError, text: str) -> Problem:
    sentence = str(error)
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", sentence)
    if place is None:
        return Problem(f"is not TOML: {sentence}")
    line = int(place[1]) if place[1] else text.count("\n") + 1
    column = f" (column {place[2]})" if place[2] else ""
    return Problem(f"is not TOML: {sentence[: place.start()]}{column}", line)


def _problem(error: Any, content: Mapping[str, Any], lines: Mapping[Location, int]) -> Problem:
    location: Location = error["loc"]
    kind = error["type"]
    table = str(location[0]) if location else ""
    field = str(location[-1]) if location else ""
    if kind == "extra_forbidden":
        known = _KNOWN[table if len(location) > 1 else ""]
        close = get_close_matches(field, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        sentence = f"unknown key {field!r}; {hint}"
    elif kind == "missing":
        sentence = f"{field} is missing"
    elif kind == "too_long":
        sentence = f"has more than {MAX_RULES} rules"
    elif kind == "value_error":
        reason = str(error["ctx"]["error"])
        sentence = reason if len(location) < 3 else f"{field}: {reason}"
    else:
        shapes = {
            "": "a table with [groups.NAME] and [[rules]]",
            "groups": "a table; write [groups.NAME] with members = [...]",
            "rules": "an array of tables; begin each rule with [[rules]]",
        }
        sentence = f"{table or 'file'} is not {shapes[table]}"
    return Problem(sentence, _line_of(location, lines), _rule_name(location, content))


def _rule_name(location: Location, content: Mapping[str, Any]) -> str | None:
    if len(location) < 2 or location[0] != "rules" or not isinstance(location[1], int):
        return None
    rule = content["rules"][location[1]]
    name = rule.get("id") if isinstance(rule, dict) else None
    return repr(name) if isinstance(name, str) and len(name) <= 64 else f"number {location[1] + 1}"


def _contradictions(policy: PolicyFile, lines: Mapping[Location, int]) -> Iterator[Problem]:
    """Yield what each part of a file does not see alone."""
    for name in policy.groups:
        try:
            check_group_name(name)
        except ConfigError as error:
            yield Problem(str(error), _line_of(("groups", name), lines))
    first: dict[str, int] = {}
    for index, rule in enumerate(policy.rules):
        place = ("rules", index)
        if rule.id in first:
            earlier = _line_of(("rules", first[rule.id], "id"), lines)
            where = f" (line {earlier})" if earlier else ""
            yield Problem(
                f"id {rule.id!r} belongs to rule number {first[rule.id] + 1}{where} already; "
                "every rule has an id of its own",
                _line_of((*place, "id"), lines),
                repr(rule.id),
            )
        first.setdefault(rule.id, index)
        for field, selector in (("subject", rule.subject), ("object", rule.object)):
            if selector.kind is SelectorKind.GROUP and selector.name not in policy.groups:
                yield Problem(
                    f"{field}: {_undeclared(selector, policy)}",
                    _line_of((*place, field), lines),
                    repr(rule.id),
                )


def _undeclared(selector: Selector, policy: PolicyFile) -> str:
    close = get_close_matches(selector.name, policy.groups, 1)
    hint = f"did you mean group:{close[0]}? Else" if close else "if certificates give it,"
    return (
        f"group {selector.name!r} is not declared; {hint} write [groups.{selector.name}] "
        "(its members may be left out)"
    )


def _line_of(location: Location, lines: Mapping[Location, int]) -> int | None:
    """Return the line of a value, or of the closest thing around it that has one."""
    for length in range(len(location), 0, -1):
        line = lines.get(location[:length])
        if line is not None:
            return line
    return None


def _line_numbers(text: str) -> dict[Location, int]:
    """Return the line of each table and of each key that begins a line.

    Good enough to point at a mistake: tables within a line and keys within a multi-line text
    are not told apart, for the TOML parser says nothing of positions.
    """
    lines: dict[Location, int] = {}
    table: Location = ()
    arrays: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            parts = tuple(part.strip().strip("\"'") for part in header[2].split("."))
            if header[1] == "[[":
                index = arrays[header[2]] = arrays.get(header[2], -1) + 1
                table = (*parts, index)
            else:
                table = parts
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, key[1].strip("\"'")), number)
    return lines
