"""Batches of datagrams: what `Bulk` makes of them is what the server makes of each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.teredo.address import ALL_ROUTERS, CONE, Endpoint, Forbidden, host_bytes, host_text, link_local
from lab.teredo.bulk import Answers, Bulk
from lab.teredo.machine import Action, Send
from lab.teredo.packet import (
    ICMPV6,
    ROUTER_SOLICITATION,
    Authentication,
    bubble,
    icmpv6,
    ipv6_header,
    origin_indication,
    router_solicitation,
)
from lab.teredo.relay import RelayConfig
from lab.teredo.server import Server, ServerConfig
from lab.teredo.solicitation import SOLICITATION_SOURCE
from lab.teredo.trailers import nonce_trailer
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    FORBIDDEN_HOSTS,
    HOST,
    MAPPED,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    RELAY_ADDRESS,
    RELAY_ENDPOINT,
    SECONDARY,
    SERVER_LINK_LOCAL,
    payload,
    teredo,
)

BROADCAST = Endpoint("198.51.100.255", 4000)
SOURCES = [MAPPED, ELSEWHERE, PEER_ENDPOINT, RELAY_ENDPOINT, PRIMARY, SECONDARY]
HOSTILE = [BROADCAST, Endpoint("192.0.2.5", 0), *(Endpoint(host, 4000) for host in FORBIDDEN_HOSTS)]
CLIENTS = [teredo(endpoint, server.host) for endpoint in SOURCES for server in (PRIMARY, OTHER_SERVER)]
STRANGE = [HOST, bytes(16), SERVER_LINK_LOCAL, ALL_ROUTERS, *(teredo(endpoint) for endpoint in HOSTILE)]
LINK_LOCALS = [SOLICITATION_SOURCE, link_local(MAPPED, cone=True), link_local(MAPPED, cone=False)]

Datagram = tuple[bytes, Endpoint]

CONFIGS: list[dict[str, object]] = [
    {},
    {"secrets": {b"me": b"between us"}},
    {"retired": frozenset({b"", b"me"})},
    {"nonces": False},
    {"relay": RelayConfig(RELAY_ADDRESS)},
]

sources = st.sampled_from([*SOURCES * 3, *HOSTILE])
nonces = st.binary(min_size=8, max_size=8)
link_locals = st.one_of(
    st.sampled_from([*LINK_LOCALS, HOST, PEER]), st.binary(min_size=14, max_size=14).map(lambda end: b"\xfe\x80" + end)
)


def corrupted(data: bytes, flips: Sequence[tuple[int, int]]) -> bytes:
    """The datagram with these bits flipped."""
    changed = bytearray(data)
    for at, bit in flips:
        changed[at % len(data)] ^= 1 << bit
    return bytes(changed)


@st.composite
def solicitations(draw: st.DrawFn) -> bytes:
    """Good ones, and ones that differ where the checksum is still right."""
    source = draw(link_locals)
    good = router_solicitation(source)
    ipv6: bytes = draw(
        st.sampled_from(
            [
                *(good,) * 4,
                icmpv6(source, ALL_ROUTERS, ROUTER_SOLICITATION, 0, b"\1\2\3\4"),
                icmpv6(source, ALL_ROUTERS, ROUTER_SOLICITATION, 1, bytes(4)),
                icmpv6(source, ALL_ROUTERS, ROUTER_SOLICITATION, 0, bytes(4), hop_limit=64),
                icmpv6(source, SERVER_LINK_LOCAL, ROUTER_SOLICITATION, 0, bytes(4)),
                icmpv6(source, ALL_ROUTERS, ROUTER_SOLICITATION, 0, bytes(4) + b"\1\1" + bytes(6)),
                b"\x6f\xff\xff\xff" + good[4:],
            ]
        )
    )
    header: bytes = draw(
        st.one_of(
            st.just(b""),
            nonces.map(lambda nonce: Authentication(nonce).encode()),
            nonces.map(lambda nonce: Authentication(nonce, confirmation=7).encode()),
            st.just(Authentication(bytes(8), b"me").encode()),
            st.just(Authentication(bytes(8), b"me", bytes(20)).encode()),
            st.just(origin_indication(MAPPED)),
        )
    )
    return header + ipv6


bubbles = st.builds(
    lambda head, source, destination, tail: head + bubble(source, destination) + tail,
    st.sampled_from([b"", b"", b"", origin_indication(MAPPED), Authentication(bytes(8)).encode()]),
    st.sampled_from([*CLIENTS, *STRANGE]),
    st.sampled_from([*CLIENTS * 2, *STRANGE]),
    st.sampled_from([b"", b"", b"", nonce_trailer(b"abcd"), b"\0"]),
)


@st.composite
def honest(draw: st.DrawFn) -> Datagram:
    """What a client sends, at its own mapping."""
    source, server = draw(st.sampled_from(SOURCES)), draw(st.sampled_from([PRIMARY, OTHER_SERVER]))
    if draw(st.booleans()):
        return Authentication(draw(nonces)).encode() + router_solicitation(draw(st.sampled_from(LINK_LOCALS))), source
    return bubble(teredo(source, server.host), draw(st.sampled_from(CLIENTS))), source


flips = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 7)), min_size=1, max_size=2)
contents = st.one_of(solicitations(), bubbles, st.just(payload(PEER, HOST)), st.binary(max_size=70))
datagrams = st.one_of(
    honest(),
    st.tuples(contents, sources),
    st.tuples(st.builds(corrupted, contents.filter(len), flips), sources),
    st.tuples(st.builds(lambda data, end: data[:end], contents, st.integers(0, 64)), sources),
)


def new(config: dict[str, object]) -> Server:
    forbidden = Forbidden(frozenset({BROADCAST.host}))
    return Server(ServerConfig(PRIMARY.host, SECONDARY.host, **config), Random(1), forbidden)  # type: ignore[arg-type]


def at_once(bulk: Bulk, batch: Sequence[Datagram], *, on_secondary: bool, dirt: int = 0) -> Answers:
    """Answer a batch, in buffers that hold something else beyond each datagram."""
    heads = np.full((len(batch), 64), dirt, np.uint8)
    for head, (data, _) in zip(heads, batch, strict=True):
        head[: len(data[:64])] = np.frombuffer(data[:64], np.uint8)
    return bulk.answer(
        heads,
        np.array([len(data) for data, _ in batch], np.uint32),
        np.array([source.port for _, source in batch], ">u2").view(np.uint16),
        np.frombuffer(b"".join(host_bytes(source.host) for _, source in batch), np.uint32),
        on_secondary=on_secondary,
    )


def sends(answers: Answers) -> list[Send]:
    """What the answers are, as the server would have them sent."""
    return [
        Send(
            answers.rows[n, answers.starts[n] : answers.ends[n]].tobytes(),
            Endpoint(host_text(answers.hosts[n].tobytes()), int.from_bytes(answers.ports[n].tobytes(), "big")),
            secondary=n >= answers.primaries,
        )
        for n in range(len(answers.starts))
    ]


def one_by_one(server: Server, batch: Sequence[Datagram], *, on_secondary: bool) -> list[list[Action]]:
    """The actions that each datagram of a batch brings about."""
    done = []
    for data, source in batch:
        server.datagram(data, source, 1.0, on_secondary=on_secondary)
        done.append(server.actions())
    return done


@settings(max_examples=1500, deadline=None)
@given(st.lists(datagrams, min_size=1, max_size=12), st.sampled_from(CONFIGS), st.booleans(), st.integers(0, 255))
def test_a_batch_has_the_same_done_as_its_datagrams_one_by_one(
    batch: list[Datagram], config: dict[str, object], on_secondary: bool, dirt: int
) -> None:
    alone, together = new(config), new(config)
    expected = one_by_one(alone, batch, on_secondary=on_secondary)
    answers = at_once(Bulk(together), batch, on_secondary=on_secondary, dirt=dirt)
    left = answers.left.tolist()
    rest = one_by_one(together, [batch[slot] for slot in left], on_secondary=on_secondary)
    assert rest == [expected[slot] for slot in left]
    taken = [action for slot, actions in enumerate(expected) if slot not in left for action in actions]
    assert sends(answers) == sorted(taken, key=lambda action: isinstance(action, Send) and action.secondary)
    assert together.counters == alone.counters
    assert not {batch[slot][1] for slot in left} & {source for n, (_, source) in enumerate(batch) if n not in left}


@given(st.lists(honest(), min_size=1, max_size=12), st.booleans())
def test_what_honest_clients_send_is_left_to_nobody(batch: list[Datagram], on_secondary: bool) -> None:
    ours = {PRIMARY.host, SECONDARY.host}
    asking = [(data, source) for data, source in batch if len(data) > 40 or not _to(data, ours)]
    if asking:
        answers = at_once(Bulk(new({})), asking, on_secondary=on_secondary)
        assert answers.left.tolist() == []
        assert len(answers.starts) == len(asking)


def _to(data: bytes, hosts: set[str]) -> bool:
    return host_text(bytes(byte ^ 0xFF for byte in data[36:40])) in hosts


def test_with_secrets_solicitations_are_left_to_the_server_and_bubbles_are_not() -> None:
    batch = [
        (Authentication(bytes(8)).encode() + router_solicitation(SOLICITATION_SOURCE), MAPPED),
        (bubble(teredo(ELSEWHERE), PEER), ELSEWHERE),
    ]
    answers = at_once(Bulk(new(CONFIGS[1])), batch, on_secondary=False)
    assert answers.left.tolist() == [0]
    assert [answer.to for answer in sends(answers)] == [PEER_ENDPOINT]


def test_a_source_of_which_anything_is_uncommon_is_left_as_a_whole_so_that_its_order_is_kept() -> None:
    common = router_solicitation(SOLICITATION_SOURCE)
    batch = [(common, MAPPED), (common, ELSEWHERE), (b"noise", MAPPED), (common, MAPPED)]
    assert at_once(Bulk(new({})), batch, on_secondary=False).left.tolist() == [0, 2, 3]


@pytest.mark.parametrize("cone", [False, True])
@pytest.mark.parametrize("on_secondary", [False, True])
def test_the_cone_bit_asks_for_an_answer_from_the_other_address(cone: bool, on_secondary: bool) -> None:
    source = link_local(MAPPED, cone=cone)
    answers = at_once(Bulk(new({})), [(router_solicitation(source), MAPPED)], on_secondary=on_secondary)
    assert [answer.secondary for answer in sends(answers)] == [cone != on_secondary]


@given(st.binary(min_size=14, max_size=14), st.binary(min_size=4, max_size=4))
def test_every_link_local_source_is_answered_with_a_sound_checksum(end: bytes, reserved: bytes) -> None:
    data = icmpv6(b"\xfe\x80" + end, ALL_ROUTERS, ROUTER_SOLICITATION, 0, reserved)
    server = new({})
    (expected,) = one_by_one(server, [(data, MAPPED)], on_secondary=False)
    assert sends(at_once(Bulk(new({})), [(data, MAPPED)], on_secondary=False)) == expected
    assert expected
    wrong = ipv6_header(b"\xfe\x80" + end, ALL_ROUTERS, ICMPV6, 8) + bytes((ROUTER_SOLICITATION, 0, 0, 0)) + reserved
    assert at_once(Bulk(new({})), [(wrong, MAPPED)], on_secondary=False).left.tolist() == [0]


def test_flags_of_a_teredo_source_mean_nothing() -> None:
    batch = [(bubble(teredo(MAPPED, flags=CONE | 0x7FFF), PEER), MAPPED)]
    assert at_once(Bulk(new({})), batch, on_secondary=False).left.size == 0
