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
    with WholeHost("installed", layers=installed) as host:
        shutil.copy(CHECKOUT / "bootstrap", host.root / "tmp/bootstrap")
        yield host


@pytest.fixture
def before() -> Iterator[WholeHost]:
    """A host as it was before: nothing of QuicEther, not even what is on the machine below."""
    with WholeHost("before") as host:
        shutil.copy(CHECKOUT / "bootstrap", host.root / "tmp/bootstrap")
        host.run(["/tmp/bootstrap", "uninstall", "--purge"])
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


def differences(host: WholeHost, before: WholeHost, layers: list[Path]) -> set[str]:
    """Paths that `install` wrote and that are not as on the host that has none of it."""
    return {
        name for name in written(layers) if looks(host.root / name) != looks(before.root / name)
    }


def test_installed_files_are_root_s_and_nobody_else_may_write(host: WholeHost) -> None:
    names = (host.root / "opt/quicether/manifest").read_text().split()
    assert "/usr/bin/quicether" in names
    assert "/usr/lib/NetworkManager/VPN/nm-quicether-service.name" in names
    find = ["find", "/opt/quicether", "(", "-not", "-user", "0", "-o", "-perm", "/022", ")"]
    assert host.run([*find, "-not", "-type", "l"]).stdout == ""


def test_second_install_and_uninstall_tell_what_runs(host: WholeHost) -> None:
    source = host.root / "tmp/source"
    bare = shutil.ignore_patterns(".*", "tests", "__pycache__")
    shutil.copytree(CHECKOUT, source, ignore=bare)
    manifest = host.root / "opt/quicether/manifest"
    before = manifest.read_text()
    host.run(["/tmp/source/bootstrap", "install"])
    assert manifest.read_text() == before
    activatable = ["busctl", "list", "--activatable", "--no-legend"]
    assert "org.quicether1" in host.run(activatable).stdout
    host.run(["systemctl", "cat", "quicether.service"])
    host.run(["/tmp/source/bootstrap", "uninstall"])
    assert "org.quicether1" not in host.run(activatable).stdout
    assert host.run(["systemctl", "cat", "quicether.service"], check=False).returncode != 0


def test_uninstall_leaves_only_keys_settings_and_the_user(
    host: WholeHost, before: WholeHost, installed: list[Path]
) -> None:
    assert "opt/quicether/manifest" in differences(host, before, installed)
    kept = {name for name in written(installed) if name.startswith(("etc/quicether", "var/lib/"))}
    for _ in ("the first", "and again"):
        host.run(["/tmp/bootstrap", "uninstall"])
        left = differences(host, before, installed)
        assert {name for name in left if name.rstrip("-") not in ACCOUNTS} <= kept
    assert all((host.root / name).exists() for name in kept)


def test_purge_takes_keys_settings_and_the_user_too(
    host: WholeHost, before: WholeHost, installed: list[Path]
) -> None:
    key = host.root / "var/lib/quicether/node.key"
    key.parent.mkdir(parents=True, exist_ok=True)
    key.write_text("secret")
    host.run(["/tmp/bootstrap", "uninstall", "--purge"])
    assert not key.parent.exists()
    # Accounts are edited in place; only the backups and the lock of the tools that do it stay.
    left = differences(host, before, installed)
    assert {name for name in left if not name.endswith(("-", ".pwd.lock"))} == set()
