"""What a policy costs TCP from end to end: the same tunnel with none, ten rules and ten thousand.

PYTHONPATH=service:tests python tests/bench/policed.py [--rules N] [--rounds N] [--seconds N]

All three tunnels are up the whole time and measured in turns, so that what else the machine does
falls on all of them alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.contenders import START_PATIENCE, UNDERLAY, Tunnel, quicether
from bench.policy import rules_text
from bench.tunnels import flow, processor_seconds, received
from support.cables import Cable
from support.commands import wait_until
from support.hosts import LightHost


@dataclass
class Pair:
    """Two hosts joined under one policy, and what was measured there.

    mbit: throughput of TCP. processor: its processor seconds on both hosts for 10^9 bytes.
    """

    name: str
    a: LightHost
    b: LightHost
    tunnel: Tunnel
    mbit: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def measure(self, seconds: int) -> None:
        """Measure one flow of so many seconds."""
        before = processor_seconds(self.tunnel.pids)
        arrived = received(flow(self.a, self.b, self.tunnel, seconds))
        used = processor_seconds(self.tunnel.pids) - before
        self.mbit.append(arrived["bits_per_second"] / 1e6)
        self.processor.append(used / arrived["bytes"] * 1e9)


def joined(stack: ExitStack, name: str, rules: int) -> Pair:
    """Join two hosts by a tunnel whose nodes both have so many rules; 0: no policy."""
    enter = stack.enter_context
    a, b = enter(LightHost(f"a{rules}")), enter(LightHost(f"b{rules}"))
    cable = enter(Cable(a, b))
    folder = Path(enter(tempfile.TemporaryDirectory()))
    a.configure_link(cable.a.ifname, [f"{UNDERLAY[0]}/24"])
    b.configure_link(cable.b.ifname, [f"{UNDERLAY[1]}/24"])
    settings = {}
    if rules:
        policy = folder / "policy.toml"
        policy.write_text(rules_text(rules, 'subject = "*"\nobject = "*"'))
        settings["policy-file"] = str(policy)
    pair = Pair(name, a, b, enter(quicether(a, b, folder, settings)))
    ping = ["ping", "-c", "1", "-W", "1", pair.tunnel.address]
    wait_until(lambda: a.run(ping, check=False).returncode == 0, START_PATIENCE, "a ping")
    flow(a, b, pair.tunnel, 1)  # path MTU, caches and windows are found before anything counts
    return pair


def _ratio(one: list[float], other: list[float]) -> float:
    """Return the median of the ratios round by round, which other work disturbs least."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def main() -> int:
    """Measure the three in turns, and print their medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="length of each flow")
    options = parser.parse_args()
    with ExitStack() as stack:
        none, few, many = (
            joined(stack, name, rules)
            for name, rules in (
                ("no policy", 0),
                ("10 rules", 10),
                (f"{options.rules:,} rules", options.rules),
            )
        )
        for _ in range(options.rounds):
            for pair in (none, few, many):
                pair.measure(options.seconds)
    print(f"{'':<14}{'Mbit/s':>9}{'CPU s per GB':>14}")
    for pair in (none, few, many):
        mbit, processor = statistics.median(pair.mbit), statistics.median(pair.processor)
        print(f"{pair.name:<14}{mbit:>9.0f}{processor:>14.1f}")
    for one, other in ((few, none), (many, none), (many, few)):
        mbit = _ratio(one.mbit, other.mbit)
        processor = _ratio(one.processor, other.processor)
        print(
            f"{one.name} against {other.name}: "
            f"{(mbit - 1) * 100:+.1f} % throughput, {(processor - 1) * 100:+.1f} % processor"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
