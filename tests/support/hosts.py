"""Hosts in namespaces: light (a network namespace) and whole (systemd, D-Bus, a network manager).

    with WholeHost("laptop") as laptop, LightHost("server") as server:
        with Cable(laptop, server) as cable:
            laptop.configure_link(cable.a.ifname, ["192.0.2.1/24"])
            server.configure_link(cable.b.ifname, ["192.0.2.2/24"])
            laptop.run(["ping", "-c1", "192.0.2.2"])

A host's name is its own; two test runs at once may use the same. `together` boots several at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, TypeVar

from support import links, netns, sweep
from support.commands import DEFAULT_TIMEOUT, CommandError, run_command, wait_until

Manager = Literal["networkmanager", "networkd", "none"]
Result = TypeVar("Result")
Entered = TypeVar("Entered")
BOOT_DEADLINE: Final = 60.0
_BOOT: Final = Path(__file__).with_name("boot.sh")
_CHECKOUT: Final = Path(__file__).parents[2]
# Moves itself into a control group, then becomes the command.
_IN_CGROUP: Final = ("sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"')
_HOST_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}


class Host(ABC):
    """A machine of the lab: a network namespace, and a control group with its processes."""

    def __init__(self, name: str) -> None:
        if not name.replace("-", "").isalnum() or len(name) > 40:
            raise ValueError(f"host name {name!r}: letters, digits and '-' only, at most 40")
        self.name: Final = name
        self._run = sweep.current()
        self.netns: Final = self._run.namespace(name)
        self.cgroup: Final = self._run.cgroup / name
        self._ports = 0
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self.cgroup.mkdir()
        try:
            netns.create(self.netns)
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                self._explain()
        finally:
            self.close()

    def close(self) -> None:
        """Kill every process of the host and remove its namespaces. Idempotent."""
        sweep.end_cgroup(self.cgroup)
        for process in self._started:
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._started.clear()
        sweep.delete_namespace(self.netns)

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = DEFAULT_TIMEOUT,
        user: str | None = None,
        input: str | None = None,  # noqa: A002 - subprocess.run calls it so
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host to its end, as `user` (root), and return its output as text.

        env: variables beside the usual ones.
        Raises CommandError: not done within `timeout` seconds or (with `check`) a bad exit status.
        """
        return run_command(
            self._enter(argv, user),
            check=check,
            timeout=timeout,
            input=input,
            env=self._environment(env),
            shown=(f"{user}@{self.name}$ " if user else f"{self.name}# ") + shlex.join(argv),
        )

    def popen(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.STDOUT,
    ) -> subprocess.Popen[str]:
        """Start a program on the host; it ends with the host at the latest.

        Its output comes on one pipe (`stdout`) unless told otherwise. On a whole host a signal that
        ends the returned process reaches the program as SIGTERM.
        """
        process = subprocess.Popen(
            self._enter(argv, user),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            env=self._environment(env),
        )
        self._started.append(process)
        return process

    def wait_until(self, condition: Callable[[], Result], deadline: float, what: str) -> Result:
        """Wait until `condition` answers with something true, and return that.

        Raises TimeoutError: after `deadline` seconds, with the end of the host's journal.
        """
        return wait_until(condition, deadline, f"{self.name}: {what}", on_timeout=self.journal)

    def next_ifname(self) -> str:
        """The name of the next port of the host: eth0, eth1, …"""
        self._ports += 1
        return f"eth{self._ports - 1}"

    def sysctl(self, values: dict[str, str]) -> None:
        """Set kernel parameters of the host's network (those below `net.`)."""
        netns.sysctl(self.netns, values)

    def journal(self, lines: int = 200) -> str:
        """The end of the host's journal; empty where there is none."""
        del lines
        return ""

    def configure_link(
        self, ifname: str, addresses: Sequence[str], gateway: str | Sequence[str] | None = None
    ) -> None:
        """Bring a link up with `addresses` (ADDRESS/LENGTH) and default routes, as a user would.

        gateway: next hop of the default route; one for each family where there are two.
        Returns when the addresses are usable.
        """
        gateways = [gateway] if isinstance(gateway, str) else list(gateway or ())
        self._configure_link(ifname, list(addresses), gateways)

    def _configure_link(self, ifname: str, addresses: list[str], gateways: list[str]) -> None:
        netns.batch(
            self.netns,
            [
                f"address flush dev {ifname} scope global",
                *(f"address add {address} dev {ifname}" for address in addresses),
                f"link set {ifname} up",
                *(f"route replace default via {gateway} dev {ifname}" for gateway in gateways),
            ],
        )

    @abstractmethod
    def _start(self) -> None:
        """Start what the host consists of beside its namespace."""

    @abstractmethod
    def _enter(self, argv: Sequence[str], user: str | None) -> list[str]:
        """The command that runs `argv` on the host."""

    @abstractmethod
    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        """The variables of a program on the host."""

    def _explain(self) -> None:
        """Print what helps to understand a failure."""
        if journal := self.journal():
            print(journal, file=sys.stderr)


