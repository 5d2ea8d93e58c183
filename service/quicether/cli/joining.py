"""What joining a network does to this machine, for the command and for the service's program."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from quicether.cli import local, stored
from quicether.cli.activation import Activation, activations
from quicether.cli.enrol import ask_inviter
from quicether.errors import ConfigError
from quicether.identity.invite_code import InviteCode
from quicether.identity.store import NetworkStore
from quicether.model import Member


@dataclass(frozen=True, slots=True)
class Done:
    """What it came to.

    member: this machine in the network. inviter: its name. peer: NODE@HOST:PORT, the inviter.
    settings_current: whether the file is as joining writes it; one that was there is left alone.
    """

    network: str
    member: Member
    inviter: str
    peer: str
    settings_file: Path
    settings_current: bool
    activation: Activation


def join(code: InviteCode) -> Done:
    """Get a certificate from the inviter, and write down all that the tunnel needs.

    Raises ConfigError: this machine has the network's authority, files of too many other networks,
    or settings that are wrong;
    TrustError, ProtocolError, UnreachableError: as `enrol.ask_inviter`; IdentityError: what came
    does not fit, or cannot be written; HostError: there is nothing to bring the tunnel up with.
    """
    store = NetworkStore.of_system(code.network)
    if store.has_authority:
        raise ConfigError(
            f"this machine is the authority of network {store.name}; the code is for another one"
        )
    store.check_room()
    joined = ask_inviter(code, store.node_key())
    now = datetime.now(UTC)
    member = store.install(joined.admission.certificate, joined.admission.authority, now)
    inviter = store.trust(now).judge(joined.inviter, now)
    peer = f"{inviter.name}@{joined.where}"
    current = stored.write(store.name, member.prefixes, [peer])
    activation = activations(store.name)[0]
    activation.add()
    local.reload_tunnels(store.name)  # one that is up goes on with the new certificate
    path = stored.path_of(store.name)
    return Done(store.name, member, inviter.name, peer, path, current, activation)
