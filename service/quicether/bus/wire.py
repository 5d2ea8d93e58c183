"""Plain values → what dbus-next sends. In Python a variant is the pair (signature, value)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbus_next.signature import Variant

from quicether.bus.contract import HostConfigKey
from quicether.bus.status import Wire
from quicether.counters import Counters
from quicether.host.desired import HostConfig


def encode(signature: str, value: Any) -> Any:
    """Return value with every pair (signature, value) made a dbus-next Variant.

    Knows the shapes that the API uses: `v`, and dictionaries and lists that hold `v`.
    """
    if signature == "v":
        inner, content = value
        return Variant(inner, encode(inner, content))
    if signature.startswith("a{") and signature.endswith("v}"):
        return {key: encode("v", entry) for key, entry in value.items()}
    if signature in ("a{sa{sv}}", "a{oa{sa{sv}}}"):
        return {key: encode(signature[3:-1], entry) for key, entry in value.items()}
    if signature == "aa{sv}":
        return [encode("a{sv}", entry) for entry in value]
    return value


def decode(value: Any) -> Any:
    """Return an argument with every Variant in a dictionary made a pair (signature, value)."""
    if isinstance(value, Variant):
        return value.signature, value.value
    if isinstance(value, Mapping):
        return {key: decode(entry) for key, entry in value.items()}
    return value


def host_config(config: HostConfig | None) -> Wire:
    """Return property HostConfig, whose keys are those of `contract.HostConfigKey`."""
    if config is None:
        return {}
    return {
        HostConfigKey.DEVICE.value: ("s", config.device),
        HostConfigKey.MTU.value: ("u", config.mtu),
        HostConfigKey.ADDRESSES.value: ("as", [str(address) for address in config.addresses]),
        HostConfigKey.PREFIXES.value: ("as", [str(prefix) for prefix in config.prefixes]),
        HostConfigKey.DNS_SERVERS.value: ("as", [str(server) for server in config.dns.servers]),
        HostConfigKey.DNS_DOMAINS.value: ("as", list(config.dns.domains)),
        HostConfigKey.DNS_DEFAULT.value: ("b", config.dns.default_route),
        HostConfigKey.FULL_TUNNEL.value: ("b", config.full_tunnel is not None),
        HostConfigKey.GATEWAY.value: ("s", str(config.gateway or "")),
    }


def counters(found: Counters) -> dict[str, int]:
    """Return property Counters: totals in kebab-case, drops as `drop-REASON`."""
    totals = {
        name.replace("_", "-"): getattr(found, name)
        for name in (
            "sent_packets",
            "sent_bytes",
            "received_packets",
            "received_bytes",
            "forwarded_packets",
            "forwarded_bytes",
            "failed_handshakes",
            "faults",
        )
    }
    return totals | {f"drop-{reason}": count for reason, count in sorted(found.drops.items())}
