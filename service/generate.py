"""Writes man pages, shell completions and the JSON schema from the code that they describe.

Run `python service/generate.py` with dependency group `docs` after a change of the command line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import shtab
from argparse_manpage.manpage import Manpage
from pydantic import TypeAdapter

from quicether.bus.api import ERRORS, MANAGER, TUNNEL
from quicether.bus.contract import BUS_NAME, ROOT_PATH, TUNNEL_PATH, Action
from quicether.cli.answers import ANSWERS
from quicether.cli.main import EPILOG, build_parser
from quicether.config.options import OPTIONS

HERE: Final = Path(__file__).parent
DATE: Final = "2026-11-22"
COMPLETIONS: Final = {"bash": "quicether.bash", "zsh": "_quicether", "fish": "quicether.fish"}

API_EXAMPLES: Final = (
    (
        "Join the network that CODE invites to, and print how to bring its tunnel up:",
        "busctl call --timeout=3min org.quicether1 /org/quicether1 org.quicether1.Manager "
        "Join s CODE",
    ),
    (
        "Bring the stored network home up, and look at it:",
        "busctl call org.quicether1 /org/quicether1 org.quicether1.Manager "
        "Up 'sa{ss}a{sv}' home 0 0\n"
        "busctl introspect org.quicether1 /org/quicether1/tunnel/home",
    ),
    (
        "Ask which way packets to an address go:",
        "gdbus call --system --dest org.quicether1 --object-path /org/quicether1/tunnel/home "
        "--method org.quicether1.Tunnel.Lookup 10.0.0.5",
    ),
    (
        "Watch what changes, and take the tunnel down:",
        "busctl monitor org.quicether1\n"
        "busctl call org.quicether1 /org/quicether1 org.quicether1.Manager Down s home",
    ),
)
"""What each does, and the commands; tests/hosts run those that end, test_joining.py the first."""


def man_page() -> str:
    """Return quicether(1)."""
    parser = build_parser()
    parser.epilog = None
    page = Manpage(parser, format="single-commands-section")
    page.date, page.manual, page.source = DATE, "QuicEther", "QuicEther"
    page.description = parser.description
    text = re.sub(r"^usage: (.*?)\n\n", r".nf\n\1\n.fi\n.PP\n", str(page), flags=re.M | re.S)
    return f"{text}\n{_notes()}"


def _notes() -> str:
    return rf""".SH EXIT STATUS
{_roff(EPILOG.partition(": ")[2].partition(" `")[0])}
.SH FILES
.TP
.I /etc/quicether/config.toml
Settings of the default tunnel; those of network NETWORK are in NETWORK.toml beside it. See
.BR quicether.toml (5).
.TP
.I ~/.config/quicether/config.toml
A user's own settings, for
.BR "quicether start" .
.TP
.I /usr/share/doc/quicether/quicether-json.schema.json
JSON schema of what every command prints under \-\-json, but for logs, which prints what
.BR journalctl (1)
does. The definition of a command bears its name, with a hyphen between its words.
.SH NOTES
The service, NetworkManager and systemd\-networkd may be restarted: the tunnel goes on or comes
back. A restart of D\-Bus ends the service, which systemd starts again, and NetworkManager, whose
unit does not start again where it calls that end a success, as on Debian 12.
.B systemctl start NetworkManager
within half a minute brings the tunnel back, too; later,
.B nmcli connection up quicether
does. systemd\-networkd keeps the tunnel as it is, and hears of changes after
.BR "systemctl restart systemd\-networkd" .
.SH SEE ALSO
.BR quicether.toml (5),
.BR org.quicether1 (5),
.BR nmcli (1),
.BR journalctl (1)
"""


def settings_page() -> str:
    """Return quicether.toml(5)."""
    lines = [
        f'.TH QUICETHER.TOML "5" "{DATE}" "QuicEther" "QuicEther"',
        ".SH NAME",
        r"quicether.toml \- settings of a QuicEther tunnel",
        ".SH DESCRIPTION",
        "TOML. A list is an array of strings, or one string with blanks between its entries.",
        "Every setting has three more names: a flag of",
        ".BR quicether (1)",
        "start, a key of a NetworkManager profile's vpn.data, and an environment variable. Flags",
        "override variables, which override the user's file, which overrides /etc/quicether.",
    ]
    sections = dict.fromkeys(option.section for option in OPTIONS.values())
    for section in sections:
        lines.append(f".SH [{section}]")
        for option in OPTIONS.values():
            if option.section != section:
                continue
            kind = " | ".join(option.choices) or option.kind.value
            default = f" Default: {option.default}." if option.default else ""
            lines += [
                ".TP",
                rf"\fB{_roff(option.field)}\fR ({_roff(kind)})",
                _roff(f"{option.doc}{default}"),
                ".br",
                _roff(f"Flag {option.flag}, vpn.data {option.key}, variable {option.variable}."),
            ]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR quicether (1)", ""])


def _roff(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("~", r"\(ti")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


def api_page() -> str:
    """Return org.quicether1(5)."""
    lines = [
        f'.TH ORG.QUICETHER1 "5" "{DATE}" "QuicEther" "QuicEther"',
        ".SH NAME",
        r"org.quicether1 \- the D\-Bus API of QuicEther",
        ".SH DESCRIPTION",
        _roff(f"The service {BUS_NAME} is on the system bus; a call starts it. Its manager is at"),
        f".IR {ROOT_PATH} ,",
        "each tunnel is an object below",
        f".IR {TUNNEL_PATH} .",
        "Object manager and properties are the standard interfaces. Every method asks polkit for",
        "the action that stands beside it; reading a property asks for",
        _roff(f"{Action.STATUS}."),
        "Errors have a name of those below, and a sentence for a person.",
        ".PP",
        "Whom a machine trusts, and its settings, are files of root below /etc/quicether, which",
        "the service reads and cannot write. So it hands the code of a call of",
        ".B Join",
        r"to a program of root, quicether\-join, that systemd starts for it. The code goes into",
        "no log, and once a machine has joined with it, it is of no use to another one. No method",
        "leaves a network;",
        ".B quicether leave",
        "does.",
    ]
    for interface in (MANAGER, TUNNEL):
        lines += [f".SH {interface.name}", _roff(interface.doc)]
        for method in interface.methods:
            takes = ", ".join(f"{arg.signature} {arg.name}" for arg in method.takes)
            gives = ", ".join(f"{arg.signature} {arg.name}" for arg in method.gives)
            arrow = rf" \(-> {gives}" if gives else ""
            lines += [
                ".TP",
                rf"\fB{method.name}\fR({takes}){arrow}",
                _roff(f"{method.doc} Action: {method.action}."),
            ]
        for item in interface.properties:
            lines += [".TP", rf"\fB{item.name}\fR ({item.signature})", _roff(item.doc)]
    lines.append(".SH ERRORS")
    for name, meaning in ERRORS.items():
        lines += [".TP", rf"\fB{name}\fR", _roff(meaning)]
    lines.append(".SH EXAMPLES")
    for text, command in API_EXAMPLES:
        lines += [text, ".PP", ".nf", _roff(command), ".fi", ".PP"]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR quicether (1),", ".BR busctl (1)", ""])


def schema() -> str:
    """Return the JSON schema of what `--json` prints, one definition a command.

    Standing alone it takes what any of them prints; one command's is `#/$defs/COMMAND`, with a
    hyphen between its words.
    """
    found: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What `quicether COMMAND --json` prints",
        "description": "A line at a time for start, stop, up, down, reload, ping and --watch.",
        "$defs": {},
        "anyOf": [],
    }
    for command, kind in ANSWERS.items():
        name = command.replace(" ", "-")
        one = TypeAdapter(kind).json_schema(ref_template="#/$defs/{model}")
        parts = {**one.pop("$defs", {}), name: one}
        for part in parts.values():
            _close(part)
        found["$defs"] |= parts
        found["anyOf"].append({"$ref": f"#/$defs/{name}"})
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


def _close(part: dict[str, Any]) -> None:
    """Make an object's schema say what is printed: these keys alone."""
    if "properties" not in part:
        return
    if "additionalProperties" not in part:  # of a dataclass, which is printed whole
        part["additionalProperties"] = False
        part["required"] = sorted(part["properties"])
    for key in part["properties"].values():
        key.pop("default", None)
        key.pop("title", None)


def generated() -> dict[Path, str]:
    """Return the content of every generated file by its path."""
    os.environ["COLUMNS"] = "80"
    files = {
        HERE / "man" / "quicether.1": man_page(),
        HERE / "man" / "quicether.toml.5": settings_page(),
        HERE / "man" / "org.quicether1.5": api_page(),
        HERE / "man" / "quicether-json.schema.json": schema(),
    }
    for shell, name in COMPLETIONS.items():
        files[HERE / "completions" / name] = completion(shell)
    return files


def completion(shell: str) -> str:
    """Return a shell's completion: shtab's, told what it does not know of our arguments."""
    parser = build_parser()
    for action in _arguments(parser):
        about: Any = action
        if action.metavar == "FILE":
            about.complete = shtab.FILE
        elif shell == "zsh" and not (action.option_strings or action.choices):
            # Without candidates zsh shows a message here, and then inserts no flag either.
            about.complete = {"zsh": "()"}
        if shell == "zsh" and isinstance(action.metavar, str):
            # Behind a colon zsh looks for what to run.
            action.metavar = action.metavar.replace(":", "\\:")
    return shtab.complete(parser, shell)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of all commands below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                yield from _arguments(below)


def main() -> None:
    """Write all files."""
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
