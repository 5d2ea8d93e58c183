"""The one root exception of QuicEther and its few kinds.

The text of an error is a sentence for a person: it names the field, the value and what would be
right. The kind says whose fault it is, because that decides who is told: a user (configuration),
the audit log (trust), a counter (protocol), or the journal (host).
"""

from typing import Final

OWN_FAULT: Final = "the service failed for a reason of its own; see its journal"
"""What a person is told of an error that nobody raised on purpose; its journal has the rest."""


class QuicEtherError(Exception):
    """The root of every error that QuicEther raises on purpose."""


class ConfigError(QuicEtherError):
    """What a user wrote (file, flag, profile, D-Bus argument) is wrong. The user can mend it."""


class IdentityError(QuicEtherError):
    """A key or certificate of our own is missing, damaged, exposed or expired."""


class TrustError(QuicEtherError):
    """A peer, record or packet is not what it claims to be, or may not do what it tries."""


class ProtocolError(QuicEtherError):
    """A peer sent bytes that no well-behaved peer sends. Its fault, not ours."""


class HostError(QuicEtherError):
    """The machine refused something: netlink, a device, a socket, D-Bus, the network manager."""


class UnreachableError(QuicEtherError):
    """A peer did not answer in time, or the connection to it ended."""
