"""The kernel carries data as long as the machine trusts the peer, not a moment longer, and only where it can."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from lab.datapath.kernel import DESERVING, KernelPath
from lab.teredo.address import Endpoint, TeredoAddress, packed
from lab.teredo.packet import bubble
from lab.teredo.peers import PEER_VALIDITY
from lab.teredo.relay import Relay, RelayConfig
from lab.teredo.runner import ask, service_socket
from tests.e2e.labs import until
from tests.e2e.wires import CLIENT, HOST, PEER, RELAY, RELAY_ADDRESS, Ground, datagram, ground, ipv6, kernel_path, udp

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for the kernel data path")]

MOVED = Endpoint("198.51.100.55", 5055)


@pytest.fixture
def here() -> Iterator[Ground]:
    with ground() as made:
        yield made


def test_what_the_machine_forgets_is_withdrawn_at_once(here: Ground, tmp_path: Path) -> None:
    with here.program(tmp_path, "relay", "--datapath", "kernel") as relay:
        relay.befriend()
        relay.host_sends(b"one")
        assert relay.state()["kernel_carried"] == 1
        ask(relay.control, "forget-peers")
        relay.six.send(ipv6(HOST, CLIENT, 17, udp(HOST, CLIENT, b"two")))
        assert relay.four.next(lambda packet: True)[34] == 59, "a bubble, not the datagram"
        relay.befriend()
        relay.client_sends(b"three")
        assert relay.state()["kernel_carried"] == 2


def test_a_client_whose_mapping_changes_is_sent_to_the_new_one(here: Ground, tmp_path: Path) -> None:
    with here.program(tmp_path, "relay", "--datapath", "kernel") as relay:
        relay.befriend()
        relay.host_sends(b"to the old one")
        ask(relay.control, "forget-peers")
        relay.befriend(endpoint=MOVED)
        sent = relay.host_sends(b"to the new one")
        assert (socket.inet_ntoa(sent[16:20]), int.from_bytes(sent[22:24], "big")) == MOVED
        relay.client_sends(b"from the new one", MOVED)
        assert relay.state()["kernel_carried"] == 3
        relay.client_sends(b"from the old one, which its address names")  # so it is trusted there, by the machine
        assert relay.state()["kernel_carried"] == 3
        back = relay.host_sends(b"to the old one again")
        assert (socket.inet_ntoa(back[16:20]), int.from_bytes(back[22:24], "big")) == PEER
        assert relay.state()["kernel_carried"] == 4


def test_the_machine_is_told_of_what_has_gone_without_it(here: Ground, tmp_path: Path) -> None:
    with here.program(tmp_path, "relay", "--datapath", "kernel") as relay:
        relay.befriend()
        before = relay.state()
        for number in range(5):
            relay.host_sends(b"out %d" % number)
        for number in range(7):
            relay.client_sends(b"in %d" % number)
        after = relay.state()
        assert after["counters"]["sent"] - before["counters"]["sent"] == 5
        assert after["counters"]["delivered"] - before["counters"].get("delivered", 0) == 7
        (peer,) = after["peers"]
        assert max(peer["sent_ago"], peer["received_ago"]) < 5.0
        assert after["kernel_carried"] == 12


@pytest.mark.requirement("X4")
@pytest.mark.parametrize(("silent", "carried"), [(PEER_VALIDITY - 5.0, True), (PEER_VALIDITY, False), (-5.0, True)])
def test_trust_ends_in_the_kernel_by_itself(here: Ground, silent: float, carried: bool) -> None:
    """RFC 4380 section 5.2.4. The machine was last told something `silent` seconds ago.

    Less than none: another processor has heard the peer after this one looked at the clock.
    """

    async def main() -> None:
        now = asyncio.get_running_loop().time()
        relay = Relay(RelayConfig(RELAY_ADDRESS), Random(1))
        with kernel_path(relay, now) as (path, tun, service):
            relay.packet(ipv6(HOST, CLIENT, 17, udp(HOST, CLIENT, b"first")), now - silent)
            relay.datagram(bubble(CLIENT, packed(RELAY_ADDRESS)), PEER, now - silent)
            path.follow(now)
            here.six.send(ipv6(HOST, CLIENT, 17, udp(HOST, CLIENT, b"out")))
            here.four.send(datagram(ipv6(CLIENT, HOST, 17, udp(CLIENT, HOST, b"in")), PEER, RELAY))
            if carried:
                here.four.next(lambda packet: packet.endswith(b"out"))
                here.six.next(lambda packet: packet.endswith(b"in"))
            else:
                until(lambda: _read(tun.fd).endswith(b"out"))
                service.setblocking(True)
                service.settimeout(5)
                assert service.recv(2000).endswith(b"in")
            path.sync()
            assert path.facts["kernel_carried"] == 2 * carried

    with here.names.inside("relay"):
        asyncio.run(main())


@pytest.mark.parametrize("by", ["carried", "datagram"])
def test_what_goes_through_userspace_keeps_trust_in_the_kernel(here: Ground, by: str) -> None:
    """A peer that has been silent is heard by userspace again: then the kernel carries its data once more."""

    async def main() -> None:
        now = asyncio.get_running_loop().time()
        relay = Relay(RelayConfig(RELAY_ADDRESS), Random(1))
        with kernel_path(relay, now) as (path, _, _):
            relay.packet(ipv6(HOST, CLIENT, 17, udp(HOST, CLIENT, b"first")), now - PEER_VALIDITY)
            relay.datagram(bubble(CLIENT, packed(RELAY_ADDRESS)), PEER, now - PEER_VALIDITY + 5)
            path.follow(now - PEER_VALIDITY + 5)
            if by == "carried":
                relay.carried(CLIENT, received=1, received_at=now)
            else:
                relay.datagram(ipv6(CLIENT, HOST, 17, udp(CLIENT, HOST, b"by the machine")), PEER, now)
            path.follow(now)
            here.six.send(ipv6(HOST, CLIENT, 17, udp(HOST, CLIENT, b"out")))
            here.four.next(lambda packet: packet.endswith(b"out"))
            path.sync()
            assert path.facts["kernel_carried"] == 1
            assert relay.way(CLIENT, now + PEER_VALIDITY - 1) is not None
            assert _heard(path) >= round(now * 1e9)

    with here.names.inside("relay"):
        asyncio.run(main())


def test_who_has_fallen_silent_makes_room_in_the_kernel(here: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.datapath.kernel.SLOTS", 2)
    mappings = [Endpoint("198.51.100.9", 40000 + number) for number in range(4)]
    clients = [TeredoAddress("203.0.113.1", 0x2C41, mapping).packed for mapping in mappings]

    async def main() -> None:
        now = asyncio.get_running_loop().time()
        relay = Relay(RelayConfig(RELAY_ADDRESS), Random(1))
        with kernel_path(relay, now) as (path, _, _):

            def trust(number: int, when: float) -> None:
                relay.packet(ipv6(HOST, clients[number], 17, udp(HOST, clients[number], b"first")), when)
                relay.datagram(bubble(clients[number], packed(RELAY_ADDRESS)), mappings[number], when)
                path.follow(when)

            def known() -> set[int]:
                assert path._program is not None
                return {clients.index(address) for address in path._program._slots}

            trust(0, now)
            trust(1, now + 20)
            trust(2, now + 25)
            assert known() == {0, 1}, "there is no room, and nobody is silent"
            trust(3, now + 35)
            assert known() == {1, 3}
            relay.datagram(bubble(clients[2], packed(RELAY_ADDRESS)), mappings[2], now + 51)
            path.follow(now + 51)
            assert known() == {2, 3}, "it is heard again, and there is room now"

    with here.names.inside("relay"):
        asyncio.run(main())


def _heard(path: KernelPath) -> int:
    """When the program in the kernel thinks that the peer was last heard, in ns."""
    assert path._program is not None
    return int(path._program._entries[path._program._slots[CLIENT].number].heard)


def _read(tun: int) -> bytes:
    try:
        return os.read(tun, 2000)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_program_that_ends(here: Ground, tmp_path: Path, how: signal.Signals) -> None:
    with here.program(tmp_path, "relay", "--datapath", "kernel") as relay:
        relay.befriend()
        relay.client_sends(b"carried")
        assert relay.state()["kernel_carried"] == 1
        relay.process.send_signal(how)
        relay.process.wait(10)
        with here.names.inside("relay"), contextlib.closing(service_socket(RELAY.host, RELAY.port)) as service:
            relay.tunnelled(ipv6(CLIENT, HOST, 17, udp(CLIENT, HOST, b"to whom it may concern")))
            service.setblocking(True)
            service.settimeout(5)
            assert service.recv(2000).endswith(b"concern")


def test_two_programs_share_an_interface(here: Ground, tmp_path: Path) -> None:
    other = Endpoint(RELAY.host, 3546)
    with here.program(tmp_path, "one", "--datapath", "kernel") as one:
        one.befriend()
        with here.program(tmp_path, "two", "--datapath", "kernel", "--tun", "teredo2", port=other.port) as two:
            two.befriend(to=other)
            assert int.from_bytes(two.host_sends(b"by the second")[20:22], "big") == other.port
            one.client_sends(b"by the first")
            two.client_sends(b"by the second as well", to=other)
            assert (one.state()["kernel_carried"], two.state()["kernel_carried"]) == (1, 2)
        one.client_sends(b"when the second has gone")
        assert one.state()["kernel_carried"] == 2


def test_left_to_us_it_is_loaded_when_there_are_data(here: Ground, tmp_path: Path) -> None:
    with here.program(tmp_path, "relay") as relay:
        relay.befriend()
        state = relay.state()
        assert (state["datapath"], state["datapath_reason"]) == ("userspace", "few data so far")

        def more() -> bool:
            for number in range(DESERVING):
                relay.host_sends(b"datagram %d" % number)
            return bool(relay.state()["datapath"] == "kernel")

        until(more)
        before = relay.state()["kernel_carried"]
        relay.client_sends(b"carried")
        state = relay.state()
        assert state["kernel_carried"] == before + 1
        assert state["datapath_reason"] == "there are data"


def test_where_the_kernel_refuses_one_line_says_why_and_data_go_on(here: Ground, tmp_path: Path) -> None:
    """In a user namespace nobody may load programs into the kernel."""
    alone = ("unshare", "--user", "--map-root-user", "--net", "sh", "-ec")
    script = 'ip link set lo up; ip addr add 192.0.2.1/24 dev lo; exec "$@"'
    with here.program(tmp_path, "relay", "--datapath", "kernel", wrapped=(*alone, script, "sh")) as relay:
        state = relay.state()
        assert state["datapath"] == "userspace"
        assert "CAP_BPF" in state["datapath_reason"]
    told = [json.loads(line) for line in (tmp_path / "relay.log").read_text().splitlines()]
    assert [line["datapath_reason"] for line in told if line["event"] == "data path"] == [state["datapath_reason"]]


def test_a_route_that_changes_is_followed(here: Ground, tmp_path: Path) -> None:
    with here.program(tmp_path, "relay", "--datapath", "kernel") as relay:
        relay.befriend()
        relay.host_sends(b"before")
        with here.names.inside("relay"):
            os.system("ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev wan nud permanent")
            os.system("ip route replace default via 192.0.2.7")

        def by_the_other() -> bool:  # in time: the program hears of a change a moment later
            relay.host_sends(b"after")
            return relay.four.last[:6] == bytes.fromhex("020000000007")

        until(lambda: by_the_other() and relay.state()["kernel_carried"] >= 2)
        with here.names.inside("relay"):
            os.system("ip route replace blackhole default")

        def by_none() -> bool:
            relay.six.send(ipv6(HOST, CLIENT, 17, udp(HOST, CLIENT, b"nowhere")))
            return bool(relay.state()["io_errors"])

        until(by_none)
