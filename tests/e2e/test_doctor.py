"""`teredo-lab doctor` on this machine, whole and with something taken away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.labs import cli

pytestmark = pytest.mark.e2e


def doctor(*arguments: str, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the findings by name."""
    result = cli("doctor", "--json", *arguments, env=os.environ | environment)
    assert result.returncode in (0, 3), result.stderr
    answer = json.loads(result.stdout)
    assert answer["ok"] == (result.returncode == 0)
    return result.returncode, {finding["name"]: finding for finding in answer["findings"]}


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_this_machine_can_run_labs_and_nothing_is_left_of_the_trial() -> None:
    before = interfaces()
    code, findings = doctor()
    assert code == 0
    assert findings["TUN"]["found"] == "an interface was made"
    assert "cone" in findings["iptables in the kernel"]["found"] + findings["nftables in the kernel"]["found"]
    assert findings["Python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert interfaces() == before


def test_a_kernel_without_namespaces_is_named() -> None:
    """As for an ordinary user who may not have user namespaces."""
    program = (
        "from lab.backends import linux\n"
        "def refused(flags): raise PermissionError(1, 'unshare: not permitted')\n"
        "linux.unshare = refused\n"
        "from lab.doctor import trial\n"
        "trial.main()\n"
    )
    result = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == {
        "namespaces": {"there": False, "what": "[Errno 1] unshare: not permitted"},
    }


def test_a_command_that_is_missing_is_named_with_its_package(tmp_path: Path) -> None:
    for name in ("ip", "tc", "iptables-restore", "ipset", "conntrack", "ping"):
        (tmp_path / name).symlink_to("/bin/true")
    program = "import lab.doctor.probes as probes\nprobes.TOOLS = '/nowhere'\nfrom lab.cli import main\nmain()\n"
    result = subprocess.run(
        (sys.executable, "-c", program, "doctor", "--json"),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": str(tmp_path)},
    )
    assert result.returncode == 3, result.stderr
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert findings["command nft"]["state"] == "missing"
    assert "apt-get install nftables" in findings["command nft"]["remedy"]
    assert findings["command tshark"]["state"] == "optional"


def test_an_engine_that_does_not_answer_matters_to_containers_only(tmp_path: Path) -> None:
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"}
    code, findings = doctor("--backend", "docker", **nowhere)
    assert (code, findings["Docker engine"]["state"]) == (3, "missing")
    assert "no Docker engine answers" in findings["Docker engine"]["found"]
    code, findings = doctor("--backend", "netns", **nowhere)
    assert (code, findings["Docker engine"]["state"]) == (0, "optional")


def test_people_are_told_what_it_is_for_and_how_to_get_it(tmp_path: Path) -> None:
    nowhere = os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/docker.sock", "COLUMNS": "200"}
    said = cli("doctor", "--backend", "docker", env=nowhere)
    assert said.returncode == 3
    assert "for labs in containers" in said.stdout
    assert "tools/engine.sh up" in said.stdout
    assert "labs of docker cannot run here: Docker engine" in said.stdout
