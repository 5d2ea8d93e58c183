"""Gathers what `quicether doctor` and `quicether diag` look at. Changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from datetime import UTC, datetime
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, Final

from quicether.bus.contract import DEFAULT_TUNNEL
from quicether.cli import report
from quicether.cli.client import daemon
from quicether.cli.findings import Facts, Finding, Verdict, of_error
from quicether.config.load import DEFAULT_FILE, MAX_FILE, load
from quicether.config.settings import Settings
from quicether.errors import QuicEtherError
from quicether.identity.store import NetworkStore, network_names, other_folders, roots
from quicether.model import Address, Interface
from quicether.plainfile import read_plain

PROGRAM_TIMEOUT: Final = 10.0
"""Seconds that a program of the system may take."""


def examine() -> tuple[Facts, list[Finding]]:
    """Return the facts, and what went wrong while they were gathered."""
    settings, findings = _settings()
    findings += _identities()
    status: report.StatusReport | None = None
    peers: list[report.PeersReport] = []
    trouble = ""
    try:
        with daemon() as service:
            status = report.status(service)
            peers += [report.peers(service, tunnel.name) for tunnel in status.tunnels]
    except QuicEtherError as error:
        trouble = str(error)
    return (
        Facts(
            settings=settings,
            status=status,
            trouble=trouble,
            peers=tuple(peers),
            firewall=_firewall(),
            mtus=_mtus(),
            links=_links(),
            gateways=_gateways(),
            capabilities=_capabilities(),
        ),
        findings,
    )


def program(*command: str) -> str | None:
    """Return what a program of the system prints, None where it is missing or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def config_files() -> list[Path]:
    """Return all stored configurations: of networks, of pinned peers, and the default tunnel's.

    Policy files beside them are not among them.
    """
    etc, _ = roots()
    named = [DEFAULT_FILE, *(f"{name}.toml" for name in network_names(etc))]
    found = [path for name in named if (path := etc / name).exists()]
    others = [path for path in sorted(etc.glob("*.toml")) if path.name not in named]
    return found + [path for path in others if _holds_settings(path)]


def _holds_settings(path: Path) -> bool:
    """Tell whether a file is a tunnel's configuration, by its sections."""
    try:
        sections = tomllib.loads(read_plain(path, MAX_FILE).decode())
    except (OSError, ValueError):  # UnicodeDecodeError among them
        return False  # nobody can tell
    return bool(sections) and set(sections) <= set(Settings.model_fields)


def _settings() -> tuple[dict[str, Settings], list[Finding]]:
    settings: dict[str, Settings] = {}
    findings: list[Finding] = []
    for path in config_files():
        name = DEFAULT_TUNNEL if path.name == DEFAULT_FILE else path.stem
        try:
            settings[name] = load([path], os.environ, {})
            findings.append(Finding("settings", Verdict.OK, f"{path} is right"))
        except QuicEtherError as error:
            findings.append(of_error("settings", error, f"quicether config edit {name}"))
    return settings, findings


def _identities() -> list[Finding]:
    findings: list[Finding] = []
    etc, _ = roots()
    for name in network_names(etc):
        store = NetworkStore.of_system(name)
        if not os.access(store.key_path, os.R_OK) and os.geteuid() != 0:
            continue  # a key that only root can read is as it should be
        try:
            store.load_identity(datetime.now(UTC))
        except QuicEtherError as error:
            findings.append(of_error("identity", error))
        else:
            findings.append(Finding("identity", Verdict.OK, f"{name}: key and certificate fit"))
    for folder in other_folders(etc):
        text = f"{etc / 'networks' / folder} is left alone: its name is no network's"
        findings.append(Finding("identity", Verdict.NOTE, text, "keep copies somewhere else"))
    return findings


def _firewall() -> list[dict[str, Any]] | None:
    text = program("nft", "--json", "list", "ruleset")
    if text is None:
        return None
    found: list[dict[str, Any]] = json.loads(text).get("nftables", [])
    return found


def _mtus() -> dict[str, int]:
    found = {}
    for device in Path("/sys/class/net").iterdir():
        try:
            found[device.name] = int((device / "mtu").read_text())
        except OSError:
            continue  # gone between the listing and the reading
    return found


def _links() -> list[tuple[str, Interface]]:
    shown = json.loads(program("ip", "-json", "address") or "[]")
    return [
        (link["ifname"], ip_interface((each["local"], each["prefixlen"])))
        for link in shown
        for each in link.get("addr_info", ())
        if "LOOPBACK" not in link["flags"] and "local" in each
    ]


def _gateways() -> list[Address]:
    found: list[Address] = []
    for family in ("-4", "-6"):
        shown = json.loads(program("ip", "-json", family, "route", "show", "default") or "[]")
        found += [ip_address(route["gateway"]) for route in shown if "gateway" in route]
    return found


def _capabilities() -> int | None:
    pid = program("systemctl", "show", "--property=MainPID", "--value", "quicether.service")
    if pid is None or not pid.strip().isdigit() or pid.strip() == "0":
        return None
    try:
        status = Path(f"/proc/{pid.strip()}/status").read_text()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), None)
    return None if line is None else int(line.split()[1], 16)
