"""A link owner in memory: what it was asked for is kept, and what a test says fails."""

from __future__ import annotations

from quicether.bus.contract import LinkOwnerName
from quicether.daemon.links import Choice, Links
from quicether.errors import HostError
from quicether.host.desired import HostConfig
from support.fake_device import FakeDevice


class FakeLinkOwner:
    """Implements `LinkOwner`. applied: every desired state that was put on the machine.

    refusal: what `apply` raises, if anything.
    """

    name = "netlink"
    limits: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.device: FakeDevice | None = None
        self.applied: list[HostConfig] = []
        self.removed = False
        self.refusal: HostError | None = None

    async def attach(self, config: HostConfig) -> FakeDevice:
        """Make a device."""
        self.device = FakeDevice(config.device)
        return self.device

    async def apply(self, config: HostConfig) -> None:
        """Keep it."""
        if self.refusal is not None:
            raise self.refusal
        self.applied.append(config)

    async def remove(self) -> None:
        """Remember it."""
        self.removed = True


class FakeLinks(Links):
    """A machine on which one `FakeLinkOwner` owns every link."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = FakeLinkOwner()

    async def choose(
        self,
        asked: LinkOwnerName | None,
        configured: LinkOwnerName,
        device: str,
        netns: str | None,
    ) -> Choice:
        """Return the owner, whoever asks."""
        return Choice(self.owner, "it is a test's")
