"""What the DHT machine asks its driver to do, and what it tells. Typed, immutable."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from quicether.dht.contact import Contact
from quicether.dht.records import Record


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Send body to contact, and hand the answer to `DhtNode.response` or `DhtNode.failed`.

    call: names the request in those. timeout: seconds; the driver watches it.
    """

    call: int
    contact: Contact
    body: bytes
    timeout: float


@dataclass(frozen=True, slots=True)
class LookupDone:
    """A lookup that `DhtNode.find` started has ended.

    lookup: what that returned. target: the key. records: live, checked, the freshest of each
    owner, kind and subject. withdrawals: those by which an owner took back what it said before.
    closest: nodes that answered, closest first. hops: how far away the first value was (the
    farthest answer, in a lookup for nodes); 0 is our own store. asked, failed: how many contacts
    were asked, and how many of them in vain.
    """

    lookup: int
    target: int
    records: tuple[Record, ...]
    withdrawals: tuple[Record, ...]
    closest: tuple[Contact, ...]
    hops: int
    asked: int
    failed: int


@dataclass(frozen=True, slots=True)
class RecordFound:
    """The directory has a record that is new, or whose content is not what it was."""

    record: Record


class GoneReason(enum.StrEnum):
    """Why a record is no longer in the directory."""

    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    DISTRUSTED = "distrusted"
    UNWATCHED = "unwatched"


@dataclass(frozen=True, slots=True)
class RecordGone:
    """The directory no longer has this record of `RecordFound`.

    withdrawal: the record that withdrew it, if one did.
    """

    record: Record
    reason: GoneReason
    withdrawal: Record | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """What this node says about itself is now kept under a key by so many nodes."""

    key: int
    holders: int


@dataclass(frozen=True, slots=True)
class Joined:
    """The first lookup for ourselves ended: the network is known. contacts: in the buckets."""

    contacts: int


@dataclass(frozen=True, slots=True)
class BootstrapWanted:
    """Connect to the bootstrap addresses and hand whom you reach to `DhtNode.add_contact`.

    urgent: nobody is known to be alive. Otherwise it is the regular check that the network did
    not fall apart, and a bootstrap node that is connected already will do.
    """

    urgent: bool


Event = SendRequest | LookupDone | RecordFound | RecordGone | Published | Joined | BootstrapWanted
