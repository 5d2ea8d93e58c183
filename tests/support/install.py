"""QuicEther installed, as overlay layers below the root of whole hosts.

`./bootstrap install` runs in a chroot on an overlay of this machine's root; what it wrote is the
layer. Two kinds are kept as archives in `CACHE`: one for each set of dependencies, and on it one
for each state of the sources, which is quick because only our own package is installed again. A run
unpacks what it needs into memory, once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support.commands import run_command
from support.sweep import current

CHECKOUT: Final = Path(__file__).parents[2]
CACHE: Final = Path("/var/cache/quicether-tests")
_SCRIPT: Final = Path(__file__).with_name("install_in_layer.sh")
_INSTALLED: Final = ("service", "nm_plugin", "systemd", "polkit")
_ENVIRONMENT: Final = ("requirements/service.txt",)
_MACHINE: Final = tuple(
    map(Path, ("/opt/quicether/manifest", "/etc/passwd", "/etc/group", "/var/lib/dpkg/status"))
)
"""What a layer has an edited copy of, or was built beside: the machine's accounts and folders."""
_PROJECT: Final = ("bootstrap", "pyproject.toml", "README.md", "LICENSE")
_KEPT: Final = 4
"""Layers of older sources that stay; those of other branches are quick to come back."""
_RESOLVED: Final = Path("/usr/lib/systemd/systemd-resolved")
_TIMEOUT: Final = 600.0


class InstallError(Exception):
    """`./bootstrap install` failed. The text is what it printed."""


def installed_layer() -> list[Path]:
    """Build what is not yet built and unpack it for this run. Returns layers, topmost first.

    Raises InstallError: `./bootstrap install` failed.
    """
    with _exclusive():
        archive, below = build()
        memory = current().memory("layers")
        return [_unpacked(archive, memory), _unpacked(below, memory)]


def resolved_layer() -> list[Path]:
    """Return layers with systemd-resolved on them, none where the machine itself has it.

    Its package would make itself the machine's resolver, so it is unpacked, not installed.
    """
    if _RESOLVED.exists():
        return []
    with _exclusive():
        layer = current().memory("layers") / "systemd-resolved"
        if not layer.exists():
            run_command(["dpkg-deb", "--extract", str(_resolved_package()), str(layer)])
            if (layer / "lib").exists():  # which is a link to /usr/lib on every host
                run_command(["cp", "-a", f"{layer}/lib/.", f"{layer}/usr/lib"])
                shutil.rmtree(layer / "lib")
    return [layer]


def _resolved_package() -> Path:
    """Return systemd-resolved's package as a file, fetched anew where systemd is another one.

    Raises CommandError: it cannot be fetched.
    """
    version = run_command(["dpkg-query", "-W", "-f", "${Version}", "systemd"]).stdout
    package = CACHE / f"systemd-resolved-{version}.deb"
    if not package.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            fetch = ["apt-get", "-qq", "download", "systemd-resolved"]
            run_command(["sh", "-c", 'cd "$0" && exec "$@"', name, *fetch], timeout=120)
            next(Path(name).glob("*.deb")).replace(package)
    return package


def build() -> tuple[Path, Path]:
    """Build what is not yet built. Returns the archives of our own layer and of the one below."""
    below = _archive("environment", _digest(CHECKOUT / name for name in _ENVIRONMENT), None)
    archive = _archive("sources", _digest(_sources()), below)
    _forget_old()
    return archive, below


def _sources() -> Iterator[Path]:
    for name in (*_PROJECT, *_ENVIRONMENT):
        yield CHECKOUT / name
    for folder in _INSTALLED:
        for path in sorted((CHECKOUT / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc" and ".egg-info" not in str(path):
                yield path


def _digest(paths: Iterable[Path]) -> str:
    """A name for the state of these files, of the Python that runs them and of the machine."""
    digest = hashlib.sha256(bytes(Path("/usr/bin/python3").readlink()))
    for path in (*paths, *_MACHINE):
        if path.exists():
            status = path.stat()
            digest.update(f"{path} {status.st_mode:o} {status.st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _archive(kind: str, digest: str, below: Path | None) -> Path:
    """The archive of a layer, built on the one below it unless it is there."""
    archive = CACHE / f"{kind}-{digest}.tar"
    if not archive.exists():
        with tempfile.TemporaryDirectory() as build:
            done = subprocess.run(
                ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "sh", _SCRIPT],
                env={
                    **os.environ,
                    "BUILD": build,
                    "BELOW": str(below or ""),
                    "LAYER": str(archive),
                    "CHECKOUT": str(CHECKOUT),
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        if done.returncode != 0:
            raise InstallError(f"bootstrap install: status {done.returncode}\n{done.stdout}")
    os.utime(archive)
    return archive


def _unpacked(archive: Path, memory: Path) -> Path:
    """The archive's content, as a folder in this run's memory."""
    layer = memory / archive.stem
    if not layer.exists():
        layer.mkdir()
        with_attributes = ("--xattrs", "--xattrs-include=*")
        run_command(["tar", "-x", *with_attributes, f"--file={archive}", f"--directory={layer}"])
    return layer


def _forget_old() -> None:
    """Remove archives that have not been used for the longest, and not within the last hour."""
    for kind in ("environment", "sources"):
        archives = sorted(CACHE.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)
        for archive in archives[:-_KEPT]:
            if archive.stat().st_mtime < time.time() - 3600:
                archive.unlink()


@contextmanager
def _exclusive() -> Iterator[None]:
    """One builder at a time."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Build what tests and demo need, so that none of them waits for it; return the exit status."""
    try:
        with _exclusive():
            build()
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
