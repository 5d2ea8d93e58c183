"""`quicetherd`: the service process that systemd starts."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Run the service; return its exit status."""
    # What is imported is never garbage. To look for some all the same takes a tenth of the start,
    # and later 40 ms in which no packet goes, each time that all memory is looked through.
    gc.disable()
    from quicether.daemon import main as service

    gc.freeze()
    gc.enable()
    return service.main()


if __name__ == "__main__":
    sys.exit(main())
