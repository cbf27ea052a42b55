"""Up, down and everything between: nothing is left behind, whatever happens, and the host never notices."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.state import ENVIRONMENT, Lab, all_labs
from tests.e2e.conftest import TOPOLOGIES, Start
from tests.e2e.labs import COMMAND, SMALL, cli, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.alone]


# What changes by itself on any host: counters, random seeds, caches, and the few numbers that mirror memory or time.
VOLATILE = re.compile(
    r"^(kernel\.(random|ns_last_pid|tainted|perf)|fs\.(dentry|inode|file-nr|quota|epoll|aio)|vm\.|user\.|net\.core\.netdev_rss"
    r"|net\.netfilter\.nf_conntrack_count|debug\.|dev\.cdrom|kernel\.pty|kernel\.keys|kernel\.sched|net\.ipv4\.tcp_fastopen_key)"
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def host_state() -> dict[str, str]:
    """What a lab must not touch: interfaces, addresses, routes, rules, firewall, sysctls, mounts, namespaces."""

    def output(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    sysctls = output("sysctl", "-a").splitlines()
    return {
        "links": re.sub(r'"stats.*?}', "", output("ip", "-j", "link")),
        "addresses": output("ip", "-o", "address"),
        "routes": output("ip", "route", "show", "table", "all") + output("ip", "-6", "route", "show", "table", "all"),
        "rules": output("ip", "rule") + output("ip", "-6", "rule"),
        "firewall": output("nft", "list", "ruleset") + output("ipset", "save"),
        "sysctls": "\n".join(line for line in sysctls if not VOLATILE.match(line)),
        "mounts": Path("/proc/self/mounts").read_text(),
        "named namespaces": output("ip", "netns"),
    }


def namespaces() -> set[str]:
    """All network and PID namespaces that some process of the machine is in."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for kind in ("net", "pid", "mnt"):
                try:
                    found.add(str((entry / "ns" / kind).readlink()))
                except OSError:
                    continue
    return found


def test_the_host_is_the_same_before_during_and_after(small: Path, tmp_path: Path) -> None:
    before = host_state()
    with running(small, tmp_path) as lab:
        lab.check()
        during = host_state()
    after = host_state()
    assert during == before
    assert after == before


def test_up_twice_leaves_the_lab_as_it_is(small: Path, tmp_path: Path) -> None:
    with running(small, tmp_path) as lab:
        before = lab.status()
        again = cli("up", str(small), "--name", lab.name, "--json", check=True)
        after = json.loads(again.stdout)
        assert after["supervisor"] == before["supervisor"]
        assert [node["teredo_address"] for node in after["nodes"]] == [
            node["teredo_address"] for node in before["nodes"]
        ]


def test_up_with_another_topology_is_refused_and_recreate_replaces(small: Path, tmp_path: Path) -> None:
    with running(small, tmp_path) as lab:
        before = lab.status()["supervisor"]
        small.write_text(SMALL.replace("carol", "dora"))
        refused = cli("up", str(small), "--name", lab.name)
        assert refused.returncode == 2
        assert "--recreate" in refused.stderr
        assert lab.status()["supervisor"] == before
        cli("up", str(small), "--name", lab.name, "--recreate", check=True)
        assert "dora" in {node["name"] for node in lab.status()["nodes"]}


def test_labs_live_side_by_side(small: Path, tmp_path: Path) -> None:
    with running(small, tmp_path) as one, running(small, tmp_path) as other:
        assert one.check()["ok"]
        assert other.check()["ok"]
        cli("down", "--name", one.name, check=True)
        assert other.reaches("alice", "web")


def test_down_works_without_the_topology_file_and_when_already_down(small: Path, tmp_path: Path) -> None:
    with running(small, tmp_path) as lab:
        small.unlink()
        assert cli("down", "--name", lab.name).returncode == 0
        assert cli("down", "--name", lab.name).returncode == 0
        assert Lab(lab.name).pid() is None
        assert not Lab(lab.name).directory.exists()


