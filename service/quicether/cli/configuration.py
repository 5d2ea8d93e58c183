"""`quicether config show|edit|validate`: the stored settings of a tunnel. Needs no service."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from quicether.bus.contract import DEFAULT_TUNNEL
from quicether.cli import offline, output
from quicether.cli.exits import NotPermittedError
from quicether.config import values
from quicether.config.options import OPTIONS, Option
from quicether.errors import ConfigError, HostError, QuicEtherError
from quicether.identity import files

DEFAULT_EDITOR: Final = "sensible-editor"
TEMPLATE_HEAD: Final = (
    "# Settings of a QuicEther tunnel. Lines that begin with # show what there is.\n"
)


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of `quicether`."""
    config = subparsers.add_parser("config", help="show, change or check stored settings")
    actions = config.add_subparsers(dest="action", metavar="ACTION", required=True)

    show = actions.add_parser("show", help="show the settings of a tunnel, all sources together")
    _add_name(show)
    show.add_argument("--all", action="store_true", help="show what is at its default, too")
    show.set_defaults(func=_show)

    edit = actions.add_parser("edit", help="change the stored settings with $EDITOR")
    _add_name(edit)
    edit.set_defaults(func=_edit)

    validate = actions.add_parser("validate", help="say whether a file is right, or what is wrong")
    validate.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help="instead of the stored settings"
    )
    validate.set_defaults(func=_validate)


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NETWORK",
        nargs="?",
        default=DEFAULT_TUNNEL,
        type=offline.argument(values.tunnel),
        help="the tunnel, where it is not that of config.toml",
    )


def stored_path(name: str) -> Path:
    """Return where the settings of a tunnel are stored."""
    from quicether.config.load import stored_file
    from quicether.identity.store import roots

    etc, _ = roots()
    return stored_file(None if name == DEFAULT_TUNNEL else name, etc)


def _show(arguments: argparse.Namespace) -> int:
    from quicether.config.load import load, user_file
    from quicether.config.settings import as_text

    paths = [stored_path(arguments.name), user_file(os.environ)]
    settings = load(paths, os.environ, {})
    shown: dict[str, dict[str, Any]] = {}
    for option in OPTIONS.values():
        section = getattr(settings, option.section)
        if arguments.all or option.field in section.model_fields_set:
            value = getattr(section, option.field)
            entry: Any = [str(each) for each in value] if isinstance(value, tuple) else value
            if not isinstance(entry, list | bool | int):
                entry = option.default if value is None else as_text(value)
            shown.setdefault(option.section, {})[option.field] = entry
    if arguments.json:
        output.print_json(shown)
        return 0
    for path in paths:
        print(f"# {path}" if path.exists() else f"# {path} (does not exist)")
    for name, entries in shown.items():
        print(f"\n[{name}]")
        for field, entry in entries.items():
            print(f"{field} = {json.dumps(entry, ensure_ascii=False)}")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from quicether.config.load import read_file, settle

    path = arguments.file or stored_path(DEFAULT_TUNNEL)
    file = read_file(path)
    if file is None:
        raise ConfigError(f"{path}: there is no such file")
    settle([file], {}, {})
    offline.say(arguments, {"file": str(path), "valid": True}, f"{path} is right")
    return 0


def _edit(arguments: argparse.Namespace) -> int:
    from quicether.config.load import read_file

    path = stored_path(arguments.name)
    above = next(each for each in (path, *path.parents) if each.exists())
    if not os.access(above, os.W_OK, effective_ids=True):
        hint = "" if os.geteuid() == 0 else "; use sudo"
        raise NotPermittedError(f"{path} cannot be written{hint}")
    if not sys.stdin.isatty() and "EDITOR" not in os.environ:
        raise ConfigError("there is no terminal to edit on; write the file and validate it instead")
    present = read_file(path)
    before = template() if present is None else present.text
    draft = Path(tempfile.mkdtemp(prefix="quicether-")) / path.name
    draft.write_text(before)
    try:
        text = _edited(draft, path)
        files.make_directory(path.parent, 0o755)
        if present is None:
            files.write_file(path, text.encode(), files.PUBLIC_MODE)
        else:
            now = path.stat()
            owner = files.Owner(now.st_uid, now.st_gid)
            files.write_file(path, text.encode(), stat.S_IMODE(now.st_mode), owner)
    except QuicEtherError as error:
        if draft.exists() and draft.read_bytes() != before.encode():
            raise type(error)(f"{error}; what you wrote is kept in {draft}") from error
        shutil.rmtree(draft.parent)
        raise
    shutil.rmtree(draft.parent)
    offline.say(
        arguments,
        {"file": str(path), "changed": present is None or text != before},
        f"{path} is written; `quicether reload {arguments.name}` applies it to a tunnel that is up",
    )
    return 0


def _edited(draft: Path, path: Path) -> str:
    """Return what the user made of the draft of path, once it is right.

    Raises HostError: the editor fails; ConfigError: it is wrong, and the user gives up.
    """
    from quicether.config.load import ConfigFile, read_file, settle

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or DEFAULT_EDITOR
    while True:
        try:
            subprocess.run([*shlex.split(editor), str(draft)], check=True)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise HostError(f"the editor {editor!r} failed: {error}") from None
        try:
            written = read_file(draft)
            if written is None:
                raise ConfigError("the editor left no file")
            settle([ConfigFile(str(path), written.text)], {}, {})
        except ConfigError as error:
            print(f"quicether: {error}", file=sys.stderr)
            if not _again():
                raise ConfigError(f"{path} was left as it was") from None
        else:
            return written.text


def _again() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return not input("Edit again? [Y/n] ").lower().startswith("n")
    except EOFError:
        return False


def template() -> str:
    """Return a file that names every setting, each in a comment, with its default."""
    lines = [TEMPLATE_HEAD]
    sections: dict[str, list[Option]] = {}
    for option in OPTIONS.values():
        sections.setdefault(option.section, []).append(option)
    for section, options in sections.items():
        lines.append(f"[{section}]\n")
        for option in options:
            choices = f" ({', '.join(option.choices)})" if option.choices else ""
            lines.append(f"# {option.doc}{choices}\n# {option.field} = {_example(option)}\n")
        lines.append("\n")
    return "".join(lines)


def _example(option: Option) -> str:
    if option.kind.plural:
        return json.dumps(option.default) if option.default else "[]"
    return option.default if option.default.isdigit() else json.dumps(option.default)
