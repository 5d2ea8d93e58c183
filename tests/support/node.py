"""QuicEther on light hosts: the daemon's tunnels in a process of their own, without a bus.

    with Network(tmp_path) as network, LightHost("home") as home, LightHost("cafe") as cafe:
        ...cables...
        server = network.node(home, prefixes=["192.168.1.0/24"])
        laptop = network.node(cafe)
        up(
            (server, {"advertise-subnets": "192.168.1.0/24"}),
            (laptop, {"peers": "home@198.51.100.1"}),
        )
        laptop.wait_for_route("192.168.1.0/24")

A node is certified by the network's authority, has folders of its own (QUICETHER_ETC and _VAR),
owns its link by netlink, and does everything that the daemon's `Tunnels` does.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from quicether.config.load import stored_file
from quicether.identity import certificates
from quicether.identity.authority import Authority
from quicether.identity.store import NetworkStore
from quicether.model import Member
from support.commands import wait_until
from support.hosts import LightHost, WholeHost

TUNNEL: Final = "home"
ANSWER_DEADLINE: Final = 30.0
_LOG_LINES: Final = 60


class OrderError(Exception):
    """A node refused an order; the text is the daemon's sentence."""


class Network:
    """An authority, and the nodes that it certified. folder: for all their files."""

    def __init__(self, folder: Path, name: str = TUNNEL) -> None:
        self.name: Final = name
        self.folder: Final = folder
        self.authority: Final = Authority.create(folder / "authority", name, datetime.now(UTC))
        self.nodes: Final[list[Node]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            for node in self.nodes:
                print(node.log(), file=sys.stderr)
        with ThreadPoolExecutor(max_workers=max(len(self.nodes), 1)) as pool:
            for done in [pool.submit(node.close) for node in self.nodes]:
                done.result()

    def node(
        self,
        host: LightHost,
        *,
        name: str | None = None,
        prefixes: Iterable[str] = (),
        groups: Iterable[str] = (),
        addresses: Iterable[str] = (),
        validity: timedelta = timedelta(days=1),
    ) -> Node:
        """Certify a node called as its host, or name, and start its process; `up` comes later.

        prefixes: what its certificate covers. addresses: its overlay addresses, chosen by the
        authority where none of an IP version is given.
        """
        name = name or host.name
        folder = self.folder / name
        store = NetworkStore(folder / "etc", folder / "var", self.name)
        now = datetime.now(UTC)
        certificate = self.authority.sign(
            store.node_key().public_raw,
            name,
            now=now,
            addresses=[ip_address(address) for address in addresses],
            prefixes=[ip_network(prefix) for prefix in prefixes],
            groups=list(groups),
            validity=validity,
        )
        node = Node(host, store, store.install(certificate, self.authority.certificate, now))
        self.nodes.append(node)
        return node

    def certify(self, host: WholeHost, prefixes: Iterable[str] = ()) -> None:
        """Install a certificate for a whole host, called as it is, with the commands of a user."""
        key = host.run(["quicether", "keygen", self.name]).stdout.split()[-1]
        certificate = self.authority.sign(
            key, host.name, now=datetime.now(UTC), prefixes=[ip_network(each) for each in prefixes]
        )
        bundle = certificates.to_pem(certificate, self.authority.certificate)
        (host.root / "root/bundle.pem").write_bytes(bundle)
        host.run(["quicether", "network", "install", self.name, "/root/bundle.pem"])


class Node:
    """One node: a process on its host. member: what its certificate says."""

    def __init__(self, host: LightHost, store: NetworkStore, member: Member) -> None:
        self.host: Final = host
        self.store: Final = store
        self.member: Final = member
        self._log_path: Final = store.etc.parent / "log"
        self.process: subprocess.Popen[str] = self._start()

    @property
    def name(self) -> str:
        """The node's name."""
        return self.member.name

    def address(self, version: int = 4) -> str:
        """The node's overlay address of that IP version."""
        return str(next(each for each in self.member.addresses if each.version == version))

    # -- orders ------------------------------------------------------------------------------

    def up(self, options: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Bring the tunnel up with options as in vpn.data, on top of a stored configuration."""
        options = {"network": self.store.name, **(options or {})}
        status: dict[str, Any] = self.ask("up", options=options)
        return status

    def down(self) -> None:
        """Take the tunnel down."""
        self.ask("down")

    def reload(self) -> None:
        """Read the stored configuration and the policy again."""
        self.ask("reload")

    def status(self) -> dict[str, Any]:
        """State, ready, node_id, port, counters, refusals, prefixes (in the OS) and mtu."""
        status: dict[str, Any] = self.ask("status")
        return status

    def drops(self) -> dict[str, int]:
        """How many packets and the like were dropped, by reason."""
        drops: dict[str, int] = self.status()["counters"]["drops"]
        return drops

    def peers(self) -> dict[str, dict[str, Any]]:
        """Every peer's status by its name."""
        return {peer["name"]: peer for peer in self.ask("peers")}

    def routes(self) -> list[dict[str, Any]]:
        """The status of every candidate."""
        routes: list[dict[str, Any]] = self.ask("routes")
        return routes

    def lookup(self, address: str) -> dict[str, Any]:
        """Where packets to address go."""
        found: dict[str, Any] = self.ask("lookup", address=address)
        return found

    def ping(self, node: str) -> dict[str, Any]:
        """The answer of another node over the control channel."""
        found: dict[str, Any] = self.ask("ping", node=node)
        return found

    def policy(
        self, source: str, destination: str, protocol: str, port: int | None
    ) -> dict[str, Any]:
        """What the policy in force says of a packet."""
        asked = {"source": source, "destination": destination, "protocol": protocol, "port": port}
        found: dict[str, Any] = self.ask("policy", **asked)
        return found

    def ask(self, do: str, **rest: object) -> Any:
        """Give an order and return its answer.

        Raises OrderError: it was refused. TimeoutError: no answer.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"do": do, "tunnel": self.store.name, **rest}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        readable, _, _ = select.select([self.process.stdout], [], [], ANSWER_DEADLINE)
        if not readable:
            raise TimeoutError(f"{self.name} does not answer {order}\n{self.log()}")
        line = self.process.stdout.readline()
        if not line:
            raise OrderError(f"{self.name} ended with {self.process.wait()} at {order}")
        answer = json.loads(line)
        if "error" in answer:
            raise OrderError(answer["error"])
        return answer["ok"]

    # -- waiting -----------------------------------------------------------------------------

    def wait_for_peer(self, name: str, state: str = "connected", deadline: float = 15) -> float:
        """Wait until a peer is in that state; return the seconds that it took."""
        began = time.monotonic()

        def there() -> bool:
            peer = self.peers().get(name)
            return peer is not None and peer["state"] == state

        wait_until(there, deadline, f"{self.name}: peer {name} {state}", on_timeout=self.log)
        return time.monotonic() - began

    def wait_for_route(self, prefix: str, deadline: float = 15, *, gone: bool = False) -> float:
        """Wait until the OS has a route to prefix over the tunnel, or has none any more."""
        began = time.monotonic()
        family = f"-{ip_network(prefix).version}"
        command = ["ip", "-n", self.host.netns, family, "route", "show", prefix]

        def there() -> bool:
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            return ("dev quicether" in found) is not gone

        what = f"{self.name}: route {prefix} {'gone' if gone else 'there'}"
        wait_until(there, deadline, what, on_timeout=self.log)
        return time.monotonic() - began

    def wait_for_log(self, pattern: str, deadline: float) -> None:
        """Wait until what the process logged has a line that the regular expression matches."""
        wait_until(
            lambda: re.search(pattern, self._log_path.read_text(errors="backslashreplace")),
            deadline,
            f"{self.name} logs {pattern}",
            on_timeout=self.log,
        )

    # -- the process -------------------------------------------------------------------------

    @property
    def configuration(self) -> Path:
        """The stored configuration of the tunnel, a TOML file; read by `up` and `reload`."""
        path = self.store.etc / stored_file(self.store.name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def log(self) -> str:
        """The end of what the process logged."""
        lines = self._log_path.read_text(errors="backslashreplace").splitlines()
        return "\n".join((f"--- log of {self.name}", *lines[-_LOG_LINES:]))

    def kill(self) -> None:
        """End the process hard, as a crash does."""
        self.process.kill()
        self._reap()

    def restart(self) -> None:
        """Start the process again after `kill`; its tunnel is down."""
        self.process = self._start()

    def close(self) -> None:
        """End the process in good order. Idempotent."""
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(ANSWER_DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._reap()

    def _reap(self) -> None:
        self.process.wait()
        pipes: Iterable[IO[str] | None] = (self.process.stdin, self.process.stdout)
        for pipe in pipes:
            if pipe is not None and not pipe.closed:
                pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        with self._log_path.open("a") as log:
            return self.host.popen(
                [sys.executable, "-m", "support.node_process"],
                env={
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "QUICETHER_ETC": str(self.store.etc),
                    "QUICETHER_VAR": str(self.store.var),
                },
                stdin=subprocess.PIPE,
                stderr=log.fileno(),
            )


def up(*wanted: tuple[Node, Mapping[str, str]]) -> None:
    """Bring several nodes up side by side, each with its options."""
    with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
        for done in [pool.submit(node.up, options) for node, options in wanted]:
            done.result()
