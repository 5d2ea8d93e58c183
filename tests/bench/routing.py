"""A million prefixes: lookup, update and memory of our FIB beside PyPI's alternatives.

    PYTHONPATH=service python tests/bench/routing.py [--prefixes N] [--json FILE]

Each contender runs in a process of its own, so that memory is its own. py-radix, pysubnettree
and netaddr are measured where they are installed; a dict for each prefix length always is.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from quicether.model import NextHop, NodeId, Prefix, RouteSource
from quicether.routing.fib import FibView, ForwardingTable
from quicether.routing.table import RoutingTable

SEED: Final = 7
NODES: Final = [NodeId(bytes([number]) * 20) for number in range(1, 101)]
LOOKUPS: Final = 200_000
HOT: Final = 1_000
UPDATES: Final = 2_000
PATIENCE: Final = 5.0
"""Seconds after which a slow contender's figure is taken from what it did until then."""
BITS: Final = {4: 32, 6: 128}


@dataclass(frozen=True)
class Workload:
    """Distinct prefixes as high 64 bits of the network and length, without an object each."""

    version: int
    networks: array[int]
    lengths: array[int]

    def __len__(self) -> int:
        return len(self.networks)

    def packed(self, index: int) -> bytes:
        if self.version == 4:
            return self.networks[index].to_bytes(4)
        return self.networks[index].to_bytes(8) + bytes(8)

    def prefix(self, index: int) -> Prefix:
        kind = IPv4Network if self.version == 4 else IPv6Network
        return kind((self.packed(index), self.lengths[index]))

    def text(self, index: int) -> str:
        return f"{ip_address(self.packed(index))}/{self.lengths[index]}"


def workload(version: int, count: int) -> Workload:
    """Lengths as in the Internet's own tables: most are /24 and /48, the rest shorter."""
    random = Random(SEED)
    common, shorter, width = (24, range(12, 29), 32) if version == 4 else (48, range(28, 65), 64)
    networks, lengths = array("Q"), array("B")
    seen: set[tuple[int, int]] = set()
    while len(networks) < count:
        length = common if random.random() < 0.6 else random.choice(shorter)
        network = random.getrandbits(length) << (width - length)
        if (network, length) not in seen:
            seen.add((network, length))
            networks.append(network)
            lengths.append(length)
    return Workload(version, networks, lengths)


class Contender(Protocol):
    """A table that can be filled, asked and changed."""

    def insert(self, work: Workload, index: int) -> None: ...

    def delete(self, work: Workload, index: int) -> None: ...

    def lookup(self) -> Callable[[Any], object]:
        """Return what answers for one key of `keys`."""

    def keys(self, addresses: Sequence[bytes]) -> list[Any]: ...


class QuicEther:
    """Candidates, precedence, owners, and a new immutable view after each change."""

    snapshot: FibView

    def __init__(self, work: Workload) -> None:
        self.table = RoutingTable()
        self.forwarding = ForwardingTable()
        self.snapshot = self.forwarding.view

    def insert(self, work: Workload, index: int) -> None:
        hop = NextHop.to_node(NODES[index % len(NODES)])
        change = self.table.add(work.prefix(index), hop, RouteSource.DISCOVERED)
        assert change is not None
        self.forwarding.apply([change])
        # The reader holds the old view until it has the new one, as the data path does.
        self.snapshot = self.forwarding.view

    def delete(self, work: Workload, index: int) -> None:
        hop = NextHop.to_node(NODES[index % len(NODES)])
        change = self.table.withdraw(work.prefix(index), hop, RouteSource.DISCOVERED)
        assert change is not None
        self.forwarding.apply([change])
        self.snapshot = self.forwarding.view

    def lookup(self) -> Callable[[bytes], object]:
        return self.forwarding.view.lookup

    def keys(self, addresses: Sequence[bytes]) -> list[bytes]:
        return list(addresses)


