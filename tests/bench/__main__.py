"""`nox -s bench`: measures, and never fails on a time.

python -m bench [tunnels|forwarder|routing|policy|transport|policed]... [--json FILE] [--seconds N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench import tunnels
from bench.memory import resident_mb

OTHERS: Final = ("forwarder", "policy", "routing", "transport", "policed")
NEED_ROOT: Final = {"tunnels", "policed"}


def main() -> int:
    """Run what is asked for, all by default; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[[], "tunnels", *OTHERS], default=[])
    parser.add_argument("--json", type=Path, help="write the tunnels' figures to this file too")
    parser.add_argument("--seconds", type=int, default=5, help="length of each flow")
    options = parser.parse_args()
    what = options.what or ["tunnels", *OTHERS]
    if NEED_ROOT.intersection(what) and os.geteuid() != 0:
        print(f"bench: {', '.join(sorted(NEED_ROOT))} need root", file=sys.stderr)
        return 4
    if "tunnels" in what:
        print(tunnels.HEADING)
        result = tunnels.report(tunnels.measure(seconds=options.seconds))
        print(tunnels.ratio_lines(result))
        with tempfile.TemporaryDirectory() as folder:
            memory = result["memory_with_ten_peers_mb"] = resident_mb(Path(folder))
        print(f"memory of the installed service with ten peers: {memory:.0f} MB")
        print(json.dumps(result))
        if options.json:
            options.json.write_text(json.dumps(result, indent=2) + "\n")
    here, failed = Path(__file__).parent, False
    for name in OTHERS:
        if name in what:
            print(f"\n{name}", flush=True)
            program = [sys.executable, str(here / f"{name}.py")]
            failed |= subprocess.run(program, check=False).returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
