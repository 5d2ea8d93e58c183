"""What `quicether doctor` looks at, and what it says of it."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quicether.errors import QuicEtherError
from quicether.model import DEFAULT_DEVICE, Address, Interface, Prefix

if TYPE_CHECKING:
    from quicether.cli.report import PeersReport, StatusReport, TunnelReport
    from quicether.config.settings import Settings

ROOT: Final = Path("/")
_SYSCTL: Final = Path("proc/sys")


class Verdict(enum.StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. mend: what to do, a command where there is one."""

    check: str
    verdict: Verdict
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """A tunnel: as it runs, else as it is stored.

    offers: prefixes it leads others to. routes: those that lead into it, None while it is down.
    addresses: its own. by_hand: its user puts the routes; by_name: a peer is known by its name.
    """

    name: str
    device: str = DEFAULT_DEVICE
    port: int = 0
    offers: tuple[Prefix, ...] = ()
    routes: tuple[Prefix, ...] | None = None
    full_tunnel: bool = False
    addresses: tuple[str, ...] = ()
    by_hand: bool = False
    by_name: bool = False
    netns: str | None = None

    @classmethod
    def of(cls, name: str, settings: Settings | None, running: TunnelReport | None) -> Subject:
        """Put together what is known. What a tunnel was started with counts before the file."""
        found = cls(name)
        if settings is not None:
            network, overlay = settings.network, settings.overlay
            found = cls(
                name,
                network.tun_name,
                settings.discovery.dht_port,
                (*network.advertise_subnets, *overlay.forward_subnets),
                full_tunnel=settings.full_tunnel,
                by_hand=settings.discovery.routes == "none",
                by_name=any(peer.endpoint.ip is None for peer in overlay.peers),
                netns=network.netns,
            )
        if running is None or running.device is None:
            return found
        return cls(
            name,
            running.device,
            running.listen_port,
            tuple(map(ip_network, running.offers)),
            tuple(map(ip_network, running.prefixes)),
            running.full_tunnel,
            running.addresses,
            found.by_hand,
            found.by_name,
            found.netns,
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What the checks judge.

    root: where /proc and /dev are. firewall: nft's JSON ruleset, None where it cannot be read.
    mtus: device → MTU in bytes. status: None where the service does not answer; trouble says why.
    links: (device, address) of the host itself. gateways: next hops of its default routes.
    capabilities: effective ones of the service as a bit mask, None where it does not run.
    """

    root: Path = ROOT
    settings: dict[str, Settings] = field(default_factory=dict)
    status: StatusReport | None = None
    trouble: str = ""
    peers: tuple[PeersReport, ...] = ()
    firewall: Sequence[dict[str, Any]] | None = None
    mtus: dict[str, int] = field(default_factory=dict)
    links: Sequence[tuple[str, Interface]] = ()
    gateways: Sequence[Address] = ()
    capabilities: int | None = None

    @property
    def subjects(self) -> Iterator[Subject]:
        """All tunnels that are stored or run."""
        running = {} if self.status is None else {t.name: t for t in self.status.tunnels}
        for name in dict.fromkeys((*self.settings, *running)):
            yield Subject.of(name, self.settings.get(name), running.get(name))

    def sysctl(self, name: str) -> str:
        """Return a kernel setting, "" where there is none. Parts of name are set off by a /."""
        try:
            return (self.root / _SYSCTL / name).read_text().strip()
        except OSError:
            return ""

    def devices(self) -> list[str]:
        """Return the devices that have IPv4 settings."""
        folder = self.root / _SYSCTL / "net/ipv4/conf"
        found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        return [name for name in found if name not in ("all", "default", "lo")]


def of_error(check: str, error: QuicEtherError, mend: str = "") -> Finding:
    """Return the finding that an error is."""
    return Finding(check, Verdict.BAD, str(error), mend)
