"""`sudo ./bootstrap demo`: the first story on two hosts in namespaces, with the real commands.

Run as `python -m hosts.demo` with tests/ on the path; needs root and what bootstrap installs.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.markup import escape

from support.commands import CommandError
from support.home import HOME, LAN, NAS, Story, story
from support.hosts import Host, WholeHost
from support.install import InstallError, installed_layer
from support.transfer import web_server

PAGE: Final = "<h1>Hello from the LAN behind home</h1>\n"
TRANSFER_SECONDS: Final = 3
console: Final = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print what happens next, and why."""
    console.print(f"\n[bold cyan]# {escape(text)}[/]")


def show(host: Host, command: Sequence[str], output: str) -> None:
    """Print a command as it was typed, and what it answered."""
    console.print(f"[bold green]{host.name}[/] [bold]$ {escape(shlex.join(command))}[/]")
    if output.strip():
        console.print(escape(output.rstrip()))


def ping_ms(host: WholeHost, address: str) -> float:
    """Return the median round-trip time of ten pings in milliseconds."""
    output = host.run(["ping", "-c", "10", "-i", "0.05", "-q", address]).stdout
    return float(output.rsplit("=", 1)[1].split("/")[1])


def tcp_mbit(client: WholeHost, server: Host, address: str, *, reverse: bool) -> float:
    """Return the TCP throughput between two hosts in Mbit/s; reverse: towards the client."""
    listening = server.popen(["iperf3", "--server", "--one-off", "--forceflush"])
    assert listening.stdout is not None
    if not any("listening" in line for line in listening.stdout):
        raise CommandError(f"{server.name}# iperf3 --server", "ended before it listened", "", "")
    command = ["iperf3", "--client", address, "--time", str(TRANSFER_SECONDS), "--json"]
    output = client.run([*command, "--reverse"] if reverse else command).stdout
    listening.wait()
    return float(json.loads(output)["end"]["sum_received"]["bits_per_second"]) / 1e6


def figures(scene: Story) -> None:
    """Measure the tunnel beside the bare cable and print both."""
    bare, tunnel = (
        statistics.median(ping_ms(scene.laptop, address) for _ in range(2))
        for address in (HOME[0], NAS[0])
    )
    up = tcp_mbit(scene.laptop, scene.nas, NAS[0], reverse=False)
    down = tcp_mbit(scene.laptop, scene.nas, NAS[0], reverse=True)
    console.print(f"ping   {bare:.2f} ms on the bare cable, {tunnel:.2f} ms through the tunnel")
    console.print(f"TCP    {up:.0f} Mbit/s towards home, {down:.0f} Mbit/s towards the laptop")


def play(scene: Story) -> None:
    """Tell the story on booted hosts."""
    laptop, home = scene.laptop, scene.home
    say("Four commands. On home: make the network, and invite the laptop")
    lan = [word for prefix in LAN for word in ("--prefix", prefix)]
    scene.type(home, "quicether", "network", "create", "home", *lan)
    code = json.loads(scene.type(home, "quicether", "invite", "cafe-laptop", "--json"))["code"]
    say("On the laptop: join with the code, and up, as any other VPN")
    scene.type(laptop, "quicether", "join", code)
    started = time.monotonic()
    scene.up(laptop)
    console.print(f"[dim]up took {time.monotonic() - started:.2f} s[/]")
    say("A page from a machine in the LAN behind home, which knows nothing of QuicEther")
    with TemporaryDirectory() as folder, web_server(scene.nas, folder):
        Path(folder, "index.html").write_text(PAGE)
        scene.type(laptop, "curl", "-sS", f"http://{NAS[0]}/")
        scene.type(laptop, "curl", "-sS", f"http://[{NAS[1]}]/")
    say("What NetworkManager, the kernel and QuicEther say of it")
    scene.type(laptop, "nmcli", "-f", "NAME,TYPE,DEVICE,STATE", "connection", "show", "--active")
    scene.type(laptop, "ip", "route")
    scene.type(laptop, "quicether", "status")
    say("How fast it is on this machine, both hosts sharing its processors")
    figures(scene)
    say("Down again: no device, no route, nothing left")
    scene.down(laptop)
    scene.down(home)
    scene.type(laptop, "ip", "-brief", "address")


def main() -> int:
    """Play the demo; return the exit status."""
    try:
        say("Installing QuicEther as `sudo ./bootstrap install` does, into a layer of its own")
        layers = installed_layer()
        say("Booting two hosts with systemd, D-Bus, polkit, NetworkManager, and a LAN behind home")
        with story(layers, show=show) as scene:
            play(scene)
    except (CommandError, InstallError, TimeoutError) as error:
        console.print(f"[bold red]{escape(str(error))}[/]")
        return 1
    say("Everything is taken down. `sudo ./bootstrap install` puts it on this machine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
