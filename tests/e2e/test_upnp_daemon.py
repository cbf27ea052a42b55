"""The real miniupnpd of a NAT: what it answers, what it opens, and that nothing stays open when it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.labs import RunningLab, arrives, cli, mapped, until

pytestmark = pytest.mark.e2e

ONE = """
servers: {server: }
sites:
  home: {nat: upnp_port_restricted, clients: {alice: }}
"""
RANDOM = """
servers: {server: }
sites:
  home: {nat: {kind: port_symmetric, upnp: true}, clients: {alice: }}
"""
SLOW = """#!{python}
import socket, time
web = socket.create_server(("127.0.0.1", 5000))
time.sleep(0.5)
searches = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
searches.bind(("127.0.0.1", 1900))
print("hears searches", flush=True)
while True:
    searches.sendto(b"HTTP/1.1 200 OK\\r\\nLOCATION: http://127.0.0.1:5000/\\r\\n\\r\\n", searches.recvfrom(2000)[1])
"""
PROGRAM = """
import os, signal, sys
from pathlib import Path
from lab.programs import daemon, upnp
from lab.programs.base import Context

def notify(event, facts):
    print(facts["state"], flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

directory = Path(sys.argv[1])
daemon.find = lambda name: str(directory / "slow")
upnp.upnp({"external": "192.0.2.1", "inside": "127.0.0.1"}, Context("nat", directory, directory / "control", notify))
"""
PORT = 33333
NAT_PMP = 5351
LIFETIME = 600
UDP = 17


def external(lab: RunningLab) -> tuple[str, int]:
    return lab.node("home-nat")["ipv4"][0], PORT


def gateway(lab: RunningLab) -> tuple[str, int]:
    return lab.node("home-nat")["ipv4"][1], NAT_PMP


def open_port(lab: RunningLab) -> None:
    own = lab.node("alice")["ipv4"][0]
    lab.exec("alice", "upnpc", "-e", "test", "-a", own, str(PORT), str(PORT), "udp")


def is_open(lab: RunningLab, inside: socket.socket) -> bool:
    """Whether a host outside that nobody has spoken to gets in."""
    with lab.socket("internet") as stranger:
        return arrives(stranger, inside, external(lab))


def openings(lab: RunningLab) -> int:
    """How many rules of miniupnpd's there are."""
    table = lab.exec("home-nat", "nft", "list", "table", "inet", "upnp").stdout
    return sum(str(PORT) in line for line in table.splitlines())


def daemon(lab: RunningLab) -> int:
    """The process of the NAT's miniupnpd, as the machine counts."""
    config = str(lab.lab.node_directory("home-nat") / "miniupnpd.conf").encode()
    (found,) = (
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if (command := read(path).split(b"\0"))[0].endswith(b"miniupnpd") and config in command
    )
    return found


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def test_a_nat_runs_once_its_daemon_hears_searches_and_not_when_it_takes_connections(tmp_path: Path) -> None:
    """Clients start then, and take a refusal for the answer that there is no such daemon."""
    slow = tmp_path / "slow"
    slow.write_text(SLOW.format(python=sys.executable))
    slow.chmod(0o755)
    alone = ("unshare", "--user", "--map-root-user", "--net", "sh", "-ec", 'ip link set lo up; exec "$@"', "sh")
    said = subprocess.check_output((*alone, sys.executable, "-c", PROGRAM, tmp_path), text=True, timeout=60)
    assert said.splitlines() == ["hears searches", "running"]


def test_the_nat_is_found_and_tells_its_external_address(start: Start) -> None:
    lab = start(ONE)
    told = lab.exec("alice", "upnpc", "-s").stdout
    assert "Found valid IGD" in told
    assert re.findall(r"ExternalIPAddress = (\S+)", told) == [external(lab)[0]]


def test_nat_pmp_opens_and_closes_a_port(start: Start) -> None:
    lab = start(ONE)

    def request(lifetime: int) -> bytes:
        with lab.socket("alice") as client:
            suggested = PORT if lifetime else 0
            client.sendto(struct.pack("!BBHHHI", 0, 1, 0, PORT, suggested, lifetime), gateway(lab))
            return client.recv(100)

    with lab.socket("alice", PORT) as inside:
        assert not is_open(lab, inside)
        version, opcode, result, _, own, granted, lifetime = struct.unpack("!BBHIHHI", request(LIFETIME))
        assert (version, opcode, result, own, granted, lifetime) == (0, 129, 0, PORT, PORT, LIFETIME)
        assert is_open(lab, inside)
        assert struct.unpack_from("!BBH", request(0)) == (0, 129, 0)
        assert not is_open(lab, inside)


def test_pcp_opens_and_closes_a_port(start: Start) -> None:
    lab = start(ONE)
    nonce = os.urandom(12)

    def request(lifetime: int) -> bytes:
        """RFC 6887 sections 7.1 and 11.1: a MAP request."""
        with lab.socket("alice") as client:
            own, nobody = (b"\0" * 10 + b"\xff\xff" + IPv4Address(host).packed for host in (ip, "0.0.0.0"))
            head = struct.pack("!BBHI", 2, 1, 0, lifetime) + own
            client.sendto(head + nonce + struct.pack("!B3xHH", UDP, PORT, PORT) + nobody, gateway(lab))
            return client.recv(1100)

    ip = lab.node("alice")["ipv4"][0]
    with lab.socket("alice", PORT) as inside:
        assert not is_open(lab, inside)
        answer = request(LIFETIME)
        assert struct.unpack_from("!BBBBI", answer) == (2, 0x81, 0, 0, LIFETIME)
        assert answer[24:36] == nonce
        assert struct.unpack_from("!HH", answer, 40) == (PORT, PORT)
        assert answer[56:60] == IPv4Address(external(lab)[0]).packed
        assert is_open(lab, inside)
        assert request(0)[3] == 0
        assert not is_open(lab, inside)


def test_a_host_opens_ports_to_itself_only(start: Start) -> None:
    lab = start(ONE)
    other = str(IPv4Address(lab.node("alice")["ipv4"][0]) + 50)
    refused = lab.exec("alice", "upnpc", "-e", "test", "-a", other, str(PORT), str(PORT), "udp", check=False)
    assert "AddPortMapping" in refused.stdout
    assert "failed with code" in refused.stdout
    assert openings(lab) == 0


def test_a_random_nat_sends_from_other_ports_than_the_open_one(start: Start) -> None:
    lab = start(RANDOM)
    with (
        lab.socket("alice", PORT) as inside,
        lab.socket("internet") as known,
        lab.socket("internet") as first,
        lab.socket("internet") as second,
    ):
        before = mapped(inside, known)
        open_port(lab)
        assert mapped(inside, known) == before
        seen = {before, mapped(inside, first), mapped(inside, second)}
        assert len(seen) == 3
        assert external(lab) not in seen
        assert is_open(lab, inside)


@pytest.mark.parametrize("slow", [False, True], ids=["prompt", "slow"])
def test_a_power_cycle_closes_what_was_open(start: Start, *, slow: bool) -> None:
    """Also when the daemon takes its time to end: the next one waits for it."""
    lab = start(ONE)
    with lab.socket("alice", PORT) as inside:
        open_port(lab)
        assert is_open(lab, inside)
        if slow:
            os.kill(daemon(lab), signal.SIGSTOP)
        cli("nat", "reset", "home-nat", "--name", lab.name, check=True)
        lab.wait_for(lambda nodes: nodes["home-nat"]["state"] in ("running", "failed"))
        assert lab.node("home-nat")["state"] == "running"
        assert openings(lab) == 0
        assert not is_open(lab, inside)
        open_port(lab)
        assert is_open(lab, inside)


def test_a_daemon_that_ends_leaves_no_port_open(start: Start) -> None:
    lab = start(ONE)
    open_port(lab)
    assert openings(lab) == 2
    os.kill(daemon(lab), signal.SIGTERM)
    lab.wait_for(lambda nodes: nodes["home-nat"]["state"] == "failed")
    until(lambda: openings(lab) == 0)
