"""`quicether logs` and `quicether diag`: what happened, for oneself and for others."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Final

from quicether import __version__
from quicether.cli import offline
from quicether.errors import ConfigError, HostError

UNITS: Final = ("quicether.service", "quicether@*.service")
JOURNAL_LINES: Final = 2000
_PROGRAMS: Final = {
    "journal.txt": (
        "journalctl",
        "--no-pager",
        "--output=short-iso",
        f"--lines={JOURNAL_LINES}",
        *(f"--unit={unit}" for unit in UNITS),
    ),
    "addresses.txt": ("ip", "address"),
    "links.txt": ("ip", "-details", "link"),
    "routes-ipv4.txt": ("ip", "-4", "route", "show", "table", "all"),
    "routes-ipv6.txt": ("ip", "-6", "route", "show", "table", "all"),
    "rules.txt": ("ip", "rule"),
    "firewall.txt": ("nft", "list", "ruleset"),
    "unit.txt": ("systemctl", "status", "--no-pager", "--full", "quicether.service"),
}


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of `quicether`."""
    logs = subparsers.add_parser("logs", help="show what the service wrote to the journal")
    logs.add_argument("-f", "--follow", action="store_true", help="and what it writes from now on")
    logs.add_argument(
        "-n", "--lines", type=int, default=100, metavar="N", help="how much (default %(default)s)"
    )
    logs.set_defaults(func=_logs)

    diag = subparsers.add_parser(
        "diag",
        help="write a bundle for whoever helps you, without addresses and names",
        description="Write status, settings, journal, addresses, routes and firewall rules into "
        "an archive. Public addresses, node ids, hardware addresses and names become tokens; "
        "private keys are never read. Look at it before you give it away.",
    )
    diag.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to write it")
    diag.set_defaults(func=_diag)


def _logs(arguments: argparse.Namespace) -> int:
    command = ["journalctl", "--no-pager", f"--lines={max(0, arguments.lines)}"]
    command += [f"--unit={unit}" for unit in UNITS]
    command += ["--output=json"] if arguments.json else []
    command += ["--follow"] if arguments.follow else []
    try:
        return subprocess.run(command, check=False).returncode and 1
    except OSError as error:
        raise HostError(f"journalctl cannot be run: {error.strerror}") from None


def _diag(arguments: argparse.Namespace) -> int:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path: Path = arguments.output or Path(f"quicether-diag-{stamp}.tar.gz")
    files = bundle()
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(archive(files, f"quicether-diag-{stamp}"))
    except FileExistsError:
        raise ConfigError(f"--output: {path} exists already; name another file") from None
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}") from None
    offline.say(
        arguments,
        {"file": str(path), "content": sorted(files)},
        f"{path} is written: {', '.join(sorted(files))}",
    )
    return 0


def bundle() -> dict[str, str]:
    """Return file name → redacted content."""
    from quicether.cli import report
    from quicether.cli.doctor import CHECKS
    from quicether.cli.examine import config_files, examine, program
    from quicether.cli.redact import Redactor
    from quicether.config.values import PeerAddress

    facts, findings = examine()
    findings += [finding for check in CHECKS for finding in check(facts)]
    names = {platform.node(), os.environ.get("SUDO_USER", ""), os.environ.get("USER", "")}
    names |= {peer.name for found in facts.peers for peer in found.peers}
    for settings in facts.settings.values():
        names.add(settings.node.name or "")
        configured = [peer for peer in settings.overlay.peers if isinstance(peer, PeerAddress)]
        names |= {peer.node or "" for peer in configured}
        endpoints = [peer.endpoint for peer in configured]
        names |= {
            end.host for end in (*endpoints, *settings.discovery.bootstrap_nodes) if end.ip is None
        }
    if facts.status is not None:
        names |= {tunnel.node_name for tunnel in facts.status.tunnels}
    redactor = Redactor(names - {"root", "localhost"})
    versions = {
        "quicether": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "system": program("sh", "-c", ". /etc/os-release && echo $PRETTY_NAME"),
    }
    files = {
        "versions.json": json.dumps(versions, indent=2),
        "doctor.txt": "\n".join(f"{f.verdict} {f.check}: {f.text}" for f in findings),
        "service.txt": facts.trouble or "answers",
    }
    if facts.status is not None:
        files["status.json"] = json.dumps(report.plain(facts.status), indent=2)
    for number, found in enumerate(facts.peers, 1):
        files[f"peers-{number}.json"] = json.dumps(report.plain(found), indent=2)
    for path in config_files():
        files[path.name] = path.read_text(errors="replace")
    for name, command in _PROGRAMS.items():
        files[name] = program(*command) or f"{command[0]} gave nothing\n"
    return {name: redactor.redact(text) for name, text in files.items()}


def archive(files: dict[str, str], folder: str) -> bytes:
    """Return a gzipped tar archive of files in one folder."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in sorted(files.items()):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            content = text.encode()
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()
