"""Where a network's files lie on this machine, and what the daemon needs of them.

/etc/quicether/networks/NAME/authority.crt   whom this machine trusts          root, 0644
                             node.crt        what the authority says of it     root, 0644
                             authority.key   on the authority's machine only   root, 0600
                             issued.json     on the authority's machine only   root, 0600
                             revoked.crl     as the authority's commands left it
/var/lib/quicether/NAME/     node.key        this machine's key           quicether, 0600
                             node.crt        what the daemon got by renewal
                             revoked.crl     the newest list seen on the network
                             peers.json      whom to ask first at the next start
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from quicether.errors import ConfigError, IdentityError, TrustError
from quicether.identity import certificates, files, issuing
from quicether.identity.authority import (
    AUTHORITY_CERTIFICATE,
    AUTHORITY_KEY,
    REVOKED,
    Authority,
    load_authority_certificate,
)
from quicether.identity.keys import NodeKey
from quicether.identity.names import check_network_name
from quicether.identity.revocation import RevocationList
from quicether.identity.trust import AuthorityTrust, PinnedTrust, Trust
from quicether.model import Member, NodeId, Prefix

ETC: Final = Path("/etc/quicether")
VAR: Final = Path("/var/lib/quicether")
MAX_NETWORKS: Final = 64
"""Networks that this machine may be in, and tunnels that its daemon may have."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """All that a node proves itself with, and judges others by.

    member: what the certificate makes of this node.
    """

    key: NodeKey
    certificate: x509.Certificate
    trust: Trust
    member: Member

    @property
    def certificate_der(self) -> bytes:
        """The certificate as it travels in records."""
        return self.certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class NetworkStore:
    """The files of one network. etc, var: the two roots, for tests and unusual machines."""

    etc: Path
    var: Path
    name: str

    def __post_init__(self) -> None:
        """Raises ConfigError: the name is no network's."""
        check_network_name(self.name)

    @classmethod
    def of_system(cls, name: str) -> NetworkStore:
        """Return the store in the machine's folders, or where QUICETHER_ETC and _VAR say."""
        return cls(*roots(), name)

    def check_room(self) -> None:
        """Check that this machine may have files of one network more, if of this it has none.

        Raises ConfigError: it has files of as many as it may; IdentityError: that cannot be read.
        """
        present = {*network_names(self.etc), *_folders(self.var)}
        if self.name not in present and len(present) >= MAX_NETWORKS:
            raise ConfigError(
                f"network {self.name}: this machine has files of {len(present)} networks, and may "
                f"have them of {MAX_NETWORKS}; `quicether leave` removes those of one"
            )

    @property
    def directory(self) -> Path:
        """The network's public files, and its authority's."""
        return self.etc / "networks" / self.name

    @property
    def state_directory(self) -> Path:
        """What the daemon keeps."""
        return self.var / self.name

    @property
    def key_path(self) -> Path:
        """This machine's key."""
        return self.state_directory / "node.key"

    @property
    def certificate_path(self) -> Path:
        """This machine's certificate."""
        return self.directory / "node.crt"

    @property
    def renewed_path(self) -> Path:
        """The certificate that the daemon got by renewal, which cannot write the other one."""
        return self.state_directory / "node.crt"

    @property
    def peers_path(self) -> Path:
        """The peers of the last run, as the daemon keeps them."""
        return self.state_directory / "peers.json"

    @property
    def has_authority(self) -> bool:
        """Whether this machine holds the authority's key."""
        return (self.directory / AUTHORITY_KEY).exists()

    @property
    def state_is_open(self) -> bool:
        """Whether this user may look into the daemon's folder; others see the public files."""
        return os.access(self.state_directory, os.X_OK, effective_ids=True)

    @property
    def may_certify(self) -> bool:
        """Whether this machine holds the authority's key and this user may read it."""
        return os.access(self.directory / AUTHORITY_KEY, os.R_OK, effective_ids=True)

    def node_key(self) -> NodeKey:
        """Return this machine's key, made now if there is none yet. Raises IdentityError."""
        owner = files.Owner.service()
        files.make_directory(self.var, 0o755, owner)
        files.make_directory(self.state_directory, 0o700, owner)
        return NodeKey.load_or_create(self.key_path)

    def authority(self, now: datetime) -> Authority:
        """Return the network's authority. Raises IdentityError: it is not here, or unsound."""
        authority = Authority.load(self.directory, now)
        if authority.network != self.name:
            raise IdentityError(
                f"authority certificate {self.directory / AUTHORITY_CERTIFICATE} is of network "
                f"{authority.network}, not {self.name}"
            )
        return authority

    def trust(self, now: datetime) -> AuthorityTrust:
        """Return the network's trust, with the newest revocation list that this machine has.

        Raises IdentityError: something is missing, damaged, expired, or of another network.
        """
        authority = load_authority_certificate(self.directory / AUTHORITY_CERTIFICATE, now)
        trust = AuthorityTrust(authority, now, self.load_revocations(authority))
        if trust.network != self.name:
            raise IdentityError(
                f"authority certificate {self.directory / AUTHORITY_CERTIFICATE} is of network "
                f"{trust.network}, not {self.name}"
            )
        return trust

    def certificate(self, path: Path | None = None) -> x509.Certificate:
        """Return this machine's certificate, unchecked: the renewed one if that is newer.

        path: where it lies if not at its usual place.
        Raises FileNotFoundError: there is none; IdentityError: damaged.
        """
        installed = _load_certificate(path or self.certificate_path)
        if not self.state_is_open:
            return installed
        try:
            renewed = _load_certificate(self.renewed_path)
        except FileNotFoundError:
            return installed
        same = certificates.public_raw(renewed) == certificates.public_raw(installed)
        newer = renewed.not_valid_after_utc > installed.not_valid_after_utc
        return renewed if same and newer else installed

    def keep_renewed(self, certificate: x509.Certificate) -> None:
        """Keep a certificate that was got by renewal. Raises IdentityError: it cannot be written.

        Whoever calls has checked it.
        """
        files.write_file(
            self.renewed_path,
            certificates.to_pem(certificate),
            files.PUBLIC_MODE,
            files.Owner.service(),
        )

    def load_identity(
        self, now: datetime, key_file: Path | None = None, certificate_file: Path | None = None
    ) -> NodeIdentity:
        """Return who this machine is in the network.

        key_file, certificate_file: where they lie if not at their usual places. A key at its
        usual place is made now if there is none yet, so that the sentence about a missing
        certificate can tell what to have signed.
        Raises IdentityError: something is missing, damaged, exposed, expired, or not of this
        machine or network.
        """
        key = NodeKey.load(key_file) if key_file else self.node_key()
        trust = self.trust(now)
        try:
            certificate = self.certificate(certificate_file)
        except FileNotFoundError:
            raise IdentityError(
                f"certificate {certificate_file or self.certificate_path} is missing; have the "
                f"network's authority sign this machine's public key {key.public_text}"
            ) from None
        return NodeIdentity(key, certificate, trust, self._own_member(certificate, key, trust, now))

    def pinned_identity(
        self,
        pins: Mapping[NodeId, tuple[Prefix, ...]],
        node_name: str,
        now: datetime,
        prefixes: tuple[Prefix, ...] = (),
        names: Mapping[NodeId, str] | None = None,
    ) -> NodeIdentity:
        """Return who this machine is in a network without an authority.

        pins, names: the peers, see `PinnedTrust`. prefixes: what this machine advertises.
        Raises IdentityError: the key is damaged or exposed; ConfigError: a malformed name.
        """
        key = self.node_key()
        everyone = {**pins, key.node_id: prefixes}
        trust = PinnedTrust(everyone, self.name, {**(names or {}), key.node_id: node_name})
        addresses = trust.addresses(key.node_id)
        certificate = issuing.self_signed(key, node_name, self.name, addresses, now)
        member = trust.judge(certificate.public_bytes(Encoding.DER), now)
        return NodeIdentity(key, certificate, trust, member)

    def install(
        self, certificate: x509.Certificate, authority: x509.Certificate, now: datetime
    ) -> Member:
        """Keep this machine's certificate and its authority's, once both are checked.

        Raises IdentityError: the certificate is of another key or authority, expired, or for
        another network; or this machine trusts another authority for the network already.
        """
        key = self.node_key()
        path = self.directory / AUTHORITY_CERTIFICATE
        try:
            trust = AuthorityTrust(authority, now)
        except TrustError as error:
            raise IdentityError(f"the authority's certificate is refused: {error}") from None
        if trust.network != self.name:
            raise IdentityError(
                f"the certificate is for network {trust.network}, not for {self.name}"
            )
        member = self._own_member(certificate, key, trust, now)
        files.make_directory(self.directory, 0o755)
        with files.locked(self.directory):
            if path.exists():
                present = load_authority_certificate(path, now)
                if certificates.public_raw(present) != trust.authority_key:
                    raise IdentityError(
                        f"network {self.name} on this machine has another authority ({path}); "
                        "leave that network first"
                    )
            else:
                files.write_file(path, certificates.to_pem(authority), files.PUBLIC_MODE)
            files.write_file(
                self.certificate_path, certificates.to_pem(certificate), files.PUBLIC_MODE
            )
            files.remove_file(self.renewed_path)  # it says what was before
        return member

    def forget(self, *, keep_key: bool = False) -> bool:
        """Remove this machine's key and certificates; tell whether there were any.

        keep_key: the key stays, so that the machine comes back as the same node.
        Raises IdentityError: the authority is here, and the network would end with its key; or
        a file cannot be removed.
        """
        if self.has_authority:
            raise IdentityError(
                f"this machine is the authority of network {self.name}; to end the network, "
                f"remove {self.directory} by hand"
            )
        found = False
        # The certificate first: without it the daemon takes no part, whatever else is left.
        for path in (
            self.certificate_path,
            self.renewed_path,
            self.directory / AUTHORITY_CERTIFICATE,
            self.directory / REVOKED,
            self.directory / files.LOCK,
            self.state_directory / REVOKED,
            self.peers_path,
            self.peers_path.with_name(f"{self.peers_path.name}.damaged"),
            *(() if keep_key else (self.key_path,)),
        ):
            found |= files.remove_file(path)
        for folder in (self.directory, self.state_directory):
            with contextlib.suppress(OSError):  # something of somebody else's is in it
                folder.rmdir()
        return found

    def load_revocations(self, authority: x509.Certificate) -> RevocationList | None:
        """Return the newest revocation list on this machine; None when there is none.

        Raises IdentityError: a list is damaged or another authority's.
        """
        newest: RevocationList | None = None
        folders = (self.directory, self.state_directory)
        for path in (folder / REVOKED for folder in folders[: 1 + self.state_is_open]):
            try:
                der = files.read_public(path, "revocation list")
                found = RevocationList.parse(der, certificates.public_raw(authority))
            except FileNotFoundError:
                continue
            except TrustError as error:
                raise IdentityError(f"revocation list {path} is refused: {error}") from None
            newest = found.newer_of(newest)
        return newest

    def save_revocations(self, revocations: RevocationList) -> None:
        """Keep a list that came over the network. Raises IdentityError: it cannot be written."""
        files.write_file(
            self.state_directory / REVOKED,
            revocations.der,
            files.PUBLIC_MODE,
            files.Owner.service(),
        )

    def _own_member(
        self, certificate: x509.Certificate, key: NodeKey, trust: AuthorityTrust, now: datetime
    ) -> Member:
        try:
            member = trust.judge(certificate.public_bytes(Encoding.DER), now)
        except TrustError as error:
            raise IdentityError(
                f"this machine's certificate for network {self.name} is refused: {error}"
            ) from None
        if member.public_key != key.public_raw:
            raise IdentityError(
                f"the certificate is node {member.node_id.short}… {member.name}'s; this machine "
                f"is node {key.node_id.short}…"
            )
        return member


