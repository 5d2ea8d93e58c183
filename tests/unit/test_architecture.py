"""Which way imports point, and that the pure rooms stay pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "service" / "quicether"
PLUGIN = ROOT / "nm_plugin" / "quicether_nm"

FOUNDATION = {
    "__version__",
    "cbor",
    "counters",
    "errors",
    "journal",
    "model",
    "plainfile",
    "token_bucket",
    "wire",
}
KNOWLEDGE = {"identity", "dht", "routing", "policy", "config"}
# A room may import the foundation, itself, and what stands here. dataplane's pure files are
# known by their full name because the policy reads packets too.
MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "journal": set(),
    "errors": set(),
    "counters": set(),
    "cbor": set(),
    "plainfile": set(),
    "token_bucket": set(),
    "wire": set(),
    "identity": set(),
    "registry": {"identity"},
    "config": set(),
    "routing": set(),
    "policy": {"dataplane.packet", "identity.names"},
    "dht": {"identity"},
    "names": {"dataplane.packet", "identity.names", "identity.addresses"},
    "monitoring": {"config", "bus.status"},
    "transport": KNOWLEDGE,
    "dataplane": KNOWLEDGE,
    "host": KNOWLEDGE | {"dataplane"},
    "overlay": KNOWLEDGE | {"transport", "dataplane", "host"},
    "bus": KNOWLEDGE | {"host", "overlay"},
    "cli": {"bus", "identity", "config", "policy", "registry", "transport.enrolment"},
}
BUS_FOR_CLIENTS = {"bus.contract", "bus.status"}
ENGINES = {
    "aioquic": "transport",
    "dbus_next": "bus",
    "jeepney": "cli",
    "pytricia": "routing",
    "dns": "names",
    "prometheus_client": "monitoring",
}
IMPURE = {"asyncio", "socket", "time", "random", "secrets", "os", "subprocess", "threading"}
PURE = [
    *(
        SERVICE / name
        for name in ("model.py", "errors.py", "counters.py", "token_bucket.py", "wire.py")
    ),
    *(SERVICE / "config").glob("*.py"),
    *(SERVICE / "dht").glob("*.py"),
    *(SERVICE / "routing").glob("*.py"),
    *(SERVICE / "names").glob("*.py"),
    SERVICE / "monitoring" / "metrics.py",
    *(path for path in (SERVICE / "policy").glob("*.py") if path.name != "audit_writer.py"),
    *(
        SERVICE / "dataplane" / name
        for name in ("packet.py", "rewrite.py", "icmp.py", "snapshot.py")
    ),
    *(SERVICE / "overlay" / name for name in ("peers.py", "candidates.py", "desired.py")),
    *(PLUGIN / name for name in ("states.py", "profile.py", "ipconfig.py")),
]


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    inside = path.relative_to(SERVICE)
    return inside.parts[0].removesuffix(".py")


FILES = sorted(
    path
    for path in SERVICE.rglob("*.py")
    if room(path) in MAY_IMPORT  # daemon and tunnel put everything together
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SERVICE)))
def test_imports_point_towards_the_foundation(path: Path) -> None:
    own = room(path)
    allowed = FOUNDATION | {own} | MAY_IMPORT[own]
    for name in imports(path):
        if not name.startswith("quicether."):
            continue
        target = name.removeprefix("quicether.")
        assert any(target == each or target.startswith(f"{each}.") for each in allowed), (
            f"{own} imports {name}"
        )


@pytest.mark.parametrize("path", sorted(PLUGIN.glob("*.py")), ids=lambda path: path.name)
def test_the_plugin_knows_the_contract_alone(path: Path) -> None:
    for name in imports(path):
        if name.startswith("quicether."):
            target = name.removeprefix("quicether.")
            allowed = FOUNDATION | {"bus", "bus.contract"}
            assert any(target == each or target.startswith(f"{each}.") for each in allowed)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SERVICE)))
def test_each_engine_has_one_room(path: Path) -> None:
    for name in imports(path):
        owner = ENGINES.get(name.partition(".")[0])
        assert owner in (None, room(path)), f"{name} belongs to {owner}"


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_rooms_have_no_socket_clock_or_entropy_of_their_own(path: Path) -> None:
    found = {name.partition(".")[0] for name in imports(path)} & IMPURE
    # `from random import Random` names the type of an entropy source that comes in.
    if "random" in found and set(imports(path)) >= {"random.Random"}:
        found.discard("random")
    assert not found
