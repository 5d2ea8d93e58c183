"""No file that somebody names keeps the reader waiting, whatever it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from quicether.config.load import read_file
from quicether.errors import QuicEtherError
from quicether.host import namespaces
from quicether.host.namespaces import open_namespace
from quicether.identity.files import read_public
from quicether.plainfile import read_plain
from quicether.policy.audit_writer import open_audit
from quicether.policy.load import read_policy

LIMIT = 1000
READERS: dict[str, Callable[[Path], object]] = {
    "configuration": read_file,
    "policy": read_policy,
    "certificate, key, revocations, peers": lambda path: read_public(path, "certificate"),
    "audit log": open_audit,
}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def places(tmp_path: Path) -> dict[str, Path]:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    return {"fifo": fifo, "device": Path("/dev/tty"), "null": Path("/dev/null"), "folder": tmp_path}


@pytest.mark.parametrize("kind", ["fifo", "device", "null", "folder"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_plain_file_is_refused_with_a_sentence(
    tmp_path: Path, reader: str, kind: str
) -> None:
    """A pipe as policy-file stopped the whole service."""
    path = places(tmp_path)[kind]
    with pytest.raises(QuicEtherError) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value)


def test_a_pipe_among_the_namespaces_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespaces, "_NAMESPACES", tmp_path)
    os.mkfifo(tmp_path / "work")
    os.close(open_namespace("work"))  # setns(2) refuses it


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(path)
    for content in (b"", b"x", b"x" * LIMIT):
        path.write_bytes(content)
        assert read_plain(path, LIMIT) == read_plain(link, LIMIT) == content
    path.write_bytes(b"x" * (LIMIT + 1))
    with pytest.raises(OSError, match="larger than 1000 bytes"):
        read_plain(path, LIMIT)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        read_plain(link, LIMIT, linked=False)


def test_what_was_refused_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    def refuse(_: os.stat_result) -> None:
        raise OSError("not this one")

    path = tmp_path / "file"
    path.write_bytes(b"xx")
    before = descriptors()
    for wrong in (tmp_path, path):
        with pytest.raises(OSError, match=r"not a plain file|larger"):
            read_plain(wrong, 1)
    with pytest.raises(OSError, match="not this one"):
        read_plain(path, LIMIT, check=refuse)
    assert descriptors() == before