@contextlib.contextmanager
def cli_in_background(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`teredo-lab` while the context lasts, and until it has ended by itself."""
    process = subprocess.Popen((*COMMAND, *arguments), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    yield process
    process.wait(timeout=60)


def test_down_works_while_the_lab_is_half_started(small: Path) -> None:
    name = "half"
    for delay in (0.0, 0.02, 0.1, 0.2):
        with cli_in_background("up", str(small), "--name", name):
            until(Lab(name).pid_file.exists, pause=0.001)
            time.sleep(delay)
            assert cli("down", "--name", name).returncode == 0
        assert Lab(name).pid() is None
        Lab(name).down()


def killed_during_up(small: Path, name: str, delay: float) -> None:
    """Start a lab, and kill its supervisor so many seconds after it has come to be."""
    with cli_in_background("up", str(small), "--name", name):
        until(lambda: Lab(name).pid() is not None, pause=0.0005)
        time.sleep(delay)
        pid = Lab(name).pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


def test_sigkill_at_any_moment_of_up_leaves_nothing_and_the_next_up_works(small: Path) -> None:
    rng = random.Random(4380)
    name = "killed"
    before, host = namespaces(), host_state()
    try:
        for _ in range(20):
            killed_during_up(small, name, rng.uniform(0, 0.4))
            # The kernel takes processes, namespaces and locks down after the supervisor's end.
            until(lambda: not namespaces() - before and Lab(name).pid() is None)
        assert host_state() == host
        up_again = cli("up", str(small), "--name", name, "--check", "--json")
        assert up_again.returncode == 0, up_again.stderr
        assert json.loads(up_again.stdout)["ok"]
    finally:
        cli("down", "--name", name, check=True)


def test_killing_the_command_leaves_a_lab_that_can_be_used_and_taken_down(small: Path) -> None:
    name = "orphan"
    with cli_in_background("up", str(small), "--name", name) as up:
        until(lambda: Lab(name).pid() is not None, pause=0.001)
        up.kill()
    assert cli("down", "--name", name).returncode == 0
    assert name not in {lab.name for lab in all_labs()}


def test_status_is_as_the_contract_says(start: Start, small: Path) -> None:
    lab = start(small)
    status = json.loads(cli("status", "--name", lab.name, "--json", check=True).stdout)
    assert {"name", "backend", "topology", "nodes"} <= status.keys()
    assert status["topology"] == str(small)
    nodes = {node["name"]: node for node in status["nodes"]}
    assert nodes.keys() == {"internet", "server", "relay", "web", "home-nat", "alice", "away-nat", "carol"}
    for node in nodes.values():
        assert {"name", "role", "site", "program", "state", "ipv4", "ipv6", "teredo_address", "nat_kind"} <= node.keys()
    assert nodes["alice"]["state"] == "qualified"
    assert nodes["home-nat"]["nat_kind"] == "cone"
    assert nodes["alice"]["teredo_address"].startswith("2001:0:")
    one = json.loads(cli("status", "alice", "--name", lab.name, "--json", check=True).stdout)
    assert one["teredo"]["state"] == "qualified"
    text = cli("status", "alice", "--name", lab.name, check=True).stdout
    for label in ("Type:", "Server:", "Refresh interval:", "State:", "NAT:", "Local mapping:", "External NAT mapping:"):
        assert label in text


def test_exec_passes_exit_codes_and_names_and_signals(start: Start, small: Path) -> None:
    lab = start(small)
    assert lab.exec("alice", "ping", "-6", "-c", "1", "-w", "10", "web").returncode == 0
    assert lab.exec("alice", "uname", "-n").stdout == "alice\n"
    assert lab.exec("alice", "sh", "-c", "exit 7", check=False).returncode == 7
    assert lab.exec("alice", "no-such-command", check=False).returncode == 127
    assert lab.exec("alice", "sh", "-c", "kill -9 $$", check=False).returncode == 137
    nobody = cli("exec", "--name", lab.name, "nobody", "--", "true")
    assert nobody.returncode == 2
    assert "has no node 'nobody'" in nobody.stderr


def test_a_node_that_fails_says_which_why_and_where_its_log_is(start: Start, small: Path) -> None:
    lab = start(small)
    lab.exec("relay", "sh", "-c", "kill -9 $(pgrep -x relay:relay)")
    lab.wait_for(lambda nodes: nodes["relay"]["state"] == "failed")
    reason = lab.node("relay")["reason"]
    assert "signal 9" in reason
    assert Path(reason.rsplit(" ", 1)[1]).exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sites: {home: {nat: conee}}\nservers: {server: }\n", "conee"),
        ("", "empty"),
        ("servers: [", "this is not YAML"),
    ],
)
def test_bad_input_exits_with_2_and_makes_nothing(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    before = namespaces()
    result = cli("up", str(path), "--name", "bad")
    assert result.returncode == 2
    assert f"{path}:" in result.stderr
    assert message in result.stderr
    assert not Lab("bad").directory.exists()
    assert namespaces() - before == set()


def test_a_lab_cannot_have_a_name_that_leads_elsewhere(small: Path) -> None:
    for command in (("up", str(small)), ("down",), ("status",)):
        result = cli(*command, "--name", "../elsewhere")
        assert result.returncode == 2
        assert "'../elsewhere' is no name for a lab" in result.stderr


AS_ORDINARY_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
"""A process without any privilege; its lab needs nothing but user namespaces."""


def test_an_ordinary_user_has_the_same_lab(small: Path, tmp_path: Path) -> None:
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    del environment[ENVIRONMENT]

    def user(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = (*AS_ORDINARY_USER, sys.executable, "-m", "lab.cli", *arguments)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    assert (
        subprocess.run((*AS_ORDINARY_USER, "id", "-u"), capture_output=True, text=True, check=True).stdout == "1000\n"
    )
    up = user("up", str(small), "--check", "--json")
    try:
        assert up.returncode == 0, up.stderr + up.stdout
        answer = json.loads(up.stdout)
        assert answer["ok"]
        assert len(answer["results"]) == 18
    finally:
        assert user("down", "--all").returncode == 0


ALL_OF_THE_KERNEL = """
servers: {server: }
sites:
  a: {nat: upnp_port_symmetric, clients: {alice: }}
  b: {nat: {kind: cone, hairpin: true}, link: {loss: 1, rate: 5mbit}, clients: {bob: }}
  c: {nat: cone, behind: b}
"""


def test_an_ordinary_user_has_every_engine_upnp_and_bad_links(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    del environment[ENVIRONMENT]
    path = tmp_path / "kernel.yaml"
    path.write_text(ALL_OF_THE_KERNEL)

    def user(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = (*AS_ORDINARY_USER, sys.executable, "-m", "lab.cli", *arguments)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    up = user("up", str(path))
    try:
        assert up.returncode == 0, up.stderr + up.stdout
        nat = user("nat", "--json")
        assert nat.returncode == 0, nat.stderr
        assert [(row["engine"], row["upnp"], row["ok"]) for row in json.loads(nat.stdout)] == [
            ("iptables", True, True),
            ("nftables", False, True),
            ("iptables", False, True),
        ]
        assert user("nat", "reset", "a-nat").returncode == 0
        assert user("link", "alice", "--down").returncode == 0
    finally:
        assert user("down", "--all").returncode == 0


def test_an_ordinary_user_is_told_plainly_that_miredo_cannot_run(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    del environment[ENVIRONMENT]
    command = (*AS_ORDINARY_USER, sys.executable, "-m", "lab.cli")
    up = subprocess.run(
        (*command, "up", str(TOPOLOGIES / "default.yaml"), "--check"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        assert up.returncode == 0, up.stderr + up.stdout
        assert "left out: dave: Miredo gives up root" in up.stderr
    finally:
        subprocess.run((*command, "down", "--all"), env=environment, check=True, capture_output=True)
