"""What was denied a moment ago: judged and audited once, counted from then on. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from quicether.model import Member
from quicether.policy.audit import Audit
from quicether.policy.flows import FlowKey
from quicether.policy.ruleset import RuleSet

MAX_DENIED: Final = 4096
"""Denied flows remembered; then the one that is silent for longest is judged again."""
DENIAL_REPEAT: Final = 60.0
"""Seconds after which the count of a denial that went on is audited, or a single one forgotten."""

DenialKey = tuple[FlowKey, bool]
"""A flow, and whether it is about a packet that could begin a TCP connection.

The beginning of a connection and its middle may be judged differently.
"""


class _Denial:
    """A denied flow. since: of the last audit record. repeats: packets denied after it."""

    __slots__ = ("destination", "repeats", "rule_id", "rules", "since", "source")

    def __init__(
        self,
        rules: RuleSet,
        source: Member | None,
        destination: Member | None,
        rule_id: str,
        now: float,
    ) -> None:
        self.rules = rules
        self.source = source
        self.destination = destination
        self.rule_id = rule_id
        self.since = now
        self.repeats = 0


class Denials:
    """Denied flows, bounded. No packet that is denied here is missing from the trail's counts."""

    def __init__(self, audit: Audit | None) -> None:
        self._audit = audit
        self._denied: OrderedDict[DenialKey, _Denial] = OrderedDict()

    def __len__(self) -> int:
        return len(self._denied)

    def repeats(
        self, key: DenialKey, rules: RuleSet, source: Member | None, destination: Member | None
    ) -> bool:
        """Tell whether the same rules denied the same members the same, and count that."""
        denial = self._denied.get(key)
        if (
            denial is None
            or denial.rules is not rules
            or denial.source is not source
            or denial.destination is not destination
        ):
            return False
        denial.repeats += 1
        self._denied.move_to_end(key)
        return True

    def add(
        self,
        key: DenialKey,
        rules: RuleSet,
        source: Member | None,
        destination: Member | None,
        rule_id: str,
        now: float,
    ) -> None:
        """Audit and remember that a rule denied the first packet of a flow."""
        self.forget(key)
        if len(self._denied) >= MAX_DENIED:
            self.forget(next(iter(self._denied)))
        self._denied[key] = _Denial(rules, source, destination, rule_id, now)
        if self._audit is not None:
            self._audit.denied(key[0], source, destination, rule_id)

    def forget(self, key: DenialKey) -> None:
        """Forget a denial, if it is known, and audit its count."""
        denial = self._denied.pop(key, None)
        if denial is not None:
            self._tell(key, denial)

    def expire(self, now: float) -> None:
        """Audit the counts of denials that went on, and forget those that did not."""
        for key, denial in list(self._denied.items()):
            if now - denial.since < DENIAL_REPEAT:
                continue
            if denial.repeats:
                self._tell(key, denial)
                denial.since = now
            else:
                del self._denied[key]

    def clear(self) -> None:
        """Audit all counts and forget everything."""
        for key in list(self._denied):
            self.forget(key)

    def _tell(self, key: DenialKey, denial: _Denial) -> None:
        if denial.repeats and self._audit is not None:
            self._audit.denied(
                key[0], denial.source, denial.destination, denial.rule_id, denial.repeats
            )
        denial.repeats = 0
