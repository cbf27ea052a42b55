"""What a machine's facts mean: what is missing, whether labs can run without it, and how to get it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.doctor.commands import BY_NAME, COMMANDS
from lab.doctor.facts import Docker, Engine, Facts, Package, Step, Trial, nat_step
from lab.doctor.findings import Backend, Finding
from lab.doctor.judgement import able, judge
from lab.nat.kinds import Engine as NatEngine

CONE = nat_step(NatEngine.IPTABLES, "cone")
CGN = nat_step(NatEngine.NFTABLES, "cgn")
WORKS: Mapping[str, str | None] = {**dict.fromkeys(Step), CONE: None, CGN: None}

ENGINE = Engine(
    version="29.0.1",
    api="1.52",
    os="linux",
    kind="Docker Desktop",
    architecture="aarch64",
    cgroup="v2 (systemd)",
    storage="overlay2",
    local=True,
    free=50 << 30,
    images={"teredo-lab/node:1": "fresh", "teredo-lab/miredo:1": "fresh"},
)
GOOD = Facts(
    root=True,
    debian=True,
    checkout=True,
    python="3.12.1",
    python_at_least="3.11",
    packages=(Package("rich", "13.7", "14.0.0"),),
    commands=dict.fromkeys(BY_NAME, "1.2"),
    namespaces=Trial(steps=WORKS),
    others=Trial(),
    sysctls={"user.max_user_namespaces": 15000},
    docker=Docker(ENGINE, None, None, Trial(steps=WORKS)),
    docker_commands={"docker": "29.0.1", "docker compose": "2.40.0", "docker buildx": "0.30.0"},
    memory=8 << 30,
)


def without(command: str, **also: Any) -> Facts:
    return replace(GOOD, commands={**GOOD.commands, command: None}, **also)


def failing(step: str, why: str, **also: Any) -> Facts:
    return replace(GOOD, namespaces=Trial(steps={**WORKS, step: why}), **also)


def with_docker(engine: Engine | None = ENGINE, problem: str | None = None, host: str | None = None) -> Facts:
    """Without a container's trial."""
    return replace(GOOD, docker=Docker(engine, problem, host))


def lacking(facts: Facts, backend: Backend = "netns") -> dict[str, Finding]:
    """By name, what is missing or optional."""
    return {finding.name: finding for finding in judge(facts, backend) if finding.status != "ok"}


@pytest.mark.parametrize("backend", ["netns", "docker"])
def test_a_machine_that_has_everything_can_run_labs_and_lacks_nothing(backend: Backend) -> None:
    findings = judge(GOOD, backend)
    assert able(findings)
    assert {finding.status for finding in findings} == {"ok"}
    assert [finding.group for finding in findings] == sorted(
        (finding.group for finding in findings), key=["machine", "namespaces", "commands", "Docker"].index
    )
    assert all(finding.found and finding.purpose and finding.remedy is None for finding in findings)


def test_everything_that_was_found_is_told_with_its_version() -> None:
    found = {finding.name: finding.found for finding in judge(GOOD, "netns")}
    assert found["Python"] == "3.12.1"
    assert found["Python packages"] == "rich 14.0.0"
    assert found["nft"] == "1.2"
    assert found["engine"] == "29.0.1 (API 1.52), Docker Desktop, aarch64, cgroup v2 (systemd), overlay2"
    assert found["NATs by iptables"] == "1 kinds loaded"
    assert found.keys() >= BY_NAME.keys()


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_a_missing_command_says_what_it_is_for_and_how_to_get_it(command: str) -> None:
    facts = without(command, checkout=False)
    (finding,) = lacking(facts).values()
    assert finding.found == "not found"
    assert finding.purpose == BY_NAME[command].purpose
    assert finding.remedy == f"apt-get install -y --no-install-recommends {BY_NAME[command].package}"
    assert able(judge(facts, "netns")) is not BY_NAME[command].required
    assert able(judge(facts, "docker")), "containers bring their commands with them"


