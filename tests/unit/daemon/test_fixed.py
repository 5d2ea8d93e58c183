"""What a reload does not put in force it refuses, so that nobody takes it for done."""

from __future__ import annotations

import pytest

from quicether.config.settings import Settings
from quicether.daemon.fixed import check_fixed
from quicether.errors import ConfigError

PIN = f"{'11' * 20}=10.0.0.0/8"
OTHER = f"{'22' * 20}=10.0.0.0/8"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"pinned-peers": f"{PIN} {OTHER}"}, {"pinned-peers": PIN}),
        ({}, {"key-file": "/etc/key"}),
        ({}, {"certificate-file": "/etc/certificate"}),
        ({}, {"tun-addr": "100.64.0.7"}),
        ({}, {"name": "cafe"}),
        ({}, {"link": "netlink"}),
        ({}, {"log-level": "debug"}),
        ({}, {"max-connections": "7"}),
        ({}, {"audit-log": "journal"}),
        ({}, {"listen-port": "9001"}),
        ({}, {"record-life": "60"}),
    ],
)
def test_what_cannot_change_in_a_running_tunnel_is_refused(
    before: dict[str, str], after: dict[str, str]
) -> None:
    """A pin that was removed stayed trusted behind a reload that said it was done."""
    running, wanted = Settings.from_options(before), Settings.from_options(after)
    with pytest.raises(ConfigError, match="needs the tunnel to go down and up again"):
        check_fixed(running, wanted)
    check_fixed(wanted, wanted)


def test_what_can_change_is_let_through() -> None:
    wanted = {"peers": "home@192.0.2.1", "mtu": "1300", "policy-file": "/etc/policy"}
    check_fixed(Settings(), Settings.from_options(wanted))
