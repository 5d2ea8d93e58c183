"""The few requests to the kernel's rtnetlink that a tunnel needs, over pyroute2's asyncio API.

All errors leave this file as HostError with a sentence. A tunnel works without IPv6 that the
machine has switched off, and without a route whose place is taken: `Ipv6Off` and `RouteTaken`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, Self

from pyroute2.iproute.linux import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD

from quicether.errors import HostError
from quicether.host.kernel_state import METRIC, PROTOCOL, KernelRoute, KernelRule
from quicether.host.namespaces import open_namespace, rtnetlink_socket_in
from quicether.host.rule_messages import FAMILIES, rule_fields, rule_of
from quicether.model import Address, Interface, Prefix

_UNICAST = 1
_UNREACHABLE = 7
_IPV6_OFF = frozenset((errno.EACCES, errno.EOPNOTSUPP, errno.EAFNOSUPPORT))
"""What the kernel answers where IPv6 is off by sysctl, by boot option or not built in."""
_NO_WAY = _IPV6_OFF | {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL}
"""No route, an unreachable, prohibited or blackhole one, or no IPv6 at all."""
_UP = 0x1
_LOOPBACK = 0x8
_GONE = frozenset((errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL))


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A link as the kernel tells of it. mtu: bytes."""

    index: int
    name: str
    mtu: int
    up: bool
    loopback: bool
    addresses: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """A routing decision. index: of the link. mtu: bytes where the route knows one."""

    index: int
    source: Address | None
    gateway: Address | None
    mtu: int | None


@dataclass(frozen=True, slots=True)
class Exit:
    """A route of the main table as broad as a default route. index: of the link."""

    prefix: Prefix
    index: int
    gateway: Address | None
    metric: int


class Ipv6Off(HostError):
    """The machine has IPv6 switched off on the device or altogether."""


class RouteTaken(HostError):
    """Somebody else's route has the same prefix, table and metric."""


