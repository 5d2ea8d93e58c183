"""`quicether policy`: check a policy file, and say what it does with a packet. No daemon needed."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from pathlib import Path

from quicether.cli import offline
from quicether.config import load
from quicether.errors import ConfigError
from quicether.identity.names import check_group_name
from quicether.identity.store import network_names, roots
from quicether.model import Address, Member, NodeId
from quicether.policy.decision import explain
from quicether.policy.load import PolicyError, read_policy
from quicether.policy.rules import parse_node, parse_ports, protocol_number
from quicether.policy.ruleset import RuleSet

_WITH_PORTS = ("tcp", "udp", "sctp", "dccp", "udplite")
Service = tuple[str, int | None]
"""Name of a protocol, and the port where it has any."""


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser of `quicether`."""
    policy = subparsers.add_parser("policy", help="check a policy file and ask it questions")
    actions = policy.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="say whether a policy file is right, or where not")
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(func=_check)
    _add_test(actions)


def _add_test(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    test = actions.add_parser(
        "test",
        help="say whether a packet may pass, and by which rule",
        description="Say what a policy does with the first packet of a connection. "
        "Ends with 0 where it is allowed, with 1 where it is denied.",
        epilog="example: quicether policy test --from laptop --to 10.0.0.5 --port 443/tcp",
    )
    test.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="default: the stored policy-file"
    )
    test.add_argument(
        "--from",
        dest="source",
        type=offline.argument(_node),
        required=True,
        metavar="NODE",
        help="name or whole node id of the node that begins",
    )
    test.add_argument(
        "--to",
        dest="destination",
        type=offline.address,
        required=True,
        metavar="ADDRESS",
        help="the address it wants to reach",
    )
    test.add_argument(
        "--owner",
        type=offline.argument(_node),
        metavar="NODE",
        help="the node behind that address, for rules whose object is a node or group",
    )
    test.add_argument(
        "--port",
        dest="service",
        type=offline.argument(_service),
        default=("icmp", None),
        metavar="PORT/PROTOCOL",
        help="such as 443/tcp, 53/udp, or icmp (the default)",
    )
    test.add_argument(
        "--group",
        type=offline.argument(_group),
        action="append",
        default=[],
        metavar="NAME=NODE,...",
        help="nodes whose certificates carry a group; may be given several times",
    )
    test.set_defaults(func=_test)


def _check(arguments: argparse.Namespace) -> int:
    try:
        policy = read_policy(arguments.file)
    except PolicyError as error:
        problems = [
            {"line": each.line, "rule": each.rule, "sentence": each.sentence}
            for each in error.problems
        ]
        content = {"file": error.name, "ok": False, "problems": problems}
        offline.say(
            arguments, content, "\n".join(f"{error.name}: {each}" for each in error.problems)
        )
        return 1
    rules, groups = len(policy.rules), len(policy.groups)
    offline.say(
        arguments,
        {"file": str(arguments.file), "ok": True, "rules": rules, "groups": groups},
        f"{arguments.file}: good, {rules} rules and {groups} groups",
    )
    return 0


def _test(arguments: argparse.Namespace) -> int:
    file = arguments.file or _configured_file()
    rules = RuleSet.without_policy() if file is None else RuleSet(read_policy(file))
    groups: dict[str, frozenset[str]] = {}
    for name, nodes in arguments.group:
        groups[name] = groups.get(name, frozenset()) | nodes
    address: Address = arguments.destination
    protocol, port = arguments.service
    verdict = explain(
        rules,
        _member(arguments.source, groups),
        None if arguments.owner is None else _member(arguments.owner, groups),
        address,
        protocol_number(protocol, address.version),
        port,
    )
    sentence = verdict.sentence
    if file is None:
        sentence += (
            f" (That is what is stored in {roots()[0]}; a NetworkManager profile may differ.)"
        )
    offline.say(
        arguments,
        {"allowed": verdict.allowed, "rule": verdict.rule_id, "sentence": sentence},
        sentence,
    )
    return 0 if verdict.allowed else 1


def _configured_file() -> Path | None:
    """Return the policy file of the default tunnel, else the only one that the networks have."""
    etc, _ = roots()
    paths = [load.stored_file(None, etc), load.user_file(os.environ)]
    mine: Path | None = load.load(paths, os.environ, {}).security.policy_file
    if mine is not None:
        return mine
    stored = (load.load([load.stored_file(name, etc)], {}, {}) for name in network_names(etc))
    found = {file for each in stored if (file := each.security.policy_file) is not None}
    if len(found) > 1:
        raise ConfigError(f"{', '.join(sorted(map(str, found)))}: write which one is asked")
    return found.pop() if found else None


def _member(reference: str, groups: dict[str, frozenset[str]]) -> Member:
    """Return a member as rules see it: known by its name, or by its node id."""
    carried = frozenset(name for name, nodes in groups.items() if reference in nodes)
    if re.fullmatch("[0-9a-f]{40}", reference):
        return Member(NodeId.parse(reference), "", b"", (), (), carried)
    stand_in = NodeId.of_public_key(hashlib.sha256(reference.encode()).digest())
    return Member(stand_in, reference, b"", (), (), carried)


def _node(text: str) -> str:
    node = parse_node(text)
    if re.fullmatch("[0-9a-f]{10,39}", node):
        raise ConfigError(f"{text!r} begins a node id; write the node's name or all 40 digits")
    return node


def _service(text: str) -> Service:
    port, _, name = text.rpartition("/")
    protocol_number(name, 4)
    if not port:
        if name in _WITH_PORTS:
            raise ConfigError(f"{text!r} has no port; write it before the protocol, as in 443/tcp")
        return name, None
    ((first, last), *_) = parse_ports(port)
    if name not in _WITH_PORTS or first != last:
        raise ConfigError(f"{text!r} is not one port and its protocol, as in 443/tcp")
    return name, first


def _group(text: str) -> tuple[str, frozenset[str]]:
    name, equals, nodes = text.partition("=")
    if not equals or not nodes:
        raise ConfigError(f"{text!r} is not a group and its nodes, as in staff=laptop,phone")
    return check_group_name(name), frozenset(map(_node, nodes.split(",")))
