"""What records can say: the content of NODE, SUBNET, GW and GW_SUBNET, and its bytes. Pure."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
)

from quicether import cbor
from quicether.dht import keyspace
from quicether.dht.contact import pack_endpoint, unpack_endpoint
from quicether.errors import ProtocolError, TrustError
from quicether.model import DropReason, NodeId, Prefix, UnderlayAddress
from quicether.wire import AsTuple, Capability, WireNodeId, WirePrefix, pack_prefix

MAX_CONTENTS: Final = 256
"""Most contents that one node publishes, and most that are believed of one node."""
MAX_KEYS: Final = 3
"""Most keys that one content is kept under: its own, and two of the index."""
NODE_TTL: Final = 3600
GATEWAY_TTL: Final = 600
MIN_TTL: Final = 60
"""Shortest life of a record that does not withdraw, in seconds."""
_CONTENT_DEPTH: Final = 3


class RecordRefused(TrustError):
    """A record that is not stored, not passed on and not used; reason is what it counts as."""

    def __init__(self, reason: DropReason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def _endpoint_from_wire(value: object) -> object:
    if not isinstance(value, bytes):
        return value
    try:
        return unpack_endpoint(value)
    except ProtocolError as error:
        raise ValueError(str(error)) from None


_WireEndpoint = Annotated[
    UnderlayAddress,
    BeforeValidator(_endpoint_from_wire),
    PlainSerializer(pack_endpoint, return_type=bytes),
]


class Content(BaseModel):
    """What a record says, apart from who says it and for how long. Immutable."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)
    kind: ClassVar[str]
    max_ttl: ClassVar[int] = NODE_TTL
    """Longest life of such a record, in seconds."""

    @property
    def subject(self) -> bytes:
        """What tells two records of one owner and kind apart."""
        return b""

    def claims(self) -> tuple[Prefix, ...]:
        """Return the prefixes that the owner's certificate has to cover."""
        return ()

    def keys(self, network_id: bytes, owner: NodeId) -> tuple[int, ...]:
        """Return every key under which the record may be kept."""
        raise NotImplementedError


class NodeContent(Content):
    """NODE: where its owner can be reached, and what it can do.

    addresses: underlay addresses, best first. capabilities: lower case with dashes.
    """

    kind: ClassVar[str] = "NODE"

    addresses: Annotated[tuple[_WireEndpoint, ...], AsTuple, Field(max_length=8)] = ()
    capabilities: Annotated[tuple[Capability, ...], AsTuple, Field(max_length=16)] = ()

    def keys(self, network_id: bytes, owner: NodeId) -> tuple[int, ...]:
        """Return the owner's own key."""
        return (keyspace.node_key(network_id, owner),)


class SubnetContent(Content):
    """SUBNET: its owner owns this prefix."""

    kind: ClassVar[str] = "SUBNET"

    prefix: WirePrefix

    @property
    def subject(self) -> bytes:
        """The prefix."""
        return pack_prefix(self.prefix)

    def claims(self) -> tuple[Prefix, ...]:
        """Return the prefix."""
        return (self.prefix,)

    def keys(self, network_id: bytes, owner: NodeId) -> tuple[int, ...]:
        """Return the prefix's own key and those of the index."""
        return (
            keyspace.subnet_key(network_id, self.prefix),
            *keyspace.index_keys(network_id, self.prefix),
        )


class GatewaySubnetContent(SubnetContent):
    """GW_SUBNET: its owner forwards to this prefix."""

    kind: ClassVar[str] = "GW_SUBNET"
    max_ttl: ClassVar[int] = GATEWAY_TTL

    def keys(self, network_id: bytes, owner: NodeId) -> tuple[int, ...]:
        """Return the prefix's own key and those of the index."""
        return (
            keyspace.gateway_subnet_key(network_id, self.prefix),
            *keyspace.index_keys(network_id, self.prefix),
        )


class GatewayContent(Content):
    """GW: its owner forwards to another node, at these overlay prefixes of that node."""

    kind: ClassVar[str] = "GW"
    max_ttl: ClassVar[int] = GATEWAY_TTL

    node: WireNodeId
    prefixes: Annotated[tuple[WirePrefix, ...], AsTuple, Field(min_length=1, max_length=16)]

    @property
    def subject(self) -> bytes:
        """The node that is forwarded to."""
        return self.node.value

    def claims(self) -> tuple[Prefix, ...]:
        """Return the prefixes."""
        return self.prefixes

    def keys(self, network_id: bytes, owner: NodeId) -> tuple[int, ...]:
        """Return the key of the node that is forwarded to."""
        return (keyspace.gateway_key(network_id, self.node),)


CONTENTS: Final[dict[str, type[Content]]] = {
    model.kind: model
    for model in (NodeContent, SubnetContent, GatewayContent, GatewaySubnetContent)
}


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    kind: Annotated[str, StringConstraints(max_length=16)]
    owner: WireNodeId
    issued: Annotated[int, Field(ge=0, lt=2**53)]
    ttl: Annotated[int, Field(ge=0, le=NODE_TTL)]


def slot_of(owner: NodeId, content: Content) -> bytes:
    """Return what one owner can have only one live record for: owner, kind and subject."""
    return owner.value + content.kind.encode() + b":" + content.subject


def encode_content(owner: NodeId, content: Content, issued: int, ttl: int) -> bytes:
    """Return the bytes that a record's signature covers, without domain and network."""
    head = {"kind": content.kind, "owner": owner.value, "issued": issued, "ttl": ttl}
    return cbor.encode({**head, **content.model_dump()})


def decode_content(body: bytes) -> tuple[NodeId, Content, int, int]:
    """Return owner, content, issued (milliseconds since 1970) and TTL (seconds).

    Raises RecordRefused: not the content of a record that this version knows.
    """
    try:
        fields = cbor.decode(body, _CONTENT_DEPTH)
        if not isinstance(fields, dict):
            raise malformed("its content is not a map")
        header = _Header.model_validate(fields)
        model = CONTENTS.get(header.kind)
        if model is None:
            raise malformed(f"kind {header.kind!r} is not one of {', '.join(CONTENTS)}")
        content = model.model_validate(fields)
    except ProtocolError as error:
        raise malformed(str(error)) from None
    except ValidationError as error:
        raise malformed(_first(error)) from None
    if header.ttl and not MIN_TTL <= header.ttl <= model.max_ttl:
        raise RecordRefused(
            DropReason.RECORD_TIME,
            f"record ttl {header.ttl}; a {header.kind} record has 0 or "
            f"{MIN_TTL} to {model.max_ttl}",
        )
    return header.owner, content, header.issued, header.ttl


def malformed(what: str) -> RecordRefused:
    """Return the refusal of a record whose bytes are not as they should be."""
    return RecordRefused(DropReason.RECORD_MALFORMED, f"a record that cannot be read: {what}")


def _first(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "content"
    return f"{where}: {first['msg']}"
