"""A member that lies: it says that it owns a prefix which its certificate does not cover.

    python -m support.rogue_process PREFIX ADDRESS…

It connects to each underlay address, announces the prefix on the control channel, and stores
signed records for it under every key that they could be found at. Then it prints one line of JSON:
{"results": what each node answered to each store, by address}. With the end of its stdin it prints
{"packets": how many IP packets it was sent}, and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

from quicether.counters import Counters
from quicether.dht import messages
from quicether.dht.contents import GatewaySubnetContent, SubnetContent
from quicether.dht.records import RecordSigner
from quicether.identity.store import NetworkStore
from quicether.model import Prefix, UnderlayAddress
from quicether.transport.aioquic_endpoint import AioquicEndpoint
from quicether.transport.endpoint import Connection
from quicether.transport.messages import Hello, RpcKind
from support.endpoints import RecordedEvents

PATIENCE = 10.0


async def store(connection: Connection, signer: RecordSigner, prefix: Prefix) -> list[str]:
    """Store records for a prefix at a node and return its answers."""
    answers = []
    for content in (SubnetContent(prefix=prefix), GatewaySubnetContent(prefix=prefix)):
        wire = signer.seal(content, int(time.time() * 1000), 600)
        for key in content.keys(signer.network_id, signer.owner):
            body = bytes([RpcKind.DHT]) + messages.encode(messages.Store(key, (wire,)))
            answer = messages.decode_response(await connection.request(body, PATIENCE))
            assert isinstance(answer, messages.Stored)
            answers += [result.name for result in answer.results]
    return answers


async def main(prefix: Prefix, addresses: list[UnderlayAddress]) -> None:
    """Lie, and wait for what comes of it."""
    roots = (Path(os.environ["QUICETHER_ETC"]), Path(os.environ["QUICETHER_VAR"]))
    identity = NetworkStore(*roots, "home").load_identity(datetime.now(UTC))
    me = identity.member
    hello = Hello(node_id=me.node_id, name=me.name, prefixes=(prefix,), forwards=(prefix,))
    endpoint = AioquicEndpoint(
        UnderlayAddress("::", 9000),
        certificate=identity.certificate,
        key=identity.key.private,
        trust=identity.trust,
        counters=Counters(),
        hello=lambda: hello,
    )
    signer = RecordSigner(
        identity.trust.network_id, me.node_id, identity.certificate_der, identity.key.private.sign
    )
    events = RecordedEvents()
    await endpoint.open(events)
    try:
        for address in addresses:
            endpoint.connect(address)
        await events.until(lambda: len(events.connections) == len(addresses))
        results = {
            connection.remote.host: await store(connection, signer, prefix)
            for connection in events.connections
        }
        print(json.dumps({"results": results}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(json.dumps({"packets": len(events.received)}), flush=True)
    finally:
        await endpoint.close()


if __name__ == "__main__":
    where = [UnderlayAddress(address, 9000) for address in sys.argv[2:]]
    asyncio.run(main(ip_network(sys.argv[1]), where))
