"""Two hosts and a cable: what QuicEther carries, beside what else Debian ships, in one run."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.contenders import CONTENDERS, START_PATIENCE, UNDERLAY, Contender, Tunnel
from support.cables import Cable
from support.commands import CommandError, wait_until
from support.hosts import LightHost

SMALL: Final = 64
"""Bytes of UDP payload in the measurement of packets a second."""
PINGS: Final = 100


@dataclass(frozen=True, slots=True)
class Figures:
    """What one contender did. None where nothing is to be measured.

    mbit_there, mbit_back: TCP throughput from `a` to `b` and back, in Mbit/s.
    packets: small UDP packets a second that arrived. ping_ms: median round-trip time.
    cpu_s_per_gb: processor seconds of its processes on both hosts for 10^9 bytes of TCP.
    memory_mb: resident memory of the larger process, in 10^6 bytes.
    """

    name: str
    mbit_there: float
    mbit_back: float
    packets: float
    ping_ms: float
    cpu_s_per_gb: float | None
    memory_mb: float | None


def measure(contenders: Sequence[Contender] = CONTENDERS, seconds: int = 5) -> list[Figures]:
    """Measure each contender that is installed, one after the other. seconds: of each flow."""
    found = []
    for contender in contenders:
        if contender.missing:
            print(f"{contender.name}: not installed ({', '.join(contender.missing)})", flush=True)
            continue
        with (
            LightHost("a") as a,
            LightHost("b") as b,
            Cable(a, b) as cable,
            tempfile.TemporaryDirectory() as folder,
        ):
            a.configure_link(cable.a.ifname, [f"{UNDERLAY[0]}/24"])
            b.configure_link(cable.b.ifname, [f"{UNDERLAY[1]}/24"])
            try:
                with contender.start(a, b, Path(folder)) as tunnel:
                    found.append(_measure(contender.name, a, b, tunnel, seconds))
            except (CommandError, TimeoutError) as error:
                print(f"{contender.name}: not measured: {error}", flush=True)
            else:
                print(_line(found[-1], found[0]), flush=True)
    return found


def _measure(name: str, a: LightHost, b: LightHost, tunnel: Tunnel, seconds: int) -> Figures:
    ping = ["ping", "-c", "1", "-W", "1", tunnel.address]
    wait_until(
        lambda: a.run(ping, check=False).returncode == 0, START_PATIENCE, f"{name} to carry a ping"
    )
    flow(a, b, tunnel, 1)  # path MTU, caches and windows are found before anything counts
    before = processor_seconds(tunnel.pids)
    there = flow(a, b, tunnel, seconds)
    back = flow(a, b, tunnel, seconds, "--reverse")
    processor = processor_seconds(tunnel.pids) - before
    carried = (received(there)["bytes"] + received(back)["bytes"]) / 1e9
    small = flow(a, b, tunnel, seconds, "--udp", "--bitrate", "0", "--length", str(SMALL))
    counted = small["end"]["sum"]
    arrived = counted["packets"] - counted["lost_packets"]
    return Figures(
        name=name,
        mbit_there=received(there)["bits_per_second"] / 1e6,
        mbit_back=received(back)["bits_per_second"] / 1e6,
        packets=arrived / counted["seconds"],
        ping_ms=_ping(a, tunnel.address),
        cpu_s_per_gb=processor / carried if tunnel.pids else None,
        memory_mb=max(map(_resident, tunnel.pids)) / 1e6 if tunnel.pids else None,
    )


def flow(a: LightHost, b: LightHost, tunnel: Tunnel, seconds: int, *words: str) -> dict[str, Any]:
    """Let iperf3 send from `a` to `b` and return what it says. words: more options."""
    server = b.popen(["iperf3", "--server", "--one-off", "--forceflush"])
    assert server.stdout is not None
    next(line for line in server.stdout if "listening" in line)
    command = ["iperf3", "--client", tunnel.address, "--time", str(seconds), "--json", *words]
    result: dict[str, Any] = json.loads(a.run(command, timeout=seconds + 30).stdout)
    server.wait()
    return result


def received(result: dict[str, Any]) -> dict[str, float]:
    """Return what arrived of a flow of TCP: bytes, bits_per_second and so on."""
    summed: dict[str, float] = result["end"]["sum_received"]
    return summed


def _ping(host: LightHost, address: str) -> float:
    command = ["ping", "-c", str(PINGS), "-i", "0.02", address]
    output = host.run(command, timeout=PINGS * 0.02 + 30).stdout
    times = [line.split("time=")[1].split()[0] for line in output.splitlines() if "time=" in line]
    return statistics.median(map(float, times))


def processor_seconds(pids: Sequence[int]) -> float:
    """Return user and system time of processes and all their descendants that ended."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _line(figures: Figures, bare: Figures) -> str:
    processor = "" if figures.cpu_s_per_gb is None else f"{figures.cpu_s_per_gb:.1f}"
    memory = "" if figures.memory_mb is None else f"{figures.memory_mb:.0f}"
    return (
        f"{figures.name:<14}{figures.mbit_there:>9.0f}{figures.mbit_back:>9.0f}"
        f"{figures.packets:>11.0f}{figures.ping_ms:>9.3f}"
        f"{figures.ping_ms - bare.ping_ms:>9.3f}{processor:>9}{memory:>8}"
    )


def report(found: Sequence[Figures]) -> dict[str, Any]:
    """Return the figures, and QuicEther's ratio to every other contender, as JSON takes it."""
    ours = next((each for each in found if each.name == "quicether"), None)
    others = [each for each in found if each is not ours] if ours is not None else []
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        "measured": when,
        "processors": os.cpu_count(),
        "figures": [asdict(each) for each in found],
        "quicether_by": {other.name: _ratios(asdict(ours), asdict(other)) for other in others},
    }


def _ratios(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Return ours by the other's, of every figure that both have."""
    return {
        key: figure / other[key]
        for key, figure in ours.items()
        if isinstance(figure, float) and other[key]
    }


def ratio_lines(result: dict[str, Any]) -> str:
    """Return the ratios of a report as a table under the columns of HEADING."""
    lines = ["quicether /"]
    for name, by in result["quicether_by"].items():
        cells = [
            f"{by[key]:.2f}" if key in by else ""
            for key in (
                "mbit_there",
                "mbit_back",
                "packets",
                "ping_ms",
                "cpu_s_per_gb",
                "memory_mb",
            )
        ]
        there, back, packets, ping, processor, memory = cells
        lines.append(
            f"  {name:<12}{there:>9}{back:>9}{packets:>11}{ping:>9}{'':>9}{processor:>9}{memory:>8}"
        )
    return "\n".join(lines)


HEADING: Final = (
    f"{'':<14}{'Mbit/s':>9}{'Mbit/s':>9}{'64-byte':>11}{'ping':>9}{'added':>9}{'CPU s':>9}"
    f"{'memory':>8}\n"
    f"{'':<14}{'there':>9}{'back':>9}{'packets/s':>11}{'ms':>9}{'ms':>9}{'per GB':>9}{'MB':>8}"
)
