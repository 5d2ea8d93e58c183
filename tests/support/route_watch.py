"""What the kernel says of routes, heard without a program that would have to start first."""

from __future__ import annotations

import socket
from typing import Final, Self

from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from support import netns

_EVENTS: Final = {rtnl.RTM_NEWROUTE: "new", rtnl.RTM_DELROUTE: "gone"}


class RouteWatch:
    """Hears every change of IPv4 routes in a namespace from its beginning on."""

    def __init__(self, namespace: str) -> None:
        self._socket = netns.inside(namespace, self._listen)

    @staticmethod
    def _listen() -> socket.socket:
        listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        listening.bind((0, rtnl.RTMGRP_IPV4_ROUTE))
        listening.setblocking(False)
        return listening

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def heard(self) -> list[tuple[str, str]]:
        """Return ("new" or "gone", prefix) of the main table's routes since the last call.

        The kernel queues an event before it answers the request that caused it, so after a
        command has ended everything it did is here.
        """
        found: list[tuple[str, str]] = []
        marshal = MarshalRtnl()
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return found
            for message in marshal.parse(data):
                if message.get_attr("RTA_TABLE") == 254:
                    prefix = f"{message.get_attr('RTA_DST')}/{message['dst_len']}"
                    found.append((_EVENTS[message["header"]["type"]], prefix))