class LightHost(Host):
    """Only a network namespace; files and processes are the machine's."""

    def _start(self) -> None:
        pass

    def _enter(self, argv: Sequence[str], user: str | None) -> list[str]:
        as_user = [] if user is None else ["runuser", "-u", user, "--"]
        return [*_IN_CGROUP, str(self.cgroup), "ip", "netns", "exec", self.netns, *as_user, *argv]

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {**os.environ, **(env or {})}


class Router(LightHost):
    """A light host that forwards between its links, IPv4 and IPv6."""

    def _start(self) -> None:
        self.sysctl({"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"})


class WholeHost(Host):
    """A booted Linux: systemd, D-Bus, polkit, journald and a network manager.

    It sees the machine's files through an overlay that nobody else sees and that ends with it.
    layers: read-only overlay layers below its root, topmost first (`install.installed_layer`).
    """

    def __init__(
        self, name: str, manager: Manager = "networkmanager", layers: Sequence[Path] = ()
    ) -> None:
        super().__init__(name)
        self.manager: Final = manager
        self.layers: Final = tuple(layers)
        self._directory = self._run.directory / name
        self._boot: subprocess.Popen[bytes] | None = None
        self._commands = self.cgroup / "commands"
        self.pid = 0
        """The host's PID 1, as numbered outside."""

    @property
    def root(self) -> Path:
        """The host's root folder as seen from outside, /run and /tmp included."""
        return Path(f"/proc/{self.pid}/root")

    def close(self) -> None:
        """Kill the host and remove all of it. Idempotent."""
        live.discard(self)
        super().close()
        if self._boot is not None:
            self._boot.wait()
            self._boot = None

    def journal(self, lines: int = 200) -> str:
        """The last lines of the host's journal, all units, and what PID 1 printed."""
        console = (self._directory / "console").read_text(errors="backslashreplace")
        with contextlib.suppress(CommandError):
            console += self.run(
                ["journalctl", "--no-pager", "-o", "short-precise", "-n", str(lines)], check=False
            ).stdout
        return f"--- journal of {self.name}\n{console}"

    def user(self, name: str) -> tuple[int, int]:
        """Number and primary group of one of the host's users.

        Raises KeyError: there is no such user.
        """
        for line in (self.root / "etc/passwd").read_text().splitlines():
            login, _, uid, gid, *_ = line.split(":")
            if login == name:
                return int(uid), int(gid)
        raise KeyError(f"{self.name} has no user {name!r}")

    def _start(self) -> None:
        for directory in ("mnt", "notify"):
            (self._directory / directory).mkdir(parents=True, exist_ok=True)
        (self._directory / "pid").unlink(missing_ok=True)
        ready_path = self._directory / "notify/socket"
        ready_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as ready:
            ready.bind(str(ready_path))
            self._boot = self._start_boot()
            self._wait_for_systemd(ready)
        self._commands.mkdir(exist_ok=True)
        live.add(self)

    def _start_boot(self) -> subprocess.Popen[bytes]:
        """Start boot.sh in namespaces of its own, and note its process id.

        The process that unshares stays outside the host; it leaves the host's control group before
        systemd takes that over, because a group with controllers may hold no process of its own.
        """
        into_namespaces = ("nsenter", f"--net={sweep.NAMESPACES / self.netns}", "unshare")
        kinds = ("--pid", "--mount", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child")
        with (self._directory / "console").open("wb") as console:
            boot = subprocess.Popen(
                [*_IN_CGROUP, str(self.cgroup), *into_namespaces, *kinds, "sh", str(_BOOT)],
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={
                    **_HOST_ENVIRONMENT,
                    "HOST_NAME": self.name,
                    "HOST_DIR": str(self._directory),
                    "HOST_LOWER": ":".join([*map(str, self.layers), "/"]),
                    "HOST_MANAGER": self.manager,
                    "CHECKOUT": str(_CHECKOUT),
                },
            )
        try:
            self.pid = wait_until(
                lambda: self._init_pid(boot), BOOT_DEADLINE, f"{self.name}: its process id"
            )
            outside = self._run.cgroup / "outside"
            outside.mkdir(exist_ok=True)
            (outside / "cgroup.procs").write_text(str(boot.pid))
            assert boot.stdin is not None
            boot.stdin.write(b"\n")
        finally:
            assert boot.stdin is not None
            boot.stdin.close()
        return boot

    def _init_pid(self, boot: subprocess.Popen[bytes]) -> int:
        if boot.poll() is not None:
            raise RuntimeError(f"{self.name} did not boot:\n{self._console()}")
        with contextlib.suppress(FileNotFoundError):
            return int((self._directory / "pid").read_text() or 0)
        return 0

    def _wait_for_systemd(self, ready: socket.socket) -> None:
        """Wait for READY=1, which systemd sends to whoever runs it when the boot is finished."""
        assert self._boot is not None
        end = time.monotonic() + BOOT_DEADLINE
        died = os.pidfd_open(self._boot.pid)
        try:
            while True:
                left = end - time.monotonic()
                readable, _, _ = select.select([ready.fileno(), died], [], [], max(left, 0))
                if died in readable or not readable:
                    how = "ended" if died in readable else f"not up after {BOOT_DEADLINE:g} s"
                    raise RuntimeError(f"{self.name}: {how}\n{self._console()}")
                if b"READY=1" in ready.recv(65536).split(b"\n"):
                    return
        finally:
            os.close(died)

    def _console(self) -> str:
        return (self._directory / "console").read_text(errors="backslashreplace")

    def _enter(self, argv: Sequence[str], user: str | None) -> list[str]:
        # The program is a child of nsenter; it must not outlive it.
        credentials = ["setpriv", "--pdeathsig", "TERM"]
        if user is not None:
            uid, gid = self.user(user)
            credentials += [f"--reuid={uid}", f"--regid={gid}", "--init-groups"]
        inside = ["nsenter", "-t", str(self.pid), "-a", "--", *credentials, "--"]
        return [*_IN_CGROUP, str(self._commands), *inside, *argv]

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {**_HOST_ENVIRONMENT, **(env or {})}

    def _configure_link(self, ifname: str, addresses: list[str], gateways: list[str]) -> None:
        if self.manager == "networkmanager":
            links.configure_networkmanager(self, ifname, addresses, gateways)
        elif self.manager == "networkd":
            links.configure_networkd(self, ifname, addresses, gateways)
        else:
            super()._configure_link(ifname, addresses, gateways)


live: Final[set[WholeHost]] = set()
"""Whole hosts that run now; a failed test prints their journals."""


@contextlib.contextmanager
def together(*parts: AbstractContextManager[Entered]) -> Iterator[list[Entered]]:
    """Enter several contexts at once (boot several hosts side by side), leave them in order."""
    with ExitStack() as stack, ThreadPoolExecutor(max_workers=max(len(parts), 1)) as pool:

        def enter(part: AbstractContextManager[Entered]) -> Entered:
            entered = part.__enter__()
            stack.push(part.__exit__)
            return entered

        futures = [pool.submit(enter, part) for part in parts]
        yield [future.result() for future in futures]
