"""The compiled rules against a naive first match, and what each selector picks."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from quicether.model import Address, Member, Prefix, host_prefix
from quicether.policy.rules import Action, Group, PolicyFile, Rule, Selector, SelectorKind
from quicether.policy.ruleset import (
    ALLOWED_WITHOUT_POLICY,
    DENIED_BY_DEFAULT,
    UNKNOWN_PORTS,
    Decision,
    RuleSet,
)
from support.policies import HOME, LAPTOP, PHONE, member, rules

ADDRESS = ip_address("10.0.0.5").packed


def decide(
    ruleset: RuleSet,
    source: Member | None = LAPTOP,
    destination: Member | None = HOME,
    address: bytes = ADDRESS,
    protocol: int = 6,
    port: int | None = 443,
) -> tuple[bool, str]:
    return ruleset.decide(source, destination, address, protocol, port)


def test_without_a_policy_members_reach_everything() -> None:
    assert decide(RuleSet.without_policy()) == (True, ALLOWED_WITHOUT_POLICY)


def test_a_policy_without_rules_denies_everything() -> None:
    assert decide(rules()) == (False, DENIED_BY_DEFAULT)


def test_the_first_match_wins() -> None:
    assert decide(rules("deny laptop *", "allow * *")) == (False, "r1")
    assert decide(rules("allow * *", "deny laptop *")) == (True, "r1")


def test_a_subject_goes_by_name() -> None:
    assert decide(rules("allow laptop *"))[0]
    assert not decide(rules("allow laptop *"), source=PHONE)[0]


def test_a_subject_goes_by_node_id() -> None:
    assert decide(rules(f"allow {LAPTOP.node_id} *"))[0]
    assert not decide(rules(f"allow {LAPTOP.node_id} *"), source=PHONE)[0]


def test_a_subject_goes_by_the_beginning_of_its_node_id() -> None:
    assert decide(rules(f"allow {LAPTOP.node_id.short} *"))[0]
    assert not decide(rules(f"allow {LAPTOP.node_id.short} *"), source=PHONE)[0]


def test_a_short_name_of_hex_digits_is_no_node_id() -> None:
    ruleset = rules(f"allow {str(LAPTOP.node_id)[:9]} *")
    assert not decide(ruleset)[0]


def test_a_group_goes_by_the_file() -> None:
    ruleset = rules("allow group:staff *", groups='[groups.staff]\nmembers = ["laptop"]')
    assert decide(ruleset)[0]
    assert not decide(ruleset, source=PHONE)[0]


def test_a_group_goes_by_the_certificate_too() -> None:
    ruleset = rules("allow group:staff *", groups="[groups.staff]")
    assert decide(ruleset, source=member("tablet", "staff"))[0]
    assert not decide(ruleset)[0]


def test_an_object_goes_by_prefix() -> None:
    ruleset = rules("allow * 10.0.0.0/24")
    assert decide(ruleset)[0]
    assert decide(ruleset, destination=None)[0]
    assert not decide(ruleset, address=ip_address("10.0.1.5").packed)[0]


def test_an_ipv4_prefix_holds_no_ipv6_address() -> None:
    assert not decide(rules("allow * 0.0.0.0/0"), address=ip_address("fd00::1").packed)[0]
    assert decide(rules("allow * ::/0"), address=ip_address("fd00::1").packed)[0]


def test_an_object_goes_by_the_owner_of_the_address() -> None:
    assert decide(rules("allow * home"))[0]
    assert not decide(rules("allow * home"), destination=PHONE)[0]
    assert not decide(rules("allow * home"), destination=None)[0]


def test_an_unknown_source_matches_everyone_alone() -> None:
    assert decide(rules("allow * *"), source=None)[0]
    assert not decide(rules("allow laptop *"), source=None)[0]


def test_ports_are_those_of_the_destination() -> None:
    ruleset = rules("allow * * tcp 80,8000-8099")
    allowed = [port for port in range(65536) if decide(ruleset, port=port)[0]]
    assert allowed == [80, *range(8000, 8100)]


def test_overlapping_port_ranges_count_once() -> None:
    ruleset = rules("allow * * tcp 80-90,85-95,96")
    allowed = [port for port in range(200) if decide(ruleset, port=port)[0]]
    assert allowed == list(range(80, 97))


def test_ports_without_protocols_mean_every_protocol_that_has_ports() -> None:
    ruleset = rules("allow * * * 443")
    assert decide(ruleset)[0]
    assert decide(ruleset, protocol=17)[0]
    assert not decide(ruleset, protocol=1, port=None)[0]


def test_a_member_with_a_new_certificate_is_judged_by_it() -> None:
    ruleset = rules("allow group:staff *", groups="[groups.staff]")
    assert not decide(ruleset, source=member("laptop"))[0]
    assert decide(ruleset, source=member("laptop", "staff"))[0]


def test_a_fragment_passes_where_no_rule_asks_for_ports() -> None:
    assert rules("allow laptop * tcp").decide_fragment(LAPTOP, HOME, ADDRESS, 6).allowed


def test_a_fragment_is_denied_where_a_port_would_decide() -> None:
    found = rules("allow laptop * tcp 80").decide_fragment(LAPTOP, HOME, ADDRESS, 6)
    assert found == (False, UNKNOWN_PORTS)


def test_a_fragment_does_not_slip_past_a_rule_that_denies_a_port() -> None:
    found = rules("deny * * tcp 22", "allow * *").decide_fragment(LAPTOP, HOME, ADDRESS, 6)
    assert found == (False, UNKNOWN_PORTS)


def test_a_fragment_passes_where_every_possible_rule_allows() -> None:
    found = rules("allow * * tcp 22", "allow * *").decide_fragment(LAPTOP, HOME, ADDRESS, 6)
    assert found == (True, "r2")


def test_a_fragment_of_an_unknown_protocol_does_not_slip_past_a_denied_protocol() -> None:
    ruleset = rules("deny * * udp", "allow * *")
    assert not ruleset.decide_fragment(LAPTOP, HOME, ADDRESS, None).allowed
    assert ruleset.decide_fragment(LAPTOP, HOME, ADDRESS, 6).allowed


NODES = [LAPTOP, HOME, PHONE, member("tablet", "guests")]
GROUPS = ["staff", "guests"]
PROTOCOLS = [1, 6, 17, 47]
ADDRESSES = [ip_address(each) for each in ("10.0.0.1", "10.0.0.2", "10.1.0.1", "fd00::1")]
everyone = st.just(Selector(SelectorKind.ANY))
nodes = st.sampled_from(
    [Selector(SelectorKind.NODE, name) for name in ("laptop", "home", LAPTOP.node_id.short)]
)
in_groups = st.builds(lambda name: Selector(SelectorKind.GROUP, name), st.sampled_from(GROUPS))
blocks = st.sampled_from(
    [
        Selector(SelectorKind.PREFIX, prefix=ip_network(each))
        for each in ("0.0.0.0/0", "10.0.0.0/16", "10.0.0.1/32", "10.0.0.0/31", "::/0", "fd00::/8")
    ]
)
ports = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda pair: (min(pair), max(pair))),
    min_size=1,
    max_size=3,
)


@st.composite
def policies(draw: st.DrawFn) -> PolicyFile:
    """Policies in which few values meet often."""
    found = []
    for number in range(draw(st.integers(0, 12))):
        with_ports = draw(st.booleans())
        choice = st.frozensets(st.sampled_from([6, 17] if with_ports else PROTOCOLS), min_size=1)
        found.append(
            Rule.model_construct(
                id=f"r{number}",
                subject=draw(everyone | nodes | in_groups),
                object=draw(everyone | nodes | in_groups | blocks),
                action=draw(st.sampled_from(Action)),
                protocols=draw(st.none() | choice),
                ports=tuple(draw(ports)) if with_ports else None,
            )
        )
    groups = {
        name: Group.model_construct(
            members=tuple(draw(st.sets(st.sampled_from(["laptop", "home", "phone"]))))
        )
        for name in GROUPS
    }
    return PolicyFile.model_construct(groups=groups, rules=tuple(found))


def is_chosen(selector: Selector, who: Member | None, policy: PolicyFile) -> bool:
    if selector.kind is SelectorKind.ANY:
        return True
    if who is None:
        return False
    if selector.kind is SelectorKind.NODE:
        return who.name == selector.name or str(who.node_id).startswith(selector.name)
    return selector.name in who.groups or who.name in policy.groups[selector.name].members


def naive(
    policy: PolicyFile,
    source: Member | None,
    destination: Member | None,
    address: Address,
    protocol: int,
    port: int | None,
) -> Decision:
    """The oracle: read the rules one after the other."""
    for rule in policy.rules:
        target = rule.object
        if target.prefix is not None:
            hits = address in target.prefix
        else:
            hits = is_chosen(target, destination, policy)
        if not hits or not is_chosen(rule.subject, source, policy):
            continue
        if rule.protocols is not None and protocol not in rule.protocols:
            continue
        if rule.ports is not None and (
            port is None or not any(first <= port <= last for first, last in rule.ports)
        ):
            continue
        return Decision(rule.action is Action.ALLOW, rule.id)
    return Decision(False, DENIED_BY_DEFAULT)


questions = st.tuples(
    st.none() | st.sampled_from(NODES),
    st.none() | st.sampled_from(NODES),
    st.sampled_from(ADDRESSES),
)


@settings(max_examples=150, deadline=None)
@given(policies(), st.data())
def test_the_compiled_rules_decide_as_a_naive_first_match(policy: PolicyFile, data: Any) -> None:
    ruleset = RuleSet(policy)
    for _ in range(5):
        source, destination, address = data.draw(questions)
        protocol = data.draw(st.sampled_from(PROTOCOLS))
        port = data.draw(st.integers(0, 14)) if protocol in (6, 17) else None
        found = ruleset.decide(source, destination, address.packed, protocol, port)
        assert found == naive(policy, source, destination, address, protocol, port)


@settings(max_examples=100, deadline=None)
@given(policies(), questions, st.sampled_from([None, 6, 17]))
def test_a_fragment_passes_only_where_every_port_would(
    policy: PolicyFile, question: Any, protocol: int | None
) -> None:
    source, destination, address = question
    outcomes = {
        naive(policy, source, destination, address, each, port).allowed
        for each in ([protocol] if protocol else PROTOCOLS)
        for port in (range(15) if each in (6, 17) else [None])
    }
    found = RuleSet(policy).decide_fragment(source, destination, address.packed, protocol)
    if found.allowed:
        assert outcomes == {True}


# -- what may be reached at all --------------------------------------------------------------------

LAN = ip_network("10.0.0.0/24")


def test_without_a_policy_every_prefix_may_be_reached() -> None:
    assert RuleSet.without_policy().may_reach(LAPTOP, HOME, LAN)


def test_what_no_rule_allows_is_not_reached() -> None:
    assert not rules().may_reach(LAPTOP, HOME, LAN)
    assert not rules("allow phone *", "deny * *").may_reach(LAPTOP, HOME, LAN)
    assert not rules("allow * phone", "allow * 10.0.1.0/24").may_reach(LAPTOP, HOME, LAN)
    assert not rules("allow * ::/0").may_reach(LAPTOP, HOME, LAN)


def test_any_packet_that_a_rule_allows_is_enough() -> None:
    for rule in ("10.0.0.7/32 tcp 22", "10.0.0.0/8 icmp", "home * 22", "*"):
        assert rules(f"allow laptop {rule}").may_reach(LAPTOP, HOME, LAN)


def test_a_rule_behind_one_that_denies_everything_allows_nothing() -> None:
    for rule in ("* *", "laptop 10.0.0.0/24", "laptop 10.0.0.0/8", "* home"):
        assert not rules(f"deny {rule}", "allow * *").may_reach(LAPTOP, HOME, LAN)
        assert rules("allow * *", f"deny {rule}").may_reach(LAPTOP, HOME, LAN)


def test_a_rule_that_denies_a_part_hides_nothing() -> None:
    for rule in ("laptop 10.0.0.0/25", "* * tcp", "* * * 22", "phone *", "* phone"):
        assert rules(f"deny {rule}", "allow * *").may_reach(LAPTOP, HOME, LAN)


PREFIXES = [
    ip_network(each)
    for each in ("0.0.0.0/1", "10.0.0.0/15", "10.0.0.0/30", "10.0.0.0/31", "fc00::/7", "fd00::/127")
]


@settings(max_examples=60, deadline=None)
@given(policies(), questions, st.sampled_from(PREFIXES))
def test_what_may_not_be_reached_is_reached_by_no_packet(
    policy: PolicyFile, question: Any, prefix: Prefix
) -> None:
    source, destination, _ = question
    if RuleSet(policy).may_reach(source, destination, prefix):
        return
    for address in (each for each in (*ADDRESSES, prefix[0], prefix[-1]) if each in prefix):
        for protocol in PROTOCOLS:
            for port in (0, 3, 6, 9, 12) if protocol in (6, 17) else [None]:
                assert not naive(policy, source, destination, address, protocol, port).allowed


@settings(max_examples=60, deadline=None)
@given(policies(), questions)
def test_one_address_may_be_reached_exactly_where_a_rule_without_protocols_says_so(
    policy: PolicyFile, question: Any
) -> None:
    source, destination, address = question
    plain = [rule.model_copy(update={"protocols": None, "ports": None}) for rule in policy.rules]
    policy = PolicyFile.model_construct(groups=policy.groups, rules=tuple(plain))
    found = RuleSet(policy).may_reach(source, destination, host_prefix(address))
    assert found == naive(policy, source, destination, address, 6, 1).allowed
