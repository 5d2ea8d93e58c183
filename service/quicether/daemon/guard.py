"""Policy and audit of one tunnel: who may reach what, and where it is written down."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from quicether.bus.status import PolicyVerdict
from quicether.config.settings import Settings
from quicether.daemon.permitted import Permitted
from quicether.dataplane.snapshot import PacketPolicy
from quicether.errors import ConfigError
from quicether.model import Address, Member, Prefix
from quicether.policy.audit import Audit, AuditKind, AuditRecord, AuditSink
from quicether.policy.audit_writer import AuditWriter, open_audit
from quicether.policy.decision import Policy
from quicether.policy.load import read_policy
from quicether.policy.rules import protocol_number
from quicether.policy.ruleset import RuleSet

log = logging.getLogger(__name__)

_ALARMING = {
    AuditKind.REFUSED,
    AuditKind.SPOOFED,
    AuditKind.UNCOVERED,
    AuditKind.RECORD_REFUSED,
    AuditKind.POLICY_REFUSED,
}


class ServiceLog:
    """An AuditSink for tunnels without an audit trail: security events go to the service's log."""

    def write(self, record: AuditRecord) -> None:
        """Log a security event as `event key=value …`; other records are not kept."""
        event = str(record["event"])
        if event in _ALARMING:
            rest = (f"{key}={value}" for key, value in record.items() if key not in ("ts", "event"))
            log.warning("%s", " ".join((event, *rest)))


class Guard:
    """Keeps the policy in force and the audit trail of one tunnel.

    audit: implements `overlay.neighbours.AuditEvents`.
    """

    def __init__(self, settings: Settings, rules: RuleSet) -> None:
        """Open the trail. rules: what `read_rules` gave. Raises HostError: it cannot be opened."""
        where = settings.security.audit_log
        self._writer: AuditWriter | None = None if where is None else open_audit(where)
        sink: AuditSink = self._writer or ServiceLog()
        self.audit = Audit(sink, time.monotonic, time.time)
        self._has_file = settings.security.policy_file is not None
        self._policy = Policy(rules, self.audit)
        self._permitted: Permitted | None = None
        self._tell_loaded(settings, rules)

    @property
    def policy(self) -> PacketPolicy | None:
        """What the data path asks; None where every packet may pass and no flow is recorded."""
        return self._policy if self._has_file or self._writer is not None else None

    def permitted(self, me: Member, mine: Iterable[Prefix]) -> Permitted | None:
        """Return what tells which prefixes are of use to this node; None without a policy file.

        mine: what others may reach here, this node's own addresses not included.
        """
        if not self._has_file:
            return None
        found = Permitted(self._policy.rules, me, mine)
        if self._permitted is None or self._permitted.made_of != found.made_of:
            self._permitted = found
        return self._permitted

    @property
    def flows(self) -> int:
        """Flows that the policy remembers."""
        return self._policy.flows

    @property
    def lost_records(self) -> int:
        """Audit records that were left out or could not be written."""
        return self.audit.left_out + (0 if self._writer is None else self._writer.lost)

    async def reload(self, settings: Settings) -> None:
        """Put the policy file in force as it is now; flows that stay allowed go on.

        Raises ConfigError: it has mistakes; the policy before it stays.
        """
        try:
            rules = await read_rules(settings)
        except ConfigError as error:
            self.audit.policy_refused(error)
            raise
        self._has_file = settings.security.policy_file is not None
        self._policy.use(rules)
        self._tell_loaded(settings, rules)

    def expire(self) -> None:
        """Report and forget flows that fell silent. To be called about once a second."""
        self._policy.expire(time.monotonic())

    def explain(
        self,
        source: Member,
        destination: Member | None,
        address: Address,
        protocol: str,
        port: int | None,
    ) -> PolicyVerdict:
        """Say what the policy in force does with a packet. Raises ConfigError: no such protocol."""
        number = protocol_number(protocol, address.version)
        found = self._policy.explain(source, destination, address, number, port)
        return PolicyVerdict(allowed=found.allowed, reason=found.sentence, rule=found.rule_id)

    def close(self) -> None:
        """Report what is open and write what is queued."""
        self._policy.close(time.monotonic())
        if self._writer is not None:
            self._writer.close()

    def _tell_loaded(self, settings: Settings, rules: RuleSet) -> None:
        if settings.security.policy_file is not None:
            self.audit.policy_loaded(str(settings.security.policy_file), len(rules.rules))


async def read_rules(settings: Settings) -> RuleSet:
    """Read the policy. Raises ConfigError: the policy file has mistakes.

    A large file takes seconds, and is read beside the event loop so that packets go on meanwhile.
    """
    path = settings.security.policy_file
    return RuleSet.without_policy() if path is None else await asyncio.to_thread(_rules, path)


def _rules(path: Path) -> RuleSet:
    return RuleSet(read_policy(path))
