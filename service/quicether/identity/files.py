"""Files that hold identities: written whole or not at all, and refused when exposed.

The command line runs as root and writes into folders that the unprivileged daemon owns, so a
folder's last component and the file itself are never followed as symbolic links.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import secrets
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quicether.errors import IdentityError
from quicether.plainfile import read_plain

SERVICE_USER: Final = "quicether"
"""The user that the daemon runs as."""
PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
LOCK: Final = ".lock"
"""Name of the file that `locked` locks."""
MAX_FILE: Final = 1 << 20
"""Size in bytes above which a file is refused unread, where its reader sets no other bound."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A user and group that a file belongs to."""

    uid: int
    gid: int

    @classmethod
    def current(cls) -> Owner:
        """Return the user that this process acts as."""
        return cls(os.geteuid(), os.getegid())

    @classmethod
    def service(cls) -> Owner:
        """Return whom node keys belong to: the daemon's user when root asks and it exists."""
        if os.geteuid() != 0:
            return cls.current()
        try:
            entry = pwd.getpwnam(SERVICE_USER)
        except KeyError:
            return cls.current()
        return cls(entry.pw_uid, entry.pw_gid)


def make_directory(path: Path, mode: int, owner: Owner | None = None) -> None:
    """Make a folder, and public ones above it; one that is there stays as it is.

    Raises IdentityError: it cannot be made, or something that is no folder is in its place.
    """
    if not os.path.lexists(path.parent):
        make_directory(path.parent, 0o755)
    try:
        try:
            path.mkdir(mode=mode)
        except FileExistsError:
            with _directory(path):
                return
        with _directory(path) as folder:
            os.fchmod(folder, mode)  # whatever the umask of whoever typed the command
            if owner is not None and os.geteuid() == 0:
                os.fchown(folder, owner.uid, owner.gid)
    except OSError as error:
        raise IdentityError(f"cannot make folder {path}: {error.strerror}") from error


def write_file(path: Path, data: bytes, mode: int, owner: Owner | None = None) -> None:
    """Put data at path atomically, in place of what is there.

    A reader sees the old or the new content, also after a power cut.
    Raises IdentityError: the file cannot be written.
    """
    try:
        with _directory(path.parent) as folder:
            temporary = _write_temporary(folder, path.name, data, mode, owner)
            try:
                os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                os.unlink(temporary, dir_fd=folder)
                raise
            os.fsync(folder)
    except OSError as error:
        raise IdentityError(f"cannot write {path}: {error.strerror}") from error


def create_file(path: Path, data: bytes, mode: int, owner: Owner | None = None) -> None:
    """Put data at path atomically where nothing is yet.

    Raises FileExistsError: something is there, and stays as it is; IdentityError: the file
    cannot be written.
    """
    try:
        with _directory(path.parent) as folder:
            temporary = _write_temporary(folder, path.name, data, mode, owner)
            try:
                # link(2), unlike rename(2), fails when the target exists.
                os.link(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                os.unlink(temporary, dir_fd=folder)
            os.fsync(folder)
    except FileExistsError:
        raise
    except OSError as error:
        raise IdentityError(f"cannot write {path}: {error.strerror}") from error


def remove_file(path: Path) -> bool:
    """Remove a file; tell whether it was there. Raises IdentityError: it cannot be removed."""
    try:
        with _directory(path.parent) as folder:
            os.unlink(path.name, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise IdentityError(f"cannot remove {path}: {error.strerror}") from error
    return True


def read_public(path: Path, what: str, limit: int = MAX_FILE) -> bytes:
    """Return the content of a file that anybody may read.

    what: the thing's name for sentences, such as "certificate". limit: in bytes.
    Raises FileNotFoundError: nothing is there; IdentityError: it cannot be read, is no plain
    file, or is larger than limit.
    """
    return _read(path, what, limit, ())


def read_private(
    path: Path, what: str, owners: Iterable[Owner] = (), limit: int = MAX_FILE
) -> bytes:
    """Return the content of a file that holds a secret.

    owners: who may own the file beside this user and root.
    Raises FileNotFoundError: nothing is there; IdentityError: as `read_public`, or others than
    its owner may read or write it, or it is another user's.
    """
    uids = {0, os.geteuid(), *(owner.uid for owner in owners)}
    return _read(path, what, limit, uids)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes that also lock directory out until the block ends.

    The lock is a file of its owner's alone: a lock on the folder itself could be taken, and
    held for ever, by anybody who may read the folder.
    Raises IdentityError: the lock cannot be opened.
    """
    path = directory / LOCK
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(path, flags, PRIVATE_MODE)
    except OSError as error:
        raise IdentityError(f"cannot lock {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _read(path: Path, what: str, limit: int, private_to: Collection[int]) -> bytes:
    """Read a file that, unless private_to is empty, must be private to one of these user ids."""

    def check(status: os.stat_result) -> None:
        if private_to:
            _refuse_exposed(path, what, status, private_to)

    try:
        return read_plain(path, limit, linked=False, check=check)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise IdentityError(f"cannot read {what} {path}: {error.strerror}") from error


def _refuse_exposed(
    path: Path, what: str, status: os.stat_result, private_to: Collection[int]
) -> None:
    if status.st_uid not in private_to:
        raise IdentityError(
            f"{what} {path} belongs to user id {status.st_uid}; it must belong to "
            f"{_user_name(os.geteuid())}"
        )
    exposed = stat.S_IMODE(status.st_mode) & 0o077
    if exposed:
        raise IdentityError(
            f"{what} {path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}); "
            f"run: chmod 600 {path}, and make a new one if others may have read it"
        )


def _user_name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user id {uid}"


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


def _write_temporary(folder: int, name: str, data: bytes, mode: int, owner: Owner | None) -> str:
    temporary = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(temporary, flags, PRIVATE_MODE, dir_fd=folder)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            if owner is not None and os.geteuid() == 0:
                os.fchown(stream.fileno(), owner.uid, owner.gid)
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
    except OSError:
        os.unlink(temporary, dir_fd=folder)
        raise
    return temporary
