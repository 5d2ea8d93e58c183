"""What a test run puts on the machine, and how all of it goes away again.

One process is one `Run`. Everything it makes carries the run's name: network namespaces
`qe-<run>-<host>`, the control group `qe-<run>` and the folder `/run/quicether-tests/<run>`. Mounts
live in the hosts' own mount namespaces and end with them. The kernel drops the run's lock when its
process ends, however it ends, so the next run's `sweep` knows what nobody owns any more.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import secrets
import select
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Final

PREFIX: Final = "qe-"
STATE: Final = Path("/run/quicether-tests")
NAMESPACES: Final = Path("/run/netns")


def cgroup2() -> Path:
    """Where the unified control group hierarchy is mounted (alone, or beside version 1)."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(target)
    raise RuntimeError("no cgroup2 hierarchy is mounted; hosts in namespaces need one")


class Run:
    """What this process owns on the machine. `close` is idempotent."""

    def __init__(self) -> None:
        STATE.mkdir(parents=True, exist_ok=True)
        self.name: Final = secrets.token_hex(3)
        self.directory: Final = STATE / self.name
        # The lock comes before the folder: a folder whose lock is free has no owner.
        self._lock = _lock(self.name)
        if self._lock is None:
            raise RuntimeError(f"run {self.name} exists already")
        self.directory.mkdir()
        self.cgroup: Final = cgroup2() / f"{PREFIX}{self.name}"
        self.cgroup.mkdir()
        self._pid = os.getpid()
        atexit.register(self.close)

    def namespace(self, host: str) -> str:
        """The name of the network namespace of one of this run's hosts."""
        return f"{PREFIX}{self.name}-{host}"

    def memory(self, name: str) -> Path:
        """A folder in memory that ends with the run; one mount for each name."""
        folder = self.directory / name
        if not folder.exists():
            folder.mkdir()
            options = ["-t", "tmpfs", "-o", "mode=755", f"{PREFIX}{self.name}"]
            subprocess.run(["mount", *options, folder], check=True, timeout=30)
        return folder

    def close(self) -> None:
        """End and remove all that carries this run's name."""
        if self._lock is None or os.getpid() != self._pid:
            return
        _remove(self.name)
        os.close(self._lock)
        self._lock = None


_current: Run | None = None
_starting = threading.Lock()


def current() -> Run:
    """This process's run; the first call starts it and sweeps up after dead ones."""
    global _current
    with _starting:
        if _current is None:
            sweep()
            _current = Run()
            _unwind_on_termination()
        return _current


def sweep() -> list[str]:
    """Remove what runs left behind whose process is gone. Returns their names."""
    STATE.mkdir(parents=True, exist_ok=True)
    swept = []
    # A run's folder is there before, and goes after, all else that carries its name.
    for name in sorted(path.name for path in STATE.iterdir() if path.is_dir()):
        lock = _lock(name)
        if lock is not None:
            _remove(name)
            os.close(lock)
            swept.append(name)
    return swept


def end_cgroup(cgroup: Path, deadline: float = 10.0) -> None:
    """Kill every process in the control group and those below it, then remove them all.

    Raises TimeoutError: a process is still there after `deadline` seconds.
    """
    if not cgroup.is_dir():
        return
    with contextlib.suppress(FileNotFoundError), (cgroup / "cgroup.events").open("rb") as events:
        end = time.monotonic() + deadline
        changes = select.poll()
        changes.register(events, select.POLLPRI)
        while b"populated 1" in os.pread(events.fileno(), 200, 0):
            (cgroup / "cgroup.kill").write_text("1")
            if time.monotonic() > end:
                raise TimeoutError(f"processes in {cgroup} outlive SIGKILL")
            changes.poll(100)
        for directory, _, _ in os.walk(cgroup, topdown=False):
            Path(directory).rmdir()


def delete_namespace(name: str) -> None:
    """Remove a named network namespace, with every device in it."""
    if (NAMESPACES / name).exists():
        subprocess.run(["ip", "netns", "delete", name], check=True, timeout=30)


def _remove(name: str) -> None:
    end_cgroup(cgroup2() / f"{PREFIX}{name}")
    for path in NAMESPACES.glob(f"{PREFIX}{name}-*"):
        delete_namespace(path.name)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        target = line.split()[1]
        if Path(target).is_relative_to(STATE / name):
            subprocess.run(["umount", "--lazy", target], check=True, timeout=30)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(STATE / name)
    (STATE / f"{name}.lock").unlink(missing_ok=True)


def _lock(name: str) -> int | None:
    """Take the lock of a run; None while its owner lives."""
    descriptor = os.open(STATE / f"{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _unwind_on_termination() -> None:
    """Make SIGTERM and SIGHUP end the program like Ctrl-C, with every `with` left in order."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        raise KeyboardInterrupt(signal.Signals(number).name)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, interrupt)
