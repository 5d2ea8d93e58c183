"""A link owner driven from outside: run on a host, it does one step for each line on its stdin.

    python -m support.link_driver networkd|detect|clean

A line is `attach`, `apply` or `remove`, followed for the first two by a pickled `HostConfig` in
base64. The answer is one line of JSON: {"ok": …} or {"error": SENTENCE}.
"""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import sys
from typing import Any

from quicether.bus.connection import BusConnection
from quicether.errors import HostError
from quicether.host.detect import detect
from quicether.host.networkd import NetworkdOwner, clean_networkd_leftovers, leftovers


async def _steps(owner: NetworkdOwner) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        step, _, argument = line.strip().partition(" ")
        config: Any = pickle.loads(base64.b64decode(argument)) if argument else None
        answer: dict[str, object]
        try:
            if step == "attach":
                (await owner.attach(config)).start(lambda batch: None)
            elif step == "apply":
                await owner.apply(config)
            else:
                await owner.remove()
            answer = {"ok": list(owner.limits)}
        except HostError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


async def main() -> None:
    """Do what the command line says."""
    bus = BusConnection(frozenset())
    await bus.open(lambda call: None, lambda name: None)
    try:
        match sys.argv[1]:
            case "networkd":
                await _steps(NetworkdOwner(bus))
            case "detect":
                found = await detect(bus)
                print(json.dumps([found.manager, found.reason]))
            case "clean":
                await clean_networkd_leftovers(bus, leftovers())
    finally:
        await bus.close()


if __name__ == "__main__":
    asyncio.run(main())
