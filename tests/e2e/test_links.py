"""Links that lose, slow down and are cut, in both directions, from the beginning and while a lab runs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.backends import netns
from lab.backends.netns import has_netem
from lab.datapath.choice import DataPath
from lab.plan import LinkQuality
from lab.planner import plan
from lab.state import Lab, MachineError, StateError, all_labs
from lab.topology.load import parse
from tests.e2e.conftest import Start
from tests.e2e.labs import SMALL, RunningLab, cli, running, until

pytestmark = pytest.mark.e2e

LINKS = """
servers: {server: }
relays: {relay: }
hosts: {web: }
sites:
  lossy: {nat: cone, link: {loss: 30%}, clients: {alice: }}
  slow: {nat: port_restricted, clients: {bob: {link: {rate: 4mbit}}}}
  cut: {nat: cone, clients: {carol: }}
"""
COUNT = 3000


@pytest.fixture(scope="module")
def lab(datapath: DataPath, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(LINKS, tmp_path_factory.mktemp("links")) as lab:
        yield lab


def counted(lab: RunningLab, source: str, destination: str, count: int = COUNT, size: int = 20) -> tuple[int, float]:
    """How many datagrams of so many come through, and in how many seconds; sent without haste."""
    with lab.socket(source) as sender, lab.socket(destination) as receiver:
        if destination != "internet":  # open the NAT
            receiver.sendto(b"open", sender.getsockname())
            _, to = sender.recvfrom(100)
        else:
            to = receiver.getsockname()
        receiver.settimeout(0.5)
        arrived, began, last = 0, time.monotonic(), 0.0
        with contextlib.suppress(TimeoutError):
            for sent in range(count):
                sender.sendto(bytes(size), to)
                if sent % 20 == 19:
                    receiver.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        while receiver.recv(2000):
                            arrived, last = arrived + 1, time.monotonic()
                    receiver.settimeout(0.5)
            while receiver.recv(2000):
                arrived, last = arrived + 1, time.monotonic()
        return arrived, last - began


def change(lab: RunningLab, *arguments: str) -> None:
    cli("link", *arguments, "--name", lab.name, check=True)


def test_links_are_listed_and_nats_measured_in_spite_of_them(lab: RunningLab) -> None:
    listed = json.loads(cli("link", "--json", "--name", lab.name, check=True).stdout)
    assert {node: {key: value for key, value in quality.items() if value} for node, quality in listed.items()} == {
        "lossy-nat": {"loss": 30},
        "bob": {"rate": 4_000_000},
    }
    assert lab.nat("lossy-nat")[0] == 0
    assert lab.nat("slow-nat")[0] == 0


def test_a_link_loses_as_much_as_it_should_in_both_directions(lab: RunningLab) -> None:
    out, _ = counted(lab, "alice", "internet")
    assert 0.65 * COUNT < out < 0.75 * COUNT  # 6 standard deviations
    change(lab, "lossy-nat", "--loss", "0")
    assert counted(lab, "alice", "internet")[0] == COUNT
    change(lab, "alice", "--loss", "60%")
    assert 0.34 * COUNT < counted(lab, "alice", "internet")[0] < 0.46 * COUNT
    for attempt in range(20):  # the packet that opens the NAT may get lost
        with contextlib.suppress(TimeoutError):
            back, _ = counted(lab, "internet", "alice")
            break
        assert attempt < 19
    assert 0.34 * COUNT < back < 0.46 * COUNT
    change(lab, "alice", "--loss", "100%")
    assert counted(lab, "alice", "internet", 200)[0] == 0
    change(lab, "alice", "--clear")
    assert counted(lab, "internet", "alice")[0] == COUNT


@pytest.mark.parametrize(("source", "destination"), [("bob", "internet"), ("internet", "bob")])
def test_a_link_has_its_rate_in_both_directions(lab: RunningLab, source: str, destination: str) -> None:
    change(lab, "bob", "--rate", "4mbit")
    arrived, seconds = counted(lab, source, destination, 2000, 1000)
    bits = arrived * (1000 + 42) * 8 / seconds
    assert 0.8 * 4e6 < bits < 1.2 * 4e6
    change(lab, "bob", "--rate", "0")
    assert counted(lab, source, destination, 200, 1000)[0] == 200


def test_a_cut_link_is_mended_without_a_restart(start: Start) -> None:
    lab = start(SMALL.replace("carol: ", "carol: {link: {down: true}}"))
    assert lab.node("carol")["state"] == "off-line"
    change(lab, "carol", "--up")
    lab.wait_for(lambda nodes: nodes["carol"]["state"] == "qualified", timeout=60)
    assert lab.reaches("alice", "carol")
    change(lab, "carol", "--down")
    assert not lab.reaches("alice", "carol", wait=2)
    change(lab, "carol", "--up")
    assert lab.reaches("alice", "carol")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("alice", "--loss", "101"), "loss cannot be '101'"),
        (("alice", "--rate", "fast"), "rate cannot be 'fast'"),
        (("alice", "--jitter", "5ms"), "jitter needs a delay; add delay"),
        (("internet", "--loss", "1"), "internet has no link of its own"),
        (("nobody", "--down"), "no node 'nobody'"),
    ],
)
def test_a_change_that_makes_no_sense_changes_nothing(lab: RunningLab, arguments: tuple[str, ...], error: str) -> None:
    before = cli("link", "--json", "--name", lab.name).stdout
    result = cli("link", *arguments, "--name", lab.name)
    assert result.returncode == 2
    assert error in result.stderr
    assert cli("link", "--json", "--name", lab.name).stdout == before


def test_delay_is_there_or_refused_before_anything_is_made(tmp_path: Path) -> None:
    path = tmp_path / "slow.yaml"
    path.write_text(SMALL.replace("alice: ", "alice: {link: {delay: 40ms, jitter: 1ms}}"))
    up = cli("up", str(path), "--name", "delayed")
    if not has_netem():
        assert up.returncode == 3
        assert "links of alice (delay), alice (jitter): they need netem, and this kernel has no sch_netem" in up.stderr
        assert "delayed" not in {lab.name for lab in all_labs()}
        return
    try:
        assert up.returncode == 0, up.stderr
        lab = RunningLab("delayed", tmp_path)
        ping = lab.exec("alice", "ping", "-c", "5", "-q", "192.0.2.2").stdout
        average = float(ping.split(" = ")[1].split("/")[1])
        assert 76 < average < 90
    finally:
        cli("down", "--name", "delayed", check=True)


def test_a_running_lab_refuses_delay_where_there_is_no_netem(lab: RunningLab) -> None:
    result = cli("link", "carol", "--delay", "40ms", "--name", lab.name)
    assert result.returncode == (0 if has_netem() else 3)
    if not has_netem():
        assert "this kernel has no sch_netem" in result.stderr


def test_a_change_that_the_kernel_refuses_leaves_the_link_as_it_was(lab: RunningLab) -> None:
    def rules() -> list[str]:
        ends = (("cut-nat", "wan"), ("internet", "cut-nat"))
        return [lab.exec(node, "nft", "list", "table", "netdev", f"link-{name}").stdout for node, name in ends]

    change(lab, "cut-nat", "--loss", "10")
    before = rules()
    with pytest.raises(StateError, match="rate"):
        lab.lab.ask_once("link", node="cut-nat", quality=LinkQuality(loss=50, rate=1).model_dump())
    assert rules() == before
    assert lab.lab.ask_once("links")["links"]["cut-nat"]["loss"] == 10
    change(lab, "cut-nat", "--clear")


REFUSED = """
import sys
from lab.backends import links
from lab.cli import app
from lab.node import NodeError

def refuse(*_):
    raise {error}("lossy-nat: refused")

links.shape = refuse
app(sys.argv[1:])
"""


@pytest.mark.parametrize("error", ["NodeError", "RuntimeError"])
def test_up_ends_when_a_link_cannot_be_made_so(tmp_path: Path, error: str) -> None:
    path = tmp_path / "links.yaml"
    path.write_text(LINKS)
    command = (sys.executable, "-c", REFUSED.format(error=error), "up", str(path), "--name", "refused")
    try:
        up = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert up.returncode == 1
        assert "lossy-nat: refused" in up.stderr
        until(lambda: Lab("refused").pid() is None)
    finally:
        Lab("refused").down()


@pytest.mark.parametrize(("command", "package"), [("nft", "nftables"), ("tc", "iproute2")])
def test_tools_that_links_need_are_looked_for_first(
    monkeypatch: pytest.MonkeyPatch, command: str, package: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name == command else f"/usr/sbin/{name}")
    with pytest.raises(MachineError, match=f"command {command} is missing, and links need it: .* {package}"):
        netns.preflight(plan(parse(LINKS.encode(), "links.yaml")))
