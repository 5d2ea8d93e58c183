"""`quicether status`, `peers`, `routes`, `lookup`, `ping`, `version`: questions to the service."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Final

from quicether import __version__
from quicether.cli import output
from quicether.cli.exits import NoDaemonError, NotPermittedError
from quicether.config import values
from quicether.errors import QuicEtherError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from quicether.cli.client import Daemon
    from quicether.cli.report import (
        LookupReport,
        PeersReport,
        PingReport,
        RoutesReport,
        StatusReport,
        TunnelReport,
    )

DEFAULT_WATCH: Final = 1.0
DEFAULT_PINGS: Final = 4
_STYLES: Final = {
    "running": "green",
    "connected": "green",
    "failed": "red",
    "unreachable": "red",
    "refused": "red",
}


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of `quicether`."""
    status = subparsers.add_parser("status", help="show what the service does")
    _add_watch(status)
    status.set_defaults(func=_status)

    peers = subparsers.add_parser("peers", help="show the other nodes, and how they are reached")
    _add_tunnel(peers)
    _add_watch(peers)
    peers.set_defaults(func=_peers)

    routes = subparsers.add_parser("routes", help="show which way each prefix goes")
    _add_tunnel(routes)
    _add_watch(routes)
    routes.set_defaults(func=_routes)

    lookup = subparsers.add_parser("lookup", help="say where packets to an address go")
    lookup.add_argument("address", metavar="ADDRESS", type=_address)
    _add_tunnel(lookup)
    lookup.set_defaults(func=_lookup)

    ping = subparsers.add_parser(
        "ping",
        help="ask a node for a sign of life",
        description="Ask a node for a sign of life over the overlay's control channel, and show "
        "the round-trip time and the path. No ICMP packet is sent.",
    )
    ping.add_argument("node", metavar="NODE", help="name or id, or the beginning of an id")
    ping.add_argument(
        "-c",
        "--count",
        type=_count,
        default=DEFAULT_PINGS,
        metavar="N",
        help="how often (default %(default)s)",
    )
    ping.add_argument(
        "-i",
        "--interval",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="time between two (default %(default)s)",
    )
    _add_tunnel(ping)
    ping.set_defaults(func=_ping)

    version = subparsers.add_parser("version", help="show the version")
    version.set_defaults(func=_version)


def _add_tunnel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t", "--tunnel", metavar="NAME", help="which one, where several tunnels are up"
    )


def _add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=DEFAULT_WATCH,
        metavar="SECONDS",
        help="show it again and again (every second)",
    )


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.1 <= found <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return found


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000000")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(values.address(text))
    except QuicEtherError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _status(arguments: argparse.Namespace) -> int:
    from quicether.cli import report
    from quicether.cli.client import daemon

    with daemon() as service:
        output.show(arguments, lambda: report.status(service), report.plain, _render_status)
    return 0


def _render_status(found: StatusReport) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for tunnel in found.tunnels:
        parts += [_render_tunnel(tunnel), Text()]
    for name, sentence in found.failures.items():
        parts.append(Text(f"tunnel {name} failed: {sentence}", style="red"))
    if not found.tunnels:
        parts.append(Text("no tunnel is up"))
    elif not found.failures:
        parts.pop()
    return Group(*parts)


def _render_tunnel(tunnel: TunnelReport) -> RenderableType:
    counters = tunnel.counters
    drops = {
        key.removeprefix("drop-"): count
        for key, count in counters.items()
        if key.startswith("drop-") and count
    }
    state = tunnel.state if tunnel.ready or tunnel.state != "running" else "running, not ready"
    device = tunnel.device and f"{tunnel.device} (MTU {tunnel.mtu}, by {tunnel.link})"
    dns = [*tunnel.dns_servers, *tunnel.dns_domains]
    return output.facts(
        [
            ("tunnel", f"{tunnel.name} (network {tunnel.network})"),
            ("state", (f"{state} for {output.ago(tunnel.since, time.time())}", _style(state))),
            ("node", f"{tunnel.node_name} {tunnel.node_id}"),
            ("port", tunnel.listen_port and f"{tunnel.listen_port}/udp"),
            ("reachable", " ".join(tunnel.endpoints)),
            ("device", device),
            ("link", tunnel.device and tunnel.link_reason),
            ("addresses", " ".join(tunnel.addresses)),
            ("prefixes", " ".join(tunnel.prefixes)),
            ("default", "through the tunnel" if tunnel.full_tunnel else None),
            ("DNS", " ".join(dns)),
            ("offers", " ".join(tunnel.offers)),
            ("peers", tunnel.peer_count),
            ("routes", tunnel.route_count),
            ("sent", _traffic(counters, "sent")),
            ("received", _traffic(counters, "received")),
            ("forwarded", _traffic(counters, "forwarded")),
            ("dropped", ", ".join(f"{count} {reason}" for reason, count in drops.items())),
            *(("refused", sentence) for sentence in tunnel.refusals),
        ]
    )


