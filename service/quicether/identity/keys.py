"""A node's Ed25519 key pair: made once, kept in a file that only its owner can read."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from quicether.errors import ConfigError, IdentityError, TrustError
from quicether.identity import files
from quicether.model import NodeId

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class NodeKey:
    """The key pair that a node is known by.

    public_raw: the public key, 32 bytes (RFC 8032).
    """

    private: Ed25519PrivateKey = field(repr=False)
    public_raw: bytes = field(init=False)
    node_id: NodeId = field(init=False)

    def __post_init__(self) -> None:
        raw = self.private.public_key().public_bytes_raw()
        object.__setattr__(self, "public_raw", raw)
        object.__setattr__(self, "node_id", NodeId.of_public_key(raw))

    @classmethod
    def generate(cls) -> Self:
        """Return a new key from the system's entropy, kept nowhere."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def create(cls, path: Path, owner: files.Owner | None = None) -> Self:
        """Make a new key and keep it at path with mode 0600.

        owner: whose file it becomes; None is whoever node keys belong to on this machine.
        Raises IdentityError: a key is there already (it is left alone), or the file cannot be
        written.
        """
        key = cls.generate()
        try:
            key._keep(path, owner or files.Owner.service())
        except FileExistsError:
            raise IdentityError(
                f"key {path} exists already; a node's key is never overwritten"
            ) from None
        return key

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the key kept at path.

        Raises IdentityError: missing, damaged, readable by others, or another user's.
        """
        try:
            pem = files.read_private(path, "key", [files.Owner.service()])
        except FileNotFoundError:
            raise IdentityError(f"key {path} is missing") from None
        return cls(parse_private_pem(pem, path))

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Return the key kept at path, made now if there is none. Raises IdentityError."""
        if not os.path.lexists(path):
            key = cls.generate()
            with contextlib.suppress(FileExistsError):  # another process was first: its key counts
                key._keep(path, files.Owner.service())
        return cls.load(path)

    def _keep(self, path: Path, owner: files.Owner) -> None:
        """Raises FileExistsError, IdentityError."""
        files.create_file(path, private_pem(self.private), files.PRIVATE_MODE, owner)

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature over data."""
        return self.private.sign(data)

    @property
    def public_text(self) -> str:
        """The public key as people pass it on: 44 characters of base64."""
        return base64.b64encode(self.public_raw).decode()


def verify(public_raw: bytes, signature: bytes, data: bytes) -> None:
    """Check an Ed25519 signature over data.

    Raises TrustError: the signature is not the key's, or one of the two is malformed.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_raw).verify(signature, data)
    except (InvalidSignature, ValueError):
        raise TrustError("a signature does not match the key that it should be of") from None


def parse_public_key(text: str) -> bytes:
    """Return the raw public key written as base64 or as PEM (SubjectPublicKeyInfo).

    Raises ConfigError: neither, or no Ed25519 key.
    """
    text = text.strip()
    if text.startswith("-----"):
        try:
            key = load_pem_public_key(text.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigError("public key is damaged PEM") from None
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError("public key in PEM is not an Ed25519 key")
        return key.public_bytes_raw()
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != PUBLIC_KEY_BYTES:
        shown = text if len(text) <= 60 else text[:60] + "…"
        raise ConfigError(
            f"public key {shown!r} is not the 44 characters of base64 that `quicether keygen` "
            "prints, nor PEM"
        )
    return raw


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """Return key as unencrypted PKCS #8 in PEM, the form it is kept in."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(public_raw: bytes) -> bytes:
    """Return a raw public key as SubjectPublicKeyInfo in PEM."""
    return Ed25519PublicKey.from_public_bytes(public_raw).public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )


def parse_private_pem(pem: bytes, path: Path) -> Ed25519PrivateKey:
    """Return the private key in the PEM file that was read from path.

    Raises IdentityError: damaged, encrypted, or no Ed25519 key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError(f"key {path} is damaged: no private key in PEM (PKCS #8)") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"key {path} is not an Ed25519 key")
    return key
