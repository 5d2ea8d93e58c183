"""Chance as an argument: the DHT machine has none of its own. Pure."""

from __future__ import annotations

from typing import Protocol


class Entropy(Protocol):
    """Where chance comes from: the system's in a node, seeded in the simulator."""

    def random(self) -> float:
        """Return a number in [0, 1)."""

    def getrandbits(self, k: int, /) -> int:
        """Return a number of k random bits."""
