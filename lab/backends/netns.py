"""The namespace backend: a lab inside one process's namespaces, for root and for ordinary users alike."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from lab.backends import isolation, linux
from lab.doctor import trial
from lab.doctor.commands import BY_NAME
from lab.doctor.facts import Step
from lab.doctor.remedies import DOCTOR, TUN, USER_NAMESPACES, modprobe
from lab.link import NETEM
from lab.logs import set_up as set_up_logs
from lab.plan import Plan
from lab.state import Lab, MachineError, StateError

_FILES = 200
_FILES_EACH = 5
"""Open files of a lab's busiest processes: for each node its namespace, and in checks the sockets of both ends."""

_NO_TC = "the command tc is missing: install the package iproute2"

_NO_NETEM = f"this kernel has no sch_netem: load it ({modprobe('sch_netem')}), or leave out delay, jitter and reorder"


def preflight(plan: Plan) -> None:
    """See to it that the machine can run this plan, before anything is made. Raises MachineError."""
    missing = []
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        missing.append(f"/dev/net/tun cannot be opened: {TUN}")
    linux.use_system_tools()
    firewalls = [node.firewall for node in plan.nodes if node.firewall is not None]
    imperfect = any(network.qualities for network in plan.networks)
    for command, whose, needed in (
        ("iptables-restore", "NATs", any(firewall.iptables for firewall in firewalls)),
        ("ipset", "NATs", any(firewall.ipset for firewall in firewalls)),
        ("nft", "NATs", any(firewall.nftables for firewall in firewalls)),
        ("nft", "links", imperfect),
        ("tc", "links", imperfect),
    ):
        if needed and shutil.which(command) is None:
            package = BY_NAME[command].package
            missing.append(f"the command {command} is missing, and {whose} need it: install the package {package}")
    if os.geteuid() != 0 and trial.start(()).result().problem is not None:
        missing.append(f"unprivileged user namespaces are switched off: {USER_NAMESPACES}")
    slow = [
        f"{node} ({option})"
        for network in plan.networks
        for node, quality in network.qualities.items()
        for option in NETEM
        if getattr(quality, option)
    ]
    if slow and shutil.which("tc") is not None and not has_netem():
        missing.append(f"links of {', '.join(slow)}: they need netem, and {_NO_NETEM}")
    missing += too_small(len(plan.nodes), resource.getrlimit(resource.RLIMIT_NOFILE)[1], _most_namespaces())
    if missing:
        raise MachineError("\n".join([*missing, DOCTOR]))


def too_small(nodes: int, files: int, namespaces: int) -> list[str]:
    """Which limits of the machine a lab of so many nodes would run into: open files of a process, and namespaces.

    Negative: there is no limit.
    """
    problems = []
    needed = _FILES + _FILES_EACH * nodes
    if 0 <= files < needed:
        problems.append(
            f"a process may open {files:,} files here, and a lab of {nodes:,} nodes needs {needed:,}: raise the"
            f" hard limit (ulimit -Hn {needed}, as root, or LimitNOFILE), or make the lab smaller"
        )
    if 0 <= namespaces < nodes:
        problems.append(
            f"there may be {namespaces:,} network namespaces here, and a lab of {nodes:,} nodes has as many:"
            f" sysctl user.max_net_namespaces={nodes * 2}, or make the lab smaller"
        )
    return problems


def _most_namespaces() -> int:
    try:
        return int(Path("/proc/sys/user/max_net_namespaces").read_text())
    except OSError:
        return -1


def why_no_netem() -> str | None:
    """What this machine lacks to delay packets; None if it can."""
    if linux.find_tool("tc") is None:
        return _NO_TC
    return None if has_netem() else _NO_NETEM


def has_netem() -> bool:
    """Whether the kernel can delay packets."""
    return trial.start([Step.DELAY]).result().steps.get(Step.DELAY, "not tried") is None


def launch(plan: Plan, topology: dict[str, Any], lab: Lab, *, measure: bool = True) -> Iterator[dict[str, Any]]:
    """Start a lab's supervisor and yield its reports; the last is `up`, or `failed` with `why` and `log`.

    `measure`: whether the NATs are measured; `topology`: what later changes start from. The lab's directory must have
    been prepared. Raises StateError when the supervisor dies without a word.
    """
    reading, writing = os.pipe()
    user = None if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _become_supervisor(plan, topology, lab, writing, user, measure=measure)
    os.close(writing)
    with os.fdopen(reading) as reports:
        os.waitpid(pid, 0)  # it has forked the supervisor, and ended
        for line in reports:
            report: dict[str, Any] = json.loads(line)
            yield report
            if report["event"] in ("up", "failed"):
                return
    raise StateError(f"the supervisor of lab {lab.name!r} has died; its log is {lab.supervisor_log}")


def _become_supervisor(
    plan: Plan,
    topology: dict[str, Any],
    lab: Lab,
    reports: int,
    user: tuple[int, int] | None,
    *,
    measure: bool,
) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = os.open(lab.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    # Above all the lock on `up`, which would live as long as the supervisor.
    os.closerange(3, reports)
    os.closerange(reports + 1, os.sysconf("SC_OPEN_MAX"))
    set_up_logs(lab=lab.name)

    def tell(report: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # whoever started us has gone; the lab goes on
            os.write(reports, json.dumps(report).encode() + b"\n")

    isolation.run(plan, topology, lab, tell, user=user, measure=measure)
