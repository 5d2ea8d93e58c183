"""`python -m sim.run --nodes 100 1000 10000`: simulate, print the figures, draw the plot.

Machines in virtual time, one network after the other; then how lookups grow with the network, in
settled ones that are larger than what can be played through.
"""

from __future__ import annotations

import argparse
import json
from argparse import RawDescriptionHelpFormatter
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from sim.plot import draw
from sim.report import Report
from sim.scenario import Scenario, Simulation
from sim.settled import Growth, SettledNetwork

SETTLED: Final = (100, 1_000, 10_000, 100_000, 1_000_000)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.run", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--minutes", type=float, default=60.0, help="measured virtual time")
    parser.add_argument("--churn", type=float, default=0.10, help="share that leaves in an hour")
    parser.add_argument("--liars", type=float, default=0.0, help="share of nodes that lie")
    parser.add_argument("--sites", type=float, default=0.02, help="share with a LAN")
    parser.add_argument("--watchers", type=float, default=0.02, help="share with routes = auto")
    parser.add_argument("--lookups", type=float, default=2.0, help="lookups a second")
    parser.add_argument("--grow", type=float, default=600.0, help="seconds in which nodes join")
    parser.add_argument(
        "--partition",
        type=float,
        nargs=2,
        metavar=("FROM", "TO"),
        help="minutes from when to when the network is in two halves",
    )
    parser.add_argument("--known", action="store_true", help="all know each other from the start")
    parser.add_argument("--settled", type=int, nargs="*", default=SETTLED, metavar="N")
    parser.add_argument("--settled-lookups", type=int, default=500, metavar="N")
    parser.add_argument("--gone", type=float, default=0.05, help="settled: share of dead contacts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(), help="directory for PNG and JSON")
    parser.add_argument("--name", default="dht-simulation", help="name of PNG and JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Simulate one network after the other."""
    options = parse(arguments)
    console = Console()
    reports: list[Report] = []
    growth: list[Growth] = []
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        for nodes in options.nodes:
            task = bar.add_task(f"{nodes:,} nodes", total=1.0)
            partition = options.partition and tuple(60 * at for at in options.partition)
            scenario = Scenario(
                nodes,
                seed=options.seed,
                churn=options.churn,
                liars=options.liars,
                sites=options.sites,
                watchers=options.watchers,
                grow=options.grow,
                duration=options.minutes * 60,
                lookups=options.lookups,
                partition=partition,
                settled=options.known,
            )
            simulation = Simulation(scenario)
            reports.append(simulation.run(partial(_show, bar, task)))
        for nodes in options.settled:
            task = bar.add_task(f"{nodes:,} settled nodes", total=1.0)
            settled = SettledNetwork(nodes, options.seed, options.gone)
            growth.append(settled.measure(options.settled_lookups, partial(_show, bar, task)))
    if reports:
        console.print(table(reports))
    if growth:
        console.print(growth_table(growth))
    options.out.mkdir(parents=True, exist_ok=True)
    plot = options.out / f"{options.name}.png"
    draw(reports, plot, growth)
    figures = {
        "played": [report.figures() for report in reports],
        "settled": [each.figures() for each in growth],
    }
    plot.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    console.print(f"plot: {plot}")


def table(reports: list[Report]) -> Table:
    """Return the figures as a table, one column for each network."""
    return _columns("DHT simulation", [report.figures() for report in reports])


def growth_table(growth: list[Growth]) -> Table:
    """Return how lookups grow as a table, one column for each settled network."""
    return _columns("Lookups in settled networks", [each.figures() for each in growth])


def _show(bar: Progress, task: TaskID, done: float) -> None:
    bar.update(task, completed=done)


def _columns(title: str, figures: list[dict[str, Any]]) -> Table:
    shown = Table(title=title)
    shown.add_column("figure")
    for column in figures:
        shown.add_column(f"{column['nodes']:,}", justify="right")
    for name in figures[0]:
        shown.add_row(name, *(f"{column[name]:,}" for column in figures))
    return shown


if __name__ == "__main__":
    main()