class Rtnetlink:
    """A socket to rtnetlink, in the host's own network namespace or in a named one."""

    def __init__(self, route: AsyncIPRoute) -> None:
        """Take over an unused AsyncIPRoute. Made by `open`."""
        self._route = route

    @classmethod
    def open(cls, namespace: str | None = None) -> Self:
        """Connect to rtnetlink of a network namespace, None for the host's own.

        Raises HostError: no such namespace, or we may not enter it.
        """
        if namespace is None:
            # No groups: nobody would read the notifications, and they would pile up.
            return cls(AsyncIPRoute(groups=0))
        return cls(AsyncIPRoute(groups=0, fileno=rtnetlink_socket_in(namespace)))

    def close(self) -> None:
        """Free the socket. Idempotent."""
        self._route.close()

    async def link_index(self, name: str) -> int | None:
        """Return the index of the link called name, None where there is none."""
        with _asking(f"link {name}"):
            try:
                found = await self._route.link("get", ifname=name)
            except NetlinkError as refusal:
                if refusal.code == errno.ENODEV:
                    return None
                raise
        return int(found[0]["index"])

    async def links(self) -> list[LinkInfo]:
        """Return every link with its addresses."""
        with _asking("links"):
            messages = [message async for message in await self._route.link("dump")]
        with _asking("addresses"):
            owners = [
                (message["index"], _interface_of(message))
                async for message in await self._route.addr("dump")
            ]
        return [
            LinkInfo(
                message["index"],
                message.get_attr("IFLA_IFNAME"),
                message.get_attr("IFLA_MTU"),
                bool(message["flags"] & _UP),
                bool(message["flags"] & _LOOPBACK),
                tuple(address for index, address in owners if index == message["index"]),
            )
            for message in messages
        ]

    async def way_to(self, destination: Address, mark: int) -> Way | None:
        """Return how the kernel sends a packet with a mark to destination, None where it cannot."""
        with _asking(f"route to {destination}"):
            try:
                (found, *_) = await self._route.route(
                    "get",
                    family=FAMILIES[destination.version],
                    dst=str(destination),
                    **({"mark": mark} if mark else {}),
                )
            except NetlinkError as refusal:
                if refusal.code in _NO_WAY:
                    return None
                raise
        metrics = found.get_attr("RTA_METRICS")
        return Way(
            found.get_attr("RTA_OIF"),
            _address_or_none(found.get_attr("RTA_PREFSRC")),
            _address_or_none(found.get_attr("RTA_GATEWAY")),
            None if metrics is None else metrics.get_attr("RTAX_MTU"),
        )

    async def make_tun(self, name: str) -> None:
        """Make a TUN device as `Tun` expects it: no packet information, but a virtio_net_hdr."""
        with _asking(f"device {name}"):
            await self._route.link(
                "add", ifname=name, kind="tuntap", mode="tun", ifr={"no_pi": 1, "vnet_hdr": 1}
            )

    async def delete_link(self, index: int) -> None:
        """Delete a link. One that is gone already is no error."""
        with _asking(f"link {index}"), _gone_is_fine():
            await self._route.link("del", index=index)

    async def set_mtu(self, index: int, mtu: int) -> None:
        """Set the MTU in bytes. Below 1280 the kernel takes IPv6 off the link."""
        with _asking(f"MTU {mtu}"):
            await self._route.link("set", index=index, mtu=mtu)

    async def set_up(self, index: int) -> None:
        """Switch the link on."""
        with _asking(f"link {index}"):
            await self._route.link("set", index=index, state="up")

    async def silence(self, index: int) -> None:
        """Give the link no IPv6 link-local address, so that no neighbour talk enters the tunnel.

        Raises Ipv6Off: there is no IPv6 to be silent.
        """
        silent = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}
        with _asking(f"link {index}", 6):
            await self._route.link("set", index=index, IFLA_AF_SPEC=silent)
        for address in await self._all_addresses(index):
            if address.version == 6 and address.is_link_local:
                await self.delete_address(index, address)

    async def move_link(self, index: int, namespace: str) -> None:
        """Move a link into a named network namespace, where it arrives switched off."""
        descriptor = open_namespace(namespace)
        try:
            with _asking(f"network namespace {namespace}"):
                await self._route.link("set", index=index, net_ns_fd=descriptor)
        finally:
            os.close(descriptor)

    async def addresses(self, index: int) -> frozenset[Interface]:
        """Return the addresses of a link, IPv6 link-local ones not included."""
        found = await self._all_addresses(index)
        return frozenset(one for one in found if one.version == 4 or not one.is_link_local)

    async def _all_addresses(self, index: int) -> list[Interface]:
        with _asking("addresses"):
            return [
                _interface_of(message)
                async for message in await self._route.addr("dump", index=index)
            ]

    async def add_address(self, index: int, address: Interface) -> None:
        """Put an address on a link without duplicate address detection: nobody shares it."""
        with _asking(f"address {address}", address.version), _there_is_fine():
            await self._route.addr(
                "add",
                index=index,
                family=FAMILIES[address.version],
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
                flags=IFA_F_NODAD,
            )

    async def delete_address(self, index: int, address: Interface) -> None:
        """Take an address off a link. One that is gone already is no error."""
        with _asking(f"address {address}"), _gone_is_fine():
            await self._route.addr(
                "del",
                index=index,
                family=FAMILIES[address.version],
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
            )

    async def routes(self) -> dict[KernelRoute, int | None]:
        """Return all routes of ours with the index of their link, None for unreachable ones."""
        found: dict[KernelRoute, int | None] = {}
        for version, family in FAMILIES.items():
            with _asking("routes", version):
                async for message in await self._route.route("dump", family=family):
                    if message["proto"] == PROTOCOL:
                        unreachable = message["type"] == _UNREACHABLE
                        table = message.get_attr("RTA_TABLE")
                        route = KernelRoute(_prefix_of(message), table, unreachable)
                        found[route] = None if unreachable else message.get_attr("RTA_OIF")
        return found

    async def add_route(self, index: int, route: KernelRoute) -> None:
        """Add a route. One of the same prefix, table and metric that is there is not replaced.

        Raises RouteTaken, Ipv6Off, HostError.
        """
        with _asking(f"route {route.prefix}", route.prefix.version):
            try:
                await self._route.route("add", **_route_fields(index, route))
            except NetlinkError as refusal:
                if refusal.code != errno.EEXIST:
                    raise
                raise RouteTaken(
                    f"prefix {route.prefix}: somebody else has put a route there, metric {METRIC}"
                ) from refusal

    async def delete_route(self, index: int, route: KernelRoute) -> None:
        """Take a route away. One that is gone already is no error."""
        with _asking(f"route {route.prefix}"), _gone_is_fine():
            await self._route.route("del", **_route_fields(index, route))

    async def exits(self, table: int, longest: int) -> frozenset[Exit]:
        """Return the routes of a table whose prefixes have at most that length."""
        found: set[Exit] = set()
        for version, family in FAMILIES.items():
            with _asking("routes", version):
                async for message in await self._route.route("dump", family=family, table=table):
                    if message["dst_len"] <= longest and message["type"] == _UNICAST:
                        prefix, metric = _prefix_of(message), message.get_attr("RTA_PRIORITY") or 0
                        found |= {Exit(prefix, *hop, metric) for hop in _hops(message)}
        return frozenset(found)

    async def add_exit(self, table: int, way: Exit) -> None:
        """Put a copy of a route into a table of ours."""
        with _asking(f"route {way.prefix}", way.prefix.version), _there_is_fine():
            await self._route.route("add", **_exit_fields(table, way))

    async def delete_exit(self, table: int, way: Exit) -> None:
        """Take a copy away. One that is gone already is no error."""
        with _asking(f"route {way.prefix}"), _gone_is_fine():
            await self._route.route("del", **_exit_fields(table, way))

    async def rules(self) -> frozenset[KernelRule]:
        """Return the policy routing rules of ours."""
        found: set[KernelRule] = set()
        for version, family in FAMILIES.items():
            with _asking("routing rules", version):
                async for message in await self._route.rule("dump", family=family):
                    if message.get_attr("FRA_PROTOCOL") == PROTOCOL:
                        found.add(rule_of(message, version))
        return frozenset(found)

    async def add_rule(self, rule: KernelRule) -> None:
        """Add a policy routing rule."""
        with _asking(f"routing rule {rule.priority}", rule.version), _there_is_fine():
            await self._route.rule("add", **rule_fields(rule))

    async def delete_rule(self, rule: KernelRule) -> None:
        """Take a rule away. One that is gone already is no error."""
        with _asking(f"routing rule {rule.priority}"), _gone_is_fine():
            await self._route.rule("del", **rule_fields(rule))


