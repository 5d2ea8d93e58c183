"""Which prefixes of the overlay are of any use to this host, by its policy. Pure.

A prefix that the policy lets nothing pass to or from would only lead packets to where they are
dropped. It is kept where either side may begin, because answers need a route as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from quicether.model import Member, NodeId, Prefix
from quicether.overlay.desired import MAX_HOST_PREFIXES, MAX_REFUSALS, HostRoutes
from quicether.overlay.routes import OverlayRoutes
from quicether.policy.ruleset import RuleSet

MAX_REMEMBERED: Final = 2 * MAX_HOST_PREFIXES
"""Prefixes, and members, of which is remembered what was found; then all is found anew."""


class Permitted:
    """Leaves out what rules let nobody use. What was found for a prefix is remembered."""

    def __init__(self, rules: RuleSet, me: Member, mine: Iterable[Prefix]) -> None:
        """mine: what others may reach here, this node's own addresses not included."""
        self.made_of: Final = (rules, me, frozenset((*me.host_prefixes, *mine)))
        self._rules, self._me, self._mine = self.made_of
        # None stands for an owner whom nobody knows.
        self._found: dict[Prefix, tuple[tuple[Member | None, ...], bool]] = {}
        self._comes: dict[NodeId | None, tuple[Member | None, bool]] = {}
        self._always: tuple[Prefix, ...] = ()
        self._basis: object = None
        self._kept = HostRoutes()

    def of(self, found: HostRoutes, routes: OverlayRoutes, always: Iterable[Prefix]) -> HostRoutes:
        """Return those routes that the policy makes any use of.

        always: kept in any case, with what lies inside. The same object comes back while nothing
        is different: this is asked for at every change of anything.
        """
        always = tuple(always)
        basis = (found, routes.owners_revision, always)
        if basis != self._basis:
            if always != self._always:
                self._always = always
                self._found.clear()
            self._basis, self._kept = basis, self._judged(found, routes)
        return self._kept

    def _judged(self, found: HostRoutes, routes: OverlayRoutes) -> HostRoutes:
        kept: list[Prefix] = []
        out: list[Prefix] = []
        for prefix in found.prefixes:
            of_use = self._is_of_use(prefix, tuple(routes.owners_of(prefix)) or (None,))
            (kept if of_use else out).append(prefix)
        return HostRoutes(tuple(kept), (*found.refusals, *_sentences(out))) if out else found

    def _is_of_use(self, prefix: Prefix, owners: tuple[Member | None, ...]) -> bool:
        known = self._found.get(prefix)
        if known is None or known[0] != owners:
            if len(self._found) >= MAX_REMEMBERED:
                self._found.clear()
            may = self._rules.may_reach
            of_use = _lies_in(prefix, self._always) or any(
                may(self._me, who, prefix) or self._may_come(who) for who in owners
            )
            known = self._found[prefix] = (owners, of_use)
        return known[1]

    def _may_come(self, owner: Member | None) -> bool:
        node = None if owner is None else owner.node_id
        known = self._comes.get(node)
        if known is None or known[0] != owner:
            if len(self._comes) >= MAX_REMEMBERED:
                self._comes.clear()
            may = self._rules.may_reach
            known = (owner, any(may(owner, self._me, each) for each in self._mine))
            self._comes[node] = known
        return known[1]


def _lies_in(prefix: Prefix, blocks: tuple[Prefix, ...]) -> bool:
    return any(
        prefix.version == block.version and prefix.subnet_of(block)  # type: ignore[arg-type]
        for block in blocks
    )


def _sentences(out: list[Prefix]) -> Iterator[str]:
    for prefix in out[:MAX_REFUSALS]:
        yield f"prefix {prefix}: the policy lets nothing pass between it and this node"
    if len(out) > MAX_REFUSALS:
        yield f"{len(out) - MAX_REFUSALS} more prefixes are of no use by the policy"
