"""Hundreds of machines: churn, liars, a partition that heals, determinism. Seconds each."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sim.plot import draw
from sim.report import Report, percentile
from sim.scenario import Scenario, Simulation
from sim.settled import SettledNetwork

pytestmark = pytest.mark.timeout(600)  # Virtual time is fast only where the machine is free.

SMALL = Scenario(80, grow=80.0, duration=400.0, lookups=5.0, sites=0.05, watchers=0.05)


def play(scenario: Scenario) -> Report:
    return Simulation(scenario).run()


@pytest.fixture(scope="module")
def churning() -> Report:
    """Return the report of a network that loses and gains a fifth of its nodes."""
    return play(replace(SMALL, nodes=120, churn=2.0, sites=0.2, watchers=0.2))


def test_under_churn_live_records_are_found(churning: Report) -> None:
    assert churning.lookups > 1500
    assert churning.success >= 0.999
    assert churning.figures()["hops p99"] <= 4


def test_prefixes_appear_and_vanish_within_ten_seconds(churning: Report) -> None:
    assert len(churning.appeared) > 30
    assert len(churning.vanished) > 20
    assert max(churning.appeared) < 10.0
    assert max(churning.vanished) < 10.0


def test_with_a_fifth_of_liars_live_records_are_found() -> None:
    report = play(replace(SMALL, nodes=100, liars=0.2, churn=0.1, duration=300.0))
    assert report.lookups > 1000
    assert report.success >= 0.99


def test_idle_traffic_stays_below_one_kbit_a_second() -> None:
    report = play(replace(SMALL, nodes=60, duration=3600.0, lookups=0.0))
    assert 0 < report.idle_bits + report.upkeep_bits < 1000


def test_a_partition_that_heals_leaves_no_prefix_unknown() -> None:
    # Longer than any record lives, with nodes that come and go on both sides meanwhile.
    cut, heal, refresh = 300.0, 4500.0, 1800.0
    scenario = replace(
        SMALL,
        nodes=30,
        sites=0.3,
        watchers=0.2,
        churn=0.3,
        lookups=0.0,
        duration=heal + refresh,
        partition=(cut, heal),
    )
    shares = [b.directory for b in play(scenario).bins if b.directory is not None]
    assert shares[int(heal / 60) - 2] < 0.8
    assert 1.0 in shares[int(heal / 60) :]


def test_lookups_stay_short_in_a_network_of_a_hundred_thousand() -> None:
    growth = SettledNetwork(100_000, gone=0.05).measure(200)
    assert len(growth.hops) == 200
    assert percentile(growth.hops, 50) <= 4
    assert percentile(growth.hops, 99) <= 7


def test_the_same_seed_gives_the_same_run_in_every_process() -> None:
    """Withdrawals went out in the order of a set, which is another one in each process."""
    program = (
        "from sim.scenario import Scenario, Simulation\n"
        "churn = Scenario(40, churn=0.5, duration=200.0, grow=40.0, sites=0.5, watchers=0.3)\n"
        "print(Simulation(churn).run().figures()['requests'])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_the_same_seed_gives_the_same_run() -> None:
    scenario = replace(SMALL, nodes=25, churn=2.0, liars=0.1, duration=200.0)
    first, second = (play(scenario).figures() for _ in range(2))
    for figures in (first, second):
        del figures["KiB a node"]
    assert first == second
    assert play(replace(scenario, seed=2)).requests != first["requests"]


def test_a_report_is_drawn(tmp_path: Path) -> None:
    report = play(replace(SMALL, nodes=20, duration=120.0))
    draw([report], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
