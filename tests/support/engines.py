"""Two engines wired together without sockets or clocks."""

from __future__ import annotations

from quicether.transport.engine import Engine
from quicether.transport.tls import configuration
from support.certificates import Network

CLIENT, SERVER = ("192.0.2.1", 1), ("192.0.2.2", 2)
STEP = 0.01


class EnginePair:
    """A client and a server; `exchange` carries what they say until both are silent."""

    def __init__(self) -> None:
        network = Network()
        self.now = 0.0
        self.client, self.server = (
            Engine(
                configuration=configuration(
                    is_client=is_client,
                    protocols=["quicether/1"],
                    certificate=identity.certificate,
                    key=identity.key.private,
                ),
                original_destination_connection_id=original,
            )
            for is_client, identity, original in (
                (True, network.member("client"), None),
                (False, network.member("server"), b"original"),
            )
        )
        self.server._original_destination_connection_id = self.client.original_connection_id
        self.client.connect(SERVER, self.now)
        self.exchange()

    def exchange(self, rounds: int = 20) -> None:
        for _ in range(rounds):
            self.now += STEP
            for sender, source, receiver in (
                (self.client, CLIENT, self.server),
                (self.server, SERVER, self.client),
            ):
                if sender.begun:
                    timer = sender.get_timer()
                    if timer is not None and timer <= self.now:
                        sender.handle_timer(self.now)
                    sent = [data for data, _ in sender.datagrams_to_send(self.now)]
                    if sent:
                        receiver.receive(sent, source, self.now)

    def carry(self, packets: list[bytes], largest: int = 1472) -> int:
        """Send packets from client to server; return how many UDP payloads that took."""
        datagrams = self.client.seal(packets, largest, self.now)
        assert all(len(datagram) <= largest for datagram in datagrams)
        self.server.receive(datagrams, CLIENT, self.now)
        return len(datagrams)
