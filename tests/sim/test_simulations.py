"""Hundreds of machines: churn, liars, a partition that heals, determinism. Seconds each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sim.plot import draw
from sim.report import Report
from sim.scenario import Scenario, Simulation

SMALL = Scenario(200, grow=120.0, duration=900.0, lookups=2.0, sites=0.05, watchers=0.05)


def play(scenario: Scenario) -> Report:
    return Simulation(scenario).run()


def test_under_churn_live_records_are_found() -> None:
    report = play(replace(SMALL, churn=0.5))
    assert report.lookups > 1000
    assert report.success >= 0.999
    assert report.figures()["hops p99"] <= 4


def test_with_a_fifth_of_liars_live_records_are_found() -> None:
    report = play(replace(SMALL, liars=0.2, churn=0.1, duration=600.0))
    assert report.lookups > 800
    assert report.success >= 0.99


def test_idle_traffic_stays_below_one_kbit_a_second() -> None:
    report = play(replace(SMALL, duration=3600.0, lookups=0.0))
    assert 0 < report.idle_bits < 1000


def test_prefixes_appear_and_vanish_within_ten_seconds() -> None:
    report = play(replace(SMALL, churn=2.0, sites=0.2, lookups=0.0))
    assert len(report.appeared) > 100
    assert len(report.vanished) > 50
    assert max(report.appeared) < 10.0
    assert max(report.vanished) < 10.0


def test_a_partition_that_heals_leaves_no_prefix_unknown() -> None:
    cut, heal = 300.0, 2100.0
    simulation = Simulation(
        replace(
            SMALL,
            nodes=100,
            sites=0.2,
            lookups=0.2,
            duration=heal + 1800.0,
            partition=(cut, heal),
        )
    )
    report = simulation.run()
    shares = [b.directory for b in report.bins if b.directory is not None]
    assert shares[-1] == 1.0


def test_the_same_seed_gives_the_same_run() -> None:
    scenario = replace(SMALL, nodes=60, churn=0.5, liars=0.1, duration=300.0)
    first, second = (play(scenario).figures() for _ in range(2))
    for figures in (first, second):
        del figures["KiB a node"]
    assert first == second
    assert play(replace(scenario, seed=2)).requests != first["requests"]


def test_a_report_is_drawn(tmp_path: Path) -> None:
    report = play(replace(SMALL, nodes=20, duration=120.0))
    draw([report], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
