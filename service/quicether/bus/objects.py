"""The objects on the bus: the manager, and one for each tunnel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from quicether.bus import api, wire
from quicether.bus.authorise import Authority, NotAuthorizedError
from quicether.bus.bindings import Bindings
from quicether.bus.contract import LIST_LIMIT, Action, How, LinkOwnerName, tunnel_path
from quicether.bus.controller import Controller, TunnelView, UpRequest
from quicether.bus.dispatch import Caller
from quicether.bus.interface import Interface
from quicether.bus.status import Wire, to_wire
from quicether.config import values
from quicether.config.options import OPTIONS
from quicether.config.settings import unknown
from quicether.errors import ConfigError
from quicether.host.desired import HostConfig
from quicether.identity.invite_code import InviteCode

_HOW_SIGNATURE: Final = {How.OWNER: "s", How.BOUND: "b", How.TRANSIENT: "b", How.PRIVATE: "b"}
_TRUSTED_BY: Final = frozenset({"pinned-peers", "key-file", "certificate-file"})
"""Options that say who is trusted, or as whom this node is."""
_PROTOCOLS: Final = ("tcp", "udp", "icmp", "any")


class ManagerObject:
    """The object at `contract.ROOT_PATH`."""

    def __init__(
        self, controller: Controller, authority: Authority, bindings: Bindings, version: str
    ) -> None:
        self._controller = controller
        self._authority = authority
        self._bindings = bindings
        self._version = version

    @property
    def interface(self) -> Interface:
        """See `Exported.interface`."""
        return api.MANAGER

    def get(self, name: str) -> Any:
        """See `Exported.get`."""
        return self._version if name == "Version" else dict(self._controller.failures)

    def revision(self, name: str) -> object:
        """See `Exported.revision`."""
        return self.get(name)

    async def call(self, method: str, args: Sequence[Any], caller: Caller) -> Sequence[Any]:
        """See `Exported.call`."""
        if method == "Join":
            return [to_wire(await self._controller.join(InviteCode.parse(args[0])))]
        tunnel = _field("tunnel", values.tunnel, args[0])
        if method == "Up":
            return [await self._up(tunnel, args[1], args[2], caller)]
        if method == "Down":
            await self._controller.down(tunnel)
        elif method == "Renew":
            return [(await self._controller.renew(tunnel)).timestamp()]
        else:
            await self._controller.reload(tunnel)
        return []

    async def _up(
        self, tunnel: str, options: Mapping[str, str], how: Mapping[str, Any], caller: Caller
    ) -> str:
        given = parse_how(how)
        request = UpRequest(owner=given.get(How.OWNER), transient=given.get(How.TRANSIENT, False))
        # What is wrong with the settings is said before anything else, and who brings nothing
        # but privileged options may leave out others that are stored.
        left_out = self._controller.overridden(tunnel, options, request)
        privileged = [key for key in options if key in OPTIONS and OPTIONS[key].privileged]
        if privileged and given.get(How.PRIVATE):
            raise NotAuthorizedError(
                f"{privileged[0]} is not taken from a profile that belongs to one user; make "
                "the profile available to all users, or set it in /etc/quicether"
            )
        if left_out and given.get(How.PRIVATE):
            raise NotAuthorizedError(
                f"{left_out[0]} would not be as it is stored for this network, which a profile "
                "that belongs to one user cannot change; name the stored network alone in it"
            )
        for action in sorted({_action_of(key) for key in (*privileged, *left_out)}):
            await self._authority.check(caller.name, action, caller.interactive)
        if given.get(How.BOUND):
            view = await self._bindings.up(caller.name, tunnel, options, request)
        else:
            view = await self._controller.up(tunnel, options, request)
        return tunnel_path(view.name)


def _action_of(key: str) -> Action:
    """Return what polkit is asked before a privileged option is taken, or left out."""
    return Action.TRUST if key in _TRUSTED_BY else Action.CONFIGURE


def parse_how(how: Mapping[str, tuple[str, Any]]) -> dict[How, Any]:
    """Return the argument `how` of Manager.Up with its owner as LinkOwnerName.

    Raises ConfigError: an unknown key, a wrong type, an unknown owner.
    """
    found: dict[How, Any] = {}
    for key, (signature, value) in how.items():
        if key not in set(How):
            raise ConfigError(unknown(f"how: {key[:80]!r}", key, How))
        expected = _HOW_SIGNATURE[How(key)]
        if signature != expected:
            raise ConfigError(f"how: {key} has type {signature!r}; {expected!r} is needed")
        found[How(key)] = value
    if How.OWNER in found:
        choose = values.choice(LinkOwnerName)
        found[How.OWNER] = LinkOwnerName(_field("how: owner", choose, found[How.OWNER]))
    return found


class TunnelObject:
    """The object of one tunnel."""

    def __init__(self, view: TunnelView) -> None:
        self.view = view
        self._shown: tuple[HostConfig | None, Wire] = (None, {})

    @property
    def interface(self) -> Interface:
        """See `Exported.interface`."""
        return api.TUNNEL

    def get(self, name: str) -> Any:
        """See `Exported.get`."""
        view = self.view
        match name:
            case "State" | "Link":
                return str(getattr(view, name.lower()))
            case "NodeId":
                return str(view.node_id)
            case "HostConfig":
                # Asked for at every change, and seldom another one.
                if self._shown[0] is not view.host_config:
                    self._shown = view.host_config, wire.host_config(view.host_config)
                return self._shown[1]
            case "Counters":
                return wire.counters(view.counters)
            case "Offers":
                return list(map(str, view.offers))
            case "Refusals":
                return list(view.refusals)
            case "Endpoints":
                return [str(endpoint) for endpoint in view.endpoints]
            case "Peers":
                return [to_wire(peer) for peer in view.peers(0, LIST_LIMIT)]
            case "Routes":
                return [to_wire(route) for route in view.routes(0, LIST_LIMIT)]
        return getattr(view, _ATTRIBUTES[name])

    def revision(self, name: str) -> object:
        """See `Exported.revision`."""
        return getattr(self.view, _REVISIONS[name])

    async def call(self, method: str, args: Sequence[Any], caller: Caller) -> Sequence[Any]:
        """See `Exported.call`."""
        view = self.view
        match method:
            case "Lookup":
                address = _field("address", values.address, args[0])
                return [to_wire(await view.lookup(address))]
            case "Ping":
                return [to_wire(await view.ping(_field("node", values.node, args[0])))]
            case "PolicyTest":
                source = _field("source", values.node, args[0])
                destination = _field("destination", values.address, args[1])
                protocol = _field("protocol", values.choice(_PROTOCOLS), args[2])
                verdict = await view.policy_test(source, destination, protocol, args[3] or None)
                return [to_wire(verdict)]
        start, count = args[0], min(args[1], LIST_LIMIT)
        listed = view.peers(start, count) if method == "ListPeers" else view.routes(start, count)
        return [[to_wire(entry) for entry in listed]]


_ATTRIBUTES: Final = {
    "Name": "name",
    "Ready": "ready",
    "Network": "network",
    "NodeName": "node_name",
    "ListenPort": "listen_port",
    "LinkReason": "link_reason",
    "Since": "since",
    "PeerCount": "peer_count",
    "RouteCount": "route_count",
}
_REVISIONS: Final = {
    "PeerCount": "peers_revision",
    "Peers": "peers_revision",
    "RouteCount": "routes_revision",
    "Routes": "routes_revision",
}


def _field(name: str, parse: Any, value: object) -> Any:
    try:
        return parse(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
