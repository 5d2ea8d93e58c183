"""What of a tunnel's settings can only change while it is down."""

from __future__ import annotations

from typing import Final

from quicether.config.settings import Settings, as_text
from quicether.errors import ConfigError

FIXED: Final = (
    ("network", "name"),
    ("network", "tun_name"),
    ("network", "netns"),
    ("network", "names"),
    ("discovery", "dht_port"),
    ("discovery", "listen_address"),
    ("security", "audit_log"),
    ("monitoring", "metrics_addr"),
    ("monitoring", "health_addr"),
    ("overlay", "default_gateway"),
    ("overlay", "static_routes"),
)
"""Settings that a running tunnel cannot change."""


def check_fixed(running: Settings, wanted: Settings) -> None:
    """Check that a tunnel that runs with some settings can go over to others.

    Raises ConfigError: what differs needs the tunnel to go down and up again.
    """
    for section, field in FIXED:
        new = getattr(getattr(wanted, section), field)
        if new != getattr(getattr(running, section), field):
            raise ConfigError(
                f"{section}.{field}: {as_text(new)!r} needs the tunnel to go down and up again"
            )
