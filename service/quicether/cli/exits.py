"""What `quicether` ends with, and the errors that decide it beside those of the other rooms."""

from __future__ import annotations

import enum

from quicether.errors import ConfigError, HostError, QuicEtherError


class ExitCode(enum.IntEnum):
    """What `quicether` ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_DAEMON = 3
    NOT_PERMITTED = 4


class UsageError(ConfigError):
    """An argument is wrong in a way that shows only beside the others, or late."""


class NoDaemonError(HostError):
    """The service does not run and was not to be started, or cannot be started."""


class NotPermittedError(QuicEtherError):
    """This user may not: the system, the service, polkit or the bus refuses."""


def exit_code(error: Exception) -> ExitCode:
    """Return what a command ends with that an error ended."""
    if isinstance(error, UsageError):
        return ExitCode.USAGE
    if isinstance(error, NoDaemonError):
        return ExitCode.NO_DAEMON
    if isinstance(error, NotPermittedError) or refused_by_system(error):
        return ExitCode.NOT_PERMITTED
    return ExitCode.FAILED


def refused_by_system(error: BaseException) -> bool:
    """Tell whether the system's refusal of a file lies behind an error."""
    # An error that was raised `from None` still knows what it was raised in answer to.
    while not isinstance(error, PermissionError):
        before = error.__cause__ or error.__context__
        if before is None:
            return False
        error = before
    return True
