"""Files that somebody names: read without waiting, whatever is found under the name."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path


def read_plain(
    path: Path,
    limit: int,
    *,
    linked: bool = True,
    check: Callable[[os.stat_result], None] = lambda _: None,
) -> bytes:
    """Return the content of a plain file of at most limit bytes.

    linked: path may be a symbolic link. check: looks at the file before it is read; what it
    raises is raised.
    Raises OSError, whose strerror says what is wrong: the file is missing, larger, a folder, or a
    pipe or device, which could keep whoever reads it waiting for ever.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if linked else os.O_NOFOLLOW)
    # Opened once and judged by its descriptor: what was checked is what is read.
    file = os.open(path, flags)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
            raise OSError(errno.EINVAL, f"{kind}, not a plain file", str(path))
        check(status)
        content = bytearray()
        while len(content) <= limit and (part := os.read(file, limit + 1 - len(content))):
            content += part
    finally:
        os.close(file)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return bytes(content)
