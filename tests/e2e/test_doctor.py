"""The doctor on this machine, which can run labs, and where something has been taken away from it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from lab.doctor.commands import BY_NAME
from lab.doctor.facts import Step
from lab.doctor.trial import start
from tests.e2e.labs import COMMAND, SMALL, Completed, cli
from tests.e2e.test_lifecycle import AS_ORDINARY_USER

pytestmark = pytest.mark.e2e

NOWHERE = os.environ | {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


def diagnosis(result: Completed) -> dict[str, dict[str, Any]]:
    """The findings by name, of what `doctor --json` has printed."""
    answer = json.loads(result.stdout)
    assert answer["ok"] == (result.returncode == 0), result.stderr
    assert all(finding.keys() == answer["findings"][0].keys() for finding in answer["findings"])
    return {finding["name"]: finding for finding in answer["findings"]}


def shell(script: str, *unshare: str) -> Completed:
    """Run a script in namespaces of its own; `$DOCTOR` is the command."""
    return subprocess.run(
        ("unshare", *unshare, "sh", "-ec", script),
        env=os.environ | {"DOCTOR": shlex.join((*COMMAND, "doctor"))},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def own(*namespaces: str) -> tuple[str, ...]:
    """Options for `unshare`; an ordinary user needs to be root there first."""
    return namespaces if os.geteuid() == 0 else ("--user", "--map-root-user", *namespaces)


def hiding(command: str) -> str:
    """A line of shell after which a command cannot be run; in a mount namespace of its own."""
    path = shutil.which(command)
    assert path is not None
    return f"mount --bind /dev/null {Path(path).resolve()}\n"


def test_this_machine_can_run_labs() -> None:
    found = diagnosis(cli("doctor", "--json", check=True))
    tried = (
        "network namespaces",
        "TUN",
        "links",
        "NATs by iptables",
        "NATs by nftables",
        "connection tracking",
        "rate",
    )
    assert {name: found[name]["status"] for name in tried} == dict.fromkeys(tried, "ok")
    assert found.keys() >= BY_NAME.keys()
    assert found["Python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    version = subprocess.run(("nft", "--version"), capture_output=True, text=True, check=True).stdout
    assert f"v{found['nft']['found']} " in version


def test_people_read_the_same() -> None:
    found = diagnosis(cli("doctor", "--json", check=True))
    text = cli("doctor", check=True).stdout
    assert text.endswith("\nlabs in network namespaces can run here\n")
    for finding in found.values():
        assert f"  {finding['name']} " in text
        assert finding["remedy"] is None or f"    {finding['remedy']}\n" in text


def test_it_leaves_nothing_behind() -> None:
    mark = uuid.uuid4().hex
    state = "ip -o link; ip rule; nft list ruleset; ipset list; cat /proc/self/mountinfo"
    result = shell(f'before=$({state})\nMARK={mark} $DOCTOR >&2\ntest "$before" = "$({state})"', *own("--net"))
    assert result.returncode == 0, result.stderr
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                environment = (process / "environ").read_bytes()
            except OSError:  # it has ended, or is somebody else's
                continue
            assert mark.encode() not in environment, (process / "cmdline").read_bytes()


def test_a_missing_command_is_named_with_the_way_to_get_it() -> None:
    result = shell(f"{hiding('nft')} exec $DOCTOR --json", *own("--mount"))
    assert result.returncode == 3
    nft = diagnosis(result)["nft"]
    assert nft["status"] == "missing"
    assert "nftables" in nft["remedy"]
    assert "NATs" in nft["purpose"]


def test_up_names_the_doctor_where_something_is_missing(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL.replace("nat: cone", "nat: cgn"))
    up = shlex.join((*COMMAND, "up", str(tmp_path / "small.yaml"), "--name", "undoctored"))
    result = shell(f"{hiding('nft')} exec {up}", *own("--mount"))
    assert result.returncode == 3
    assert "the command nft is missing, and NATs need it: install the package nftables" in result.stderr
    assert "`teredo-lab doctor`" in result.stderr


def test_without_namespaces_no_lab_can_run() -> None:
    script = "echo 0 > /proc/sys/user/max_net_namespaces\nexec $DOCTOR"
    result = shell(f"{script} --json", "--user", "--map-root-user")
    assert result.returncode == 3
    assert diagnosis(result)["network namespaces"]["status"] == "missing"
    told = shell(script, "--user", "--map-root-user").stdout
    assert told.endswith("\nlabs in network namespaces cannot run here: network namespaces\n")


def test_an_ordinary_user_is_judged_by_what_could_be_done() -> None:
    command = (*AS_ORDINARY_USER, *COMMAND, "doctor", "--json")
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    found = diagnosis(result)
    assert found["network namespaces"]["found"] == "made, in a user namespace"
    kernel = {found[name]["status"] for name in ("TUN", "links", "NATs by iptables", "NATs by nftables")}
    assert kernel == {"ok"}, "an ordinary user has every kind of NAT"
    assert "user namespaces" not in found


def test_what_only_containers_need_is_optional_for_namespaces_and_the_other_way_round() -> None:
    by_option = cli("doctor", "--json", "--backend", "docker", env=NOWHERE)
    by_environment = cli("doctor", "--json", env=NOWHERE | {"TEREDO_LAB_BACKEND": "docker"})
    for result in (by_option, by_environment):
        assert result.returncode == 3
        assert json.loads(result.stdout)["backend"] == "docker"
        engine = diagnosis(result)["engine"]
        assert engine["status"] == "missing"
        assert engine["found"] == "none answers at unix:///nowhere/docker.sock: No such file or directory"
    assert diagnosis(cli("doctor", "--json", env=NOWHERE, check=True))["engine"]["status"] == "optional-missing"


def test_an_engine_that_says_nothing_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        result = cli("doctor", "--json", "--backend", "docker", env=os.environ | {"DOCKER_HOST": host}, timeout=15)
    assert result.returncode == 3
    assert host in diagnosis(result)["engine"]["found"]


def test_a_backend_that_there_is_not() -> None:
    result = cli("doctor", "--backend", "vagrant")
    assert result.returncode == 2
    assert "there is no backend 'vagrant'" in result.stderr


def test_a_trial_tells_of_each_step_by_itself() -> None:
    trial = start([Step.VXLAN, Step.BRIDGE]).result()  # a tunnel needs the link that is not there
    assert trial.problem is None
    assert trial.steps[Step.BRIDGE] is None
    assert trial.steps[Step.VXLAN] is not None


def test_a_trial_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.doctor.trial.try_out", lambda _: socket.create_server(("127.0.0.1", 0)).accept())
    trial = start([]).result(timeout=0.2)
    assert trial.problem == "nothing came of it within 0.2 s"
