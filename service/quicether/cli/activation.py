"""How a network's tunnel comes up on this machine: a NetworkManager profile, or a unit of systemd.

Either names the network alone; all settings are in the stored configuration, which both read.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from quicether.errors import HostError

PROFILE: Final = "quicether"
"""Name of the profile, where no other network has it."""
_SERVICE: Final = "org.freedesktop.NetworkManager.quicether"
_TIMEOUT: Final = 90.0
"""Seconds that a command may take; NetworkManager gives a VPN 60."""
_NETWORK: Final = re.compile(r"(?:^|,)\s*network\s*=\s*([a-z0-9-]+)\s*(?:,|$)")


class Activation(Protocol):
    """What brings a network's tunnel up and down."""

    @property
    def what(self) -> str:
        """What it is, for a sentence."""

    @property
    def command(self) -> str:
        """The command that brings the tunnel up."""

    def add(self) -> None:
        """Make it, unless it is there. Raises HostError."""

    def up(self) -> None:
        """Bring the tunnel up now. Raises HostError."""

    def remove(self) -> bool:
        """Take the tunnel down and remove it; tell whether it was there. Raises HostError."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A profile of ours. network: what its settings name, "" for nothing."""

    uuid: str
    name: str
    network: str


class Profile:
    """A profile of NetworkManager."""

    def __init__(self, network: str) -> None:
        """Raises HostError: NetworkManager does not answer."""
        self._network = network
        found = _profiles()
        self._mine = [each for each in found if each.network == network]
        taken = {each.name for each in found}
        unused = PROFILE if PROFILE not in taken else f"{PROFILE}-{network}"
        self._name = self._mine[0].name if self._mine else unused

    @property
    def what(self) -> str:
        """See `Activation.what`."""
        return f"NetworkManager's profile {self._name}"

    @property
    def command(self) -> str:
        """See `Activation.command`."""
        return shlex.join(("nmcli", "connection", "up", self._name))

    def add(self) -> None:
        """See `Activation.add`."""
        if not self._mine:
            kind = ("type", "vpn", "vpn-type", "quicether")
            data = ("vpn.data", f"network={self._network}")
            _run("nmcli", "connection", "add", *kind, "con-name", self._name, *data)

    def up(self) -> None:
        """See `Activation.up`."""
        try:
            _run("nmcli", "connection", "up", self._name)
        except HostError as error:
            if "source connection" in str(error):
                raise HostError(
                    f"{error} NetworkManager puts a VPN on a connection with a default route, and "
                    f"there is none now; without one, use: quicether up {self._network}"
                ) from None
            raise

    def remove(self) -> bool:
        """See `Activation.remove`."""
        for each in self._mine:
            _run("nmcli", "connection", "delete", each.uuid)
        return bool(self._mine)


class Unit:
    """The instance of `quicether@.service` for a network."""

    def __init__(self, network: str) -> None:
        self._unit = f"quicether@{network}.service"

    @property
    def what(self) -> str:
        """See `Activation.what`."""
        return f"systemd's unit {self._unit}"

    @property
    def command(self) -> str:
        """See `Activation.command`."""
        return f"systemctl start {self._unit}"

    def add(self) -> None:
        """See `Activation.add`."""
        _run("systemctl", "--quiet", "enable", self._unit)

    def up(self) -> None:
        """See `Activation.up`."""
        _run("systemctl", "start", self._unit)

    def remove(self) -> bool:
        """See `Activation.remove`."""
        state = _try("systemctl", "is-enabled", self._unit).stdout.strip()
        active = _try("systemctl", "is-active", self._unit).stdout.strip()
        if state != "enabled" and active in ("inactive", "unknown"):
            return False
        _run("systemctl", "--quiet", "disable", "--now", self._unit)
        return True


def activations(network: str) -> list[Activation]:
    """Return what can bring the network's tunnel up here, the preferred one first.

    Raises HostError: the machine runs neither NetworkManager nor systemd.
    """
    found: list[Activation] = []
    if _answers("nmcli", "-g", "RUNNING", "general", expect="running"):
        found.append(Profile(network))
    if _answers("systemctl", "show", "--property=Version", "--value"):
        found.append(Unit(network))
    if not found:
        raise HostError(
            "neither NetworkManager nor systemd runs here; bring the tunnel up with: "
            f"quicether up {network}"
        )
    return found


def _profiles() -> list[_Found]:
    """Return all VPN profiles of ours. Raises HostError."""
    listed = _run("nmcli", "-g", "UUID,TYPE", "connection", "show").splitlines()
    found = []
    for uuid in [line.partition(":")[0] for line in listed if line.endswith(":vpn")]:
        fields = "vpn.service-type,connection.id,vpn.data"
        values = _run("nmcli", "-e", "no", "-g", fields, "connection", "show", uuid).splitlines()
        if len(values) >= 2 and values[0] == _SERVICE:
            network = _NETWORK.search(values[2] if len(values) > 2 else "")
            found.append(_Found(uuid, values[1], network[1] if network else ""))
    return found


def _answers(*command: str, expect: str = "") -> bool:
    try:
        done = _try(*command)
    except HostError:
        return False
    return done.returncode == 0 and expect in ("", done.stdout.strip())


def _run(*command: str) -> str:
    """Run a command to its end and return its output. Raises HostError: it failed."""
    done = _try(*command)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
        raise HostError(f"{' '.join(command[:3])} failed: {said.removeprefix('Error: ')}")
    return done.stdout


def _try(*command: str) -> subprocess.CompletedProcess[str]:
    arguments: Sequence[str] = command
    try:
        return subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise HostError(f"there is no program {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise HostError(f"{' '.join(command[:3])} took more than {_TIMEOUT:g} s") from None
