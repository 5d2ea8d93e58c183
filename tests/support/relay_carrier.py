"""The process behind `relay.Relay`: carries frames between two devices, with faults.

    relay_carrier.py DEVICE DEVICE SEED

Reads orders from standard input, one JSON object a line, and answers each with the counts so far:
`directions` (two impairments, first to second device and back) and `silent`. Ends with its input.
"""

import heapq
import itertools
import json
import os
import random
import select
import socket
import sys
import time
from collections import Counter
from typing import Final

ETH_P_ALL: Final = 0x0003
PACKET_IGNORE_OUTGOING: Final = 23
SO_RCVBUFFORCE: Final = 33
FRAME: Final = 16384
BATCH: Final = 64
LATE: Final = 0.005
"""How far behind its time a reordered frame comes, in seconds."""
BOUND: Final = 20000
"""Frames under way at most; a real path has an end, too."""


class Direction:
    """What becomes of the frames that come in at one device."""

    def __init__(self, out: socket.socket, seed: str) -> None:
        self.out = out
        self.random = random.Random(seed)
        self.fault = dict.fromkeys(("delay", "jitter", "loss", "reorder", "duplicate"), 0.0)
        self.last_due = 0.0

    def due_times(self, now: float, counts: Counter[str]) -> list[float]:
        """When the frame that came in now goes out: never, once or twice."""
        fault, rng = self.fault, self.random
        # Every frame draws the same numbers, so one share does not change another's choice.
        lost, late, twice, spread = rng.random(), rng.random(), rng.random(), rng.random()
        if lost < fault["loss"]:
            counts["lost"] += 1
            return []
        due = now + fault["delay"] + fault["jitter"] * (spread - 0.5)
        if late < fault["reorder"]:
            counts["reordered"] += 1
            due += LATE
        else:
            due = self.last_due = max(due, self.last_due)
        if twice < fault["duplicate"]:
            counts["duplicated"] += 1
            return [due, due]
        return [due]


def listen(device: str) -> socket.socket:
    """A socket that gets every frame that comes in at the device, and can send there."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    opened.setsockopt(263, PACKET_IGNORE_OUTGOING, 1)
    opened.bind((device, ETH_P_ALL))
    opened.setblocking(False)
    return opened


def main(first: str, second: str, seed: str) -> None:
    """Carry frames until standard input ends."""
    sockets = [listen(first), listen(second)]
    directions = {
        sockets[0]: Direction(sockets[1], f"{seed} forth"),
        sockets[1]: Direction(sockets[0], f"{seed} back"),
    }
    counts: Counter[str] = Counter(carried=0, lost=0, reordered=0, duplicated=0, overflowed=0)
    waiting: list[tuple[float, int, socket.socket, bytes]] = []
    sequence = itertools.count()
    silent = False
    orders = b""

    def send(out: socket.socket, frame: bytes) -> None:
        try:
            out.send(frame)
        except OSError:  # a full queue, or a device that is down
            counts["overflowed"] += 1
        else:
            counts["carried"] += 1

    def take(incoming: socket.socket) -> None:
        direction = directions[incoming]
        for _ in range(BATCH):
            try:
                frame = incoming.recv(FRAME)
            except OSError:  # nothing more, or the device is down
                return
            if silent:
                counts["lost"] += 1
                continue
            now = time.monotonic()
            for due in direction.due_times(now, counts):
                if due <= now:
                    send(direction.out, frame)
                elif len(waiting) >= BOUND:
                    counts["overflowed"] += 1
                else:
                    heapq.heappush(waiting, (due, next(sequence), direction.out, frame))

    by_descriptor = {opened.fileno(): opened for opened in sockets}
    while True:
        timeout = max(waiting[0][0] - time.monotonic(), 0) if waiting else None
        readable, _, _ = select.select([0, *by_descriptor], [], [], timeout)
        for ready in readable:
            if ready in by_descriptor:
                take(by_descriptor[ready])
                continue
            chunk = os.read(0, 65536)
            if not chunk:
                return
            *complete, orders = (orders + chunk).split(b"\n")
            for line in complete:
                order = json.loads(line)
                silent = order.get("silent", silent)
                if "directions" in order:
                    for direction, fault in zip(
                        directions.values(), order["directions"], strict=True
                    ):
                        direction.fault = fault
                print(json.dumps(counts), flush=True)
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, out, frame = heapq.heappop(waiting)
            send(out, frame)


if __name__ == "__main__":
    main(*sys.argv[1:])
