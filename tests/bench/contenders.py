"""The tunnels that are measured: each joins hosts `a` and `b` and says where `b` is inside it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import split
from typing import Final

from support.commands import wait_until
from support.hosts import Host, LightHost
from support.node import Network, up

UNDERLAY: Final = ("198.51.100.1", "198.51.100.2")
INSIDE: Final = ("10.99.0.1", "10.99.0.2")
START_PATIENCE: Final = 20.0
"""Seconds until a contender has to carry a ping."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A contender that is up. address: of `b`, inside. pids: its processes on both hosts."""

    address: str
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to join two hosts. needs: programs without which it is left out."""

    name: str
    needs: tuple[str, ...]
    start: Callable[[LightHost, LightHost, Path], contextlib.AbstractContextManager[Tunnel]]

    @property
    def missing(self) -> list[str]:
        """The programs that are not on this machine."""
        return [program for program in self.needs if shutil.which(program) is None]


@contextlib.contextmanager
def _bare(a: LightHost, b: LightHost, folder: Path) -> Iterator[Tunnel]:
    yield Tunnel(UNDERLAY[1])


@contextlib.contextmanager
def quicether(
    a: LightHost, b: LightHost, folder: Path, settings: Mapping[str, str] | None = None
) -> Iterator[Tunnel]:
    """Join the hosts by QuicEther. settings: of both nodes, more than what joins them."""
    with Network(folder) as network:
        left, right = network.node(a, name="a"), network.node(b, name="b")
        both = dict(settings or {})
        up((right, both), (left, {"peers": f"b@{UNDERLAY[1]}", **both}))
        left.wait_for_peer("b")
        right.wait_for_peer("a")
        yield Tunnel(right.address(), (left.process.pid, right.process.pid))


@contextlib.contextmanager
def _wireguard_go(a: LightHost, b: LightHost, folder: Path) -> Iterator[Tunnel]:
    hosts = (a, b)
    keys = [host.run(["wg", "genkey"]).stdout.strip() for host in hosts]
    public = [a.run(["wg", "pubkey"], input=key).stdout.strip() for key in keys]
    running = _Programs()
    for number, host in enumerate(hosts):
        device, other = f"wgb{number}", 1 - number
        running.start(host, ["wireguard-go", "--foreground", device])
        socket = Path(f"/run/wireguard/{device}.sock")
        wait_until(socket.exists, START_PATIENCE, f"{socket} to appear")
        key_file = folder / f"key{number}"
        key_file.write_text(keys[number])
        host.run(
            split(
                f"wg set {device} listen-port 51820 private-key {key_file} peer {public[other]} "
                f"endpoint {UNDERLAY[other]}:51820 allowed-ips {INSIDE[other]}/32"
            )
        )
        _address(host, device, number)
    with running:
        yield Tunnel(INSIDE[1], running.pids)


@contextlib.contextmanager
def _openvpn(a: LightHost, b: LightHost, folder: Path) -> Iterator[Tunnel]:
    running = _Programs()
    for number, host in enumerate((b, a)):
        host.run(
            split(
                "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
                f"-keyout {folder}/key{number} -out {folder}/crt{number} -subj /CN=n{number}"
            )
        )
    prints = [
        a.run(["openssl", "x509", "-in", f"{folder}/crt{n}", "-noout", "-fingerprint", "-sha256"])
        .stdout.split("=")[1]
        .strip()
        for n in range(2)
    ]
    for number, host in enumerate((b, a)):
        own, other = (INSIDE[1], INSIDE[0]) if number == 0 else INSIDE
        role = "--tls-client --remote " + UNDERLAY[1] if number else "--tls-server --dh none"
        command = split(
            f"openvpn --dev ovb{number} --dev-type tun --proto udp --port 1194 {role} "
            f"--ifconfig {own} {other} --cert {folder}/crt{number} --key {folder}/key{number} "
            f"--peer-fingerprint {prints[1 - number]} --cipher AES-256-GCM "
            "--data-ciphers AES-256-GCM --sndbuf 524288 --rcvbuf 524288"
        )
        running.start(host, command)
    with running:
        yield Tunnel(INSIDE[1], running.pids)


_NEBULA: Final = """
pki: {{ca: {folder}/ca.crt, cert: {folder}/{name}.crt, key: {folder}/{name}.key}}
static_host_map: {{"{inside}": ["{underlay}:4242"]}}
lighthouse: {{am_lighthouse: {lighthouse}, hosts: [{hosts}]}}
listen: {{host: 0.0.0.0, port: 4242}}
tun: {{dev: nbb{number}, mtu: 1300}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"""


@contextlib.contextmanager
def _nebula(a: LightHost, b: LightHost, folder: Path) -> Iterator[Tunnel]:
    def certify(*words: str) -> None:
        a.run(["nebula-cert", *words])

    at = str(folder)
    certify("ca", "-name", "bench", "-out-crt", f"{at}/ca.crt", "-out-key", f"{at}/ca.key")
    running = _Programs()
    for number, host in enumerate((a, b)):
        name = f"node{number}"
        signer = ("-ca-crt", f"{at}/ca.crt", "-ca-key", f"{at}/ca.key")
        out = ("-out-crt", f"{at}/{name}.crt", "-out-key", f"{at}/{name}.key")
        certify("sign", "-name", name, "-ip", f"{INSIDE[number]}/24", *signer, *out)
        settings = folder / f"{name}.yml"
        settings.write_text(
            _NEBULA.format(
                folder=at,
                name=name,
                number=number,
                inside=INSIDE[1],
                underlay=UNDERLAY[1],
                lighthouse=str(number == 1).lower(),
                hosts="" if number else f'"{INSIDE[1]}"',
            )
        )
        running.start(host, ["nebula", "-config", str(settings)])
    with running:
        yield Tunnel(INSIDE[1], running.pids)


class _Programs(contextlib.ExitStack):
    """What a contender consists of; ended with the context, and with the hosts at the latest."""

    pids: tuple[int, ...] = ()

    def start(self, host: Host, command: Sequence[str]) -> None:
        """Start a program on a host."""
        process = host.popen(command, stdout=subprocess.DEVNULL)
        self.callback(process.wait)
        self.callback(process.terminate)
        self.pids += (process.pid,)


def _address(host: Host, device: str, number: int) -> None:
    host.run(["ip", "addr", "add", f"{INSIDE[number]}/24", "dev", device])
    host.run(["ip", "link", "set", device, "mtu", "1420", "up"])


CONTENDERS: Final = (
    Contender("bare cable", (), _bare),
    Contender("quicether", (), quicether),
    Contender("wireguard-go", ("wireguard-go", "wg"), _wireguard_go),
    Contender("openvpn", ("openvpn", "openssl"), _openvpn),
    Contender("nebula", ("nebula", "nebula-cert"), _nebula),
)
