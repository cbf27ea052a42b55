"""What a finding is, and those that follow from what was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lab.doctor import remedies
from lab.doctor.facts import Step, Trial
from lab.nat.kinds import KINDS, Engine

Status = Literal["ok", "missing", "optional-missing"]
Backend = Literal["netns", "docker"]

BOTH: Final = frozenset[Backend](("netns", "docker"))
NETNS: Final = frozenset[Backend](("netns",))
DOCKER: Final = frozenset[Backend](("docker",))
NONE: Final = frozenset[Backend]()

LINKS: Final = (Step.VETH, Step.BRIDGE, Step.IPV6, Step.RULES, Step.PACKETS)

_MODULES: Final[Mapping[str, str]] = {
    Step.TUN: "tun",
    Step.VETH: "veth",
    Step.BRIDGE: "bridge",
    Step.IPV6: "ipv6",
    Step.PACKETS: "af_packet",
    Step.VXLAN: "vxlan",
    Step.LOSS: "nf_tables",
    Step.RATE: "sch_tbf",
    Step.DELAY: "sch_netem",
    Step.CONNTRACK: "nf_conntrack",
    Engine.IPTABLES: "-a ip_tables xt_set",
    Engine.NFTABLES: "nft_chain_nat",
}
_COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    Step.LOSS: ("nft",),
    Step.RATE: ("tc",),
    Step.DELAY: ("tc",),
    Engine.IPTABLES: ("iptables-restore", "ipset", "nft"),
    Engine.NFTABLES: ("nft",),
}
"""What is tried with which commands; with nft, too, where iptables makes the NAT and miniupnpd opens its ports."""

_TOO_LONG: Final = "Message too long"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that labs use. `purpose` and `remedy` are of interest where it is missing."""

    group: str
    name: str
    status: Status
    found: str
    purpose: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A finding before it is known which backend shall run: `problem` says what is wrong, None if nothing is."""

    name: str
    problem: str | None
    found: str
    purpose: str
    remedy: str
    needed_by: frozenset[Backend] = NONE

    def finding(self, group: str, backend: Backend) -> Finding:
        """It is `missing` if labs of this backend cannot be without it."""
        if self.problem is None:
            return Finding(group, self.name, "ok", self.found, self.purpose)
        status: Status = "missing" if backend in self.needed_by else "optional-missing"
        return Finding(group, self.name, status, self.problem, self.purpose, self.remedy)


@dataclass(frozen=True, slots=True)
class Tried:
    """Findings that follow from a trial. `missing`: the commands that were not there for it."""

    trial: Trial
    root: bool
    missing: frozenset[str] = frozenset()

    def steps(self, name: str, steps: Sequence[Step], purpose: str, needed_by: frozenset[Backend] = NONE) -> Judged:
        """What came of some steps; those that were not tried are no problem."""
        failed = {step: why for step in steps if (why := self.trial.steps.get(step)) is not None}
        problem = "; ".join(why if len(steps) == 1 else f"{step}: {why}" for step, why in failed.items())
        found = "works" if len(steps) == 1 else ", ".join(steps)
        return Judged(name, problem or None, found, purpose, self._remedy(list(failed), problem), needed_by)

    def nats(self, engine: Engine, needed_by: frozenset[Backend]) -> Judged:
        """What came of the kinds of NAT that an engine makes. A lab can be without those that are not of RFC 6081."""
        prefix = f"{engine}: "
        tried = {step.removeprefix(prefix): why for step, why in self.trial.steps.items() if step.startswith(prefix)}
        failed: dict[str, list[str]] = {}
        for kind, why in tried.items():
            if why is not None:
                failed.setdefault(why, []).append(kind)
        problem = "; ".join(f"{', '.join(kinds)}: {why}" for why, kinds in failed.items())
        return Judged(
            f"NATs by {engine}",
            problem or None,
            f"{len(tried)} kinds loaded",
            "these kinds of NAT" if failed else "NATs",
            self._remedy([engine], problem),
            needed_by if any(kind in KINDS for kinds in failed.values() for kind in kinds) else NONE,
        )

    def _remedy(self, failed: Sequence[str], problem: str) -> str:
        missing = [name for what in failed for name in _COMMANDS.get(what, ()) if name in self.missing]
        if missing:
            return f"get {' and '.join(dict.fromkeys(missing))} first"
        if _TOO_LONG in problem:
            return "run as root: the kernel takes messages of 208 KiB from ordinary users, and these rules are longer"
        sudo = remedies.sudo(root=self.root)
        if list(failed) == [Step.TUN]:
            return f"{sudo}modprobe tun; {sudo}chmod 666 /dev/net/tun"
        modules = " ".join(_MODULES[what] for what in failed if what in _MODULES)
        if len(failed) > 1:
            modules = f"-a {modules}"
        return f"{sudo}{remedies.modprobe(modules)}" if modules else "a kernel that has it"
