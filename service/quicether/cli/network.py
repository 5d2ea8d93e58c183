"""`quicether network`: make a network, certify its nodes, install certificates, revoke nodes.

None of these commands needs the daemon; those that change something need root. Their errors are
QuicEtherErrors, for the caller to show.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from quicether.cli import certified, founding, local, offline
from quicether.errors import IdentityError, QuicEtherError
from quicether.identity import certificates, files
from quicether.identity.authority import Authority
from quicether.identity.keys import parse_public_key
from quicether.identity.store import NetworkStore, network_names, roots

_MAX_BUNDLE = 64 << 10
"""Largest bundle that is read, in bytes."""


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of `quicether`."""
    network = subparsers.add_parser("network", help="make a network and say who is a member")
    actions = network.add_subparsers(dest="action", metavar="ACTION", required=True)
    founding.add_create(actions)
    _add_sign(actions)
    _add_install(actions)
    _add_revoke(actions)
    _add_show(actions)


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
        "--address",
        type=offline.overlay_address,
        action="append",
        default=[],
        help="the node's overlay address (default: chosen, one of IPv4 and one of IPv6)",
    )
    local.add_grants(sign)
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
    revoke = actions.add_parser(
        "revoke",
        help="take back a node's certificates",
        description="Take back a node's certificates. Where the network's tunnel is up here, its "
        "peers learn of it at once and cut the node off.",
    )
    revoke.add_argument(
        "network",
        nargs="?",
        type=offline.network_name,
        metavar="NETWORK",
        help="which one, where this machine is the authority of several",
    )
    revoke.add_argument("node", metavar="NODE", help="name, node id, or a beginning of one")
    revoke.set_defaults(func=_revoke)


def _add_show(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    listing = actions.add_parser("list", help="list the networks of this machine")
    listing.set_defaults(func=_list)
    show = actions.add_parser("show", help="show this machine's part in a network, and its nodes")
    show.add_argument("network", type=offline.network_name, metavar="NETWORK")
    show.set_defaults(func=_show)


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
    answer = certified.answer(member)
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
            offline.note(certified.text(member))
            print(bundle.decode(), end="")
            return 0
    offline.say(arguments, answer, certified.text(member))
    return 0


def _install(arguments: argparse.Namespace) -> int:
    store, now = NetworkStore.of_system(arguments.network), _now()
    certificate, authority = _read_bundle(arguments.bundle)
    member = store.install(certificate, authority, now)
    trust = store.trust(now)
    answer = certified.answer(member) | {"network_id": trust.network_id.hex()}
    offline.say(
        arguments,
        answer,
        f"{certified.text(member)}\nThis machine trusts network {store.name}: "
        f"id {trust.network_id.hex()}",
    )
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    store, now = local.the_network(arguments.network, authority=True), _now()
    authority = store.authority(now)
    node_id, node = authority.book().find(arguments.node)
    revocations = authority.revoke(str(node_id), now)
    told = local.reload_tunnels(store.name)
    offline.say(
        arguments,
        {
            "node_id": str(node_id),
            "name": node.name,
            "list_number": revocations.number,
            "revoked": len(revocations.serials),
            "told": told,
        },
        f"Node {node.name} ({node_id.short}…) is revoked by list {revocations.number}; it can "
        "only come back with a new key."
        + ("" if told else "\nThe tunnel is not up here; the others learn of it when it is."),
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
    return answer | certified.answer(member)


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


def _now() -> datetime:
    return datetime.now(UTC)
