"""Whatever a policy file holds and whatever packets come, only PolicyError and bounds come out."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quicether.dataplane.packet import view
from quicether.errors import ProtocolError
from quicether.policy.decision import Policy
from quicether.policy.load import PolicyError, parse_policy
from quicether.policy.ruleset import RuleSet
from support.policies import HOME, LAPTOP, member, rules

words = st.sampled_from(
    [
        "[groups.staff]", "[groups.", "[[rules]]", "[rules]", "rules = [{", "}]", "members =",
        "id =", "subject =", "object =", "action =", "protocols =", "ports =", '"allow"', '"deny"',
        '"*"', '"laptop"', '"group:staff"', '"10.0.0.0/8"', '"::/0"', '"1-2"', '"tcp"', "80",
        "[", "]", "{}", '""', '"""', "1979-05-27", "1e400", "nan", "true", "-1", "#", "=", ".",
        '"\\u0000"', '"fe80::1%x/64"', '"group:"', "99999999999999999999999", '"٣"', '"²"',
    ]
)  # fmt: skip
texts = st.lists(st.tuples(words, st.sampled_from([" ", "\n"])), max_size=30).map(
    lambda pairs: "".join(word + space for word, space in pairs)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def judged(text: str) -> None:
    try:
        policy = parse_policy(text)
    except PolicyError as error:
        assert error.problems
        assert all(problem.line is None or problem.line > 0 for problem in error.problems)
        assert len(str(error)) < 2000
    else:
        RuleSet(policy).decide(LAPTOP, HOME, bytes(4), 6, 80)


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=200) | texts)
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    judged(text)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_value_under_a_key_is_accepted_or_named(data: Any) -> None:
    keys = ["id", "subject", "object", "action", "protocols", "ports", data.draw(st.text())]
    good = {"id": '"a"', "subject": '"*"', "object": '"*"', "action": '"deny"'}
    key = data.draw(st.sampled_from(keys))
    lines = {**good, _quoted(key): _toml(data.draw(values))}
    judged("[[rules]]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items()))


addresses = st.sampled_from([1, 2])
bodies = st.one_of(
    st.binary(min_size=8, max_size=60),
    # An ICMP message that quotes a packet, or an echo, or a header with ports.
    st.builds(
        lambda kind, rest: bytes((kind, 0, 0, 0, 0, 7, 0, 0)) + rest,
        st.sampled_from([0, 1, 2, 3, 5, 8, 11, 128, 129, 137]),
        st.deferred(lambda: packets) | st.binary(max_size=40),
    ),
    st.sampled_from([bytes((0, 80, 0, 80)), bytes((0, 80, 3, 1)), bytes((3, 1, 0, 80))]).map(
        lambda ports: ports + bytes(16)
    ),
)


def build4(source: int, destination: int, protocol: int, fragment: int, body: bytes) -> bytes:
    head = bytes((0x45, 0)) + (20 + len(body)).to_bytes(2) + bytes((0, 9)) + fragment.to_bytes(2)
    ends = bytes((10, 0, 0, source, 10, 0, 0, destination))
    return head + bytes((64, protocol, 0, 0)) + ends + body


def build6(source: int, destination: int, protocol: int, fragment: int, body: bytes) -> bytes:
    if fragment:
        body = bytes((protocol, 0)) + fragment.to_bytes(2) + bytes((0, 0, 0, 9)) + body
        protocol = 44
    head = bytes((0x60, 0, 0, 0)) + len(body).to_bytes(2) + bytes((protocol, 64))
    return head + bytes(15) + bytes((source,)) + bytes(15) + bytes((destination,)) + body


packets: st.SearchStrategy[bytes] = st.builds(
    lambda build, *fields: build(*fields),
    st.sampled_from([build4, build6]),
    addresses,
    addresses,
    st.sampled_from([1, 6, 17, 58, 60, 50]),
    st.sampled_from([0, 0, 0, 1, 8, 9, 0x2000, 0x2001, 0xFFF9]),
    bodies,
)
RULES = [
    rules(),
    rules("allow * *"),
    rules("allow laptop * tcp,udp 0-1000", "deny * * icmp", "allow * home"),
    rules("deny laptop * udp", "allow * 0.0.0.0/0"),
]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(packets, st.integers(0, 400), st.sampled_from(RULES)), max_size=20))
def test_any_packets_leave_the_tables_bounded_and_in_step(history: list[Any]) -> None:
    policy = Policy(RULES[1], max_flows=4, max_flows_of_initiator=3)
    members = [None, LAPTOP, HOME, member("laptop")]
    now = 0.0
    for raw, step, ruleset in history:
        now += step
        if step % 5 == 0:
            policy.use(ruleset)
        if step % 7 == 0:
            policy.expire(now)
        try:
            packet = view(raw)
        except ProtocolError:
            continue
        policy.permits(packet, members[step % 4], members[step % 3], now)
        assert policy.flows <= 4
        flows = list(policy._flows)
        halves = {half.key for flow in flows for half in flow.halves()}
        assert halves == set(policy._halves)
    policy.close(now)
    assert policy.flows == 0
    assert not policy._halves


def _quoted(key: str) -> str:
    return (
        '"'
        + "".join(f"\\U{ord(character):08X}" for character in key if _is_scalar(character))
        + '"'
    )


def _is_scalar(character: str) -> bool:
    return not 0xD800 <= ord(character) <= 0xDFFF


def _toml(value: object) -> str:
    if value is None:
        return "{}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    assert isinstance(value, dict)
    return "{" + ", ".join(f"{_quoted(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