def _traffic(counters: dict[str, int], direction: str) -> str:
    packets = counters.get(f"{direction}-packets", 0)
    count = counters.get(f"{direction}-bytes", 0)
    return f"{packets} packets, {output.size(count)}" if packets else ""


def _style(state: str) -> str:
    return _STYLES.get(state, "yellow")


def _peers(arguments: argparse.Namespace) -> int:
    from quicether.cli import report
    from quicether.cli.client import daemon

    with daemon() as service:
        output.show(
            arguments,
            lambda: report.peers(service, arguments.tunnel),
            report.plain,
            _render_peers,
        )
    return 0


def _render_peers(found: PeersReport) -> RenderableType:
    rows = []
    for peer in found.peers:
        state = f"via {peer.via}" if peer.via else str(peer.state)
        where = peer.address or peer.detail or ""
        rows.append(
            [
                peer.name,
                peer.node_id[:10],
                where,
                output.milliseconds(peer.rtt),
                (state, _style(peer.state)),
            ]
        )
    return output.table(["NAME", "NODE", "ADDRESS", "RTT", "STATUS"], rows)


def _routes(arguments: argparse.Namespace) -> int:
    from quicether.cli import report
    from quicether.cli.client import daemon

    with daemon() as service:
        output.show(
            arguments,
            lambda: report.routes(service, arguments.tunnel),
            report.plain,
            _render_routes,
        )
    return 0


def _render_routes(found: RoutesReport) -> RenderableType:
    rows = []
    for route in found.routes:
        kind = "default" if route.default else str(route.next_hop)
        name = route.node_name or (route.node_id or "")[:10]
        used = ("used", "green") if route.used else ("" if route.reachable else "unreachable")
        rows.append([route.prefix, name, kind, route.source, output.milliseconds(route.rtt), used])
    return output.table(["DESTINATION", "NEXT HOP", "TYPE", "SOURCE", "RTT", ""], rows)


def _lookup(arguments: argparse.Namespace) -> int:
    from quicether.bus.status import LookupResult
    from quicether.cli import report
    from quicether.cli.client import daemon

    with daemon() as service:
        tunnel, path = report.choose(service, arguments.tunnel)
        answer = service.ask(path, "Lookup", "s", arguments.address)
        result = report.read(LookupResult, answer)
    output.show(
        arguments,
        lambda: report.LookupReport(tunnel, result),
        report.plain,
        _render_lookup,
    )
    return 0 if result.prefix is not None else 1


def _render_lookup(found: LookupReport) -> RenderableType:
    result = found.result
    if result.prefix is None:
        asked = " and none was found in the network" if result.asked else ""
        return output.facts([("address", result.address), ("route", f"none{asked}")])
    name = f"{result.node_name or ''} {result.node_id or ''}".strip()
    return output.facts(
        [
            ("address", result.address),
            ("prefix", f"{result.prefix} ({result.source})"),
            ("next hop", f"{result.next_hop} {name}".strip()),
            ("reachable", "yes" if result.reachable else ("no", "red")),
        ]
    )


def _ping(arguments: argparse.Namespace) -> int:
    from quicether.cli import report
    from quicether.cli.client import daemon

    answered = 0
    with daemon() as service:
        tunnel, path = report.choose(service, arguments.tunnel)
        for sequence in range(1, arguments.count + 1):
            if sequence > 1:
                time.sleep(arguments.interval)
            found = _ping_once(arguments.node, sequence, tunnel, path, service)
            answered += found.answer is not None
            if arguments.json:
                output.print_json(report.plain(found), lines=True)
            else:
                print(_ping_line(found), flush=True)
    return 0 if answered else 1


def _ping_once(node: str, sequence: int, tunnel: str, path: str, service: Daemon) -> PingReport:
    from quicether.bus.status import PingResult
    from quicether.cli import report
    from quicether.cli.client import RefusedArgumentError

    try:
        answer = report.read(PingResult, service.ask(path, "Ping", "s", node))
    except (NoDaemonError, NotPermittedError, RefusedArgumentError):
        raise
    except QuicEtherError as error:
        return report.PingReport(tunnel, sequence, error=str(error))
    return report.PingReport(tunnel, sequence, answer)


def _ping_line(found: PingReport) -> str:
    if found.answer is None:
        return f"{found.sequence}: {found.error}"
    answer = found.answer
    path = f"via {answer.via}" if answer.via else f"at {answer.address}"
    return (
        f"{found.sequence}: {answer.name} ({answer.node_id[:10]}) {path}: "
        f"{output.milliseconds(answer.rtt)}"
    )


def _version(arguments: argparse.Namespace) -> int:
    if arguments.json:
        output.print_json({"version": __version__})
    else:
        print(f"quicether {__version__}")
    return 0