def test_the_way_to_get_a_command_depends_on_who_asks_and_where() -> None:
    ordinary = lacking(without("nft", root=False))["nft"]
    assert ordinary.remedy == "sudo apt-get install -y --no-install-recommends nftables"
    elsewhere = lacking(without("nft", debian=False))["nft"]
    assert elsewhere.remedy == "install it with your system's package manager (Debian calls it nftables)"
    daemon = lacking(without("miredo"))["miredo"]
    assert daemon.remedy == "make packages (it starts no daemon)"


def test_an_ordinary_user_is_told_that_miredo_is_not_for_them() -> None:
    found = {finding.name: finding.found for finding in judge(replace(GOOD, root=False, others=None), "netns")}
    assert found["miredo"] == "1.2; labs of ordinary users leave it out"
    assert "left out" not in found["tcpdump"]


def test_what_needs_a_missing_command_is_put_down_to_that() -> None:
    steps = {**WORKS, Step.LOSS: "the command nft is missing", CGN: "the command nft is missing"}
    found = lacking(without("nft", namespaces=Trial(steps=steps)))
    assert found["loss"].remedy == "get nft first"
    assert found["NATs by nftables"].remedy == "get nft first"
    assert found["nft"].status == "missing"


@pytest.mark.parametrize(
    ("step", "name", "blocks", "remedy"),
    [
        (Step.TUN, "TUN", True, "modprobe tun; chmod 666 /dev/net/tun"),
        (Step.VETH, "links", True, "modprobe veth;"),
        (Step.IPV6, "links", True, "modprobe ipv6;"),
        (Step.RULES, "links", True, "a kernel that has it"),
        (Step.CONNTRACK, "connection tracking", True, "modprobe nf_conntrack;"),
        (CONE, "NATs by iptables", True, "modprobe -a ip_tables xt_set;"),
        (CGN, "NATs by nftables", False, "modprobe nft_chain_nat;"),
        (Step.LOSS, "loss", False, "modprobe nf_tables;"),
        (Step.RATE, "rate", False, "modprobe sch_tbf;"),
        (Step.DELAY, "delay", False, "modprobe sch_netem;"),
    ],
)
def test_what_the_kernel_refuses_is_told_in_its_words(step: str, name: str, blocks: bool, remedy: str) -> None:
    facts = failing(step, "not supported")
    (finding,) = lacking(facts).values()
    assert finding.name == name
    assert "not supported" in finding.found
    assert finding.remedy is not None
    assert finding.remedy.startswith(remedy)
    assert able(judge(facts, "netns")) is not blocks


def test_kinds_of_nat_that_fail_alike_are_named_together() -> None:
    other = nat_step(NatEngine.IPTABLES, "hotel")
    facts = replace(GOOD, namespaces=Trial(steps={**WORKS, CONE: "no set", other: "no set"}))
    assert lacking(facts)["NATs by iptables"].found == "cone, hotel: no set"


def test_rules_that_are_too_long_for_an_ordinary_user_need_root() -> None:
    found = lacking(failing(CGN, "nft -f - failed: Message too long", root=False))["NATs by nftables"]
    assert found.remedy is not None
    assert found.remedy.startswith("run as root")


def test_without_namespaces_there_is_nothing_more_to_tell_of_them() -> None:
    facts = replace(GOOD, root=False, others=None, namespaces=Trial("Operation not permitted"))
    (finding,) = lacking(facts).values()
    assert (finding.name, finding.status) == ("network namespaces", "missing")
    assert finding.found == "cannot be made: Operation not permitted"
    assert "TUN" not in {finding.name for finding in judge(facts, "netns")}
    assert able(judge(facts, "docker"))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("kernel.unprivileged_userns_clone", 0, 1),
        ("kernel.apparmor_restrict_unprivileged_userns", 1, 0),
        ("user.max_user_namespaces", 0, 15000),
    ],
)
def test_the_setting_that_forbids_user_namespaces_is_named(name: str, value: int, wanted: int) -> None:
    denied = Trial("Operation not permitted")
    ordinary = replace(GOOD, root=False, others=None, namespaces=denied, sysctls={name: value})
    finding = lacking(ordinary)["network namespaces"]
    assert f"({name} is {value})" in finding.found
    assert finding.remedy == f"run it as root, or: sudo sysctl -w {name}={wanted}"
    root = replace(GOOD, others=denied, sysctls={name: value})
    finding = lacking(root)["user namespaces"]
    assert finding.status == "optional-missing"
    assert finding.remedy == f"sysctl -w {name}={wanted}"
    assert able(judge(root, "netns"))


