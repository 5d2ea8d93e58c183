"""How often each of many may ask."""

from __future__ import annotations

from quicether.model import UnderlayAddress
from quicether.transport.allowance import MAX_ASKERS, Allowance, whereabouts


def test_allowance_is_a_burst_and_then_one_at_a_time() -> None:
    allowance = Allowance(at_once=3, every=10.0)
    assert [allowance.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert allowance.take("b", 0.0)
    assert not allowance.take("a", 9.9)
    assert allowance.take("a", 10.0)
    assert not allowance.take("a", 10.1)
    assert [allowance.take("a", 1000.0) for _ in range(4)] == [True, True, True, False]


def test_allowance_keeps_few_askers_and_forgets_the_most_silent() -> None:
    allowance = Allowance(at_once=1, every=1e9)
    for asker in range(MAX_ASKERS):
        assert allowance.take(asker, 0.0)
    assert not allowance.take(0, 1.0)
    assert allowance.take("one more", 1.0)
    assert not allowance.take(0, 1.0)  # it spoke lately
    assert allowance.take(1, 1.0)  # it was forgotten


def test_a_host_s_whole_ipv6_network_counts_as_one() -> None:
    def where(host: str) -> object:
        return whereabouts(UnderlayAddress(host, 4711))

    assert where("2001:db8:0:1::1") == where("2001:db8:0:1:ffff::1") != where("2001:db8:0:2::1")
    assert where("192.0.2.7") != where("192.0.2.8")
