"""Labs of many clients: they share processes, and nobody notices but who looks at these."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from lab.backends.namespaces import PROCESSES
from tests.e2e.conftest import TOPOLOGIES, Start
from tests.e2e.labs import RunningLab, until

pytestmark = pytest.mark.e2e

SHARED = f"""
servers: {{server: }}
relays: {{relay: }}
hosts: {{web: }}
checks: {{pairs: ring}}
sites:
  open: {{count: 2, nat: cone, clients: {{alice: {{count: 4}}}}}}
  upnp: {{nat: upnp_port_restricted, clients: {{dave: {{count: 2}}}}}}
  symmetric: {{nat: port_symmetric, clients: {{erin: {{extensions: []}}}}}}
  many: {{nat: port_restricted, clients: {{carol: {{count: {PROCESSES + 1}}}}}}}
"""


def clients_of(lab: RunningLab) -> dict[int, str]:
    """The processes that are clients, by their numbers outside of the lab."""
    supervisor = lab.status()["supervisor"]
    found: dict[int, str] = {}
    todo = [supervisor]
    while todo:
        process = Path(f"/proc/{todo.pop()}")
        children = (process / f"task/{process.name}/children").read_text().split()
        todo += map(int, children)
        name = (process / "comm").read_text().strip()
        if name.startswith("client:"):
            found[int(process.name)] = name
    return found


def test_a_hundred_clients_are_as_expected(start: Start) -> None:
    lab = start(TOPOLOGIES / "large" / "clients-100.yaml")
    assert len(clients_of(lab)) == 100
    answer = lab.check()
    assert len(answer["results"]) >= 900
    assert [result for result in answer["results"] if not result["ok"]] == []


def test_clients_that_share_processes_are_in_their_own_networks_and_write_their_own_logs(start: Start) -> None:
    lab = start(SHARED)
    states = Counter(node["state"] for node in lab.status()["nodes"] if node["role"] == "client")
    clients = 8 + 2 + 1 + PROCESSES + 1
    assert states == {"qualified": clients - 1, "off-line": 1}
    assert clients / 3 < len(clients_of(lab)) < clients
    for client in ("alice-1-1", "alice-2-4", "dave-2", "carol-7"):
        node = lab.node(client)
        address = lab.exec(client, "ip", "-6", "-oneline", "address", "show", "dev", "teredo").stdout
        assert node["teredo_address"] in address
        assert f'"node": "{client}"' in (log := Path(node["log"]).read_text())
        assert log.count('"node"') == log.count(f'"node": "{client}"')
    assert "symmetric NAT" in lab.node("erin")["reason"]
    assert lab.teredo("dave-1")["state"] == "qualified"
    answer = lab.check("alice-1-1", "alice-2-1", "dave-1", "carol-1", "web")
    assert answer["results"]
    assert [result for result in answer["results"] if not result["ok"]] == []


def test_what_kills_a_process_fails_the_clients_in_it_and_no_others(start: Start) -> None:
    lab = start(SHARED)
    process = next(iter(clients_of(lab)))
    os.kill(process, signal.SIGKILL)

    def failed() -> list[str]:
        return [node["reason"] for node in lab.status()["nodes"] if node["state"] == "failed"]

    until(lambda: len(failed()) == 2)
    assert all("signal 9" in reason for reason in failed())
    assert process not in clients_of(lab)
