"""From NetworkManager's connection to what the service is asked for. Pure.

The options of `vpn.data` go to the service as they are: it knows every key and names what is
wrong. Checked here is what only NetworkManager's side knows: whose profile it is, which address
families it wants, and how long the connection may take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from quicether.errors import ConfigError

Connection = Mapping[str, Mapping[str, object]]
"""NetworkManager's a{sa{sv}}, variants opened: setting → property → value."""

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds that NetworkManager gives a VPN to connect where vpn.timeout is 0 or missing."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What one NetworkManager profile asks for.

    tunnel: name of the tunnel in the service. options: vpn.data, unchecked. ident: the profile's
    name for people. uuid: NetworkManager's key of it. timeout: seconds until NetworkManager gives
    up. ipv4, ipv6: whether the family's method is auto; NetworkManager ignores it otherwise.
    private: it belongs to single users. Any user at an active seat may make such a profile, and
    NetworkManager hands it over as root, so it must not name files or widen trust with the
    service's rights (CVE-2025-9615 of NetworkManager-openvpn).
    """

    tunnel: str
    options: Mapping[str, str]
    ident: str
    uuid: str
    timeout: float
    ipv4: bool
    ipv6: bool
    private: bool


def parse_profile(connection: Connection) -> Profile:
    """Return the profile that a connection of type vpn holds.

    Raises ConfigError: a setting or property is missing or of a wrong type, or both families are
    switched off.
    """
    about = connection.get("connection", {})
    vpn = connection.get("vpn")
    if vpn is None:
        raise ConfigError("the connection has no setting vpn, so it is no VPN connection")
    options = _options(vpn.get("data", {}))
    ident = _text("connection.id", about.get("id", ""))
    tunnel = options.get("network") or ident
    if not tunnel:
        raise ConfigError("neither vpn.data network nor connection.id names the tunnel")
    ipv4, ipv6 = (_is_auto(connection, family) for family in ("ipv4", "ipv6"))
    if not ipv4 and not ipv6:
        raise ConfigError("ipv4.method and ipv6.method: at least one of them has to be auto")
    return Profile(
        tunnel=tunnel,
        options=options,
        ident=ident,
        uuid=_text("connection.uuid", about.get("uuid", "")),
        timeout=_timeout(vpn.get("timeout", 0)),
        ipv4=ipv4,
        ipv6=ipv6,
        private=_is_private(about.get("permissions", [])),
    )


def _options(data: object) -> dict[str, str]:
    if not isinstance(data, Mapping):
        raise ConfigError(f"vpn.data {data!r} is not a dictionary of strings")
    options = {}
    for key, value in data.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ConfigError(f"vpn.data {key!r} = {value!r} is not a pair of strings")
        options[key] = value
    return options


def _is_private(permissions: object) -> bool:
    """Tell whether the profile is not everybody's; an entry of any kind makes it so."""
    if not isinstance(permissions, list | tuple):
        raise ConfigError(f"connection.permissions {permissions!r} is not a list of user:NAME:")
    return bool(permissions)


def _is_auto(connection: Connection, family: str) -> bool:
    return connection.get(family, {}).get("method", "auto") == "auto"


def _timeout(value: object) -> float:
    if not isinstance(value, int) or value < 0:
        raise ConfigError(f"vpn.timeout {value!r} is not a number of seconds")
    return float(value) or DEFAULT_TIMEOUT


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{field} {value!r} is not a text")
    return value
