"""What is looked at to tell whether a machine can run labs, what each is for, and what its absence means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

State = Literal["ok", "missing", "optional"]

_EITHER: Final = frozenset({"netns", "docker"})
_NETNS: Final = frozenset({"netns"})
_DOCKER: Final = frozenset({"docker"})
_NEITHER: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing: which backends cannot do without it, what it is for, and how to get it."""

    name: str
    needed_by: frozenset[str]
    purpose: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a subject: that it is there or not, and which version, or why not."""

    there: bool
    what: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A subject as it was seen; `optional` is missing, and the chosen backend does without it."""

    name: str
    state: State
    what: str
    purpose: str
    remedy: str | None


def _command(name: str, package: str, purpose: str, needed_by: frozenset[str]) -> Subject:
    remedy = f"sudo apt-get install {package}, or the package of your system that has the command {name}"
    return Subject(f"command {name}", needed_by, purpose, remedy)


COMMANDS: Final[dict[str, tuple[str, str, frozenset[str]]]] = {
    "iptables-restore": ("iptables", "NATs that iptables can do exactly", _NETNS),
    "nft": ("nftables", "the other NATs, and links that lose packets", _NETNS),
    "ipset": ("ipset", "NATs that filter by address", _NETNS),
    "conntrack": ("conntrack", "resetting NATs, and looking at their mappings", _NETNS),
    "ip": ("iproute2", "looking around in nodes", _NEITHER),
    "tc": ("iproute2", "links with a rate or a delay", _NEITHER),
    "ping": ("iputils-ping", "trying things in nodes", _NEITHER),
    "sysctl": ("procps", "looking around in nodes", _NEITHER),
    "ethtool": ("ethtool", "looking around in nodes", _NEITHER),
    "miredo": ("miredo", "Miredo's clients and relays", _NEITHER),
    "miredo-server": ("miredo-server", "Miredo's servers", _NEITHER),
    "miniupnpd": ("miniupnpd-nftables", "NATs with UPnP, NAT-PMP and PCP", _NEITHER),
    "tcpdump": ("tcpdump", "captures, and the tests", _NEITHER),
    "tshark": ("tshark", "the tests", _NEITHER),
    "turnserver": ("coturn", "the tests", _NEITHER),
    "upnpc": ("miniupnpc", "the tests", _NEITHER),
}
"""Commands, each with Debian's package, what it is for, and the backends that cannot do without it.

In containers the images have them.
"""

_LOAD: Final = "load the module as root: modprobe"
_EXTRA: Final = "on Ubuntu it is in linux-modules-extra-$(uname -r)"

SUBJECTS: Final = (
    Subject("Python", _EITHER, "everything", "install Python 3.11 or newer, and make the virtual environment anew"),
    Subject("Python packages", _EITHER, "everything", "install the project again: pip install ."),
    Subject(
        "namespaces",
        _NETNS,
        "a lab is a process in namespaces of its own",
        "run as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1"
        " user.max_user_namespaces=15000, and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    Subject("TUN", _NETNS, "every Teredo interface", f"{_LOAD} tun, and allow its use: chmod 666 /dev/net/tun"),
    Subject("veth and bridge", _NETNS, "the links and LANs of a lab", f"{_LOAD} -a veth bridge"),
    Subject(
        "iptables in the kernel", _NETNS, "NATs that iptables can do exactly", f"{_LOAD} -a ip_tables ip_set; {_EXTRA}"
    ),
    Subject("nftables in the kernel", _NETNS, "the other NATs", f"{_LOAD} nf_tables; {_EXTRA}"),
    Subject("token buckets", _NEITHER, "links with a rate", f"{_LOAD} sch_tbf; {_EXTRA}"),
    Subject("netem", _NEITHER, "links with delay, jitter and reordering", f"{_LOAD} sch_netem; {_EXTRA}"),
    *(_command(name, *about) for name, about in COMMANDS.items()),
    Subject("Docker engine", _DOCKER, "labs in containers", "start Docker, or: tools/engine.sh up"),
    Subject("Docker client", _NEITHER, "`exec` and `shell` in containers", "sudo apt-get install docker.io"),
    Subject("Docker Compose", _NEITHER, "compose.yaml", "tools/engine.sh compose, or Docker's docker-compose-plugin"),
    Subject(
        "Docker buildx", _NEITHER, "BuildKit, for images", "tools/engine.sh compose, or Docker's docker-buildx-plugin"
    ),
    Subject("images", _NEITHER, "labs in containers; the first `up` builds them", "make images"),
    Subject("VXLAN in containers", _DOCKER, "the links between containers", f"{_LOAD} vxlan; {_EXTRA}"),
    Subject("memory", _EITHER, "the nodes", "end what else needs much, or take a smaller topology"),
    Subject("disk", _NEITHER, "the images", "make room where the engine keeps its data: docker system df"),
)
"""Everything that is looked at, in the order in which it is told."""


def judge(seen: Mapping[str, Seen], backend: str) -> list[Finding]:
    """What was seen, as it matters to a backend; what was not looked at is left out."""
    return [
        Finding(
            subject.name,
            "ok" if seen[subject.name].there else "missing" if backend in subject.needed_by else "optional",
            seen[subject.name].what,
            subject.purpose,
            None if seen[subject.name].there else subject.remedy,
        )
        for subject in SUBJECTS
        if subject.name in seen
    ]


def able(findings: list[Finding]) -> bool:
    """Whether the backend that they were judged for can run."""
    return all(finding.state != "missing" for finding in findings)


def facts(findings: list[Finding], backend: str) -> dict[str, Any]:
    """The findings as JSON has them."""
    return {
        "ok": able(findings),
        "backend": backend,
        "findings": [
            {
                "name": finding.name,
                "state": finding.state,
                "found": finding.what,
                "purpose": finding.purpose,
                "remedy": finding.remedy,
            }
            for finding in findings
        ],
    }