def test_a_setting_that_forbids_nothing_is_not_blamed() -> None:
    facts = replace(GOOD, others=Trial("Operation not permitted"), sysctls={"kernel.unprivileged_userns_clone": 1})
    finding = lacking(facts)["user namespaces"]
    assert finding.found == "ordinary users cannot make them: Operation not permitted"
    assert finding.remedy == "see what your kernel and its security module allow"


@pytest.mark.parametrize(
    ("package", "why"),
    [
        (Package("rich", "13.7", None), "rich is missing"),
        (Package("rich", "13.7", "13.6.9"), "rich 13.6.9 is too old"),
        (Package("rich", "13.7", "13.10"), None),
        (Package("rich", "13.7", "13.7rc1"), None),
    ],
)
def test_python_packages_are_there_and_new_enough(package: Package, why: str | None) -> None:
    finding = lacking(replace(GOOD, packages=(package,))).get("Python packages")
    assert (finding and finding.found) == why


def test_an_old_python_and_a_project_that_is_not_installed() -> None:
    assert lacking(replace(GOOD, python="3.10.4"))["Python"].found == "3.10.4 is too old"
    assert "not installed" in lacking(replace(GOOD, packages=()))["Python packages"].found


@pytest.mark.parametrize(
    ("memory", "backend", "found"),
    [
        (8 << 30, "netns", "8.0 GiB free: for about 1600 nodes"),
        (8 << 30, "docker", "8.0 GiB free: for about 320 nodes"),
        (400 << 20, "netns", "400 MiB free: for about 50 nodes"),
        (400 << 20, "docker", "400 MiB free: for about 10 nodes"),
        (390 << 20, "docker", "390 MiB free: not enough for 10 nodes"),
        (100 << 20, "netns", "100 MiB free: not enough for 10 nodes"),
    ],
)
def test_memory_is_told_in_nodes(memory: int, backend: Backend, found: str) -> None:
    facts = replace(GOOD, memory=memory)
    assert next(finding.found for finding in judge(facts, backend) if finding.name == "memory") == found
    assert able(judge(facts, backend)) is ("not enough" not in found)


@pytest.mark.parametrize(
    ("problem", "host", "checkout", "remedy"),
    [
        ("Permission denied", None, True, "usermod -aG docker $USER, then log in again"),
        ("Connection refused", "tcp://192.0.2.1:2375", True, "start it, or unset DOCKER_HOST"),
        ("No such file or directory", None, True, "tools/engine.sh up"),
        (
            "No such file or directory",
            None,
            False,
            "apt-get install -y --no-install-recommends docker.io, and start it",
        ),
    ],
)
def test_an_engine_that_does_not_answer(problem: str, host: str | None, checkout: bool, remedy: str) -> None:
    facts = replace(with_docker(None, problem, host), checkout=checkout)
    finding = lacking(facts, "docker")["engine"]
    assert finding.status == "missing"
    assert finding.remedy is not None
    assert finding.remedy.startswith(remedy)
    assert problem in finding.found
    assert host is None or host in finding.found
    assert lacking(facts, "netns")["engine"].status == "optional-missing"
    assert able(judge(facts, "netns"))


def test_an_engine_of_another_kind_of_container_will_not_do() -> None:
    facts = with_docker(replace(ENGINE, os="windows"))
    assert lacking(facts, "docker")["engine"].found == "it runs containers of windows, and labs need those of Linux"