def _load_certificate(path: Path) -> x509.Certificate:
    loaded = certificates.load_pem(files.read_public(path, "certificate"), str(path))
    if len(loaded) != 1:
        raise IdentityError(f"certificate {path} is damaged: {len(loaded)} in it, not one")
    return loaded[0]


def roots() -> tuple[Path, Path]:
    """Return the folders of configuration and of state: QUICETHER_ETC and QUICETHER_VAR."""
    return (
        Path(os.environ.get("QUICETHER_ETC", ETC)),
        Path(os.environ.get("QUICETHER_VAR", VAR)),
    )


def network_names(etc: Path) -> list[str]:
    """Return the names of the networks that this machine has files of, sorted.

    Raises IdentityError: the folder cannot be read.
    """
    return [name for name in _folders(etc / "networks") if _is_network_name(name)]


def other_folders(etc: Path) -> list[str]:
    """Return the folders among those of networks that cannot be any's, such as a copy of one.

    Raises IdentityError: the folder cannot be read.
    """
    return [name for name in _folders(etc / "networks") if not _is_network_name(name)]


def _folders(parent: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise IdentityError(f"cannot read folder {parent}: {error.strerror}") from error


def _is_network_name(name: str) -> bool:
    try:
        check_network_name(name)
    except ConfigError:
        return False
    return True
