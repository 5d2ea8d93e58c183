"""A policy judges packets: flows and their answers, other rules, other members."""

from __future__ import annotations

from ipaddress import ip_address

from quicether.dataplane.packet import view
from quicether.dataplane.snapshot import PacketPolicy
from quicether.policy.decision import Policy
from quicether.policy.ruleset import RuleSet
from support.judge import ANSWER, BACK, DNS_ONLY, OUT, QUESTION, WEB_ONLY, Judge
from support.packets import ipv4
from support.policies import (
    HOME,
    HOME_IP,
    LAPTOP,
    LAPTOP_IP,
    PHONE,
    member,
    rules,
    tcp_packet,
    udp_packet,
)


def test_it_is_the_policy_that_the_data_path_asks() -> None:
    asked: PacketPolicy = Policy(RuleSet.without_policy())
    assert asked.permits(OUT, LAPTOP, HOME, 0.0)


def test_what_no_rule_allows_is_denied() -> None:
    assert not Judge(rules()).permits(OUT)


def test_a_rule_lets_a_flow_and_its_answers_through() -> None:
    judge = Judge(rules(WEB_ONLY))
    assert judge.permits(OUT)
    assert judge.permits(BACK)
    assert judge.permits(OUT)
    assert judge.policy.flows == 1


def test_an_answer_to_nothing_is_denied() -> None:
    assert not Judge(rules(DNS_ONLY)).permits(ANSWER)


def test_an_answer_from_another_port_is_denied() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    assert not judge.permits(tcp_packet(HOME_IP, LAPTOP_IP, 444, 5000))


def test_an_answer_by_another_protocol_is_denied() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    assert not judge.permits(udp_packet(HOME_IP, LAPTOP_IP, 443, 5000))


def test_an_answer_may_come_after_it_was_denied_before_the_question() -> None:
    judge = Judge(rules(DNS_ONLY))
    assert not judge.permits(ANSWER)
    assert judge.permits(QUESTION)
    assert judge.permits(ANSWER)


def test_a_protocol_without_ports_lets_its_answers_back() -> None:
    judge = Judge(rules("allow laptop * esp"))
    assert judge.permits(view(ipv4(LAPTOP_IP, HOME_IP, bytes(8), protocol=50)))
    assert judge.permits(view(ipv4(HOME_IP, LAPTOP_IP, bytes(8), protocol=50)))


# -- other rules, other members ----------------------------------------------------------------


def test_a_flow_that_new_rules_allow_goes_on() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    judge.policy.use(rules("allow laptop *"))
    assert judge.permits(BACK)
    assert judge.permits(OUT)
    assert judge.policy.flows == 1


def test_a_flow_that_new_rules_deny_ends_in_both_directions() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    judge.policy.use(rules("allow laptop phone"))
    assert not judge.permits(BACK)
    assert not judge.permits(OUT)
    assert judge.policy.flows == 0


def test_what_was_denied_is_asked_again_under_new_rules() -> None:
    judge = Judge(rules())
    judge.permits(OUT)
    judge.policy.use(rules(WEB_ONLY))
    assert judge.permits(OUT)


def test_a_flow_is_judged_again_when_another_node_owns_the_address() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    judge.owners[ip_address(HOME_IP).packed] = PHONE
    assert not judge.permits(OUT)


def test_a_denied_flow_is_judged_again_when_another_node_owns_the_address() -> None:
    judge = Judge(rules("allow laptop phone"))
    assert not judge.permits(OUT)
    judge.owners[ip_address(HOME_IP).packed] = PHONE
    assert judge.permits(OUT)


def test_a_flow_goes_on_when_a_member_has_connected_anew() -> None:
    judge = Judge(rules(WEB_ONLY))
    judge.permits(OUT)
    judge.owners[ip_address(HOME_IP).packed] = member("home")
    assert judge.permits(BACK)
    assert judge.policy.flows == 1


# -- explain -----------------------------------------------------------------------------------


def test_the_verdict_names_the_rule() -> None:
    verdict = Policy(rules(WEB_ONLY)).explain(LAPTOP, HOME, ip_address(HOME_IP), 6, 443)
    assert verdict.allowed
    assert verdict.rule_id == "r1"
    assert verdict.sentence == (
        "laptop to 100.64.0.2 (home), tcp port 443, is allowed by rule 'r1' (allow laptop to home)."
    )


def test_the_verdict_says_when_no_rule_matches() -> None:
    verdict = Policy(rules()).explain(None, None, ip_address("10.0.0.1"), 1)
    assert (
        verdict.sentence == "an unknown node to 10.0.0.1, icmp, is denied because no rule matches."
    )


def test_the_verdict_says_when_there_is_no_policy() -> None:
    verdict = Policy(RuleSet.without_policy()).explain(LAPTOP, HOME, ip_address(HOME_IP), 17, 53)
    assert verdict.allowed
    assert "there is no policy file" in verdict.sentence
