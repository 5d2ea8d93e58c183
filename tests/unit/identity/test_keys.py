from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from quicether.errors import ConfigError, IdentityError, TrustError
from quicether.identity import files
from quicether.identity.keys import NodeKey, parse_public_key, public_pem, verify


def test_key_is_kept_for_its_owner_alone_and_comes_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    key = NodeKey.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_uid == files.Owner.service().uid
    assert NodeKey.load(path).public_raw == key.public_raw
    assert [entry.name for entry in tmp_path.iterdir()] == ["node.key"]


def test_node_id_is_160_bits_of_the_public_keys_hash() -> None:
    key = NodeKey.generate()
    assert key.node_id.value == hashlib.sha256(key.public_raw).digest()[:20]


def test_create_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    NodeKey.create(path)
    before = path.read_bytes()
    with pytest.raises(IdentityError, match="exists already"):
        NodeKey.create(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["node.key"]


def test_load_or_create_makes_a_key_once(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    assert NodeKey.load_or_create(path).node_id == NodeKey.load_or_create(path).node_id


def test_missing_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"node\.key is missing"):
        NodeKey.load(tmp_path / "node.key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o601])
def test_key_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    NodeKey.create(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=rf"open to other users \(mode {mode:04o}\).*chmod 600"):
        NodeKey.load(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    NodeKey.create(path)
    os.chown(path, 12345, 12345)
    with pytest.raises(IdentityError, match="belongs to user id 12345"):
        NodeKey.load(path)


def test_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    NodeKey.create(tmp_path / "elsewhere")
    (tmp_path / "node.key").symlink_to(tmp_path / "elsewhere")
    for load in (NodeKey.load, NodeKey.load_or_create):
        with pytest.raises(IdentityError, match="cannot read key"):
            load(tmp_path / "node.key")


def test_writing_does_not_follow_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "var").symlink_to(tmp_path / "real")
    with pytest.raises(IdentityError, match="cannot write"):
        NodeKey.create(tmp_path / "var" / "node.key")
    assert not list((tmp_path / "real").iterdir())


def test_fifo_in_the_keys_place_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "node.key", 0o600)
    with pytest.raises(IdentityError, match="a pipe or device, not a plain file"):
        NodeKey.load(tmp_path / "node.key")


def test_folder_in_the_keys_place_is_one_sentence_and_keeps_no_descriptor(tmp_path: Path) -> None:
    """Python refuses to make a stream of it, with an error of its own and the folder left open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(IdentityError, match=f"key {tmp_path}: a folder, not a plain file"):
        NodeKey.load(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def _write_private(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "damage", [b"", b"rubbish", b"\xff" * 100, b"-----BEGIN PRIVATE KEY-----\n"]
)
def test_damaged_key_is_refused(tmp_path: Path, damage: bytes) -> None:
    with pytest.raises(IdentityError, match="is damaged"):
        NodeKey.load(_write_private(tmp_path / "node.key", damage))


def test_truncated_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    NodeKey.create(path)
    whole = path.read_bytes()
    for length in range(len(whole) - 25):
        with pytest.raises(IdentityError, match="is damaged"):
            NodeKey.load(_write_private(path, whole[:length]))


def test_encrypted_key_is_refused(tmp_path: Path) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    with pytest.raises(IdentityError, match="is damaged"):
        NodeKey.load(_write_private(tmp_path / "node.key", pem))


def test_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(IdentityError, match="is not an Ed25519 key"):
        NodeKey.load(_write_private(tmp_path / "node.key", pem))


def test_oversized_key_file_is_refused_unread(tmp_path: Path) -> None:
    path = _write_private(tmp_path / "node.key", b"")
    os.truncate(path, files.MAX_FILE + 1)
    with pytest.raises(IdentityError, match="larger than"):
        NodeKey.load(path)


def test_signature_of_another_key_is_refused() -> None:
    key, other = NodeKey.generate(), NodeKey.generate()
    signature = key.sign(b"record")
    verify(key.public_raw, signature, b"record")
    for public, signed, data in (
        (other.public_raw, signature, b"record"),
        (key.public_raw, signature, b"recorD"),
        (key.public_raw, signature[:-1], b"record"),
        (b"short", signature, b"record"),
    ):
        with pytest.raises(TrustError, match="does not match"):
            verify(public, signed, data)


def test_public_key_is_read_from_base64_and_pem() -> None:
    key = NodeKey.generate()
    assert len(key.public_text) == 44
    assert parse_public_key(f" {key.public_text}\n") == key.public_raw
    assert parse_public_key(public_pem(key.public_raw).decode()) == key.public_raw


@pytest.mark.parametrize("text", ["", "AAAA", "ü" * 44, "A" * 10_000, "-----BEGIN PUBLIC KEY-----"])
def test_bad_public_key_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="public key"):
        parse_public_key(text)


def test_repr_does_not_show_the_secret() -> None:
    assert "private" not in repr(NodeKey.generate())
