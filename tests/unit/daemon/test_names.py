"""What the desired state of a device becomes by the names of its network."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from quicether.config.settings import Settings
from quicether.daemon.host_config import Wanted
from quicether.daemon.names import Naming
from quicether.errors import ConfigError
from quicether.host.desired import Dns, HostConfig
from quicether.host.resolver import Resolver
from quicether.identity.addresses import names_addresses
from quicether.identity.authority import Authority
from quicether.identity.keys import NodeKey
from quicether.identity.store import NetworkStore, NodeIdentity
from quicether.overlay.routes import OverlayRoutes

SPLITS = Resolver(splits=True, text="systemd-resolved runs on this machine")
PLAIN = Resolver(False, "systemd-resolved does not run on this machine", told=False)
CONFIG = HostConfig(
    device="quicether0",
    mtu=1420,
    addresses=(ip_interface("100.64.0.1/32"),),
    prefixes=(ip_network("10.0.0.0/8"), ip_network("192.168.1.0/24"), ip_network("fd01::/64")),
)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> NodeIdentity:
    folder, now = tmp_path_factory.mktemp("names"), datetime.now(UTC)
    authority = Authority.create(folder / "authority", "kin", now)
    store = NetworkStore(folder / "etc", folder / "var", "kin")
    key = store.node_key().public_raw
    certificate = authority.sign(key, "cafe", now=now, validity=timedelta(days=1))
    store.install(certificate, authority.certificate, now)
    return store.load_identity(now)


def naming(identity: NodeIdentity, resolver: Resolver = SPLITS, **options: str) -> Naming:
    settings = Settings.from_options(options)
    return Naming.of(settings, identity, OverlayRoutes(identity.member), resolver)


def test_a_resolver_that_splits_is_told_of_the_networks_domains_alone(
    identity: NodeIdentity,
) -> None:
    found = naming(identity).into(Wanted(CONFIG, ("x",)))
    ipv4, ipv6 = names_addresses(identity.trust.network_id)
    reverse = ".".join(reversed(ipv6.exploded.replace(":", "")[:12]))
    assert found.refusals == ("x",)
    assert found.config.dns == Dns((ipv4, ipv6), ("~kin.quicether", f"~{reverse}.ip6.arpa"))
    assert set(found.config.prefixes) == {
        *CONFIG.prefixes,
        ip_network(f"{ipv4}/32"),
        ip_network(f"{ipv6}/128"),
    }
    order = [(each.version, int(each.network_address)) for each in found.config.prefixes]
    assert order == sorted(order)


def test_a_full_tunnel_does_not_make_it_the_server_for_everything(identity: NodeIdentity) -> None:
    config = replace(CONFIG, dns=Dns(default_route=True))
    assert not naming(identity).into(Wanted(config, ())).config.dns.default_route


def test_a_resolver_that_cannot_split_is_not_told_and_that_is_said(identity: NodeIdentity) -> None:
    found = naming(identity, PLAIN).into(Wanted(CONFIG, ()))
    assert found.config.dns == Dns()
    (sentence,) = found.refusals
    assert sentence.startswith("names: systemd-resolved does not run on this machine")
    assert "kin.quicether" in sentence
    assert str(names_addresses(identity.trust.network_id)[0]) in sentence


def test_name_servers_of_the_settings_come_first(identity: NodeIdentity) -> None:
    own = Dns((ip_address("10.0.0.53"),), ("corp.example",))
    found = naming(identity).into(Wanted(replace(CONFIG, dns=own), ()))
    assert found.config.dns == own
    assert "the setting dns" in found.refusals[0]


def test_another_namespace_has_a_resolver_of_its_own(identity: NodeIdentity) -> None:
    found = naming(identity).into(Wanted(replace(CONFIG, netns="lab"), ()))
    assert found.config.dns == Dns()
    assert "namespace lab" in found.refusals[0]


@pytest.mark.parametrize("names", ["auto", "off"])
def test_name_servers_of_the_settings_that_nobody_is_told_of_are_said(
    identity: NodeIdentity, names: str
) -> None:
    """It was claimed that the host's resolver is told of them alone, or nothing was said."""
    config = replace(CONFIG, dns=Dns((ip_address("10.0.0.53"),), ("corp.example",)))
    found = naming(identity, PLAIN, names=names).into(Wanted(config, ()))
    assert found.config.dns == Dns()
    assert found.refusals[0] == (
        "dns: nobody is told of 10.0.0.53: systemd-resolved does not run on this machine"
    )
    assert [each[:30] for each in found.refusals[1:]] == (
        ["names: systemd-resolved does n"] if names == "auto" else []
    )
    inside = naming(identity, names=names).into(Wanted(replace(config, netns="lab"), ()))
    assert inside.config.dns == Dns()
    assert inside.refusals[0] == (
        "dns: the resolver of namespace lab is not ours to tell of 10.0.0.53; "
        "`ip netns exec` takes /etc/netns/lab/resolv.conf"
    )


def test_networkmanager_takes_name_servers_in_every_mode_but_none(identity: NodeIdentity) -> None:
    config = replace(CONFIG, dns=Dns((ip_address("10.0.0.53"),)))
    default = Resolver(splits=False, text="NetworkManager's DNS mode is 'default'")
    found = naming(identity, default, names="off").into(Wanted(config, ()))
    assert (found.config.dns, found.refusals) == (config.dns, ())


def test_off_changes_nothing(identity: NodeIdentity) -> None:
    wanted, off = Wanted(CONFIG, ("x",)), naming(identity, names="off")
    assert off.into(wanted) is wanted
    assert off.services == {}


def test_a_node_that_has_the_address_itself_keeps_it(identity: NodeIdentity) -> None:
    ipv4, ipv6 = names_addresses(identity.trust.network_id)
    taken = replace(identity, member=replace(identity.member, addresses=(ipv4,)))
    assert naming(taken).addresses == (ipv6,)


def test_the_authority_gives_it_to_nobody(tmp_path: Path, identity: NodeIdentity) -> None:

    authority = Authority.create(tmp_path / "authority", "kin", datetime.now(UTC))
    for address in names_addresses(authority.network_id):
        with pytest.raises(ConfigError, match=f"address {address} is where every node answers"):
            authority.sign(
                NodeKey.generate().public_raw,
                "thief",
                now=datetime.now(UTC),
                addresses=[address],
                validity=timedelta(days=1),
            )
