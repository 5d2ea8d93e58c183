"""`./bootstrap install` and `uninstall`, on a whole host."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch, translate
from pathlib import Path

import pytest

from support.cables import Cable
from support.hosts import LightHost, WholeHost, together

CHECKOUT = Path(__file__).parents[2]
KEPT = (
    "/etc/quicether",
    "/var/lib/quicether",
    "/var/log/quicether",
    "/etc/systemd/system/quicether*.service.d",
)
"""Where uninstall leaves what people and the service made, as the README has it."""
PROFILES = ("/etc/NetworkManager/system-connections", "/etc/netplan")
"""Where Debian and where Ubuntu keep NetworkManager's profiles; uninstall leaves them too."""
ACCOUNTS = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow")
"""Where the user quicether is; the tools that write them leave backups that end with a dash."""
OF_THE_HOST = (
    "/etc/hostname",
    "/etc/hosts",
    "/etc/machine-id",
    "/etc/.pwd.lock",
    *(f"{path}-" for path in ACCOUNTS),
    "/var/log/*",
    "/var/lib/NetworkManager/*",
    "/var/lib/systemd/*",
    "/var/cache/*",
    "/var/tmp/*",
)
"""What two hosts do not have in common, installed or not."""
NOT_COMPARED = re.compile("|".join(map(translate, OF_THE_HOST)))
FOLDERS = ("/boot", "/etc", "/opt", "/srv", "/usr", "/var")
"""All that a distribution or an installation writes to and keeps; in / itself, the names alone."""


@pytest.fixture
def host(installed: list[Path]) -> Iterator[WholeHost]:
    with WholeHost("installed", layers=installed) as host:
        shutil.copy(CHECKOUT / "bootstrap", host.root / "tmp/bootstrap")
        yield host


def test_installed_files_are_root_s_and_nobody_else_may_write(host: WholeHost) -> None:
    names = (host.root / "opt/quicether/manifest").read_text().split()
    assert "/usr/bin/quicether" in names
    assert "/usr/share/doc/quicether/quicether-json.schema.json" in names
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


def tree(host: WholeHost) -> dict[str, tuple[str, ...]]:
    """Return every path of a host with kind, mode, owner, size, target, and what is in a file.

    That is its hash in /etc, and when it was written elsewhere: both hosts of a test share it.
    """
    shown = r"%p\t%y\t%m\t%U\t%G\t%l\t%s\t%T@\n"
    lines = host.run(["find", "/", "-maxdepth", "1", "-printf", shown]).stdout.splitlines()
    find = ["find", *FOLDERS, "-xdev", "-printf", shown]
    lines += host.run(find, timeout=60).stdout.splitlines()
    found = {}
    for line in lines:
        path, kind, *rest, size, written = line.split("\t")
        if NOT_COMPARED.match(path) and not is_kept(path):
            continue
        content: tuple[str, ...] = ()
        if kind == "f" and path.startswith("/etc/"):
            content = (hashlib.sha256((host.root / path[1:]).read_bytes()).hexdigest(),)
        elif kind == "f":
            content = (size, written)
        found[path] = (kind, *rest, *content)
    return found


def differences(one: dict[str, tuple[str, ...]], other: dict[str, tuple[str, ...]]) -> set[str]:
    return {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}


def use(host: WholeHost) -> None:
    """Do what leaves traces: networks, profiles, a unit, a drop-in, tunnels that are up."""
    host.run(["quicether", "network", "create", "home", "--no-up"], timeout=60)
    assert "quicether" in profiles(host)
    drop_in = host.root / "etc/systemd/system/quicether.service.d/netns.conf"
    drop_in.parent.mkdir()
    shutil.copy(CHECKOUT / "systemd/netns.conf", drop_in)
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "--quiet", "enable", "--now", "quicether@home.service"], timeout=60)
    host.wait_until((host.root / "var/log/quicether").is_dir, 10, "the service's folders")
    host.run(["quicether", "network", "create", "work"], timeout=60)
    links = host.run(["ip", "-brief", "link"]).stdout
    assert "quicether0" in links
    assert "quicether1" in links
    assert "quicether-work" in profiles(host, "--active")


def test_uninstall_leaves_what_the_readme_says_and_purge_leaves_nothing(
    installed: list[Path],
) -> None:
    hosts = (WholeHost("before"), WholeHost("installed", layers=installed))
    with together(*hosts) as (before, host), LightHost("isp") as isp, Cable(host, isp) as cable:
        # A default route is what NetworkManager wants below a VPN.
        host.configure_link(cable.a.ifname, ["192.0.2.5/24"], gateway="192.0.2.1")
        for each in (before, host):
            shutil.copy(CHECKOUT / "bootstrap", each.root / "tmp/bootstrap")
        # Nothing of QuicEther, not even what is on the machine below.
        before.run(["/tmp/bootstrap", "uninstall", "--purge"])
        as_it_was = tree(before)
        assert "/opt/quicether" not in as_it_was
        assert (host.root / "opt/quicether/manifest").exists()
        use(host)
        host.run(["/tmp/bootstrap", "uninstall"], timeout=60)
        assert "quicether" not in profiles(host, "--active")
        host.wait_until(lambda: not plugins(host), 5, "NetworkManager's plugin to end")
        said = host.run(["/tmp/bootstrap", "uninstall"]).stdout
        left = differences(tree(host), as_it_was)
        unexpected = {path for path in left if not is_kept(path) and path not in ACCOUNTS}
        assert unexpected == set()
        readme = (CHECKOUT / "README.md").read_text()
        for path in KEPT:
            assert any(fnmatch(each, f"{path}*") for each in left), path
            assert f"`{path}`" in readme
        assert all(f"`{path}`" in readme for path in PROFILES)
        assert any(path in said.split() for path in left if path.startswith(PROFILES))
        assert "/var/log/quicether" in said
        host.run(["/tmp/bootstrap", "uninstall", "--purge"])
        host.run(["nmcli", "connection", "delete", cable.a.ifname])
        assert differences(tree(host), as_it_was) == set()
        assert "quicether" not in profiles(host)


def is_kept(path: str) -> bool:
    return any(fnmatch(path, each) or fnmatch(path, f"{each}/*") for each in (*KEPT, *PROFILES))


def plugins(host: WholeHost) -> str:
    return host.run(["pgrep", "-f", "nm-quicether-service"], check=False).stdout


def profiles(host: WholeHost, *which: str) -> str:
    return host.run(["nmcli", "-g", "NAME", "connection", "show", *which]).stdout
