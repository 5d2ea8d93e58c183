"""CBOR as all of our protocols use it: plain values, definite lengths, no tags. Pure."""

from __future__ import annotations

from typing import Final, NoReturn

import cbor2

from quicether.errors import ProtocolError

_KNOWN_TAGS: Final = (
    *range(6), 25, 28, 29, 30, 35, 36, 37, 43, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip
"""The CBOR tags that cbor2 would turn into dates, patterns, shared references and the like."""


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not used here")


_TAG_DECODERS: Final = dict.fromkeys(_KNOWN_TAGS, _refuse_tag)


def encode(value: object) -> bytes:
    """Return value as deterministic CBOR (RFC 8949 section 4.2)."""
    return cbor2.dumps(value, canonical=True)


def decode(body: bytes, max_depth: int) -> object:
    """Return the one CBOR item that body holds, with lists for arrays and dicts for maps.

    max_depth: deepest nesting of containers. Map keys can be text or byte strings only.
    Raises ProtocolError: no CBOR, a tag, an indefinite length, too deep, or bytes left over.
    """
    try:
        value: object = cbor2.loads(
            body,
            tag_hook=_refuse_tag,
            semantic_decoders=_TAG_DECODERS,
            max_depth=max_depth,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError) as error:
        raise ProtocolError(f"bytes that are not CBOR as agreed: {error}") from None
    return value
