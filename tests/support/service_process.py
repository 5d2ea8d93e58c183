"""The D-Bus service with a fake daemon behind it, as a process: for commands that block."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support.private_bus import PrivateBus

_ROOT: Final = Path(__file__).parents[2]
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": f"{_ROOT}/service:{_ROOT}/tests"}


@contextmanager
def service(bus: PrivateBus, *words: str) -> Iterator[None]:
    """Run the service on a bus. words: of `support.fake_controller`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.fake_controller", bus.address, *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
