"""The DHT's questions and answers on the wire: CBOR maps, versioned, bounded. Pure.

Each message is a map with text keys: "v" the version, "t" the type, and the fields of its type.
Unknown fields are ignored, so that a newer peer can say more; a known one has to be right. Who
asks and who answers is not in the message: the QUIC connection has proved it already.

Records travel as bytes and are checked by `records`, not here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from quicether import cbor
from quicether.dht.contact import Contact
from quicether.dht.keyspace import KEY_BYTES, key_bytes
from quicether.dht.records import MAX_RECORD
from quicether.errors import ProtocolError

VERSION: Final = 1
MAX_BODY: Final = 60_000
"""Largest message in bytes; leaves the transport room for its own first bytes."""
MAX_CONTACTS: Final = 20
"""Most contacts in one answer: k."""
MAX_RECORDS: Final = 256
"""Most records in one message."""
RECORDS_SIZE: Final = 48_000
"""At most so many bytes of records are put into one message."""
KNOWN_BYTES: Final = 4
"""So many bytes of a key tell the nodes around one key apart."""
MAX_REVISION: Final = 2**62
_DEPTH: Final = 3


class StoreResult(enum.IntEnum):
    """What became of one record of a STORE."""

    KEPT = 0
    CERTIFICATE_NEEDED = 1
    """It came without its certificate, and the receiver does not have that."""
    FRESHER_KNOWN = 2
    FULL = 3
    """A cap was reached: per owner, per key, or in all."""
    REFUSED = 4
    """Signature, time, coverage or form; the receiver counted it by reason."""


class Refusal(enum.IntEnum):
    """Why a request was not served."""

    RATE_LIMITED = 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far an asker has read a holder's values of one key.

    epoch: chosen by the holder at its start; revision: of the holder's store. base: up to which
    revision the asker had read all before it began to read what it is reading now, page by page;
    None between two readings. Certificates are left out of what changed before that alone.
    """

    epoch: int
    revision: int
    base: int | None = None


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? Answered by Pong."""

    type: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class FindNode:
    """Who is closest to target? Answered by Nodes. count: most contacts wanted."""

    type: ClassVar[int] = 2

    target: int
    count: int = MAX_CONTACTS


@dataclass(frozen=True, slots=True)
class FindValue:
    """Which values are kept under key, and who is closer to it? Answered by Values.

    count: most contacts wanted. cursor: only what changed since then, None for all.
    watch: tell me of changes from now on (Notify), as long as the answer's lease.
    quiet: a record that only was renewed is no change.
    """

    type: ClassVar[int] = 3

    key: int
    count: int = MAX_CONTACTS
    cursor: Cursor | None = None
    watch: bool = False
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """Keep these records under key. Answered by Stored, one result for each.

    known: the first four bytes of the keys of all holders that the sender knows, one after the
    other; when not empty, the answer names holders that are missing. So a publisher keeps track of
    the closest nodes without a lookup.
    """

    type: ClassVar[int] = 4

    key: int
    records: tuple[bytes, ...]
    known: bytes = b""


@dataclass(frozen=True, slots=True)
class Notify:
    """The values of a key that you watch changed. Answered by Pong."""

    type: ClassVar[int] = 5

    key: int
    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Pong:
    """I am here, or: I took note."""

    type: ClassVar[int] = 65


@dataclass(frozen=True, slots=True)
class Nodes:
    """The contacts closest to the target that the answerer knows to be alive."""

    type: ClassVar[int] = 66

    contacts: tuple[Contact, ...]


@dataclass(frozen=True, slots=True)
class Values:
    """The records under a key, those that withdraw included, and contacts closer to it.

    cursor: what to ask with next time. more: not all fitted; ask again with cursor now.
    lease: seconds for which changes will be told; 0 when they will not.
    """

    type: ClassVar[int] = 67

    records: tuple[bytes, ...]
    contacts: tuple[Contact, ...]
    cursor: Cursor
    more: bool = False
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of each record of a Store, in its order.

    contacts: nodes close to the key that the sender did not know. fresher: what is kept instead of
    the sender's own records that are older, without certificates.
    """

    type: ClassVar[int] = 68

    results: tuple[StoreResult, ...]
    contacts: tuple[Contact, ...] = ()
    fresher: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was not served."""

    type: ClassVar[int] = 69

    reason: Refusal


Request = Ping | FindNode | FindValue | Store | Notify
Response = Pong | Nodes | Values | Stored | Refused


def encode(message: Request | Response) -> bytes:
    """Return a message as bytes."""
    fields: dict[str, Any] = {"v": VERSION, "t": message.type}
    match message:
        case FindNode(target, count):
            fields.update(k=key_bytes(target), n=count)
        case FindValue(key, count, cursor, watch, quiet):
            fields.update(k=key_bytes(key), n=count)
            if cursor is not None:
                fields.update(_position(cursor))
            if watch:
                fields["w"] = 2 if quiet else 1
        case Store(key, records, known):
            fields.update(k=key_bytes(key), d=records)
            if known:
                fields["h"] = known
        case Notify(key, records):
            fields.update(k=key_bytes(key), d=records)
        case Nodes(contacts):
            fields["c"] = [contact.wire for contact in contacts]
        case Values(records, contacts, cursor, more, lease):
            fields.update(
                d=records,
                c=[contact.wire for contact in contacts],
                **_position(cursor),
            )
            if more:
                fields["m"] = 1
            if lease:
                fields["l"] = lease
        case Stored(results, contacts, fresher):
            fields["s"] = [int(result) for result in results]
            if contacts:
                fields["c"] = [contact.wire for contact in contacts]
            if fresher:
                fields["d"] = fresher
        case Refused(reason):
            fields["x"] = int(reason)
    return cbor.encode(fields)


def decode_request(body: bytes) -> Request:
    """Return the request in body. Raises ProtocolError: it is none that this version knows."""
    fields = _fields(body)
    make = _REQUESTS.get(_integer(fields, "t", 255))
    if make is None:
        raise ProtocolError(f"a DHT request of unknown type {fields['t']}")
    return make(fields)


def decode_response(body: bytes) -> Response:
    """Return the response in body. Raises ProtocolError: it is none that this version knows."""
    fields = _fields(body)
    make = _RESPONSES.get(_integer(fields, "t", 255))
    if make is None:
        raise ProtocolError(f"a DHT response of unknown type {fields['t']}")
    return make(fields)


def batches(records: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """Return records cut into batches that each fit into one message."""
    cut: list[tuple[bytes, ...]] = []
    batch: list[bytes] = []
    size = 0
    for record in records:
        if batch and (size + len(record) > RECORDS_SIZE or len(batch) == MAX_RECORDS):
            cut.append(tuple(batch))
            batch, size = [], 0
        batch.append(record)
        size += len(record)
    if batch:
        cut.append(tuple(batch))
    return cut


def _fields(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY:
        raise ProtocolError(f"a DHT message of {len(body)} bytes; at most {MAX_BODY}")
    fields = cbor.decode(body, _DEPTH)
    if not isinstance(fields, dict):
        raise ProtocolError("a DHT message that is not a map")
    version = _integer(fields, "v", 2**16)
    if version != VERSION:
        raise ProtocolError(f"a DHT message of version {version}; this program speaks {VERSION}")
    return fields


def _integer(fields: dict[str, Any], name: str, limit: int, default: int | None = None) -> int:
    value = fields.get(name, default)
    if type(value) is not int or not 0 <= value < limit:
        raise ProtocolError(f"DHT message field {name} is {value!r:.40}; a number below {limit}")
    return value


def _key(fields: dict[str, Any]) -> int:
    value = fields.get("k")
    if not isinstance(value, bytes) or len(value) != KEY_BYTES:
        raise ProtocolError(f"DHT message field k is {value!r:.40}; a key has {KEY_BYTES} bytes")
    return int.from_bytes(value)


def _list(fields: dict[str, Any], name: str, limit: int) -> list[Any]:
    value = fields.get(name, [])
    if not isinstance(value, list) or len(value) > limit:
        raise ProtocolError(f"DHT message field {name} is not a list of at most {limit}")
    return value


def _records(fields: dict[str, Any]) -> tuple[bytes, ...]:
    records = _list(fields, "d", MAX_RECORDS)
    for record in records:
        if not isinstance(record, bytes) or len(record) > MAX_RECORD:
            raise ProtocolError(f"a record in a DHT message is not at most {MAX_RECORD} bytes")
    return tuple(records)


def _contacts(fields: dict[str, Any]) -> tuple[Contact, ...]:
    wires = _list(fields, "c", MAX_CONTACTS)
    for wire in wires:
        if not isinstance(wire, bytes):
            raise ProtocolError("a contact in a DHT message is not bytes")
    return tuple(map(Contact.unpack, wires))


def _known(fields: dict[str, Any]) -> bytes:
    known = fields.get("h", b"")
    if not isinstance(known, bytes) or len(known) > KNOWN_BYTES * MAX_CONTACTS:
        raise ProtocolError(f"DHT message field h is not at most {MAX_CONTACTS} starts of keys")
    return known


def _count(fields: dict[str, Any]) -> int:
    return _integer(fields, "n", MAX_CONTACTS + 1, MAX_CONTACTS)


def _cursor(fields: dict[str, Any]) -> Cursor:
    base = _integer(fields, "b", MAX_REVISION) if "b" in fields else None
    return Cursor(_integer(fields, "e", MAX_REVISION), _integer(fields, "r", MAX_REVISION), base)


def _position(cursor: Cursor) -> dict[str, int]:
    fields = {"e": cursor.epoch, "r": cursor.revision}
    return fields if cursor.base is None else {**fields, "b": cursor.base}


def _find_value(fields: dict[str, Any]) -> FindValue:
    watch = _integer(fields, "w", 3, 0)
    cursor = _cursor(fields) if "e" in fields else None
    return FindValue(_key(fields), _count(fields), cursor, watch > 0, watch == 2)


def _values(fields: dict[str, Any]) -> Values:
    return Values(
        _records(fields),
        _contacts(fields),
        _cursor(fields),
        bool(_integer(fields, "m", 2, 0)),
        _integer(fields, "l", 2**16, 0),
    )


def _stored(fields: dict[str, Any]) -> Stored:
    results = _list(fields, "s", MAX_RECORDS)
    try:
        kept = tuple(StoreResult(result) for result in results)
    except ValueError:
        raise ProtocolError("a result in a DHT message that is none of those agreed") from None
    return Stored(kept, _contacts(fields), _records(fields))


def _refused(fields: dict[str, Any]) -> Refused:
    try:
        return Refused(Refusal(_integer(fields, "x", 256)))
    except ValueError:
        raise ProtocolError("a refusal in a DHT message that is none of those agreed") from None


_REQUESTS: Final[dict[int, Callable[[dict[str, Any]], Request]]] = {
    Ping.type: lambda _: Ping(),
    FindNode.type: lambda fields: FindNode(_key(fields), _count(fields)),
    FindValue.type: _find_value,
    Store.type: lambda fields: Store(_key(fields), _records(fields), _known(fields)),
    Notify.type: lambda fields: Notify(_key(fields), _records(fields)),
}
_RESPONSES: Final[dict[int, Callable[[dict[str, Any]], Response]]] = {
    Pong.type: lambda _: Pong(),
    Nodes.type: lambda fields: Nodes(_contacts(fields)),
    Values.type: _values,
    Stored.type: _stored,
    Refused.type: _refused,
}
