"""`teredo-lab capture`, and the captures that a failed check leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.seeing import pcapng
from lab.seeing.live import Capture as LiveCapture
from lab.seeing.live import cast_of
from lab.testing.running import Capture
from tests.e2e.captures import captured, captures_all_links_of_a_conversation_in_one_order, end
from tests.e2e.conftest import Start
from tests.e2e.labs import COMMAND, SMALL, RunningLab, cli, running, until
from tests.e2e.streams import transfer

pytestmark = pytest.mark.e2e

MARK = b"last"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(SMALL, tmp_path_factory.mktemp("small")) as lab:
        yield lab


def cold(lab: RunningLab, *pair: str) -> None:
    """One conversation from cold paths."""
    for answer in lab.lab.ask("check", pairs=[pair], probes=["icmp6"]):
        for result in answer.get("results", ()):
            assert result["observed"] == "reachable"


def read(file: Path) -> pcapng.Recording:
    return pcapng.read(file.read_bytes())


def test_all_links_in_one_order_with_comments(small: RunningLab, tmp_path: Path) -> None:
    recording = captures_all_links_of_a_conversation_in_one_order(small, tmp_path)
    assert {packet.outbound for packet in recording.packets} == {True, False}


def test_what_passes_last_before_the_end_is_there(small: RunningLab) -> None:
    """The kernel hands packets over a while after they have passed, some of them then."""
    cast = cast_of(small.lab)
    taps = cast.taps(["alice", "web"])
    assert small.reaches("alice", "web")
    ping = (*small.lab.entering("alice"), "ping", "-6", "-c", "1", "-p", MARK.hex(), small.address("web"))
    for _ in range(10):
        live = LiveCapture(small.lab, taps, cast.interface)
        subprocess.run(ping, check=True, capture_output=True)
        passed = [packet for packet in live.rest() if MARK * 2 in packet.frame]
        assert sorted(packet.interface for packet in passed) == sorted([*range(len(taps))] * 2)


def test_our_decode_and_tshark_see_the_same_endpoints(small: RunningLab, tmp_path: Path) -> None:
    file = tmp_path / "pair.pcapng"
    process = captured(small, file, "--pair", "alice", "carol")
    cold(small, "alice", "carol")
    end(process)
    ours = json.loads(cli("decode", str(file), "--json", check=True).stdout)["packets"]
    fields = ("frame.number", "ip.src", "udp.srcport", "ip.dst", "udp.dstport", "frame.interface_name")
    theirs = {int(number): rest for number, *rest in Capture(file).fields("ip && udp && !icmp", *fields)}
    assert len(theirs) > 10
    for packet in ours:
        if packet["number"] in theirs:
            source, source_port, to, port, interface = theirs[packet["number"]]
            assert packet["from"] == f"{source}:{source_port}"
            assert packet["to"] == f"{to}:{port}"
            assert packet["interface"] == interface


def test_a_bubble_that_a_nat_drops_is_marked_so(small: RunningLab, tmp_path: Path) -> None:
    """Alice's direct bubble comes to carol's NAT before carol has sent anything."""
    file = tmp_path / "drop.pcapng"
    process = captured(small, file, "--pair", "alice", "carol")
    cold(small, "alice", "carol")
    end(process)
    recording = read(file)
    dropped = [packet for packet in recording.packets if "dropped by away-nat" in packet.comment]
    assert [recording.interfaces[packet.interface].name for packet in dropped] == ["away-nat"]
    assert "direct bubble; dropped by away-nat: filtering APDF: nobody inside has sent to" in dropped[0].comment


def test_only_the_links_that_are_asked_for_and_what_enters_the_tunnel(small: RunningLab, tmp_path: Path) -> None:
    file = tmp_path / "alice.pcapng"
    process = captured(small, file, "--link", "alice", "--tunnel")
    assert small.reaches("alice", "web")
    end(process)
    recording = read(file)
    assert [each.name for each in recording.interfaces] == ["alice", "alice/teredo"]
    inside = [each for each in recording.packets if recording.interfaces[each.interface].name == "alice/teredo"]
    assert {recording.interfaces[each.interface].link_type for each in inside} == {pcapng.RAW}
    assert inside[0].frame[0] >> 4 == 6


def test_an_interface_that_goes_down_and_up_is_captured_all_the_same(start: Start, tmp_path: Path) -> None:
    lab = start(SMALL)
    file = tmp_path / "up.pcapng"
    lab.exec("web", "ip", "link", "set", "wan", "down")
    process = captured(lab, file, "--link", "web")
    for way in ("up", "down", "up"):
        lab.exec("web", "ip", "link", "set", "wan", way)
    lab.exec("web", "ping", "-6", "-c", "1", "-W", "1", "ff02::1%wan", check=False)
    end(process)
    assert Capture(file).fields("icmpv6.type == 128", "ipv6.dst") == [("ff02::1",)]


def test_it_streams_while_it_goes_on(small: RunningLab) -> None:
    command = (*COMMAND, "capture", "--name", small.name, "--link", "internet", "-w", "-")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"capturing 5 links")
        judge = ("tshark", "-n", "-l", "-i", "-", "-Y", "icmpv6.type == 128", "-T", "fields", "-e", "ipv6.dst")
        with subprocess.Popen(judge, stdin=process.stdout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tshark:
            process.stdout.close()
            assert small.reaches("alice", "web")
            assert tshark.stdout is not None
            assert tshark.stdout.readline().strip().endswith(small.address("web").encode())  # while the capture runs
            tshark.terminate()
        assert process.wait(timeout=60) == 0  # nobody reads any more, which ends it, without another packet


def test_it_ends_after_so_many_packets_or_seconds(small: RunningLab, tmp_path: Path) -> None:
    file = tmp_path / "three.pcapng"
    process = captured(small, file, "--count", "3")
    cold(small, "alice", "carol")
    assert process.wait(timeout=20) == 0
    assert len(read(file).packets) == 3
    assert cli("capture", "--name", small.name, "--seconds", "0.1").returncode == 0


def test_a_capture_whose_user_is_killed_leaves_no_process(small: RunningLab, tmp_path: Path) -> None:
    def processes() -> list[str]:
        return small.exec("alice", "pgrep", "-x", "capture", check=False).stdout.split()

    process = captured(small, tmp_path / "killed.pcapng")
    assert processes()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not processes())


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        pytest.param((), 160, 160, id="the headers"),
        pytest.param(("--snaplen", "200"), 200, 200, id="so many bytes"),
        pytest.param(("--snaplen", "0"), 1515, 1 << 17, id="all"),
    ],
)
def test_of_super_packets_as_much_is_kept_as_is_asked_for(
    options: tuple[str, ...], least: int, most: int, small: RunningLab, tmp_path: Path
) -> None:
    """And they are still known to be as long as they were, and to be Teredo's, by us and by tshark."""
    file = tmp_path / "data.pcapng"
    process = captured(small, file, "--pair", "alice", "web", *options)
    transfer(small, "alice", "web")
    end(process)
    packets = read(file).packets
    long = [packet for packet in packets if len(packet.frame) + packet.cut > 1514]
    assert long
    assert all(least <= len(packet.frame) <= most for packet in long)
    assert all(bool(packet.cut) == bool(least < 1500) for packet in long)
    if "--snaplen" not in options:
        assert not any(packet.cut for packet in packets if packet not in long)
    fields = Capture(file).fields("teredo && tcp && frame.len > 1514", "frame.len", "frame.cap_len", "ipv6.dst")
    assert fields
    assert {to for *_, to in fields} == {small.address("web")}
    assert all(least <= int(kept) <= min(most, int(length)) for length, kept, _ in fields)
    told = json.loads(cli("decode", str(file), "--json", check=True).stdout)["packets"]
    assert any(re.fullmatch(r"\d+ data packets in one", packet["what"]) for packet in told)


