"""The new machine's side of joining: asks the inviter for a certificate over QUIC."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from quicether.config.values import HostPort
from quicether.errors import (
    HostError,
    ProtocolError,
    QuicEtherError,
    TrustError,
    UnreachableError,
)
from quicether.identity import certificates, enrolment
from quicether.identity.enrolment import Admission
from quicether.identity.invite_code import InviteCode
from quicether.identity.keys import NodeKey
from quicether.model import UnderlayAddress
from quicether.transport.enrolment import BusyError, enrol

PATIENCE: Final = 8.0
"""Seconds that one address of the inviter has to answer."""
PAUSES: Final = (2.0, 5.0, 10.0)
"""Seconds before it is asked again, each time that it is busy."""
_MAX_ADDRESSES: Final = 8
PATIENCE_IN_ALL: Final = 90.0
"""Seconds after which an inviter is given up that has many addresses and is at none of them."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What the inviter gave. where: the endpoint that answered, as the code has it.

    inviter: the inviter's own certificate (DER), proven by its TLS handshake alone.
    """

    admission: Admission
    where: HostPort
    inviter: bytes


class RefusedError(TrustError):
    """The inviter itself refuses the code."""


def ask_inviter(code: InviteCode, key: NodeKey) -> Joined:
    """Ask at each endpoint of the code until one answers.

    Raises TrustError: the code is refused, or somebody else answers; ProtocolError: what answers
    takes no machines in; UnreachableError: nobody answers, or (BusyError) not now.
    """
    return asyncio.run(_ask_until_enough(code, key))


async def _ask_until_enough(code: InviteCode, key: NodeKey) -> Joined:
    try:
        async with asyncio.timeout(PATIENCE_IN_ALL):
            return await _ask_patiently(code, key)
    except TimeoutError:
        raise UnreachableError(
            f"the inviter did not answer within {PATIENCE_IN_ALL:g} s; its tunnel has to be up, "
            "and its UDP port open"
        ) from None


async def _ask_patiently(code: InviteCode, key: NodeKey) -> Joined:
    """Ask again a few times where the inviter is busy."""
    for pause in PAUSES:
        try:
            return await _ask_everywhere(code, key)
        except BusyError:
            await asyncio.sleep(pause)
    return await _ask_everywhere(code, key)


async def _ask_everywhere(code: InviteCode, key: NodeKey) -> Joined:
    refusal: QuicEtherError | None = None
    silent: list[str] = []
    busy = False
    for endpoint in code.endpoints:
        where = HostPort(*endpoint)
        try:
            addresses = await _resolve(where)
        except UnreachableError as error:
            silent.append(str(error))
            continue
        for address in addresses:
            try:
                return await _ask(code, key, where, address)
            except RefusedError:
                raise
            except BusyError:
                busy = True
            except (UnreachableError, HostError) as error:
                silent.append(str(error))
            except (TrustError, ProtocolError) as error:
                # Another endpoint may still be the inviter's: this address may be somebody
                # else's by now, or on this network.
                refusal = error
    if busy:
        raise BusyError(
            "the inviter is busy, because many machines ask it; the code is still good: try again "
            "in a minute"
        )
    if refusal is not None:
        raise refusal
    raise UnreachableError(
        f"the inviter does not answer ({'; '.join(silent[:4])}); its tunnel has to be up, and "
        "its UDP port open"
    )


async def _ask(code: InviteCode, key: NodeKey, where: HostPort, address: UnderlayAddress) -> Joined:
    nonce = os.urandom(enrolment.NONCE_BYTES)
    shown: list[x509.Certificate] = []

    def question(certificate: x509.Certificate) -> bytes:
        shown.append(certificate)
        return enrolment.ask(code, key, certificates.public_raw(certificate), nonce)

    try:
        answer = await enrol(address, question, PATIENCE)
    except ProtocolError as error:
        raise ProtocolError(
            f"{where} takes no machines in: {error}; is it still the node with the authority?"
        ) from None
    except TrustError as error:
        if not shown or _is_inviter(code, shown[0]):
            raise RefusedError(
                f"the inviter refuses this code ({error}); if it was withdrawn or tried too "
                "often, ask for a new one"
            ) from None
        raise
    server_key = certificates.public_raw(shown[0])
    admission = enrolment.read_answer(answer, code, key, server_key, nonce)
    return Joined(admission, where, shown[0].public_bytes(Encoding.DER))


def _is_inviter(code: InviteCode, certificate: x509.Certificate) -> bool:
    try:
        code.check_inviter(certificates.public_raw(certificate))
    except TrustError:
        return False
    return True


async def _resolve(where: HostPort) -> list[UnderlayAddress]:
    """Return the addresses of an endpoint. Raises UnreachableError: its name has none."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(where.host, where.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise UnreachableError(f"{where.host} has no address: {error.strerror}") from None
    names = dict.fromkeys((str(name[0]), int(name[1])) for *_, name in found)
    return [UnderlayAddress.of_socket(name) for name in names][:_MAX_ADDRESSES]
