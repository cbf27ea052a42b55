"""How a client finds out how long its refresh interval may be (RFC 4380 section 5.2.7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lab.teredo.address import Endpoint, obfuscate, text
from lab.teredo.bubbles import RANDOM_PORTS
from lab.teredo.client import Client, State
from lab.teredo.extensions import Extension
from lab.teredo.interval import SECONDARY_PORTS
from lab.teredo.machine import Action, Close, Event, Open, Send
from lab.teredo.packet import ROUTER_SOLICITATION, bubble, decode
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    HOST,
    MAPPED,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    SECONDARY,
    advertise,
    befriend,
    indirect_bubble,
    new_client,
    payload,
    state_of,
)

SECOND = Endpoint(MAPPED.host, 45001)
"""Where the secondary port is seen."""

LOCAL = Endpoint("192.168.1.7", 50007)


class Lab:
    """A client whose service port is served, and its secondary port as far as the test says so.

    `sent` holds what was sent since it was last looked at, refreshes of the service port left out.
    """

    def __init__(self, seed: int = 1, *, answers: bool = True, **config: Any) -> None:
        self.client = new_client(seed, determine_interval=True, **config)
        self.client.nat.local = LOCAL
        self.now = 0.0
        self.answers = answers
        self.mapped, self.second = MAPPED, SECOND
        self.actions: list[Action] = []
        self.sent: list[Send] = []
        self.client.start(0.0)
        self._work()

    @property
    def own(self) -> bytes:
        assert self.client.address is not None
        return self.client.address.packed

    @property
    def interval(self) -> float:
        value: float = self.client.snapshot(self.now)["refresh_interval"]
        return value

    @property
    def port(self) -> int:
        (opened,) = (action.port for action in self.actions if isinstance(action, Open))
        return opened

    @property
    def closed(self) -> list[int]:
        return [action.port for action in self.actions if isinstance(action, Close)]

    @property
    def told(self) -> list[dict[str, object]]:
        """The facts of all events."""
        return [action.facts for action in self.actions if isinstance(action, Event)]

    def events(self, name: str) -> list[dict[str, object]]:
        return [action.facts for action in self.actions if isinstance(action, Event) and action.name == name]

    def receive(self, data: bytes, source: Endpoint, port: int = 0) -> None:
        self.client.datagram(data, source, self.now, port)
        self._work()

    def _work(self) -> None:
        """Answer solicitations until there is nothing more to do."""
        while actions := self.client.actions():
            self.actions += actions
            for action in actions:
                if not isinstance(action, Send):
                    continue
                if action.port or not is_solicitation(action.data):
                    self.sent.append(action)
                if is_solicitation(action.data) and (self.answers or not action.port):
                    seen = self.second if action.port else self.mapped
                    self.client.datagram(advertise(action.data, seen), action.to, self.now, action.port)

    def run(self, until: float) -> None:
        """Let time pass."""
        while (at := self.client.next_timer) is not None and at <= until:
            self.now = at
            self.client.tick(at)
            self._work()
        self.now = until

    def next_bubble(self, limit: float = 1000.0) -> tuple[float, bytes]:
        """Run until a bubble is sent: how long that took, and the bubble."""
        began, self.sent = self.now, []
        while not any(is_bubble(sent.data) for sent in self.sent):
            at = self.client.next_timer
            assert at is not None
            assert at <= began + limit, "no bubble"
            self.run(at)
        (found,) = (sent for sent in self.sent if is_bubble(sent.data))
        assert (found.port, found.to) == (0, PRIMARY), "from the service port, through the server"
        return self.now - began, found.data

    def forward(self, data: bytes) -> None:
        """The server forwards a bubble, to the secondary port."""
        self.sent = []
        packet = decode(data)
        self.receive(indirect_bubble(packet.source, packet.destination, MAPPED), PRIMARY, self.port)

    def fail(self) -> float:
        """Lose the next bubble and its repeats; how long it was until the first."""
        waited, _ = self.next_bubble()
        for _ in range(3):
            assert self.next_bubble()[0] == pytest.approx(2.0)
        self.run(self.now + 2.0)
        return waited

    def succeed(self) -> float:
        waited, data = self.next_bubble()
        self.forward(data)
        return waited


def is_bubble(data: bytes) -> bool:
    return decode(data).is_bubble


def is_solicitation(data: bytes) -> bool:
    return decode(data).icmp_type == ROUTER_SOLICITATION


@pytest.mark.requirement("I1")
def test_the_secondary_port_is_qualified_right_after_the_service_port() -> None:
    lab = Lab()
    assert state_of(lab.client) is State.QUALIFIED
    sends = [(action.to, action.port) for action in lab.actions if isinstance(action, Send)]
    assert sends == [(PRIMARY, 0), (SECONDARY, 0), (PRIMARY, lab.port), (SECONDARY, lab.port)]
    assert lab.now == 0.0
    assert lab.actions.index(Open(lab.port)) < min(
        number for number, action in enumerate(lab.actions) if isinstance(action, Send) and action.port
    )


@pytest.mark.requirement("I1", "I7")
def test_without_an_answer_on_the_secondary_port_the_interval_stays_30_and_the_port_is_closed() -> None:
    lab = Lab(answers=False)
    lab.run(11.9)
    assert [sent.to for sent in lab.sent] == [PRIMARY] * 3
    assert lab.closed == []
    lab.run(1000.0)
    assert lab.closed == [lab.port]
    assert lab.events("interval determined") == [
        {"refresh_interval": 30.0, "why": f"no answer from server {PRIMARY.host}"}
    ]
    assert (lab.interval, len(lab.sent)) == (30.0, 3)


@pytest.mark.requirement("I1")
def test_where_the_servers_see_the_secondary_port_at_different_mappings_the_interval_stays_30() -> None:
    lab = Lab(answers=False)
    (first,) = lab.sent
    lab.receive(advertise(first.data, SECOND), PRIMARY, lab.port)
    lab.receive(advertise(lab.sent[1].data, ELSEWHERE), SECONDARY, lab.port)
    assert lab.events("interval determined")[0]["why"] == "symmetric NAT"
    lab.run(1000.0)
    assert (lab.interval, lab.closed) == (30.0, [lab.port])
    assert len(lab.sent) == 2, "no bubble"


def test_a_symmetric_nat_does_no_harm_where_the_service_port_may_have_one_too() -> None:
    lab = Lab(answers=False, extensions=frozenset({Extension.SYMMETRIC}))
    lab.receive(advertise(lab.sent[0].data, SECOND), PRIMARY, lab.port)
    lab.receive(advertise(lab.sent[1].data, ELSEWHERE), SECONDARY, lab.port)
    lab.answers = True
    lab.succeed()
    assert lab.interval == 60.0


@pytest.mark.requirement("I1")
def test_a_bad_advertisement_does_not_qualify_the_secondary_port() -> None:
    lab = Lab(answers=False)
    (first,) = lab.sent
    lab.receive(advertise(first.data, SECOND, nonce=bytes(8)), PRIMARY, lab.port)
    lab.receive(advertise(first.data, SECOND), SECONDARY, lab.port)
    assert len(lab.sent) == 1
    assert lab.client.snapshot(0.0)["counters"]["dropped: advertisement: wrong nonce"] == 1
    lab.receive(advertise(first.data, SECOND), PRIMARY, lab.port)
    assert [sent.to for sent in lab.sent] == [PRIMARY, SECONDARY]


@pytest.mark.requirement("I1")
def test_where_the_secondary_port_cannot_be_had_the_interval_stays_30() -> None:
    lab = Lab(answers=False)
    lab.client.port_refused(lab.port, 0.0)
    lab.run(1000.0)
    assert (lab.interval, len(lab.sent)) == (30.0, 1)
    assert lab.events("interval determined")[0]["why"] == "no secondary port"


@pytest.mark.requirement("I2", "I3")
def test_the_first_bubble_comes_after_60_idle_seconds_from_the_service_port_through_the_server() -> None:
    lab = Lab()
    waited, data = lab.next_bubble()
    assert waited == 60.0
    packet = decode(data)
    assert packet.source == lab.own
    assert packet.destination != lab.own
    assert packet.destination[:8] == lab.own[:8], "the same server"
    assert packet.destination[10:] == obfuscate(SECOND)


@pytest.mark.requirement("I3")
def test_an_unanswered_bubble_is_repeated_3_times_2_seconds_apart() -> None:
    lab = Lab()
    assert lab.fail() == 60.0
    (tested,) = lab.events("interval tested")
    assert tested == {"candidate": 60.0, "survived": False}


@pytest.mark.requirement("I3")
def test_a_bubble_that_arrives_at_the_third_repeat_is_good() -> None:
    lab = Lab()
    for _ in range(4):
        _, data = lab.next_bubble()
    lab.run(lab.now + 1.9)
    lab.forward(data)
    assert lab.interval == 60.0


@pytest.mark.requirement("I3")
@pytest.mark.parametrize(
    "stranger", ["another source", "another destination", "no bubble", "not from the server", "on the service port"]
)
def test_nothing_but_the_bubble_from_the_service_port_on_the_secondary_port_is_a_success(stranger: str) -> None:
    lab = Lab()
    _, data = lab.next_bubble()
    packet = decode(data)
    other, port = bubble(packet.source, packet.destination), lab.port
    source = PRIMARY
    match stranger:
        case "another source":
            other = bubble(PEER, packet.destination)
        case "another destination":
            other = bubble(lab.own, PEER)
        case "no bubble":
            other = payload(packet.source, packet.destination)
        case "not from the server":
            source = PEER_ENDPOINT
        case "on the service port":
            port = 0
    lab.receive(other, source, port)
    assert lab.interval == 30.0
    lab.forward(data)
    assert lab.interval == 60.0


@pytest.mark.requirement("I3")
def test_whatever_comes_in_while_the_secondary_port_is_to_be_idle_makes_the_wait_begin_anew() -> None:
    lab = Lab()
    lab.run(50.0)
    lab.receive(payload(PEER, lab.own), PEER_ENDPOINT, lab.port)
    assert lab.next_bubble()[0] == 60.0


@pytest.mark.requirement("I4", "I5")
def test_candidates_follow_successes_and_failures() -> None:
    lab = Lab()
    assert [lab.succeed(), lab.interval] == [60.0, 60.0]
    assert [lab.succeed(), lab.interval] == [90.0, 90.0]
    assert [lab.succeed(), lab.interval] == [105.0, 105.0]
    assert [lab.fail(), lab.interval] == [112.5, 105.0]
    assert lab.events("interval determined") == [{"refresh_interval": 105.0, "why": "close to one that failed"}]


@pytest.mark.requirement("I5")
def test_failures_halve_the_way_to_the_maximum_until_75_percent_of_it_are_reached() -> None:
    lab = Lab()
    assert [lab.fail(), lab.fail(), lab.fail()] == [60.0, 45.0, 37.5]
    assert lab.events("interval determined") == [{"refresh_interval": 30.0, "why": "close to one that failed"}]
    assert lab.interval == 30.0


@pytest.mark.requirement("I4", "I5")
def test_a_candidate_that_succeeds_after_a_failure_is_the_new_interval() -> None:
    lab = Lab()
    assert [lab.fail(), lab.succeed()] == [60.0, 45.0]
    assert lab.interval == 45.0
    assert lab.fail() == 52.5
    assert (lab.interval, lab.closed) == (45.0, [lab.port])


@pytest.mark.requirement("I4", "I7")
def test_where_no_candidate_fails_it_ends_less_than_a_second_short_of_the_maximum() -> None:
    lab = Lab()
    waits = []
    while not lab.closed:
        waits.append(lab.succeed())
    assert waits[:6] == [60.0, 90.0, 105.0, 112.5, 116.25, 118.125]
    assert lab.interval == waits[-1] > 118.0
    assert lab.events("interval determined")[0]["why"] == "the longest interval"


@pytest.mark.requirement("I4", "M1", "M2")
def test_refreshes_follow_the_interval_that_has_been_found() -> None:
    lab = Lab()
    for _ in range(3):
        lab.succeed()
    lab.fail()
    lab.run(lab.now + 110.0)
    facts = lab.client.snapshot(lab.now)
    assert facts["refresh_interval"] == 105.0
    assert 0.75 * 105 <= facts["randomized_refresh_interval"] <= 105.0


@pytest.mark.requirement("I6")
def test_after_each_test_the_secondary_port_is_maintained_and_may_get_another_address() -> None:
    lab = Lab()
    _, data = lab.next_bubble()
    lab.second = Endpoint(MAPPED.host, 45999)
    lab.forward(data)
    (solicitation,) = lab.sent
    assert (solicitation.to, solicitation.port) == (PRIMARY, lab.port)
    waited, again = lab.next_bubble()
    assert waited == 90.0, "the intervals stay"
    assert decode(again).destination[10:] == obfuscate(lab.second)
    lab.forward(again)
    assert lab.interval == 90.0


@pytest.mark.requirement("I6")
def test_a_mapping_that_lives_keeps_the_secondary_address() -> None:
    lab = Lab()
    _, data = lab.next_bubble()
    lab.forward(data)
    assert decode(lab.next_bubble()[1]).destination == decode(data).destination


@pytest.mark.requirement("I6")
def test_the_wait_begins_with_the_answer_of_the_maintenance() -> None:
    lab = Lab()
    _, data = lab.next_bubble()
    lab.answers = False
    lab.forward(data)
    lab.run(lab.now + 3.0)
    (solicitation,) = lab.sent
    lab.receive(advertise(solicitation.data, SECOND), PRIMARY, lab.port)
    assert lab.next_bubble()[0] == 90.0


@pytest.mark.requirement("I7")
def test_a_secondary_port_whose_maintenance_fails_is_closed_and_the_interval_stays() -> None:
    lab = Lab()
    lab.answers = False
    lab.succeed()
    lab.run(lab.now + 12.0)
    assert (lab.interval, lab.closed) == (60.0, [lab.port])


@pytest.mark.requirement("I7")
def test_nothing_but_solicitations_leaves_by_the_secondary_port() -> None:
    lab = Lab()
    befriend(lab.client, lab.own, 0.0)
    for destination in (PEER, HOST):
        lab.client.packet(payload(lab.own, destination), 0.0)
    while not lab.closed:
        lab.succeed()
    sends = [action for action in lab.actions if isinstance(action, Send)]
    assert {action.to for action in sends} > {PRIMARY, PEER_ENDPOINT}
    assert all(is_solicitation(action.data) for action in sends if action.port)


@pytest.mark.requirement("I7")
@pytest.mark.parametrize("make", [payload, bubble])
def test_nobody_is_listened_to_on_the_secondary_port(make: Callable[[bytes, bytes], bytes]) -> None:
    lab = Lab()
    befriend(lab.client, lab.own, 0.0)
    port, (_, data) = lab.port, lab.next_bubble()
    for destination in (decode(data).destination, lab.own):
        lab.actions.clear()
        lab.receive(make(PEER, destination), PEER_ENDPOINT, port)
        lab.receive(indirect_bubble(PEER, destination, PEER_ENDPOINT), PRIMARY, port)
        assert [facts["why"] for facts in lab.told] == ["on the secondary port"] * 2
        assert len(lab.actions) == 2


@pytest.mark.requirement("I7")
def test_the_address_of_the_secondary_port_is_told_to_nobody_but_the_server() -> None:
    lab = Lab()
    _, data = lab.next_bubble()
    lab.forward(data)
    second = decode(data).destination
    told = repr(lab.told) + repr(lab.client.snapshot(lab.now))
    assert text(second) not in told
    assert str(SECOND) not in told
    assert {action.to for action in lab.actions if isinstance(action, Send) and second in action.data} == {PRIMARY}


@pytest.mark.requirement("I7")
@pytest.mark.parametrize(
    "end",
    [lambda client: client.stop(40.0), lambda client: client.native_ipv6(True, 40.0)],
    ids=["stopped", "at rest"],
)
def test_a_client_that_gives_its_address_up_closes_the_secondary_port(end: Callable[[Client], None]) -> None:
    lab = Lab()
    lab.run(40.0)
    end(lab.client)
    assert Close(lab.port) in lab.client.actions()
    assert lab.client.next_timer is None


@pytest.mark.requirement("I7")
def test_a_client_that_goes_off_line_closes_the_secondary_port() -> None:
    lab = Lab()
    while lab.client.next_timer is not None and lab.client.state is State.QUALIFIED:
        lab.client.tick(lab.client.next_timer)
    assert Close(lab.port) in lab.client.actions()


@pytest.mark.requirement("I1")
def test_another_mapping_of_the_service_port_begins_the_determination_anew() -> None:
    lab = Lab()
    lab.succeed()
    first, lab.mapped = lab.port, ELSEWHERE
    lab.actions.clear()
    lab.run(lab.now + 60.0)
    assert (lab.closed, lab.interval) == ([first], 30.0)
    assert [sent.port for sent in lab.sent[-2:]] == [lab.port] * 2
    lab.run(lab.now + 60.0)
    assert lab.events("interval tested")[-1]["candidate"] == 60.0


def test_the_interval_is_not_determined_unless_that_is_asked_for() -> None:
    client: Client = new_client()
    client.start(0.0)
    for server in (PRIMARY, SECONDARY):
        (solicitation,) = (action for action in client.actions() if isinstance(action, Send))
        client.datagram(advertise(solicitation.data), server, 0.0)
    assert not any(isinstance(action, Open | Send) for action in client.actions())


def test_an_interval_is_either_configured_or_determined() -> None:
    with pytest.raises(ValueError, match="either configured or determined"):
        new_client(determine_interval=True, refresh_interval=20.0)


def test_the_secondary_port_is_neither_the_service_port_nor_a_random_port() -> None:
    assert not set(SECONDARY_PORTS) & set(RANDOM_PORTS)
    ports = set()
    for seed in range(200):
        lab = Lab(seed)
        ports.add(lab.port)
    assert len(ports) > 150
    assert LOCAL.port not in ports
