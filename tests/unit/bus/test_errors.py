"""Each kind of error has a D-Bus name of its own, so that a client knows whose fault it is."""

from __future__ import annotations

import pytest

from quicether.bus.api import ERRORS
from quicether.bus.authorise import NotAuthorizedError
from quicether.bus.contract import ErrorName
from quicether.bus.controller import AlreadyUpError, NoSuchTunnelError
from quicether.bus.dispatch import describe
from quicether.errors import (
    OWN_FAULT,
    ConfigError,
    HostError,
    IdentityError,
    ProtocolError,
    QuicEtherError,
    TrustError,
    UnreachableError,
)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (ConfigError, ErrorName.INVALID),
        (AlreadyUpError, ErrorName.ALREADY_UP),
        (NoSuchTunnelError, ErrorName.NOT_FOUND),
        (NotAuthorizedError, ErrorName.NOT_AUTHORIZED),
        (IdentityError, ErrorName.IDENTITY),
        (TrustError, ErrorName.NOT_TRUSTED),
        (HostError, ErrorName.FAILED),
        (ProtocolError, ErrorName.FAILED),
        (UnreachableError, ErrorName.FAILED),
    ],
)
def test_a_kind_has_its_name_and_keeps_its_sentence(
    kind: type[QuicEtherError], name: ErrorName
) -> None:
    assert describe(kind("a sentence")) == (name.value, "a sentence")


def test_a_fault_of_our_own_says_nothing_of_itself() -> None:
    assert describe(KeyError("inside")) == (ErrorName.FAILED.value, OWN_FAULT)


def test_every_name_is_explained_in_the_manual() -> None:
    assert ERRORS.keys() == set(ErrorName)
