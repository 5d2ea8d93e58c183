"""The invitations that an authority has out, in a file that only root can read."""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from quicether.errors import ConfigError, IdentityError
from quicether.identity import files
from quicether.identity.invite_code import invitation_id

MAX_INVITATIONS: Final = 256
MAX_ATTEMPTS: Final = 20
"""Questions, right or wrong, after which an invitation is void."""
KEPT: Final = timedelta(days=7)
"""How long a used or expired invitation is kept, so that its holder can be told."""


class Invitation(BaseModel):
    """One invitation: whom it makes a member, and what became of it.

    secret: 32 hex digits. validity: of the certificate. used_by: the public key that it is
    bound to, hex.
    """

    model_config = ConfigDict(extra="forbid")

    secret: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    expires: AwareDatetime
    name: str
    addresses: list[IPv4Address | IPv6Address] = []
    prefixes: list[IPv4Network | IPv6Network] = []
    groups: list[str] = []
    validity: timedelta
    attempts: Annotated[int, Field(ge=0)] = 0
    used_by: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @property
    def secret_bytes(self) -> bytes:
        """The secret, 16 bytes."""
        return bytes.fromhex(self.secret)


class Invitations(BaseModel):
    """All invitations of one network. Change them only while the folder is locked."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    invitations: Annotated[list[Invitation], Field(max_length=MAX_INVITATIONS)] = []

    @classmethod
    def load(cls, path: Path) -> Invitations:
        """Return the invitations kept at path, none if nothing is there.

        Raises IdentityError: damaged, or open to other users.
        """
        try:
            return cls.model_validate_json(files.read_private(path, "list of invitations"))
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise IdentityError(
                f"list of invitations {path} is damaged: {where}: {first['msg']}"
            ) from None

    def save(self, path: Path) -> None:
        """Keep the invitations at path. Raises IdentityError: it cannot be written."""
        text = self.model_dump_json(indent=1) + "\n"
        files.write_file(path, text.encode(), files.PRIVATE_MODE, files.Owner.current())

    def add(self, invitation: Invitation, now: datetime) -> None:
        """Add an invitation, in place of an unused one for the same name.

        Raises ConfigError: `MAX_INVITATIONS` are out already.
        """
        self.drop_old(now)
        self.withdraw(invitation.name)
        if len(self.invitations) >= MAX_INVITATIONS:
            raise ConfigError(
                f"{MAX_INVITATIONS} invitations are out already; wait for some to end"
            )
        self.invitations.append(invitation)

    def withdraw(self, name: str) -> bool:
        """Take back the unused invitation for a name; tell whether there was one."""
        kept = [each for each in self.invitations if each.name != name or each.used_by]
        found = len(kept) < len(self.invitations)
        self.invitations = kept
        return found

    def find(self, wanted: bytes) -> Invitation | None:
        """Return the invitation with that id."""
        for each in self.invitations:
            if invitation_id(each.secret_bytes) == wanted:
                return each
        return None

    def drop_old(self, now: datetime) -> None:
        """Forget what has been over for `KEPT`."""
        self.invitations = [each for each in self.invitations if now < each.expires + KEPT]
