"""Where this node seems to be, as its peers see it from outside. Pure.

One peer may lie or sit on the same LAN, so an address counts that two peers name, or the only
peer that says anything. What follows is no more than one more address in our NODE record: nobody
who tries it talks to anyone but us, because the certificate has to match.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

from quicether.model import NodeId, UnderlayAddress

MAX_OBSERVERS: Final = 16
MAX_ADDRESSES: Final = 2
_AGREEMENT: Final = 2


class Observations:
    """What each of the last few peers said."""

    def __init__(self) -> None:
        self._said: OrderedDict[NodeId, UnderlayAddress] = OrderedDict()

    def take(self, peer: NodeId, address: UnderlayAddress) -> None:
        """Note what a peer says, in place of what it said before."""
        self._said[peer] = address
        self._said.move_to_end(peer)
        if len(self._said) > MAX_OBSERVERS:
            self._said.popitem(last=False)

    def forget(self) -> None:
        """Start again: the host's network changed."""
        self._said.clear()

    @property
    def agreed(self) -> tuple[UnderlayAddress, ...]:
        """The addresses that count, the most named first."""
        needed = min(_AGREEMENT, len(self._said))
        named = Counter(self._said.values()).most_common()
        found = sorted(address for address, count in named if count >= needed)
        return tuple(found[:MAX_ADDRESSES])
