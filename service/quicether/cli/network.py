"""`quicether network`: make a network, certify its nodes, install certificates, revoke nodes.

None of these commands needs the daemon; those that change something need root. Their errors are
QuicEtherErrors, for the caller to show.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from quicether.cli import offline
from quicether.config import values
from quicether.errors import ConfigError, IdentityError, QuicEtherError
from quicether.identity import certificates, files
from quicether.identity.addresses import IPV4_POOL
from quicether.identity.authority import DEFAULT_VALIDITY, Authority
from quicether.identity.keys import parse_public_key
from quicether.identity.store import NetworkStore, network_names, roots
from quicether.model import Member

_MAX_BUNDLE = 64 << 10
"""Largest bundle that is read, in bytes."""


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of `quicether`."""
    network = subparsers.add_parser("network", help="make a network and say who is a member")
    actions = network.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_create(actions)
    _add_sign(actions)
    _add_install(actions)
    _add_revoke(actions)
    _add_show(actions)


def _add_create(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    create = actions.add_parser("create", help="make a network; this machine is its authority")
    create.add_argument("network", type=offline.network_name, metavar="NETWORK")
    create.add_argument(
        "--address-pool",
        type=offline.argument(_pool),
        default=IPV4_POOL,
        metavar="PREFIX",
        help=f"where the nodes' IPv4 addresses are chosen from (default {IPV4_POOL})",
    )
    create.set_defaults(func=_create)


def _add_sign(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sign = actions.add_parser("sign", help="certify a node (on the authority's machine)")
    sign.add_argument("network", type=offline.network_name, metavar="NETWORK")
    sign.add_argument("--name", type=offline.node_name, required=True, help="the node's name")
    which = sign.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--public-key",
        metavar="KEY|FILE",
        help="what `quicether keygen` printed on the node, or a file that holds it",
    )
    which.add_argument(
        "--local", action="store_true", help="certify this machine and install the certificate"
    )
    sign.add_argument(
        "--prefix",
        type=offline.prefix,
        action="append",
        default=[],
        help="what the node may advertise or forward for; may be given several times",
    )
    sign.add_argument(
        "--address",
        type=offline.address,
        action="append",
        default=[],
        help="the node's overlay address (default: chosen, one of IPv4 and one of IPv6)",
    )
    sign.add_argument(
        "--group",
        type=offline.group_name,
        action="append",
        default=[],
        help="a group that policies may name; may be given several times",
    )
    sign.add_argument(
        "--valid",
        type=offline.length_of_time,
        default=DEFAULT_VALIDITY,
        metavar="SPAN",
        help=f"how long, such as 90d or 12h (default {DEFAULT_VALIDITY.days}d)",
    )
    sign.add_argument(
        "--out", metavar="FILE", help="where the bundle for `network install` goes (default: here)"
    )
    sign.set_defaults(func=_sign)


def _add_install(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    install = actions.add_parser("install", help="install this machine's certificate")
    install.add_argument("network", type=offline.network_name, metavar="NETWORK")
    install.add_argument("bundle", metavar="FILE", help="from `network sign`; - is standard input")
    install.set_defaults(func=_install)


def _add_revoke(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    revoke = actions.add_parser("revoke", help="take back a node's certificates")
    revoke.add_argument("network", type=offline.network_name, metavar="NETWORK")
    revoke.add_argument("node", metavar="NODE", help="name, node id, or a beginning of one")
    revoke.set_defaults(func=_revoke)


def _add_show(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    listing = actions.add_parser("list", help="list the networks of this machine")
    listing.set_defaults(func=_list)
    show = actions.add_parser("show", help="show this machine's part in a network, and its nodes")
    show.add_argument("network", type=offline.network_name, metavar="NETWORK")
    show.set_defaults(func=_show)


def _create(arguments: argparse.Namespace) -> int:
    store, now = NetworkStore.of_system(arguments.network), _now()
    made = not store.has_authority
    if made:
        authority = Authority.create(store.directory, store.name, now, arguments.address_pool)
    else:
        authority = store.authority(now)
        pool = authority.book().address_pool
        if pool != arguments.address_pool:
            raise ConfigError(
                f"network {store.name} exists already with address pool {pool}, "
                f"not {arguments.address_pool}"
            )
    offline.say(
        arguments,
        {"network": store.name, "network_id": authority.fingerprint, "created": made},
        f"Network {store.name} {'is made' if made else 'exists already'}: "
        f"id {authority.fingerprint}\n"
        f"Its authority's key is {store.directory / 'authority.key'}; keep a copy of that folder.",
    )
    return 0


def _sign(arguments: argparse.Namespace) -> int:
    store, now = NetworkStore.of_system(arguments.network), _now()
    authority = store.authority(now)
    raw = store.node_key().public_raw if arguments.local else _public_key(arguments.public_key)
    certificate = authority.sign(
        raw,
        arguments.name,
        now=now,
        addresses=arguments.address,
        prefixes=arguments.prefix,
        groups=arguments.group,
        validity=arguments.valid,
    )
    member = certificates.parse(certificate)
    bundle = certificates.to_pem(certificate, authority.certificate)
    answer = _member_answer(member)
    if arguments.local:
        store.install(certificate, authority.certificate, now)
        answer["certificate_file"] = str(store.certificate_path)
    if arguments.out not in (None, "-"):
        out = Path(arguments.out)
        files.write_file(out.parent.resolve() / out.name, bundle, files.PUBLIC_MODE)
        answer["bundle_file"] = arguments.out
    elif not arguments.local or arguments.out == "-":
        answer["bundle"] = bundle.decode()
        if not arguments.json:
            # The bundle alone on standard output, so that it can be sent on as it is.
            offline.note(_member_text(member))
            print(bundle.decode(), end="")
            return 0
    offline.say(arguments, answer, _member_text(member))
    return 0


def _install(arguments: argparse.Namespace) -> int:
    store, now = NetworkStore.of_system(arguments.network), _now()
    certificate, authority = _read_bundle(arguments.bundle)
    member = store.install(certificate, authority, now)
    trust = store.trust(now)
    answer = _member_answer(member) | {"network_id": trust.network_id.hex()}
    offline.say(
        arguments,
        answer,
        f"{_member_text(member)}\nThis machine trusts network {store.name}: "
        f"id {trust.network_id.hex()}",
    )
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    store, now = NetworkStore.of_system(arguments.network), _now()
    authority = store.authority(now)
    node_id, node = authority.book().find(arguments.node)
    revocations = authority.revoke(str(node_id), now)
    offline.say(
        arguments,
        {
            "node_id": str(node_id),
            "name": node.name,
            "list_number": revocations.number,
            "revoked": len(revocations.serials),
        },
        f"Node {node.name} ({node_id.short}…) is revoked by list {revocations.number}; it can "
        "only come back with a new key.",
    )
    return 0


def _list(arguments: argparse.Namespace) -> int:
    found: list[dict[str, Any]] = []
    for name in network_names(roots()[0]):
        try:
            found.append(_summary(NetworkStore.of_system(name), _now()))
        except QuicEtherError as error:
            found.append({"network": name, "problem": str(error)})
    lines = [
        f"{each['network']}  "
        + (each.get("problem") or f"{each['name']}  {' '.join(each['addresses'])}")
        for each in found
    ]
    offline.say(
        arguments, {"networks": found}, "\n".join(lines) or "This machine is in no network."
    )
    return 0


def _show(arguments: argparse.Namespace) -> int:
    store, now = NetworkStore.of_system(arguments.network), _now()
    if not store.directory.is_dir():
        raise IdentityError(f"network {store.name} is not on this machine ({store.directory})")
    answer = _summary(store, now)
    lines = [f"{label}: {_shown(answer[key])}" for key, label in _SHOWN.items() if answer.get(key)]
    if store.may_certify:
        nodes = _nodes(store.authority(now))
        answer["nodes"] = nodes
        lines.append("nodes:")
        lines += [
            f"  {node['name']}  {node['node_id'][:10]}…  {' '.join(node['addresses'])}"
            f"  {' '.join(node['prefixes'])}{'  revoked' if node['revoked'] else ''}"
            for node in nodes
        ]
    offline.say(arguments, answer, "\n".join(lines))
    return 1 if "problem" in answer else 0


_SHOWN = {
    "network": "network",
    "network_id": "network id",
    "authority": "authority",
    "name": "this node",
    "node_id": "node id",
    "addresses": "addresses",
    "prefixes": "prefixes",
    "groups": "groups",
    "not_after": "valid until",
    "problem": "problem",
}
"""Keys of an answer in the order in which a person reads them, and what they are called."""


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "this machine"
    return " ".join(value) if isinstance(value, list) else str(value)


def _summary(store: NetworkStore, now: datetime) -> dict[str, Any]:
    """Return this machine's part in a network, as far as public files tell."""
    trust = store.trust(now)
    answer: dict[str, Any] = {
        "network": store.name,
        "network_id": trust.network_id.hex(),
        "authority": store.has_authority,
    }
    try:
        certificate = store.certificate()
        member = trust.judge(certificate.public_bytes(Encoding.DER), now)
    except FileNotFoundError:
        return answer | {"problem": "this machine has no certificate"}
    except QuicEtherError as error:
        return answer | {"problem": str(error)}
    return answer | _member_answer(member)


def _nodes(authority: Authority) -> list[dict[str, Any]]:
    return [
        {
            "name": node.name,
            "node_id": node_id,
            "addresses": [str(address) for address in node.addresses],
            "prefixes": [str(prefix) for prefix in node.prefixes],
            "groups": node.groups,
            "not_after": offline.moment(max(each.not_after for each in node.certificates))
            if node.certificates
            else None,
            "revoked": node.revoked,
        }
        for node_id, node in sorted(authority.book().nodes.items(), key=lambda item: item[1].name)
    ]


def _member_answer(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "node_id": str(member.node_id),
        "addresses": [str(address) for address in member.addresses],
        "prefixes": [str(prefix) for prefix in member.prefixes],
        "groups": sorted(member.groups),
        "not_after": offline.moment(member.not_after) if member.not_after else None,
    }


def _member_text(member: Member) -> str:
    parts = [f"Node {member.name} ({member.node_id.short}…)"]
    parts.append("has " + ", ".join(str(address) for address in member.addresses))
    if member.prefixes:
        parts.append("and may advertise " + ", ".join(str(prefix) for prefix in member.prefixes))
    if member.not_after:
        parts.append(f"until {certificates.when(member.not_after)}")
    return " ".join(parts)


def _public_key(text: str) -> bytes:
    """Return the public key that stands in the file called text, or else is text."""
    path = Path(text)
    try:
        in_file = path.is_file()
    except OSError:  # longer than a file's name can be
        in_file = False
    if not in_file:
        return parse_public_key(text)
    content = files.read_public(path.parent.resolve() / path.name, "public key", 4096)
    return parse_public_key(content.decode(errors="replace"))


def _read_bundle(name: str) -> tuple[x509.Certificate, x509.Certificate]:
    """Return the node's and the authority's certificate of a bundle."""
    path = Path(name)
    if name == "-":
        pem = sys.stdin.buffer.read(_MAX_BUNDLE + 1)
        if len(pem) > _MAX_BUNDLE:
            raise IdentityError(f"the bundle is larger than {_MAX_BUNDLE} bytes")
    else:
        try:
            pem = files.read_public(path.parent.resolve() / path.name, "bundle", _MAX_BUNDLE)
        except FileNotFoundError:
            raise IdentityError(f"bundle {name} is missing") from None
    found = certificates.load_pem(pem, name)
    if len(found) != 2:
        raise IdentityError(
            f"bundle {name} holds {len(found)} certificates, not the node's and its authority's"
        )
    return found[0], found[1]


def _pool(text: str) -> IPv4Network:
    prefix = values.prefix(text)
    if not isinstance(prefix, IPv4Network):
        raise ConfigError(f"address pool {text!r} is not an IPv4 prefix")
    return prefix


def _now() -> datetime:
    return datetime.now(UTC)