class Pytricia:
    """What stands below our FIB, alone."""

    def __init__(self, work: Workload) -> None:
        from pytricia import PyTricia

        self.trie = PyTricia(BITS[work.version])

    def insert(self, work: Workload, index: int) -> None:
        self.trie.insert((work.packed(index), work.lengths[index]), NODES[index % len(NODES)])

    def delete(self, work: Workload, index: int) -> None:
        self.trie.delete((work.packed(index), work.lengths[index]))

    def lookup(self) -> Callable[[bytes], object]:
        lookup: Callable[[bytes], object] = self.trie.get
        return lookup

    def keys(self, addresses: Sequence[bytes]) -> list[bytes]:
        return list(addresses)


class PyRadix:
    """py-radix: one object a node, addresses as packed bytes."""

    def __init__(self, work: Workload) -> None:
        import radix  # type: ignore[import-not-found]

        self.tree = radix.Radix()

    def insert(self, work: Workload, index: int) -> None:
        node = self.tree.add(packed=work.packed(index), masklen=work.lengths[index])
        node.data["hop"] = NODES[index % len(NODES)]

    def delete(self, work: Workload, index: int) -> None:
        self.tree.delete(packed=work.packed(index), masklen=work.lengths[index])

    def lookup(self) -> Callable[[bytes], object]:
        search = self.tree.search_best
        return lambda address: search(packed=address)

    def keys(self, addresses: Sequence[bytes]) -> list[bytes]:
        return list(addresses)


class PySubnetTree:
    """pysubnettree: packed bytes to look up, text to insert."""

    def __init__(self, work: Workload) -> None:
        import SubnetTree  # type: ignore[import-not-found]

        self.tree = SubnetTree.SubnetTree(True)

    def insert(self, work: Workload, index: int) -> None:
        self.tree.insert(work.text(index), NODES[index % len(NODES)])

    def delete(self, work: Workload, index: int) -> None:
        self.tree.remove(work.text(index))

    def lookup(self) -> Callable[[bytes], object]:
        lookup: Callable[[bytes], object] = self.tree.__getitem__
        return lookup

    def keys(self, addresses: Sequence[bytes]) -> list[bytes]:
        return list(addresses)


class Netaddr:
    """netaddr has no trie: its own `smallest_matching_cidr` walks a list."""

    def __init__(self, work: Workload) -> None:
        import netaddr  # type: ignore[import-untyped]

        self.make, self.address = netaddr.IPNetwork, netaddr.IPAddress
        self.smallest = netaddr.smallest_matching_cidr
        self.networks: dict[int, object] = {}

    def insert(self, work: Workload, index: int) -> None:
        self.networks[index] = self.make(work.text(index))

    def delete(self, work: Workload, index: int) -> None:
        del self.networks[index]

    def lookup(self) -> Callable[[object], object]:
        networks = list(self.networks.values())
        return lambda address: self.smallest(address, networks)

    def keys(self, addresses: Sequence[bytes]) -> list[object]:
        return [self.address(int.from_bytes(each)) for each in addresses]


class DictPerLength:
    """A plain dict for each prefix length, asked from the longest down."""

    def __init__(self, work: Workload) -> None:
        self.bits = BITS[work.version]
        self.by_length: dict[int, dict[int, NodeId]] = {}

    def _key(self, work: Workload, index: int) -> int:
        return int.from_bytes(work.packed(index)) >> (self.bits - work.lengths[index])

    def insert(self, work: Workload, index: int) -> None:
        networks = self.by_length.setdefault(work.lengths[index], {})
        networks[self._key(work, index)] = NODES[index % len(NODES)]

    def delete(self, work: Workload, index: int) -> None:
        del self.by_length[work.lengths[index]][self._key(work, index)]

    def lookup(self) -> Callable[[bytes], object]:
        levels = [
            (self.bits - length, self.by_length[length])
            for length in sorted(self.by_length, reverse=True)
        ]

        def look_up(address: bytes) -> NodeId | None:
            value = int.from_bytes(address)
            for shift, networks in levels:
                found = networks.get(value >> shift)
                if found is not None:
                    return found
            return None

        return look_up

    def keys(self, addresses: Sequence[bytes]) -> list[bytes]:
        return list(addresses)


CONTENDERS: Final[dict[str, tuple[type[Any], str | None]]] = {
    "quicether (table + FIB)": (QuicEther, None),
    "pytricia alone": (Pytricia, None),
    "py-radix": (PyRadix, "radix"),
    "pysubnettree": (PySubnetTree, "SubnetTree"),
    "netaddr": (Netaddr, "netaddr"),
    "dict per length": (DictPerLength, None),
}


