"""Who owns the link of a tunnel on this machine."""

from __future__ import annotations

from quicether.bus.contract import LinkOwnerName
from quicether.errors import HostError
from quicether.host.link import LinkOwner
from quicether.host.netlink import NetlinkOwner


async def link_owner(name: LinkOwnerName) -> LinkOwner:
    """Return the owner called name; AUTO finds out who manages the machine.

    Raises HostError: that manager does not run here.
    """
    match name:
        case LinkOwnerName.NETWORKMANAGER:
            return NetlinkOwner(addressing=False)
        case LinkOwnerName.NETLINK | LinkOwnerName.AUTO:
            return NetlinkOwner()
    raise HostError(f"link: {name} is not available on this machine")
