"""A member that lies about what it owns, what it forwards to, and what others withdrew.

    python -m support.rogue_process SPEC

SPEC is a JSON object: `prefixes` that its certificate does not cover, the node id of a `victim`,
its overlay `address` and its `lan`, and `nodes`, the underlay addresses to lie to. Each is told at
once, in the Hello, that this one owns and forwards for all of these. Then it is sent signed records
for them under every key that they could be found at, one that this node forwards to the victim, and
a withdrawal in the victim's name, and the same as news of a watched key. At last the prefixes are
announced once more. One line of JSON is printed: {"results": what each node answered to each store,
by address}. With the end of stdin {"packets": how many IP packets came} is printed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

from quicether.counters import Counters
from quicether.dht import messages
from quicether.dht.contents import (
    Content,
    GatewayContent,
    GatewaySubnetContent,
    SubnetContent,
)
from quicether.dht.records import RecordSigner
from quicether.identity.store import NetworkStore, NodeIdentity
from quicether.model import NodeId, Prefix, UnderlayAddress
from quicether.transport.aioquic_endpoint import AioquicEndpoint
from quicether.transport.endpoint import Connection
from quicether.transport.messages import Announce, Hello, RpcKind
from support.endpoints import RecordedEvents

PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Lies:
    """What a SPEC says."""

    prefixes: tuple[Prefix, ...]
    victim: NodeId
    address: Prefix
    lan: Prefix

    def records(self, identity: NodeIdentity) -> Iterator[tuple[int, bytes]]:
        """Yield every record, signed by this node, with each key that it could be found at."""
        network, me = identity.trust.network_id, identity.member.node_id
        contents: list[tuple[NodeId, Content, int]] = [
            (me, kind(prefix=prefix), 600)
            for prefix in self.prefixes
            for kind in (SubnetContent, GatewaySubnetContent)
        ]
        contents.append((me, GatewayContent(node=self.victim, prefixes=(self.address,)), 600))
        contents.append((self.victim, SubnetContent(prefix=self.lan), 0))
        for owner, content, ttl in contents:
            sign = identity.key.private.sign
            signer = RecordSigner(network, owner, identity.certificate_der, sign)
            wire = signer.seal(content, int(time.time() * 1000), ttl)
            for key in content.keys(network, owner):
                yield key, wire


async def lie(connection: Connection, records: Iterable[tuple[int, bytes]]) -> list[str]:
    """Store records at a node, push them to it as well, and return its answers to the first."""
    answers = []
    for key, wire in records:
        stored = await ask(connection, messages.Store(key, (wire,)))
        assert isinstance(stored, messages.Stored)
        answers += [result.name for result in stored.results]
        assert isinstance(await ask(connection, messages.Notify(key, (wire,))), messages.Pong)
    return answers


async def ask(connection: Connection, request: messages.Request) -> messages.Response:
    """Ask the DHT of a node."""
    body = bytes([RpcKind.DHT]) + messages.encode(request)
    return messages.decode_response(await connection.request(body, PATIENCE))


async def main(lies: Lies, addresses: list[UnderlayAddress]) -> None:
    """Lie, and wait for what comes of it."""
    roots = (Path(os.environ["QUICETHER_ETC"]), Path(os.environ["QUICETHER_VAR"]))
    identity = NetworkStore(*roots, "home").load_identity(datetime.now(UTC))
    me = identity.member
    announced = Announce(prefixes=lies.prefixes, forwards=(*lies.prefixes, lies.address))
    hello = Hello(
        node_id=me.node_id,
        name=me.name,
        prefixes=announced.prefixes,
        forwards=announced.forwards,
    )
    endpoint = AioquicEndpoint(
        UnderlayAddress("::", 9000),
        certificate=identity.certificate,
        key=identity.key.private,
        trust=identity.trust,
        counters=Counters(),
        hello=lambda: hello,
    )
    events = RecordedEvents()
    endpoint.open(events)
    try:
        for address in addresses:
            endpoint.connect(address)
        wanted = {address.host for address in addresses}
        await events.until(lambda: wanted <= {one.remote.host for one in events.connections})
        results = {
            connection.remote.host: await lie(connection, lies.records(identity))
            for connection in events.connections
        }
        for connection in events.connections:
            connection.send_message(announced)
        print(json.dumps({"results": results}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(json.dumps({"packets": len(events.received)}), flush=True)
    finally:
        await endpoint.close()


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    told = Lies(
        tuple(map(ip_network, spec["prefixes"])),
        NodeId.parse(spec["victim"]),
        ip_network(spec["address"]),
        ip_network(spec["lan"]),
    )
    asyncio.run(main(told, [UnderlayAddress(address, 9000) for address in spec["nodes"]]))
