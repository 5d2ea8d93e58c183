"""How many IP packets a second go from one endpoint to another over loopback.

    python tests/bench/transport.py [--seconds N] [--profile]

Sender and receiver are processes of their own, on one core each where there are two. A sender on
loopback has no bottleneck before it, so what the receiver cannot keep up with is lost in its socket
buffer; both rates are shown, and the share that arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import os
import pstats
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "service"), str(ROOT / "tests")]

from quicether.model import UnderlayAddress  # noqa: E402
from quicether.transport.endpoint import Connection  # noqa: E402
from support.certificates import Identity, Network  # noqa: E402
from support.endpoints import RecordedEndpoint, RecordedEvents  # noqa: E402

BATCH = 64
"""Packets that a TUN device hands over at a time."""


@dataclass(frozen=True)
class Figures:
    """What one side did: packets, and seconds of computing and of waiting."""

    packets: int
    cpu: float
    seconds: float


class CountingEvents(RecordedEvents):
    """Counts packets and answers every second one with a small one, as TCP does."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.first = 0.0
        self.last = 0.0
        self.cpu_before = 0.0

    def packets(self, connection: Connection, packets: list[bytes]) -> None:
        if not self.count:
            self.first = time.perf_counter()
            self.cpu_before = time.process_time()
        self.last = time.perf_counter()
        self.count += len(packets)
        connection.send_packets([bytes(52)] * (len(packets) // 2))


def receive(pipe: Pipe, network: Network, identity: Identity, profile: bool) -> None:
    """Receive until told to stop."""

    async def main() -> Figures:
        endpoint = RecordedEndpoint(identity, network.trust())
        endpoint.events = events = CountingEvents()
        async with endpoint:
            pipe.send(endpoint.local_address)
            stopped = asyncio.Event()
            asyncio.get_running_loop().add_reader(pipe.fileno(), stopped.set)
            await stopped.wait()
            cpu = events.cpu_before
            asyncio.get_running_loop().remove_reader(pipe.fileno())
            return Figures(events.count, time.process_time() - cpu, events.last - events.first)

    with profiled(profile, "receiver"):
        pipe.send(asyncio.run(main()))


def send(
    pipe: Pipe,
    network: Network,
    identity: Identity,
    address: UnderlayAddress,
    size: int,
    rate: float,
    seconds: float,
    profile: bool,
) -> None:
    """Send packets of size bytes for a time; rate: a second, 0 for all that goes."""

    async def main() -> Figures:
        async with RecordedEndpoint(identity, network.trust()) as endpoint:
            endpoint.connect(address)
            (connection,) = await endpoint.events.until(lambda: endpoint.events.connections)
            await endpoint.events.until(lambda: connection.max_packet >= 1420)
            batch = [os.urandom(size) for _ in range(BATCH)]
            sent = 0
            start, cpu = time.perf_counter(), time.process_time()
            while (elapsed := time.perf_counter() - start) < seconds:
                if rate and sent > elapsed * rate:
                    await asyncio.sleep((sent - elapsed * rate) / rate)
                    continue
                connection.send_packets(batch)
                sent += BATCH
                endpoint.events.received.clear()
                await asyncio.sleep(0)
            figures = Figures(sent, time.process_time() - cpu, time.perf_counter() - start)
            await asyncio.sleep(0.2)
            return figures

    with profiled(profile, "sender"):
        pipe.send(asyncio.run(main()))


class profiled:
    """Prints where the time went when asked to."""

    def __init__(self, wanted: bool, name: str) -> None:
        self._profile = cProfile.Profile() if wanted else None
        self._name = name

    def __enter__(self) -> None:
        if self._profile is not None:
            self._profile.enable()

    def __exit__(self, *_: object) -> None:
        if self._profile is not None:
            self._profile.disable()
            print(f"\n{self._name}")
            pstats.Stats(self._profile).sort_stats("tottime").print_stats(25)


def measure(size: int, rate: float, seconds: float, profile: bool) -> tuple[Figures, Figures]:
    """Return what sender and receiver did."""
    context = multiprocessing.get_context("fork")
    network = Network()
    here, there = context.Pipe()
    receiver = context.Process(
        target=receive, args=(there, network, network.member("receiver"), profile)
    )
    receiver.start()
    address = here.recv()
    ours, theirs = context.Pipe()
    sender = context.Process(
        target=send,
        args=(theirs, network, network.member("sender"), address, size, rate, seconds, profile),
    )
    sender.start()
    pin(sender.pid, receiver.pid)
    sent = ours.recv()
    here.send(None)
    received = here.recv()
    sender.join()
    receiver.join()
    return sent, received


def pin(*processes: int | None) -> None:
    """Give each process a core of its own as far as there are any."""
    cores = sorted(os.sched_getaffinity(0))
    for number, process in enumerate(processes):
        os.sched_setaffinity(process or 0, {cores[number % len(cores)]})


def rows(seconds: float, profile: bool) -> Iterator[str]:
    """Measure and yield the lines of the table."""
    yield f"{'packets':>12} {'sent/s':>9} {'received/s':>11} {'Mbit/s':>8} {'arrived':>8} " + (
        f"{'µs sender':>10} {'µs receiver':>12}"
    )
    for size, rate in ((1400, 0), (1400, 16_000), (1400, 30_000), (100, 0)):
        sent, received = measure(size, rate, seconds, profile)
        arrived = received.packets / received.seconds
        label = f"{size} B" + (f", {rate // 1000}k/s" if rate else "")
        yield (
            f"{label:>12} {sent.packets / sent.seconds:9,.0f} {arrived:11,.0f} "
            f"{arrived * size * 8 / 1e6:8,.0f} {received.packets / sent.packets:8.1%} "
            f"{sent.cpu / sent.packets * 1e6:10.1f} {received.cpu / received.packets * 1e6:12.1f}"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    for row in rows(options.seconds, options.profile):
        print(row, flush=True)


if __name__ == "__main__":
    main()
