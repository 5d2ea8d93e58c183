"""QuicEther installed, as an overlay layer below the root of whole hosts.

`./bootstrap install` runs in a chroot on an overlay of this machine's root; what it wrote is the
layer. Two layers are kept below `CACHE`: one for each set of dependencies, and on it one for each
state of the sources, which takes about a second because only our own package is installed again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[2]
CACHE: Final = Path("/var/cache/quicether-tests")
_CHROOT: Final = Path(__file__).with_name("install_in_layer.sh")
_INSTALLED: Final = ("service", "nm_plugin", "systemd", "polkit")
_ENVIRONMENT: Final = ("requirements/service.txt",)
_PROJECT: Final = ("bootstrap", "pyproject.toml", "README.md", "LICENSE")
_KEPT: Final = 4
"""Layers of older sources that stay; those of other branches are quick to come back."""
_TIMEOUT: Final = 600.0


class InstallError(Exception):
    """`./bootstrap install` failed. The text is what it printed."""


def installed_layer() -> list[Path]:
    """Build what is not yet built. Returns overlay layers, topmost first.

    Raises InstallError: `./bootstrap install` failed.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with _exclusive():
        below = _layer("environment", _digest(CHECKOUT / name for name in _ENVIRONMENT), [])
        layer = _layer("sources", _digest(_sources()), [below])
        _forget_old()
    return [layer, below]


def _sources() -> Iterator[Path]:
    for name in (*_PROJECT, *_ENVIRONMENT):
        yield CHECKOUT / name
    for folder in _INSTALLED:
        for path in sorted((CHECKOUT / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc" and ".egg-info" not in str(path):
                yield path


def _digest(paths: Iterable[Path]) -> str:
    """A name for the state of these files and of the Python that runs them."""
    digest = hashlib.sha256(bytes(Path("/usr/bin/python3").readlink()))
    for path in paths:
        if path.exists():
            name = str(path.relative_to(CHECKOUT))
            digest.update(f"{name} {path.stat().st_mode:o} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _layer(kind: str, digest: str, below: list[Path]) -> Path:
    """The layer of that name, built on others unless it is there."""
    layer = CACHE / f"{kind}-{digest}"
    if not layer.exists():
        building = CACHE / f"building-{digest}"
        shutil.rmtree(building, ignore_errors=True)
        for name in ("upper", "work", "root"):
            (building / name).mkdir(parents=True)
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "sh", _CHROOT],
            env={
                **os.environ,
                "LAYER_LOWER": ":".join([*map(str, below), "/"]),
                "LAYER_BUILDING": str(building),
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
        (building / "upper").rename(layer)
        shutil.rmtree(building)
    os.utime(layer)
    return layer


def _forget_old() -> None:
    """Remove layers that have not been used for the longest, and not within the last hour."""
    for kind in ("environment", "sources"):
        layers = sorted(CACHE.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)
        for layer in layers[:-_KEPT]:
            if layer.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(layer)


@contextmanager
def _exclusive() -> Iterator[None]:
    """One builder at a time."""
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
