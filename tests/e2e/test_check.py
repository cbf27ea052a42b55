"""What `check` finds: also what is not as expected, and what it writes for machines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.e2e.conftest import Start
from tests.e2e.labs import COMMAND, SMALL, cli

pytestmark = pytest.mark.e2e


def test_a_stopped_relay_is_found_with_the_pairs_that_suffer(start: Start, tmp_path: Path) -> None:
    lab = start(SMALL)
    lab.exec("relay", "pkill", "-TERM", "-x", "relay:relay")
    lab.wait_for(lambda nodes: nodes["relay"]["state"] == "failed")
    ping = lab.exec("web", "ping", "-6", "-n", "-c", "1", "-w", "5", lab.address("alice"), check=False)
    assert "Destination unreachable: No route" in ping.stdout, "packets circle between the relay and the core"
    report = tmp_path / "report.xml"
    result = cli("check", "--name", lab.name, "--junit", str(report))
    assert result.returncode == 1
    suite = ElementTree.parse(report).getroot()
    wrong = {case.get("name") for case in suite if case.find("failure") is not None}
    pairs = ("alice to web", "carol to web", "web to alice", "web to carol")
    assert wrong == {f"{pair} by {probe}" for pair in pairs for probe in ("icmp6", "udp", "tcp")}
    assert suite.get("tests") == "18"
    assert suite.get("failures") == "12"
    for pair in pairs:
        assert f"✗ {pair.replace(' to ', ' → ')} (icmp6)" in result.stdout


def test_an_expectation_of_the_file_is_checked_and_an_unfulfilled_one_fails(start: Start) -> None:
    wrong = SMALL + "checks: {expect: [{from: alice, to: carol, is: unreachable, because: a test}]}\n"
    lab = start(wrong)
    answer = lab.check("alice", "carol")
    assert not answer["ok"]
    failed = [result for result in answer["results"] if not result["ok"]]
    assert {(result["source"], result["destination"]) for result in failed} == {("alice", "carol")}
    assert {result["observed"] for result in failed} == {"reachable"}
    assert {result["path"] for result in failed} == {"direct"}


def test_a_peer_that_is_gone_is_reported_to_the_application_by_icmpv6(start: Start) -> None:
    """Four attempts of 2 s, then destination unreachable: ping says so instead of staying silent."""
    lab = start(SMALL)
    gone = lab.address("carol")
    lab.exec("carol", "pkill", "-KILL", "-x", "client:carol")
    lab.wait_for(lambda nodes: nodes["carol"]["state"] == "failed")
    ping = lab.exec("alice", "ping", "-6", "-c", "1", "-w", "15", gone, check=False)
    assert "Destination unreachable: Address unreachable" in ping.stdout


def test_unknown_nodes_are_refused(start: Start) -> None:
    lab = start(SMALL)
    result = cli("check", "--name", lab.name, "nobody")
    assert result.returncode == 2
    assert "has no node nobody" in result.stderr


def test_two_checks_at_once_do_not_disturb_each_other(start: Start) -> None:
    lab = start(SMALL)
    command = (*COMMAND, "check", "--name", lab.name, "--json")
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert json.loads(output)["ok"]
