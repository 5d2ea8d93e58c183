"""What a node that follows all prefixes believes, of whom, and how much of it."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network
from random import Random

from quicether.counters import Counters
from quicether.dht import keyspace, messages
from quicether.dht.contact import Contact
from quicether.dht.contents import MAX_CONTENTS, SubnetContent
from quicether.dht.events import RecordFound, SendRequest
from quicether.dht.messages import Cursor, FindValue, Notify, Values
from quicether.dht.node import DhtNode
from quicether.model import DropReason, Member
from support.dht_samples import NETWORK_ID, contact
from support.fake_records import FakeSeals, FakeSigner

WALL = 1_700_000_000.0
BLOCK = ip_network("10.0.0.0/8")
(INDEX,) = keyspace.index_keys(NETWORK_ID, IPv4Network("10.1.0.0/24"))
HOLDER, STRANGER = contact(INDEX + 1), contact(INDEX + 2)


def lan(number: int) -> IPv4Network:
    return IPv4Network((0x0A000000 + 256 * number, 24))


class Follower:
    """A machine that follows the prefixes in 10/8 and knows one holder of them."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.seals = FakeSeals(NETWORK_ID)
        me = contact(1 << 159)
        signer = FakeSigner(self.seals, Member(me.node_id, "me", b"", (), ()))
        self.node = DhtNode(
            me, NETWORK_ID, self.seals, signer, self.counters, Random(1), WALL, None
        )
        self.now = 0.0
        self.found = 0
        self.node.watch(INDEX, self.now)
        self.node.add_contact(HOLDER, self.now)
        self.wait(30.0)
        self.owner = FakeSigner(self.seals, Member(STRANGER.node_id, "owner", b"", (), (BLOCK,)))

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            self.settle()
            due = self.node.next_timer()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.node.handle_timers(self.now)
        self.now = end

    def settle(self) -> None:
        while events := self.node.poll():
            for event in events:
                self.found += isinstance(event, RecordFound)
                if isinstance(event, SendRequest):
                    self.answer(event)

    def answer(self, event: SendRequest) -> None:
        match messages.decode_request(event.body):
            case FindValue():
                answer: messages.Response = Values((), (), Cursor(1, 1), lease=3600)
            case messages.FindNode():
                answer = messages.Nodes(())
            case messages.Store(_, records):
                answer = messages.Stored((messages.StoreResult.KEPT,) * len(records))
            case _:
                answer = messages.Pong()
        self.node.response(event.call, messages.encode(answer), self.now)

    def push(self, peer: Contact, *wires: bytes) -> None:
        body = messages.encode(Notify(INDEX, wires))
        self.node.handle_request(peer, body, self.now)
        self.settle()

    def sealed(self, prefix: IPv4Network, ttl: int = 3600, later: int = 0) -> bytes:
        issued = int((WALL + self.now) * 1000) + later
        return self.owner.seal(SubnetContent(prefix=prefix), issued, ttl)


def test_what_a_watched_holder_pushes_is_taken_and_what_others_push_is_not() -> None:
    follower = Follower()
    follower.push(STRANGER, follower.sealed(lan(1)))
    assert not follower.node.directory
    assert follower.counters.drops[DropReason.UNKNOWN_MESSAGE] == 1
    follower.push(HOLDER, follower.sealed(lan(1)))
    assert [r.content for r in follower.node.directory] == [SubnetContent(prefix=lan(1))]


def test_of_one_owner_no_more_is_believed_than_one_node_may_publish() -> None:
    follower = Follower()
    for number in range(MAX_CONTENTS + 20):
        follower.now += 0.1
        follower.push(HOLDER, follower.sealed(lan(number)))
    assert len(follower.node.directory) == MAX_CONTENTS
    assert follower.counters.drops[DropReason.RECORD_LIMIT] == 20
    follower.push(HOLDER, follower.sealed(lan(3), ttl=0, later=1))
    follower.push(HOLDER, follower.sealed(lan(MAX_CONTENTS)))
    assert lan(MAX_CONTENTS) in [r.content.claims()[0] for r in follower.node.directory]


def test_a_prefix_that_comes_and_goes_leaves_nothing_behind() -> None:
    follower = Follower()
    for _ in range(1000):
        follower.now += 0.1
        follower.push(
            HOLDER,
            follower.sealed(lan(1), 60),
            follower.sealed(lan(1), 0, later=1),
            follower.sealed(lan(1), 60, later=2),
        )
    assert follower.found > 1000
    directory = follower.node._directory
    assert len(directory._endings) < 100
    assert len(follower.node._core._timers) < 100


def test_a_record_ends_in_time_though_an_earlier_one_would_have_lived_longer() -> None:
    follower = Follower()
    follower.push(HOLDER, follower.sealed(lan(1), 3600))
    follower.push(HOLDER, follower.sealed(lan(1), 60, later=1))
    follower.wait(61.0)
    assert not follower.node.directory
