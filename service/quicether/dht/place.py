"""One key under which this node publishes: what it says there, and how far that has got. Pure."""

from __future__ import annotations

from typing import Final

from quicether.dht.contact import Contact
from quicether.dht.contents import Content

EARLY: Final = 120.0
"""Seconds from the first publication to the second. From then on four times as long, up to half
the TTL: a network that just came to be grows while it is published in."""
RETRY_FIRST: Final = 5.0
"""Seconds until a round is repeated in which holders failed; doubled from time to time."""


class Place:
    """One key under which we publish.

    contents: by slot. leaving: what is withdrawn, and until when an older record could be alive,
    monotonic seconds. holders: who keeps our records, and whether they have our certificate.
    due: next publication. fresh: it begins with a lookup. early: seconds to the next round while
    the place is new. retry: seconds until a round that failed is repeated.
    Of this round: open: answers to wait for. told, lost: holders that were told and that failed.
    named: holders that others named. sent, withdrawn: when each slot was issued, and what left.
    """

    __slots__ = (
        "again",
        "contents",
        "due",
        "early",
        "fresh",
        "holders",
        "leaving",
        "lost",
        "named",
        "open",
        "retry",
        "sent",
        "told",
        "withdrawn",
    )

    def __init__(self) -> None:
        self.contents: dict[bytes, Content] = {}
        self.leaving: dict[bytes, tuple[Content, float]] = {}
        self.holders: dict[Contact, bool] = {}
        self.fresh = True
        self.early = EARLY
        self.retry = RETRY_FIRST
        self.due = float("inf")
        self.again = False
        self.open = 0
        self.begin_round({})

    def begin_round(self, sent: dict[bytes, int]) -> None:
        """Forget the last round."""
        self.sent = sent
        self.withdrawn = dict(self.leaving)
        self.told = self.lost = self.named = 0

    @property
    def weight(self) -> int:
        """How much there is to say."""
        return len(self.contents) + len(self.leaving)
