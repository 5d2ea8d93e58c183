"""What the service process does before it serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SERVICE = Path(__file__).parents[3] / "service"
PROGRAM = """
import gc
from quicether.daemon import main, start
main.main = lambda: print(gc.isenabled(), gc.get_freeze_count() > 10_000) or 7
raise SystemExit(start.main())
"""


def test_what_was_imported_is_never_looked_through_for_garbage() -> None:
    """All packets stood still for 40 ms when it was."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SERVICE)},
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("True True\n", "", 7)
