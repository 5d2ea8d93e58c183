"""The process of a `support.node.Node`: the daemon without its bus, driven by lines of JSON.

    python -m support.node_process

A line on stdin is {"do": ORDER, …}, and each is answered by one line on stdout: {"ok": …} or
{"error": SENTENCE}. The service's log goes to stderr. The process ends, and takes its tunnels
down, with the end of its stdin.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
from ipaddress import ip_address
from typing import Any

from quicether.bus.contract import LinkOwnerName
from quicether.bus.controller import TunnelView, UpRequest
from quicether.daemon.controller import Tunnels
from quicether.errors import QuicEtherError

EVERYTHING = 100_000


def _status(tunnel: TunnelView) -> dict[str, Any]:
    config, counters = tunnel.host_config, tunnel.counters
    return {
        "state": str(tunnel.state),
        "ready": tunnel.ready,
        "node_id": str(tunnel.node_id),
        "port": tunnel.listen_port,
        "counters": {
            **{field.name: getattr(counters, field.name) for field in dataclasses.fields(counters)},
            "drops": {str(reason): count for reason, count in counters.drops.items()},
        },
        "refusals": list(tunnel.refusals),
        "prefixes": [] if config is None else list(map(str, config.prefixes)),
        "mtu": None if config is None else config.mtu,
    }


async def _obey(tunnels: Tunnels, order: dict[str, Any]) -> Any:
    name = order.get("tunnel", "")
    if order["do"] == "up":
        request = UpRequest(owner=LinkOwnerName.NETLINK)
        return _status(await tunnels.up(name, order["options"], request))
    if order["do"] == "down":
        return await tunnels.down(name)
    if order["do"] == "reload":
        return await tunnels.reload(name)
    if order["do"] == "failures":
        return dict(tunnels.failures)
    tunnel = tunnels.tunnels[name]
    match order["do"]:
        case "status":
            return _status(tunnel)
        case "peers":
            return [dataclasses.asdict(peer) for peer in tunnel.peers(0, EVERYTHING)]
        case "routes":
            return [dataclasses.asdict(route) for route in tunnel.routes(0, EVERYTHING)]
        case "lookup":
            return dataclasses.asdict(await tunnel.lookup(ip_address(order["address"])))
        case "ping":
            return dataclasses.asdict(await tunnel.ping(order["node"]))
        case "policy":
            where = ip_address(order["destination"])
            asked = (order["source"], where, order["protocol"], order["port"])
            return dataclasses.asdict(await tunnel.policy_test(*asked))
    raise ValueError(f"no such order: {order}")


async def main() -> None:
    """Obey until stdin ends."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s.%(msecs)03d %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("quic").setLevel(logging.WARNING)
    tunnels = Tunnels()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            try:
                answer = {"ok": await _obey(tunnels, json.loads(line))}
            except QuicEtherError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)
    finally:
        await tunnels.close()


if __name__ == "__main__":
    asyncio.run(main())
