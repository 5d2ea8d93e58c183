"""A fake audit sink."""

from __future__ import annotations

from quicether.policy.audit import AuditRecord


class FakeAuditSink:
    """Keeps its records in a list."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def write(self, record: AuditRecord) -> None:
        self.records.append(record)

    def of(self, event: str) -> list[AuditRecord]:
        """The records of one kind."""
        return [record for record in self.records if record["event"] == event]
