"""`quicether logs` and `quicether diag`: what happened, for oneself and for others."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import subprocess
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quicether import __version__
from quicether.cli import offline
from quicether.errors import ConfigError, HostError, IdentityError
from quicether.plainfile import read_plain

if TYPE_CHECKING:
    from quicether.cli.findings import Facts

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

_COMMENT: Final = re.compile(r"""("(?:\\.|[^"\\\n])*"|'[^'\n]*')|#[^\n]*""")
"""A string of TOML, or a comment."""


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
        "an archive. Public addresses, private IPv6 addresses, node ids, keys, hardware addresses, "
        "names of nodes, networks, hosts and users, and comments are replaced, the same one by the "
        "same pseudonym all over the bundle; private IPv4 addresses and devices stay, private keys "
        "are never read. Look at it before you give it away.",
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
    from quicether.cli.redact import Redactor, names_in

    facts, findings = examine()
    findings += [finding for check in CHECKS for finding in check(facts)]
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
        files[path.name] = _content(path)
    for name, command in _PROGRAMS.items():
        files[name] = program(*command) or f"{command[0]} gave nothing\n"
    names, ids = _known(facts)
    for text in (*files.values(), *files):
        names |= names_in(text)
    redactor = Redactor(os.urandom(16), names, ids)
    return {redactor.redact(name): redactor.redact(text) for name, text in files.items()}


def _content(path: Path) -> str:
    from quicether.config.load import MAX_FILE

    try:
        text = read_plain(path, MAX_FILE).decode(errors="replace")
    except OSError as error:
        return f"cannot be read: {error.strerror}\n"
    # Comments may tell anything of anybody.
    return _COMMENT.sub(lambda found: found[1] or "#", text)


def _known(facts: Facts) -> tuple[set[str], set[str]]:
    """Return the names and the node ids that this machine knows of: nobody's business."""
    from quicether.config.values import PeerAddress
    from quicether.identity.store import NetworkStore, network_names, other_folders, roots

    host, _, domain = platform.node().partition(".")
    names = {host, domain, os.environ.get("SUDO_USER", ""), os.environ.get("USER", "")}
    ids = set()
    etc, _ = roots()
    for folder in (*network_names(etc), *other_folders(etc)):
        names.add(folder)
    for name in network_names(etc):
        store = NetworkStore.of_system(name)
        if store.may_certify:
            with contextlib.suppress(IdentityError):  # doctor.txt says what is wrong with it
                nodes = store.authority(datetime.now(UTC)).book().nodes
                names |= {node.name for node in nodes.values()}
                ids |= set(nodes)
    for tunnel, settings in facts.settings.items():
        overlay, network = settings.overlay, settings.network
        configured = [peer for peer in overlay.peers if isinstance(peer, PeerAddress)]
        endpoints = [*(peer.endpoint for peer in configured), *settings.discovery.bootstrap_nodes]
        names |= {tunnel, settings.node.name or "", network.name or "", network.netns or ""}
        names |= {peer.node or "" for peer in configured} | set(overlay.forward_nodes)
        names |= {overlay.default_gateway or "", *(each.node for each in overlay.static_routes)}
        names |= {endpoint.host for endpoint in endpoints if endpoint.ip is None}
        names |= {domain.lstrip("~") for domain in network.dns_domains}
        ids |= {str(pin.node_id) for pin in settings.security.pinned_peers}
    if facts.status is not None:
        for up in facts.status.tunnels:
            names |= {up.name, up.network, up.node_name}
            ids.add(up.node_id)
        names |= set(facts.status.failures)
    for listed in facts.peers:
        names |= {peer.name for peer in listed.peers}
        ids |= {peer.node_id for peer in listed.peers}
    return names, ids


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
