"""The authority's counter: invites machines, certifies those that come, renews certificates.

It reads and writes the authority's folder, so it runs as root, beside the daemon, which only
carries bodies to it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from quicether.errors import ConfigError, TrustError
from quicether.identity import enrolment, files, renewal
from quicether.identity.authority import DEFAULT_VALIDITY, Authority
from quicether.identity.enrolment import Question, Refusal
from quicether.identity.invitations import MAX_ATTEMPTS, Invitation, Invitations
from quicether.identity.invite_code import INVITER_BYTES, InviteCode
from quicether.identity.issuing import BACKDATE
from quicether.identity.store import NetworkStore
from quicether.identity.trust import AuthorityTrust
from quicether.model import Address, NodeId, Prefix

INVITATIONS: Final = "invitations.json"
DEFAULT_EXPIRY: Final = timedelta(hours=1)
MIN_EXPIRY: Final = timedelta(minutes=1)
MAX_EXPIRY: Final = timedelta(days=30)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Registrar:
    """Acts for the authority of the network in store."""

    store: NetworkStore

    def invite(
        self,
        name: str,
        *,
        inviter: NodeId,
        endpoints: tuple[tuple[str, int], ...],
        now: datetime,
        entropy: bytes,
        addresses: Iterable[Address] = (),
        prefixes: Iterable[Prefix] = (),
        groups: Iterable[str] = (),
        expires: timedelta = DEFAULT_EXPIRY,
        validity: timedelta = DEFAULT_VALIDITY,
    ) -> InviteCode:
        """Invite a machine to become the node called name; return the code to give it.

        inviter: the node that answers at endpoints, (host, port) each. entropy: 16 random bytes,
        the secret. An earlier invitation for the name that nobody used is void.
        Raises ConfigError: something that could not be certified; IdentityError: the network
        has no authority here, or its files cannot be read or written.
        """
        if not MIN_EXPIRY <= expires <= MAX_EXPIRY:
            raise ConfigError(
                f"expiry {expires} is not between a minute and {MAX_EXPIRY.days} days"
            )
        authority = self.store.authority(now)
        code = InviteCode(entropy, inviter.value[:INVITER_BYTES], self.store.name, endpoints)
        invitation = Invitation(
            secret=entropy.hex(),
            expires=now + expires,
            name=name,
            addresses=list(addresses),
            prefixes=list(prefixes),
            groups=sorted(groups),
            validity=validity,
        )
        authority.check_grant(
            name, invitation.addresses, invitation.prefixes, invitation.groups, validity
        )
        with files.locked(self.store.directory):
            invitations = self._invitations()
            invitations.add(invitation, now)
            invitations.save(self.store.directory / INVITATIONS)
        return code

    def answer(self, body: bytes, server_key: bytes, now: datetime) -> bytes:
        """Return the answer to a question of either kind.

        server_key: raw public key of this machine's node, which its TLS handshake showed.
        Raises ProtocolError: malformed; TrustError: not proven, nothing is to be answered;
        IdentityError: the authority's files cannot be read or written.
        """
        if renewal.kind_of(body) == "renew":
            return self._renew(body, now)
        question = enrolment.read_question(body)
        invitation, refusal, again = self._bind(question, server_key, now)
        secret = invitation.secret_bytes
        if refusal is not None:
            _log.warning("invitation for %s refused: %s", invitation.name, refusal)
            return enrolment.refuse(question, secret, server_key, refusal)
        authority = self.store.authority(now)
        try:
            certificate = _certify(authority, invitation, question.public_key, again, now)
        except ConfigError as error:
            _log.warning("invitation for %s cannot be honoured: %s", invitation.name, error)
            return enrolment.refuse(question, secret, server_key, Refusal.FAILED)
        return enrolment.admit(
            question,
            secret,
            server_key,
            certificate.public_bytes(Encoding.DER),
            authority.certificate.public_bytes(Encoding.DER),
        )

    def _bind(
        self, question: Question, server_key: bytes, now: datetime
    ) -> tuple[Invitation, Refusal | None, bool]:
        """Bind the invitation to the asker's key for good.

        Returns it, why it is refused (else None), and whether it was bound before.
        Raises TrustError: no such invitation, or not proven.
        """
        with files.locked(self.store.directory):
            invitations = self._invitations()
            invitations.drop_old(now)
            invitation = invitations.find(question.invitation)
            if invitation is None:
                raise TrustError("an enrolment names an invitation that is not out")
            if invitation.attempts >= MAX_ATTEMPTS:
                raise TrustError(f"the invitation for {invitation.name} was asked for too often")
            invitation.attempts += 1
            again = invitation.used_by is not None
            try:
                question.check(invitation.secret_bytes, server_key)
                refusal = _refusal(invitation, question, now)
                if refusal is None:
                    invitation.used_by = question.public_key.hex()
            finally:
                # Wrong proofs count too. Written before anything is signed: one use is one use.
                invitations.save(self.store.directory / INVITATIONS)
        return invitation, refusal, again

    def _renew(self, body: bytes, now: datetime) -> bytes:
        authority = self.store.authority(now)
        # Without a revocation list: the book, which `renew` asks, is the authority's own word.
        member, validity = renewal.check(body, AuthorityTrust(authority.certificate, now), now)
        try:
            certificate = authority.renew(member.node_id, now, validity - BACKDATE)
        except ConfigError as error:
            raise TrustError(f"node {member.name} is not renewed: {error}") from None
        return renewal.answer(certificate.public_bytes(Encoding.DER))

    def _invitations(self) -> Invitations:
        return Invitations.load(self.store.directory / INVITATIONS)


def _certify(
    authority: Authority, invitation: Invitation, public_key: bytes, again: bool, now: datetime
) -> x509.Certificate:
    """Raises ConfigError: the authority cannot certify the node as it was invited."""
    node_id = NodeId.of_public_key(public_key)
    if again and str(node_id) in authority.book().nodes:
        # Asked again because the answer was lost. The book may have changed since, and counts:
        # a code must not bring back prefixes that were taken away.
        return authority.renew(node_id, now, invitation.validity)
    return authority.sign(
        public_key,
        invitation.name,
        now=now,
        addresses=invitation.addresses,
        prefixes=invitation.prefixes,
        groups=invitation.groups,
        validity=invitation.validity,
    )


def _refusal(invitation: Invitation, question: Question, now: datetime) -> Refusal | None:
    if invitation.used_by not in (None, question.public_key.hex()):
        return Refusal.USED
    return Refusal.EXPIRED if now > invitation.expires else None
