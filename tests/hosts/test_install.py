"""`./bootstrap install` and `uninstall`, on a whole host."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hosts import WholeHost

CHECKOUT = Path(__file__).parents[2]
ACCOUNTS = ("etc/passwd", "etc/shadow", "etc/group", "etc/gshadow", "etc/.pwd.lock")
"""What systemd-sysusers writes; their backups end with a dash."""


@pytest.fixture
def host(installed: list[Path]) -> Iterator[WholeHost]:
    with WholeHost("laptop", layers=installed) as host:
        shutil.copy(CHECKOUT / "bootstrap", host.root / "tmp/bootstrap")
        yield host


def written(layers: list[Path]) -> set[str]:
    """Every path that `install` made or changed, relative to the root."""
    return {str(path.relative_to(layer)) for layer in layers for path in layer.rglob("*")}


def looks(path: Path) -> object:
    """What must be equal for a path to be as it was: kind, owner, mode and content."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return "nothing"
    if path.is_symlink():
        content: object = path.readlink()
    else:
        content = path.read_bytes() if path.is_file() else None
    return (status.st_mode, status.st_uid, status.st_gid, content)


def differences(host: WholeHost, layers: list[Path]) -> set[str]:
    """Paths that `install` wrote and that are not as on the machine below, which has none of it."""
    return {name for name in written(layers) if looks(host.root / name) != looks(Path("/") / name)}


def test_installed_files_are_root_s_and_nobody_else_may_write(host: WholeHost) -> None:
    names = (host.root / "opt/quicether/manifest").read_text().split()
    assert "/usr/bin/quicether" in names
    assert "/usr/lib/NetworkManager/VPN/nm-quicether-service.name" in names
    find = ["find", "/opt/quicether", "(", "-not", "-user", "0", "-o", "-perm", "/022", ")"]
    assert host.run([*find, "-not", "-type", "l"]).stdout == ""


def test_uninstall_leaves_only_keys_settings_and_the_user(
    host: WholeHost, installed: list[Path]
) -> None:
    assert "opt/quicether/manifest" in differences(host, installed)
    kept = {name for name in written(installed) if name.startswith(("etc/quicether", "var/lib/"))}
    for _ in ("the first", "and again"):
        host.run(["/tmp/bootstrap", "uninstall"])
        left = differences(host, installed)
        assert {name for name in left if name.rstrip("-") not in ACCOUNTS} <= kept
    assert all((host.root / name).exists() for name in kept)


def test_purge_takes_keys_settings_and_the_user_too(host: WholeHost, installed: list[Path]) -> None:
    key = host.root / "var/lib/quicether/node.key"
    key.parent.mkdir(parents=True, exist_ok=True)
    key.write_text("secret")
    host.run(["/tmp/bootstrap", "uninstall", "--purge"])
    assert not key.parent.exists()
    # Accounts are edited in place; only the backups and the lock of the tools that do it stay.
    left = differences(host, installed)
    assert {name for name in left if not name.endswith(("-", ".pwd.lock"))} == set()