@dataclass(frozen=True)
class Figures:
    """build, lookup, hot, update: microseconds for one; memory: bytes for one prefix.

    lookup: an address of any prefix, never asked before. hot: one of HOT addresses, again and
    again. update: one prefix withdrawn or added, until the next lookup sees it.
    update_worst: the 99th percentile of those.
    """

    contender: str
    version: int
    prefixes: int
    build: float
    lookup: float
    hot: float
    update: float
    update_worst: float
    memory: float


def resident() -> int:
    """Bytes of memory that this process occupies now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def per_call(call: Callable[[Any], object], keys: Sequence[Any]) -> float:
    """Microseconds for one call, over all keys or as many as PATIENCE allows."""
    done = 0
    start = time.perf_counter()
    while done < len(keys) and time.perf_counter() - start < PATIENCE:
        batch = keys[done : done + max(1, done)]
        for key in batch:
            call(key)
        done += len(batch)
    return (time.perf_counter() - start) / done * 1e6


def measure(name: str, version: int, count: int) -> Figures:
    """Fill, ask and change one contender."""
    work = workload(version, count)
    random = Random(SEED + 1)
    gc.collect()
    before = resident()
    contender: Contender = CONTENDERS[name][0](work)
    start = time.perf_counter()
    for index in range(count):
        contender.insert(work, index)
    build = (time.perf_counter() - start) / count * 1e6
    gc.collect()
    memory = (resident() - before) / count
    # What exists now is not the collector's business: it would be counted as the table's time.
    gc.freeze()
    addresses = []
    for index in random.choices(range(count), k=LOOKUPS):
        host = random.getrandbits(BITS[version] - work.lengths[index])
        addresses.append((int.from_bytes(work.packed(index)) | host).to_bytes(BITS[version] // 8))
    keys = contender.keys(addresses)
    lookup = per_call(contender.lookup(), keys)
    hot = per_call(contender.lookup(), keys[:HOT] * (LOOKUPS // HOT))
    durations = []
    for index in random.sample(range(count), k=min(UPDATES, count)):
        for change in (contender.delete, contender.insert):
            start = time.perf_counter()
            change(work, index)
            durations.append((time.perf_counter() - start) * 1e6)
    return Figures(
        name,
        version,
        count,
        build,
        lookup,
        hot,
        statistics.median(durations),
        statistics.quantiles(durations, n=100)[98],
        memory,
    )


def show(results: Sequence[Figures], missing: Sequence[str], console: Console) -> None:
    """Print the figures, and their ratio to ours."""
    measured = [field.name for field in fields(Figures)][3:]
    for version in BITS:
        chosen = [each for each in results if each.version == version]
        if not chosen:
            continue
        ours = chosen[0]
        table = Table(title=f"{ours.prefixes:,} IPv{version} prefixes (microseconds; x ours)")
        for head in ("", "build", "lookup", "hot", "update", "p99", "bytes/prefix"):
            table.add_column(head, justify="right" if head else "left")
        for each in chosen:
            pairs = [(getattr(each, figure), getattr(ours, figure)) for figure in measured]
            table.add_row(
                each.contender,
                *(f"{value:,.2f} ({value / reference:,.2g})" for value, reference in pairs),
            )
        console.print(table)
    if missing:
        console.print(f"not installed, not measured: {', '.join(missing)}")


def main() -> int:
    """Measure everyone and print the table; --json writes the figures too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prefixes", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    present = [
        name
        for name, (_, module) in CONTENDERS.items()
        if module is None or importlib.util.find_spec(module)
    ]
    runs = [(name, version, options.prefixes) for version in BITS for name in present]
    results = []
    spawn = multiprocessing.get_context("spawn")
    with Progress(console=console, transient=True) as progress:
        for run in progress.track(runs, description="contenders"):
            with spawn.Pool(1) as pool:
                results.append(pool.apply(measure, run))
    show(results, [name for name in CONTENDERS if name not in present], console)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([asdict(each) for each in results], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
