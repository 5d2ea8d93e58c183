"""`quicether-join`: joins in the service's name, which may not write root's files itself.

systemd starts it as root for the D-Bus call `Join`; it does what `quicether join` does. What the
service may get out of it is told in quicether-join.service.
"""

from __future__ import annotations

import sys
from typing import Final

from quicether.cli.joining import join
from quicether.identity.invite_code import InviteCode
from quicether.registry.messages import Joined, JoinQuestion, encode
from quicether.registry.server import run

_MOST_LISTED: Final = 256
"""Addresses, prefixes or groups that are told; the certificate has them all."""


def answer(question: JoinQuestion) -> bytes:
    """Join with a code; return a `Joined`. Raises what `joining.join` raises."""
    done = join(InviteCode.parse(question.code))
    member = done.member
    return encode(
        Joined(
            network=done.network,
            name=member.name,
            node_id=str(member.node_id),
            addresses=[str(address) for address in member.addresses][:_MOST_LISTED],
            prefixes=[str(prefix) for prefix in member.prefixes][:_MOST_LISTED],
            groups=sorted(member.groups)[:_MOST_LISTED],
            valid_until=member.not_after.timestamp() if member.not_after else None,
            inviter=done.inviter,
            peer=done.peer,
            settings_file=str(done.settings_file),
            settings_current=done.settings_current,
            next=done.activation.command,
        )
    )


def main() -> int:
    """Join for whoever asks the service; return the exit status."""
    return run("quicether-join", JoinQuestion, answer)


if __name__ == "__main__":
    sys.exit(main())
