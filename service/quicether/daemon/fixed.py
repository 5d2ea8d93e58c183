"""What of a tunnel's settings can change while it is up; all else needs it to go down and up."""

from __future__ import annotations

from typing import Final

from quicether.config.options import OPTIONS
from quicether.config.settings import Settings, as_text
from quicether.errors import ConfigError

LIVE: Final = frozenset(
    {
        "role",
        "peers",
        "bootstrap",
        "public-address",
        "routes",
        "accept-conflicts",
        "advertise-subnets",
        "forward-subnets",
        "forward-nodes",
        "lan-access",
        "bypass-subnets",
        "mtu",
        "dns",
        "dns-domains",
        "policy-file",
    }
)
"""Options that `Tunnel.reload` puts in force; a new one is fixed until it stands here."""


def check_fixed(running: Settings, wanted: Settings) -> None:
    """Check that a tunnel that runs with some settings can go over to others.

    Raises ConfigError: what differs needs the tunnel to go down and up again.
    """
    for option in OPTIONS.values():
        if option.key in LIVE:
            continue
        old, new = (
            getattr(getattr(settings, option.section), option.field)
            for settings in (running, wanted)
        )
        if new != old:
            raise ConfigError(
                f"{option.section}.{option.field}: {as_text(new)!r} needs the tunnel to go down "
                f"and up again; it runs with {as_text(old)!r}"
            )
