"""Ways out for the overlay's own packets where a user led the default route into the overlay.

`ip route add default dev quicether0` puts what carries the overlay into the overlay, because the
main table knows no mark. As long as such a route is there, what is ours is looked up first in the
main table without its broadest routes, then in a table with copies of those that leave the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from quicether.host.kernel_state import MAIN_TABLE, KernelRule
from quicether.host.rtnetlink import Exit, Rtnetlink

TABLE: Final = 20804
PRIORITY: Final = 20803
"""Of the first of two rules; those of a full tunnel come behind them."""
BROAD: Final = 7
"""Bits of the longest prefix that counts as a default route: its halves, 2000::/3; not 10/8."""


@dataclass(frozen=True, slots=True)
class Ours:
    """What tells packets of ours from all others: mark, port and uid as in `FullTunnel`."""

    mark: int
    port: int | None
    uid: int | None

    def rules(self, version: int) -> frozenset[KernelRule]:
        """Return the rules that lead them out for one IP version."""
        chosen = [KernelRule(version, PRIORITY, MAIN_TABLE, bearing=self.mark)]
        if self.port is not None:
            chosen.append(KernelRule(version, PRIORITY, MAIN_TABLE, source_port=self.port))
        if self.uid is not None:
            chosen.append(KernelRule(version, PRIORITY, MAIN_TABLE, uid=self.uid))
        out = (replace(rule, priority=PRIORITY + 1, table=TABLE) for rule in chosen)
        return frozenset((*(replace(rule, suppress=BROAD) for rule in chosen), *out))


async def keep_exits(own: Callable[[str], bool], ours: Ours) -> None:
    """Make the kernel have the rules and the table that its main table asks for now.

    own: tells whether a device's name is one of the overlay's. All tunnels share them, so they go
    when no tunnel needs them. Raises HostError.
    """
    netlink = Rtnetlink.open()
    try:
        mine = {link.index for link in await netlink.links() if own(link.name)}
        main = await netlink.exits(MAIN_TABLE, BROAD)
        captured: set[int] = {way.prefix.version for way in main if way.index in mine}
        ways = {w for w in main if w.index not in mine and w.prefix.version in captured}
        rules = frozenset(rule for version in captured for rule in ours.rules(version))
        await _bring(netlink, captured, ways, rules)
    finally:
        netlink.close()


async def drop_exits() -> None:
    """Take away what a crash left. For the start. Raises HostError."""
    netlink = Rtnetlink.open()
    try:
        await _bring(netlink, set(), set(), frozenset())
    finally:
        netlink.close()


async def _bring(
    netlink: Rtnetlink, versions: set[int], ways: set[Exit], rules: frozenset[KernelRule]
) -> None:
    """Rules go first and come last. Of a version that needs them, other tunnels' rules stay."""
    had = {each for each in await netlink.rules() if each.priority in (PRIORITY, PRIORITY + 1)}
    table = await netlink.exits(TABLE, BROAD)
    for rule in had:
        if rule.version not in versions:
            await netlink.delete_rule(rule)
    for way in table - ways:
        await netlink.delete_exit(TABLE, way)
    for way in ways - table:
        await netlink.add_exit(TABLE, way)
    # Those that lead out come first: the others alone would hold back nothing of ours.
    for rule in sorted(rules - had, key=lambda rule: -rule.priority):
        await netlink.add_rule(rule)
