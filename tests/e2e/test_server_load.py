"""Servers under load: right answers alone, in batches as one by one, and no memory of anybody."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from lab.bench.load import BATCH
from lab.bench.server import memory, processes
from lab.teredo.address import PORT, Endpoint
from lab.teredo.machine import Send
from lab.teredo.packet import Authentication, bubble, echo_request, origin_indication, router_solicitation
from lab.teredo.server import Server, ServerConfig
from lab.teredo.solicitation import SOLICITATION_SOURCE
from lab.teredo.trailers import nonce_trailer
from tests.e2e.labs import RunningLab, running
from tests.unit.helpers.teredo import teredo

pytestmark = pytest.mark.e2e

TOPOLOGY = """
servers: {server: }
relays: {someone: }
checks: {pairs: ring}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(TOPOLOGY, tmp_path_factory.mktemp("load")) as lab:
        yield lab


def load(lab: RunningLab, *options: str) -> dict[str, Any]:
    """What the load generator says of the server."""
    address = lab.node("server")["ipv4"][0]
    said = lab.exec("internet", sys.executable, "-m", "lab.bench.load", address, "--seconds", "60", *options).stdout
    return json.loads(said)  # type: ignore[no-any-return]


def counters(lab: RunningLab) -> Counter[str]:
    return Counter(lab.teredo("server")["counters"])


@pytest.mark.parametrize(
    ("what", "counter"), [("qualifications", "advertisements"), ("bubbles", "forwarded to clients")]
)
def test_every_datagram_of_many_clients_is_answered_rightly(lab: RunningLab, what: str, counter: str) -> None:
    before = counters(lab)
    report = load(lab, "--what", what, "--count", "20000", "--window", str(BATCH))
    assert report["sent"] >= 20000
    assert (report["wrong"], report["refused"]) == (0, 0)
    grown = counters(lab) - before
    del grown["dropped: not a relay"]  # what the node's own IPv6 may have had to say
    assert grown == {counter: report["sent"]}


def test_a_hundred_thousand_clients_leave_nothing_behind(lab: RunningLab) -> None:
    load(lab, "--count", "20000", "--window", "3")  # one by one, until all that is kept for speed is full
    load(lab, "--count", "20000")
    found = processes(lab.status(), "server")
    before = memory(found)
    load(lab, "--count", "100000")
    assert memory(found) - before < 2, "MiB: twenty bytes a client, which is less than an endpoint takes"


def test_a_burst_of_all_sorts_has_the_same_done_as_by_the_state_machine(lab: RunningLab) -> None:
    """From one source come common datagrams alone, from another all sorts: each has its own answers in order."""
    primary, secondary = lab.node("server")["ipv4"]
    load(lab, "--count", "1000")  # from here on it answers many at once
    before, rng, server = counters(lab), Random(1), Server(ServerConfig(primary, secondary), Random(1))
    with lab.socket("someone") as common, lab.socket("someone") as mixed:
        burst, expected = [], {}
        for socket, uncommon in ((common, False), (mixed, True)):
            here = Endpoint(*socket.getsockname())
            own = teredo(here, primary)
            sorts = [
                Authentication(b"12345678").encode() + router_solicitation(SOLICITATION_SOURCE),
                router_solicitation(SOLICITATION_SOURCE),
                bubble(own, own),
            ]
            if uncommon:
                sorts += [
                    bubble(own, teredo(here, secondary)),
                    bubble(own, own) + nonce_trailer(b"abcd"),
                    origin_indication(here) + bubble(own, own),
                    echo_request(own, own, b"x" * 1200),
                    b"noise",
                    router_solicitation(SOLICITATION_SOURCE)[:-1] + b"\1",
                ]
            datagrams = rng.choices(sorts, k=200)
            burst += [(socket, data) for data in datagrams]
            for data in datagrams:
                server.datagram(data, here, 0.0)
            expected[socket] = [action.data for action in server.actions() if isinstance(action, Send)]
        rng.shuffle(order := [socket for socket, _ in burst])
        queues = {each: iter([data for socket, data in burst if socket is each]) for each in (common, mixed)}
        for socket in order:
            socket.sendto(next(queues[socket]), (primary, PORT))
        for socket, answers in expected.items():
            assert [socket.recv(2000) for _ in answers] == answers
        assert counters(lab) - before == server.counters