@pytest.mark.parametrize(("command", "blocks"), [("docker", True), ("docker compose", False), ("docker buildx", False)])
def test_of_dockers_commands_only_the_first_is_needed(command: str, blocks: bool) -> None:
    facts = replace(GOOD, docker_commands={**GOOD.docker_commands, command: None})
    assert able(judge(facts, "docker")) is not blocks
    remedy = lacking(facts, "docker")[command].remedy
    assert remedy is not None
    assert remedy.startswith("tools/engine.sh")


def test_images_are_built_in_a_checkout_and_must_be_there_elsewhere() -> None:
    stale = with_docker(replace(ENGINE, images={"teredo-lab/node:1": "stale", "teredo-lab/miredo:1": "missing"}))
    finding = lacking(stale, "docker")["images"]
    assert finding.found == "teredo-lab/node:1 is stale, teredo-lab/miredo:1 is missing"
    assert able(judge(stale, "docker"))
    assert not able(judge(replace(stale, checkout=False), "docker"))


def test_disk_matters_while_there_are_images_to_build() -> None:
    full = replace(ENGINE, free=200 << 20)
    assert able(judge(with_docker(full), "docker"))
    facts = with_docker(replace(full, images={"teredo-lab/node:1": "missing"}))
    assert lacking(facts, "docker")["disk"].found == "200 MiB free"
    assert not able(judge(facts, "docker"))
    elsewhere = with_docker(replace(ENGINE, free=None))
    assert "disk" not in {finding.name for finding in judge(elsewhere, "docker")}


def test_what_containers_need_of_the_kernel_is_taken_from_a_container_if_one_was_tried() -> None:
    no_vxlan = Trial(steps={**WORKS, Step.VXLAN: "not supported"})
    in_container = replace(GOOD, docker=replace(GOOD.docker, container=no_vxlan))
    assert lacking(in_container, "docker")["VXLAN"].status == "missing"
    assert lacking(in_container, "netns")["VXLAN"].status == "optional-missing"
    here = failing(Step.VXLAN, "not supported", docker=Docker(ENGINE, None, None))
    assert lacking(here, "docker")["VXLAN"].status == "missing"
    only_here = failing(Step.VXLAN, "not supported")
    assert "VXLAN" not in lacking(only_here, "docker")


def test_an_engine_on_another_kernel_is_not_judged_by_this_one() -> None:
    facts = failing(Step.TUN, "No such file or directory", docker=Docker(replace(ENGINE, local=False), None, None))
    assert able(judge(facts, "docker"))
    assert not able(judge(facts, "netns"))
    assert not able(judge(failing(Step.TUN, "No such file", docker=Docker(ENGINE, None, None)), "docker"))


@pytest.mark.parametrize(
    ("container", "found", "blocks"),
    [
        (Trial("the engine refused it: no /dev/net/tun"), "the engine refused it: no /dev/net/tun", True),
        (Trial(steps={**WORKS, Step.BRIDGE: "not supported"}), "links: bridge: not supported", True),
        (Trial(steps={**WORKS, CONE: "no set"}), "NATs by iptables: cone: no set", True),
        (Trial(steps={**WORKS, CGN: "no map"}), "NATs by nftables: cgn: no map", False),
    ],
)
def test_a_container_that_cannot_do_what_nodes_do(container: Trial, found: str, blocks: bool) -> None:
    facts = replace(GOOD, docker=replace(GOOD.docker, container=container))
    assert lacking(facts, "docker")["a container"].found == found
    assert able(judge(facts, "docker")) is not blocks
    assert able(judge(facts, "netns"))


def test_set_up_installs_what_the_doctor_looks_for() -> None:
    script = (Path(__file__).parents[2] / "tools" / "setup.sh").read_text(encoding="utf-8")
    lists = {
        name: dict(pair.split(":") for pair in pairs.split())
        for name, pairs in re.findall(r"^readonly (LAB|TESTS|OPTIONAL)=\(([^)]+)\)", script, re.MULTILINE)
    }
    assert lists.keys() == {"LAB", "TESTS", "OPTIONAL"}
    assert lists["LAB"] | lists["TESTS"] | lists["OPTIONAL"] == {each.name: each.package for each in COMMANDS}
    assert {each.name for each in COMMANDS if each.required} <= lists["LAB"].keys()