def _route_fields(index: int, route: KernelRoute) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "family": FAMILIES[route.prefix.version],
        "dst": str(route.prefix) if route.prefix.prefixlen else "default",
        "table": route.table,
        "proto": PROTOCOL,
        "priority": METRIC,
    }
    if route.unreachable:
        return fields | {"type": _UNREACHABLE}
    return fields | {"oif": index}


def _exit_fields(table: int, way: Exit) -> dict[str, Any]:
    fields = _route_fields(way.index, KernelRoute(way.prefix, table)) | {"priority": way.metric}
    return fields if way.gateway is None else fields | {"gateway": str(way.gateway)}


def _hops(message: Any) -> Iterator[tuple[int, Address | None]]:
    """Yield link and gateway of a route; of several hops the first of each link."""
    index = message.get_attr("RTA_OIF")
    if index is not None:
        yield index, _address_or_none(message.get_attr("RTA_GATEWAY"))
    hops = {hop["oif"]: hop for hop in reversed(message.get_attr("RTA_MULTIPATH") or ())}
    for index, hop in hops.items():
        yield index, _address_or_none(hop.get_attr("RTA_GATEWAY"))


def _interface_of(message: Any) -> Interface:
    # IFA_LOCAL is the own end where IFA_ADDRESS names the other (linux/if_addr.h).
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return ip_interface((address, message["prefixlen"]))


def _address_or_none(text: str | None) -> Address | None:
    return None if text is None else ip_address(text)


def _prefix_of(message: Any) -> Prefix:
    everything = "0.0.0.0" if message["family"] == socket.AF_INET else "::"  # noqa: S104
    return ip_network((message.get_attr("RTA_DST") or everything, message["dst_len"]))


@contextmanager
def _asking(what: str, version: int = 4) -> Iterator[None]:
    """Turn what the kernel refuses into a HostError about `what`."""
    try:
        yield
    except NetlinkError as refusal:
        if version == 6 and refusal.code in _IPV6_OFF:
            raise Ipv6Off(f"{what}: IPv6 is switched off on this machine") from refusal
        if refusal.code == errno.EPERM:
            raise HostError(f"{what}: not permitted; the daemon needs CAP_NET_ADMIN") from refusal
        raise HostError(f"{what}: {os.strerror(refusal.code)}") from refusal
    except OSError as refusal:
        raise HostError(f"{what}: {refusal.strerror or refusal}") from refusal


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except NetlinkError as refusal:
        if refusal.code not in _GONE:
            raise


@contextmanager
def _there_is_fine() -> Iterator[None]:
    try:
        yield
    except NetlinkError as refusal:
        if refusal.code != errno.EEXIST:
            raise
