"""`python -m sim.run --nodes 100 1000 10000`: simulate, print the figures, draw the plot."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

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


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m sim.run", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--minutes", type=float, default=60.0, help="measured virtual time")
    parser.add_argument("--churn", type=float, default=0.10, help="share that leaves in an hour")
    parser.add_argument("--liars", type=float, default=0.0, help="share of nodes that lie")
    parser.add_argument("--sites", type=float, default=0.02, help="share with a LAN")
    parser.add_argument("--watchers", type=float, default=0.02, help="share with routes = auto")
    parser.add_argument("--lookups", type=float, default=2.0, help="lookups a second")
    parser.add_argument("--grow", type=float, default=600.0, help="seconds in which nodes join")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(), help="directory for PNG and JSON")
    parser.add_argument("--name", default="dht-simulation", help="name of PNG and JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Simulate one network after the other."""
    options = parse(arguments)
    console = Console()
    reports: list[Report] = []
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
            )
            simulation = Simulation(scenario)

            def show(done: float, task: TaskID = task) -> None:
                bar.update(task, completed=done)

            reports.append(simulation.run(show))
    console.print(table(reports))
    options.out.mkdir(parents=True, exist_ok=True)
    plot = options.out / f"{options.name}.png"
    draw(reports, plot)
    figures = [report.figures() for report in reports]
    plot.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    console.print(f"plot: {plot}")


def table(reports: list[Report]) -> Table:
    """Return the figures as a table, one column for each network."""
    shown = Table(title="DHT simulation")
    figures = [report.figures() for report in reports]
    shown.add_column("figure")
    for report in reports:
        shown.add_column(f"{report.nodes:,}", justify="right")
    for name in figures[0]:
        shown.add_row(name, *(f"{column[name]:,}" for column in figures))
    return shown


if __name__ == "__main__":
    main()
