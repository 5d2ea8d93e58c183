"""The memory of a node with ten peers: the installed service on a whole host, as it runs for users.

hub (a whole host, quicether@home.service) ── switch ── ten light hosts, each connected to hub
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.contenders import START_PATIENCE
from support.cables import Switch
from support.hosts import LightHost, WholeHost
from support.install import installed_layer
from support.node import TUNNEL, Network, up

PEERS: Final = 10
_UNIT: Final = f"quicether@{TUNNEL}.service"


def resident_mb(folder: Path, peers: int = PEERS) -> float:
    """Return the resident memory of the service in 10^6 bytes, once so many peers are connected.

    folder: for the files of the network. Raises CommandError, TimeoutError: the hosts did not
    come that far.
    """
    with ExitStack() as stack:
        enter = stack.enter_context
        hub = enter(WholeHost("hub", "none", installed_layer()))
        crowd = [enter(LightHost(f"peer{number}")) for number in range(peers)]
        network = enter(Network(folder))
        switch = enter(Switch("switch"))
        for number, host in enumerate((hub, *crowd), start=1):
            host.configure_link(switch.plug(host).ifname, [f"198.51.100.{number}/24"])
        network.certify(hub)
        hub.run(["systemctl", "start", _UNIT])
        nodes = [network.node(host) for host in crowd]
        up(*((node, {"peers": "hub@198.51.100.1"}) for node in nodes))
        for node in nodes:
            node.wait_for_peer("hub", deadline=START_PATIENCE)
        pid = hub.run(["systemctl", "show", "--value", "-p", "MainPID", "quicether"]).stdout.strip()
        lines = hub.run(["cat", f"/proc/{pid}/status"]).stdout.splitlines()
        resident = next(line for line in lines if line.startswith("VmRSS:"))
        return int(resident.split()[1]) * 1024 / 1e6
