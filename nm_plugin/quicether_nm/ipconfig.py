"""From the tunnel's desired state to NetworkManager's Config, Ip4Config and Ip6Config. Pure.

NetworkManager keeps nothing of an earlier signal, so each dictionary is always complete.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Final, Literal, NamedTuple, TypeVar

from quicether.bus.contract import HostConfigKey
from quicether.errors import HostError
from quicether.model import MIN_IPV6_MTU, Address, Interface, Prefix
from quicether_nm.states import Signal

ByteOrder = Literal["little", "big"]

DUMMY_GATEWAY: Final = IPv4Address("192.0.0.8")
"""The IPv4 dummy address (RFC 7600), for Config's gateway where the service names none.

NetworkManager refuses a Config without a gateway, and puts a host route to it on the parent device.
That must not be a peer, which may well be reached over another link; to this address none goes.
"""

_T = TypeVar("_T")


class BadHostConfigError(HostError):
    """Property HostConfig of a tunnel cannot be told to NetworkManager; the fault is ours."""


class Typed(NamedTuple):
    """A value and its D-Bus signature, to become a variant."""

    signature: str
    value: object


Dictionary = dict[str, Typed]
"""One a{sv}."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What NetworkManager is told of one tunnel, and sentences for what it cannot be told.

    ip4, ip6: None where the family is off.
    """

    config: Dictionary
    ip4: Dictionary | None
    ip6: Dictionary | None
    left_out: tuple[str, ...] = ()

    def following(self, previous: NetworkConfig | None) -> NetworkConfig:
        """Return what to tell while previous is in force.

        NetworkManager 1.42 never takes a family back from an active VPN: neither has-ip6=false nor
        an empty dictionary nor a reconnect removes anything. Routes of a family that ended would
        stay, so it is told once more, with its address and nothing else.
        """
        if previous is None:
            return self
        ip4 = self.ip4 or _bare(previous.ip4)
        ip6 = self.ip6 or _bare(previous.ip6)
        config = {
            **self.config,
            "has-ip4": Typed("b", ip4 is not None),
            "has-ip6": Typed("b", ip6 is not None),
        }
        left_out = self.left_out
        if _name_servers(self) != _name_servers(previous):
            # 1.42 hands them to the resolver when it activates the connection, and never again.
            left_out += ("changed name servers: NetworkManager may want a new activation",)
        return NetworkConfig(config, ip4, ip6, left_out)

    def signals_since(self, previous: NetworkConfig | None) -> dict[Signal, Dictionary]:
        """Return the dictionaries to send, given what was sent before.

        Config comes only where it changed, and then with every family that it announces, because
        NetworkManager waits for them again.
        """
        everything = {
            Signal.CONFIG: (self.config, previous and previous.config),
            Signal.IP4_CONFIG: (self.ip4, previous and previous.ip4),
            Signal.IP6_CONFIG: (self.ip6, previous and previous.ip6),
        }
        config_changed = previous is None or previous.config != self.config
        return {
            signal: now
            for signal, (now, before) in everything.items()
            if now is not None and (config_changed or now != before)
        }


def _name_servers(network: NetworkConfig) -> list[object]:
    families = (network.ip4 or {}, network.ip6 or {})
    return [family.get(key) for family in families for key in ("dns", "domains")]


def _bare(family: Dictionary | None) -> Dictionary | None:
    """Return the family with its address and without routes and name servers."""
    if family is None:
        return None
    kept = {key: family[key] for key in ("address", "prefix", "never-default")}
    return {**kept, "routes": Typed(family["routes"].signature, [])}


@dataclass(frozen=True, slots=True)
class _Desired:
    """Property HostConfig, parsed."""

    device: str
    mtu: int
    gateway: Address
    addresses: tuple[Interface, ...]
    prefixes: tuple[Prefix, ...]
    dns_servers: tuple[Address, ...]
    dns_domains: tuple[str, ...]


def network_config(
    host_config: Mapping[str, object],
    *,
    ipv4: bool,
    ipv6: bool,
    byteorder: ByteOrder = sys.byteorder,
) -> NetworkConfig:
    """Return what NetworkManager is to be told.

    host_config: property HostConfig with its variants opened, keys of HostConfigKey. ipv4, ipv6:
    whether the profile wants the family. byteorder: of this machine, for addresses as numbers.
    Raises BadHostConfigError: a key is missing, wrong, or leaves nothing to configure.
    """
    desired = _parse(host_config)
    left_out: list[str] = []
    families: dict[int, Dictionary | None] = {4: None, 6: None}
    for version, wanted in ((4, ipv4), (6, ipv6)):
        own = [each for each in desired.addresses if each.version == version]
        routes = [each for each in desired.prefixes if each.version == version]
        if wanted and version == 6 and (own or routes) and desired.mtu < MIN_IPV6_MTU:
            # The kernel has no IPv6 on such a device, and NetworkManager would wait for it.
            left_out.append(
                f"IPv6 needs an MTU of {MIN_IPV6_MTU} bytes, {desired.device} has {desired.mtu}"
            )
        elif wanted and own:
            # One address a family is all that the plugin interface has room for.
            left_out += [f"address {each}: NetworkManager takes one a family" for each in own[1:]]
            families[version] = _family(own[0], routes, desired, byteorder)
        elif wanted and routes:
            # NetworkManager before 1.48 drops routes of a family in which there is no address.
            left_out.append(
                f"{len(routes)} IPv{version} prefixes: this node has no IPv{version} address"
            )
    if families[4] is None and families[6] is None:
        raise BadHostConfigError(
            f"HostConfig {HostConfigKey.ADDRESSES} "
            f"{' '.join(map(str, desired.addresses)) or '(none)'}: "
            f"{'; '.join(left_out) or 'none is of a family whose method in the profile is auto'}"
        )
    config: Dictionary = {
        "tundev": Typed("s", desired.device),
        "gateway": _gateway(desired.gateway, byteorder),
        "mtu": Typed("u", desired.mtu),
        "has-ip4": Typed("b", families[4] is not None),
        "has-ip6": Typed("b", families[6] is not None),
        # The overlay finds its peers again over another uplink, so vpn.persistent may be honoured.
        "can-persist": Typed("b", True),
    }
    return NetworkConfig(config, families[4], families[6], tuple(left_out))


def _family(
    address: Interface, prefixes: list[Prefix], desired: _Desired, byteorder: ByteOrder
) -> Dictionary:
    """Return Ip4Config or Ip6Config, whichever address is of.

    never-default is always true: with a full tunnel the service itself installs the default route
    and the rules that keep underlay packets out of it, which NetworkManager has no words for. A
    default route among the prefixes would be a loop for the same reason.
    """
    servers = [each for each in desired.dns_servers if each.version == address.version]
    networks = [each for each in prefixes if each.prefixlen > 0]
    family: Dictionary = {}
    if isinstance(address, IPv4Interface):
        family["address"] = Typed("u", _ipv4_number(address.ip, byteorder))
        family["routes"] = Typed(
            "aau",
            [
                [_ipv4_number(each.network_address, byteorder), each.prefixlen, 0, 0]
                for each in networks
                if isinstance(each, IPv4Network)
            ],
        )
        numbers = [
            _ipv4_number(each, byteorder) for each in servers if isinstance(each, IPv4Address)
        ]
        dns = Typed("au", numbers)
    else:
        family["address"] = Typed("ay", address.ip.packed)
        unspecified = IPv6Address(0).packed
        family["routes"] = Typed(
            "a(ayuayu)",
            [
                [each.network_address.packed, each.prefixlen, unspecified, 0]
                for each in networks
                if isinstance(each, IPv6Network)
            ],
        )
        dns = Typed("aay", [each.packed for each in servers])
    family["prefix"] = Typed("u", address.network.prefixlen)
    family["never-default"] = Typed("b", True)
    if servers:
        family["dns"] = dns
        family["domains"] = Typed("as", list(desired.dns_domains))
    return family


def _gateway(address: Address, byteorder: ByteOrder) -> Typed:
    if isinstance(address, IPv4Address):
        return Typed("u", _ipv4_number(address, byteorder))
    return Typed("ay", address.packed)


def _ipv4_number(address: IPv4Address, byteorder: ByteOrder) -> int:
    """Return the address as NetworkManager has it: network-order bytes read in host order."""
    return int.from_bytes(address.packed, byteorder)


def _parse(host_config: Mapping[str, object]) -> _Desired:
    device = host_config.get(HostConfigKey.DEVICE)
    if not isinstance(device, str) or not device:
        raise BadHostConfigError(f"HostConfig {HostConfigKey.DEVICE} {device!r} names no device")
    mtu = host_config.get(HostConfigKey.MTU)
    if not isinstance(mtu, int) or not 0 < mtu <= 65535:
        raise BadHostConfigError(
            f"HostConfig {HostConfigKey.MTU} {mtu!r} is not a number up to 65535"
        )
    domains = _texts(host_config, HostConfigKey.DNS_DOMAINS)
    if host_config.get(HostConfigKey.DNS_DEFAULT):
        # systemd-resolved's and NetworkManager's way to say: all other names too.
        domains = (*domains, "~.")
    return _Desired(
        device=device,
        mtu=mtu,
        gateway=_parse_gateway(host_config.get(HostConfigKey.GATEWAY, "")),
        addresses=_parsed(host_config, HostConfigKey.ADDRESSES, ip_interface),
        prefixes=_parsed(host_config, HostConfigKey.PREFIXES, ip_network),
        dns_servers=_parsed(host_config, HostConfigKey.DNS_SERVERS, ip_address),
        dns_domains=domains,
    )


def _parse_gateway(text: object) -> Address:
    if text == "":
        return DUMMY_GATEWAY
    try:
        address = ip_address(str(text))
    except ValueError as error:
        raise BadHostConfigError(f"HostConfig {HostConfigKey.GATEWAY} {text!r}: {error}") from None
    if address.is_unspecified:
        raise BadHostConfigError(
            f"HostConfig {HostConfigKey.GATEWAY} {text!r} is no host's address"
        )
    return address


def _texts(host_config: Mapping[str, object], key: HostConfigKey) -> tuple[str, ...]:
    value = host_config.get(key, [])
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise BadHostConfigError(f"HostConfig {key} {value!r} is not a list of texts")
    return tuple(value)


def _parsed(
    host_config: Mapping[str, object], key: HostConfigKey, parse: Callable[[str], _T]
) -> tuple[_T, ...]:
    values = []
    for text in _texts(host_config, key):
        try:
            values.append(parse(text))
        except ValueError as error:
            raise BadHostConfigError(f"HostConfig {key} {text!r}: {error}") from None
    return tuple(values)
