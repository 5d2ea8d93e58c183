"""The seam between the D-Bus API and what it drives. Implemented by the daemon.

All calls happen on the daemon's event loop. Read-only properties answer at once, from memory.
Methods raise a QuicEtherError with a sentence for the caller; anything else is a bug of ours and
reaches the caller as a plain failure without detail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from quicether.bus.contract import LinkOwnerName, TunnelState
from quicether.bus.status import (
    JoinResult,
    LookupResult,
    PeerStatus,
    PingResult,
    PolicyVerdict,
    RouteStatus,
)
from quicether.counters import Counters
from quicether.errors import ConfigError
from quicether.host.desired import HostConfig
from quicether.identity.invite_code import InviteCode
from quicether.model import Address, NodeId, Prefix, UnderlayAddress


class NoSuchTunnelError(ConfigError):
    """A tunnel was named that is neither up nor stored."""


class AlreadyUpError(ConfigError):
    """A tunnel was to be brought up that is up with other settings or another owner."""


@dataclass(frozen=True, slots=True)
class UpRequest:
    """How a tunnel is to be brought up.

    owner: who owns the link; None as configured. transient: options alone count, a stored
    configuration of that name is not read.
    """

    owner: LinkOwnerName | None = None
    transient: bool = False


class TunnelView(Protocol):
    """One tunnel as the bus publishes it."""

    @property
    def name(self) -> str:
        """Name under which it was brought up."""

    @property
    def state(self) -> TunnelState:
        """Where it is in its life."""

    @property
    def ready(self) -> bool:
        """Whether packets can flow: device up, socket bound, desired state applied."""

    @property
    def network(self) -> str:
        """Name of the network."""

    @property
    def node_id(self) -> NodeId:
        """This node."""

    @property
    def node_name(self) -> str:
        """This node's name, as its certificate says."""

    @property
    def listen_port(self) -> int:
        """The UDP port that is bound, 0 before it is."""

    @property
    def endpoints(self) -> Sequence[UnderlayAddress]:
        """Where other machines may reach this node, the most likely first."""

    @property
    def link(self) -> LinkOwnerName:
        """Who owns the link; never `AUTO` once the tunnel runs."""

    @property
    def link_reason(self) -> str:
        """Why that is so, a sentence."""

    @property
    def since(self) -> float:
        """Unix time at which it was brought up."""

    @property
    def host_config(self) -> HostConfig | None:
        """What the OS is to have; None before it is known."""

    @property
    def counters(self) -> Counters:
        """Running totals."""

    @property
    def offers(self) -> Sequence[Prefix]:
        """Prefixes that this node leads others to, its own addresses not among them."""

    @property
    def refusals(self) -> Sequence[str]:
        """What was not taken and why, a sentence each (prefixes that conflict, records, …)."""

    @property
    def peer_count(self) -> int:
        """How many peers there are."""

    @property
    def peers_revision(self) -> object:
        """Something else whenever `peers` and `peer_count` may be; cheap, however many there are.

        What is measured all the time, as round-trip times are, need not count.
        """

    @property
    def route_count(self) -> int:
        """How many routes there are."""

    @property
    def routes_revision(self) -> object:
        """Something else whenever `routes` and `route_count` may be; likewise."""

    def peers(self, start: int, count: int) -> Sequence[PeerStatus]:
        """Return at most count peers from the start-th on, ordered by name, then id."""

    def routes(self, start: int, count: int) -> Sequence[RouteStatus]:
        """Return at most count routes from the start-th on, ordered by prefix, then preference."""

    async def lookup(self, address: Address) -> LookupResult:
        """Say where packets to address go; asks the DHT where no route is known."""

    async def ping(self, node: str) -> PingResult:
        """Ask a node (name, id or unique beginning of one) for a sign of life.

        Raises ConfigError: no such node, or the beginning is not unique; UnreachableError.
        """

    async def policy_test(
        self, source: str, destination: Address, protocol: str, port: int | None
    ) -> PolicyVerdict:
        """Say what the policy in force does with a packet.

        source: node name or id. protocol: `tcp`, `udp`, `icmp` or `any`. Raises ConfigError.
        """


class Controller(Protocol):
    """Brings tunnels up and down."""

    @property
    def tunnels(self) -> Mapping[str, TunnelView]:
        """All tunnels by name, from the moment they start until they are gone."""

    @property
    def failures(self) -> Mapping[str, str]:
        """Tunnel → the sentence of its last failure; bounded, cleared by a successful `up`."""

    def overridden(
        self, name: str, options: Mapping[str, str], request: UpRequest
    ) -> Sequence[str]:
        """Return the privileged options that `up` would set otherwise than an administrator did.

        That is what is stored for the tunnel's network, left out or set otherwise.
        Raises ConfigError, which `failures` then shows.
        """

    async def up(self, name: str, options: Mapping[str, str], request: UpRequest) -> TunnelView:
        """Bring a tunnel up and return it once it is `RUNNING`, peers connected or not.

        options: keys of `config.options.OPTIONS`; they override the stored configuration.
        Raises ConfigError (AlreadyUpError, NoSuchTunnelError), IdentityError, HostError; then
        nothing is left of it but its sentence in `failures`. Safe to cancel.
        """

    async def down(self, name: str) -> None:
        """Take a tunnel down and return when nothing is left of it. Raises NoSuchTunnelError."""

    async def reload(self, name: str) -> None:
        """Read the tunnel's configuration, policy and revocations again and apply them live.

        Raises NoSuchTunnelError, or ConfigError: something is wrong and all stays as it was.
        """

    async def renew(self, name: str) -> datetime:
        """Get the next certificate of the tunnel's node, use it, and return its end, UTC.

        Raises NoSuchTunnelError; ConfigError: too early, or the network has no authority;
        UnreachableError: the authority is not connected; TrustError, IdentityError, HostError.
        """

    async def join(self, code: InviteCode) -> JoinResult:
        """Make this machine a member of the network that a code invites to.

        Raises ConfigError: the network is this machine's own, or settings are wrong; TrustError:
        the code is refused; UnreachableError, IdentityError, ProtocolError; HostError: a machine
        joins one network at a time, or the program that joins is not there.
        """

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call changed whenever anything published may be different; it is cheap to call."""
