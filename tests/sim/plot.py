"""Draws what was measured: hops, success and staleness over time, and growth with size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from sim.report import Report, percentile
from sim.settled import Growth

mpl.use("agg")


def draw(reports: Sequence[Report], path: Path, settled: Sequence[Growth] = ()) -> None:
    """Write a PNG with one line for each report, and the growth of settled networks."""
    figure = Figure(figsize=(11, 10), layout="constrained")
    hops, success, stale, growth = figure.subplots(2, 2).flat
    for report in reports:
        minutes = [at for at, bin_ in enumerate(report.bins) if bin_.hops]
        bins = [report.bins[at] for at in minutes]
        label = f"{report.nodes:,} nodes"
        hops.plot(minutes, [sum(b.hops) / len(b.hops) for b in bins], label=label)
        success.plot(minutes, [100 * b.found / (b.found + b.missed) for b in bins], label=label)
        stale.plot(minutes, [_stale_share(b.stale) for b in bins], label=label)
    sizes = [report.nodes for report in reports]
    for percent, name in ((50, "median"), (99, "99th percentile")):
        values = [percentile(report.all("hops"), percent) for report in reports]
        growth.plot(sizes, values, marker="o", label=name)
        if settled:
            at_size = [each.nodes for each in settled]
            values = [percentile(each.hops, percent) for each in settled]
            growth.plot(at_size, values, linestyle="--", label=f"{name}, settled")
    growth.set_xscale("log")
    hops.set(title="Mean hops to the first value", xlabel="minutes", ylabel="hops", ylim=(0, None))
    success.set(title="Lookups of live records that succeed", xlabel="minutes", ylabel="%")
    stale.set(title="Records found that were not the latest", xlabel="minutes", ylabel="%")
    growth.set(title="Hops by size of the network", xlabel="nodes", ylabel="hops", ylim=(0, None))
    for axes in (hops, success, stale, growth):
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend()
    figure.savefig(path, dpi=110)


def _stale_share(stale: Sequence[float]) -> float:
    return 100 * sum(seconds > 0 for seconds in stale) / len(stale) if stale else 0.0
