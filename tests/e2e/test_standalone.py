"""Each Teredo program runs by itself too, as on a real machine: here in nodes whose own program has been stopped."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.conftest import Start
from tests.e2e.labs import COMMAND, SMALL, RunningLab

pytestmark = pytest.mark.e2e


@contextmanager
def program(lab: RunningLab, node: str, *arguments: str, until: str) -> Iterator[subprocess.Popen[str]]:
    """A program of ours in a node, from the command line, once its log has said `until`; ends by SIGTERM."""
    command = ("exec", "--name", lab.name, node, "--", *COMMAND, "teredo", *arguments)
    process = subprocess.Popen((*COMMAND, *command), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if json.loads(line).get("state") == until:
            break
    else:
        raise AssertionError("".join(said))
    try:
        yield process
    finally:
        lab.exec(node, "pkill", "-TERM", "-f", f"teredo {arguments[0]}")
        process.wait(timeout=10)


def stop(lab: RunningLab, node: str, name: str) -> None:
    """Stop the program that the lab has started in a node."""
    lab.exec(node, "pkill", "-TERM", "-x", name)
    lab.wait_for(lambda nodes: nodes[node]["state"] == "failed")


def test_server_relay_and_client_run_by_themselves(start: Start) -> None:
    lab = start(SMALL)
    web = lab.address("web")
    for node, name in (("alice", "client:alice"), ("server", "server:server"), ("relay", "relay:relay")):
        stop(lab, node, name)
    primary, secondary = lab.node("server")["ipv4"]
    directory = lab.lab.directory
    control = {kind: f"{directory}/{kind}.sock" for kind in ("client", "server", "relay")}
    serving = program(lab, "server", "server", primary, secondary, "--control", control["server"], until="running")
    relaying = program(
        lab, "relay", "relay", lab.node("relay")["ipv6"][0], "--control", control["relay"], until="running"
    )
    client = program(lab, "alice", "client", primary, "--control", control["client"], until="qualified")
    with serving, relaying, client:
        assert lab.exec("alice", "ping", "-6", "-c", "1", "-w", "10", web).returncode == 0
        state = (*COMMAND, "teredo", "state", "--control", control["client"])
        facts = json.loads(lab.exec("alice", *state, "--json").stdout)
        assert facts["state"] == "qualified"
        assert facts["server"] == primary
        assert "External NAT mapping:" in lab.exec("alice", *state).stdout
        assert facts["address"] in lab.exec("alice", "ip", "-6", "address", "show", "teredo").stdout
    assert "teredo" not in lab.exec("alice", "ip", "-o", "link").stdout, "the interface outlived its program"


def test_a_program_says_what_is_wrong_and_exits_with_2_or_3(start: Start) -> None:
    lab = start(SMALL)

    def run(*arguments: str) -> tuple[int, str]:
        result = lab.exec("alice", *COMMAND, "teredo", *arguments, check=False)
        return result.returncode, result.stderr

    code, message = run("client", "192.168.1.1")
    assert (code, "not a global unicast" in message) == (2, True)
    code, message = run("client", "192.0.2.2", "--bind", "192.0.2.99", "--control", f"{lab.lab.directory}/x.sock")
    assert (code, "cannot bind UDP 192.0.2.99" in message) == (3, True)
    code, message = run("client", "192.0.2.2", "--control", f"{lab.lab.directory}/x.sock")
    assert (code, "cannot make the interface teredo: another program has it" in message) == (3, True)
    code, message = run("relay", "fe80::1")
    assert (code, "not a native global" in message) == (2, True)
    code, message = run("state", "--control", "/nonexistent")
    assert (code, "no Teredo program answers" in message) == (2, True)
