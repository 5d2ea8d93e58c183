"""What a tunnel does for the names of its network: answer for them, and tell the OS whom to ask."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Self

from quicether.config.settings import Names, Settings
from quicether.daemon.host_config import Wanted
from quicether.daemon.report import order
from quicether.dataplane.snapshot import Service
from quicether.host.desired import Dns, HostConfig
from quicether.host.resolver import Resolver
from quicether.identity.addresses import names_addresses
from quicether.identity.store import NodeIdentity
from quicether.model import Address, host_prefix
from quicether.names.service import NameService
from quicether.names.zone import domain_of, reverse_domain
from quicether.overlay.routes import OverlayRoutes


@dataclass(frozen=True, slots=True)
class Naming:
    """services: packed address → the name service, empty where names are off.

    domains: what the OS is to ask it for; the leading ~ keeps them out of the search list.
    """

    resolver: Resolver
    addresses: tuple[Address, ...] = ()
    domains: tuple[str, ...] = ()
    services: Mapping[bytes, Service] = field(default_factory=dict)

    @classmethod
    def of(
        cls, settings: Settings, identity: NodeIdentity, routes: OverlayRoutes, resolver: Resolver
    ) -> Self:
        """Return what the settings make of the names of the network of identity."""
        if settings.network.names is Names.OFF:
            return cls(resolver)
        network, me = identity.trust.network, identity.member
        service = NameService(network, me, routes.members)
        every = names_addresses(identity.trust.network_id)
        addresses = tuple(each for each in every if each not in me.addresses)
        # Of IPv4's shared range there would be 64 zones.
        reverse = [reverse_domain(each) for each in addresses if isinstance(each, IPv6Address)]
        return cls(
            resolver,
            addresses,
            tuple(f"~{domain}" for domain in (domain_of(network), *reverse)),
            {address.packed: service for address in addresses},
        )

    def into(self, wanted: Wanted) -> Wanted:
        """Return a desired state with the name service in it, and a sentence if it is not told.

        Name servers of the settings come first: a resolver takes all servers of a link for equal,
        and would ask each for every domain of the other. Where nobody is told of them, that is
        said too.
        """
        wanted = self._of_settings(wanted)
        if not self.addresses:
            return wanted
        config, refusals = wanted.config, wanted.refusals
        prefixes = list(config.prefixes)
        for prefix in map(host_prefix, self.addresses):
            place = bisect_left(prefixes, order(prefix), key=order)
            if prefixes[place : place + 1] != [prefix]:
                prefixes.insert(place, prefix)
        config = replace(config, prefixes=tuple(prefixes))
        obstacle = self._obstacle(config)
        if obstacle is None:
            config = replace(config, dns=Dns(self.addresses, self.domains))
        else:
            domain, address = self.domains[0].removeprefix("~"), self.addresses[0]
            refusals = (
                *refusals,
                f"names: {obstacle}; who wants {domain} may ask {address} for it",
            )
        return Wanted(config, refusals)

    def _of_settings(self, wanted: Wanted) -> Wanted:
        """Take name servers of the settings out where nobody would ask them, and say so."""
        config, servers = wanted.config, wanted.config.dns.servers
        if not servers or (config.netns is None and self.resolver.told):
            return wanted
        listed = " ".join(map(str, servers))
        if config.netns is None:
            sentence = f"dns: nobody is told of {listed}: {self.resolver.text}"
        else:
            sentence = (
                f"dns: the resolver of namespace {config.netns} is not ours to tell of {listed}; "
                f"`ip netns exec` takes /etc/netns/{config.netns}/resolv.conf"
            )
        return Wanted(replace(config, dns=Dns()), (*wanted.refusals, sentence))

    def _obstacle(self, config: HostConfig) -> str | None:
        if config.dns.servers:
            return "the host's resolver is told of the setting dns alone"
        if config.netns is not None:
            return f"the resolver of namespace {config.netns} is not ours to tell"
        if not self.resolver.splits:
            return (
                f"{self.resolver.text}, and a resolver that cannot ask different servers for "
                "different domains is not told"
            )
        return None