def test_what_is_too_much_is_said(small: RunningLab, tmp_path: Path) -> None:
    """A capture that nobody takes in holds no packets up."""
    file = tmp_path / "much.pcapng"
    process = captured(small, file, "--snaplen", "0", "--link", "alice")
    os.kill(process.pid, signal.SIGSTOP)
    transfer(small, "alice", "web", 1 << 26)
    os.kill(process.pid, signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    lost = [int(each) for each in re.findall(r"^(\d+) packets of alice were too many$", said, re.MULTILINE)]
    assert sum(lost) > 0
    assert read(file).packets


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--link", "zoe"), "there is no node 'zoe' that has a link; these have: server, "),
        (("--pair", "alice", "internet"), "--pair is of two nodes that talk to each other"),
        (("-w", "/nowhere/x.pcapng"), "cannot write /nowhere/x.pcapng: No such file or directory"),
    ],
)
def test_what_makes_no_sense_is_bad_input(small: RunningLab, options: tuple[str, ...], error: str) -> None:
    result = cli("capture", "--name", small.name, *options)
    assert result.returncode == 2
    assert error in result.stderr


def test_a_failed_check_keeps_a_capture_of_its_pairs_and_a_passed_one_does_not(start: Start) -> None:
    lab = start(SMALL + "checks: {expect: [{from: alice, to: carol, is: unreachable, because: a test}]}\n")
    passed = cli("check", "--name", lab.name, "--json", "web", "alice")
    assert json.loads(passed.stdout)["capture"] is None
    assert not list(lab.lab.directory.glob("*.pcapng"))
    assert cli("check", "--name", lab.name, "--no-capture", "alice", "carol").returncode == 1
    assert not list(lab.lab.directory.glob("*.pcapng"))
    failed = cli("check", "--name", lab.name, "alice", "carol")
    assert failed.returncode == 1
    (file,) = lab.lab.directory.glob("*.pcapng")
    assert f"tried again, with a capture: {file}" in failed.stderr
    recording = read(file)
    assert {each.name for each in recording.interfaces} == {"alice", "carol", "home-nat", "away-nat", "server", "relay"}
    assert any("dropped by away-nat" in packet.comment for packet in recording.packets)
    assert any(path.name.endswith(file.name) for path in lab.keep())
