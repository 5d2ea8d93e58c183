"""What a policy file may say, and how its mistakes are told."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from quicether.errors import ConfigError
from quicether.policy.load import MAX_FILE_BYTES, PolicyError, parse_policy, read_policy
from quicether.policy.rules import Action, SelectorKind

WHOLE = """
[groups.staff]
members = ["laptop", "3fa9c0d1e2"]

[groups.guests]

[[rules]]
id = "web"
subject = "group:staff"
object = "10.0.0.0/16"
action = "allow"
protocols = ["tcp"]
ports = [80, 443, "8000-8099"]

[[rules]]
id = "rest"
subject = "*"
object = "home"
action = "deny"
"""


def rule(**changes: str) -> str:
    """A good rule as TOML, with some values replaced; None takes the key away."""
    values = {"id": '"a"', "subject": '"*"', "object": '"*"', "action": '"allow"', **changes}
    return "[[rules]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items() if value)


def mistake(text: str) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "p.toml")
    return caught.value


def test_a_whole_file_is_read() -> None:
    policy = parse_policy(WHOLE)
    web, rest = policy.rules
    assert policy.groups["staff"].members == ("laptop", "3fa9c0d1e2")
    assert policy.groups["guests"].members == ()
    assert (web.id, web.action, web.ports) == (
        "web",
        Action.ALLOW,
        ((80, 80), (443, 443), (8000, 8099)),
    )
    assert web.object.prefix == ip_network("10.0.0.0/16")
    assert rest.subject.kind is SelectorKind.ANY
    assert rest.object.kind is SelectorKind.NODE


def test_an_empty_file_is_a_policy_without_rules() -> None:
    assert parse_policy("").rules == ()


@pytest.mark.parametrize("ports", ["443", '"443"', '"8000-8099"', '[1, "2-3"]'])
def test_ports_may_be_one_a_range_or_a_list(ports: str) -> None:
    assert parse_policy(rule(ports=ports)).rules[0].ports


@pytest.mark.parametrize("protocols", ['"tcp"', "6", '"6"', '["tcp", 17]', '"TCP"'])
def test_protocols_go_by_name_or_number(protocols: str) -> None:
    found = parse_policy(rule(protocols=protocols)).rules[0].protocols
    assert found is not None
    assert 6 in found


def test_icmp_means_both_versions() -> None:
    assert parse_policy(rule(protocols='"icmp"')).rules[0].protocols == frozenset((1, 58))


@pytest.mark.parametrize("target", ["10.0.0.5", "fd00::5", "10.0.0.0/8", "::/0"])
def test_an_object_may_be_an_address_or_a_prefix(target: str) -> None:
    found = parse_policy(rule(object=f'"{target}"')).rules[0].object
    assert found.prefix == ip_network(target)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"action": '"permit"'}, "action: 'permit' is neither allow nor deny"),
        ({"action": "3"}, "action: 3 is neither allow nor deny"),
        ({"subject": '"10.0.0.0/8"'}, "subject: '10.0.0.0/8' is a prefix"),
        ({"subject": "[]"}, "subject: [] is not a text"),
        ({"subject": '""'}, "subject: '' is not a node"),
        ({"subject": '"Lap top"'}, "node name 'Lap top' is not 1 to 63"),
        ({"subject": '"group:"'}, "group name '' is not 1 to 63"),
        ({"object": '"10.0.0.5/16"'}, "write 10.0.0.0/16 for the whole block or 10.0.0.5/32"),
        ({"object": '"10.0.0.0/33"'}, "'10.0.0.0/33' is not a prefix like"),
        ({"object": '"10.0.0.300"'}, "'10.0.0.300' is not a prefix like"),
        ({"object": '"fe80::1%eth0"'}, "'fe80::1%eth0' is not a prefix like"),
        ({"ports": "70000"}, "port 70000 is not from 0 to 65535"),
        ({"ports": "-1"}, "port -1 is not from 0 to 65535"),
        ({"ports": '"99-80"'}, "port range 99-80 is upside down; write 80-99"),
        ({"ports": '"http"'}, "port 'http' is not a number or a range"),
        ({"ports": "true"}, "port True is not a number"),
        ({"ports": "[]"}, "ports is empty; leave it out"),
        ({"protocols": '"tpc"'}, "protocol 'tpc' is not known; write one of tcp, udp"),
        ({"protocols": "256"}, "protocol 256 is not a number from 0 to 255"),
        ({"protocols": "[]"}, "protocols is empty"),
        ({"protocols": '["tcp", "icmp"]', "ports": "80"}, "protocol 1 has none; write tcp or udp"),
        ({"id": '"a b"'}, "id: 'a b' is not 1 to 64 letters"),
        ({"subject": '"group:staff"'}, "group 'staff' is not declared"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(
    changes: dict[str, str], sentence: str
) -> None:
    error = mistake(rule(**changes))
    assert sentence in str(error)
    assert "rule " in str(error)
    assert "line " in str(error)


@pytest.mark.parametrize("key", ["id", "subject", "object", "action"])
def test_a_missing_key_is_named(key: str) -> None:
    assert f"{key} is missing" in str(mistake(rule(**{key: ""})))


def test_an_unknown_key_gets_a_hint() -> None:
    assert "unknown key 'port'; did you mean ports?" in str(mistake(rule(port="80")))
    assert "unknown key 'rule'; did you mean rules?" in str(mistake("rule = 1"))


def test_the_line_and_the_rule_are_named() -> None:
    (problem,) = mistake(WHOLE.replace('"deny"', '"no"')).problems
    assert problem.line == 19
    assert problem.rule == "'rest'"


def test_a_rule_without_an_id_is_named_by_its_number() -> None:
    (problem,) = mistake(rule() + rule(id="")).problems
    assert (problem.rule, problem.line) == ("number 2", 6)


def test_every_mistake_is_listed() -> None:
    error = mistake(rule(action='"x"', ports='"y"') + rule(id='"b"', object='"1.2.3.4/5/6"'))
    assert len(error.problems) == 3
    assert str(error).endswith("(and 2 more)")


def test_two_rules_with_one_id_are_refused_with_both_lines() -> None:
    (problem,) = mistake(rule() + rule()).problems
    assert "id 'a' belongs to rule number 1 (line 2) already" in problem.sentence
    assert problem.line == 7


def test_a_misspelt_group_gets_a_hint() -> None:
    error = mistake("[groups.staff]\n" + rule(object='"group:stff"'))
    assert "group 'stff' is not declared; did you mean group:staff?" in str(error)


def test_a_bad_group_name_is_refused() -> None:
    assert "group name 'Staff' is not" in str(mistake("[groups.Staff]\n"))


@pytest.mark.parametrize("members", ["3", '"laptop"', "[3]", '["a/b"]', '["group:x"]'])
def test_bad_members_are_refused(members: str) -> None:
    (problem,) = mistake(f"[groups.staff]\nmembers = {members}\n").problems
    assert problem.sentence.startswith("members: ")
    assert problem.line == 2


@pytest.mark.parametrize("text", ["rules = 3", "groups = 3", "rules = [3]", "groups.a = 3"])
def test_a_wrong_shape_is_named(text: str) -> None:
    assert "is not a" in str(mistake(text))


def test_what_is_not_toml_is_named_with_its_line() -> None:
    (problem,) = mistake("[groups.a]\nmembers = [\n\n[[rules]]\n").problems
    assert problem.line is not None
    assert "is not TOML" in problem.sentence


def test_a_policy_error_is_a_configuration_error() -> None:
    assert isinstance(mistake("a = 1"), ConfigError)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(WHOLE)
    assert len(read_policy(path).rules) == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere\.toml: cannot be read: No such file"):
        read_policy(tmp_path / "nowhere.toml")


def test_a_file_that_is_no_text_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"# one\n\xff\n")
    with pytest.raises(PolicyError, match=r"line 2: is not UTF-8"):
        read_policy(path)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(PolicyError, match="larger than"):
        read_policy(path)
