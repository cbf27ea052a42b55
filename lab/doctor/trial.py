"""Tries what the kernel can do, in namespaces that end with the process; prints what was seen as JSON.

Run by `lab.doctor.probes`: ``python -m lab.doctor.trial``, and in a container with the argument ``container``.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from ipaddress import IPv4Address
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lab.backends import linux
from lab.doctor.judgement import Seen
from lab.nat import engines
from lab.nat.kinds import NAMES, Engine
from lab.nat.setup import NatSetup
from lab.node import NodeError, apply_firewall, remove_firewall

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x1001


def _namespaces() -> str:
    flags = linux.NEWNET | linux.NEWPID | linux.NEWNS
    if os.geteuid() == 0:
        linux.unshare(flags)
        _go_on_in_a_child()
        return "as root"
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(flags | linux.NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _go_on_in_a_child()
    return "as an ordinary user, in a user namespace"


def _go_on_in_a_child() -> None:
    """A PID namespace is for children; when the first of them has ended, there can be no others."""
    pid = os.fork()
    if pid != 0:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _tun() -> str:
    with open("/dev/net/tun", "r+b", buffering=0) as device:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("@16sH22x", b"trial", _IFF_TUN))
    return "an interface was made"


def _links() -> str:
    with IPRoute() as ip:
        ip.link("add", ifname="trial0", kind="veth", peer="trial1")
        ip.link("add", ifname="trial2", kind="bridge")
        bridge = ip.link_lookup(ifname="trial2")[0]
        ip.link("set", index=ip.link_lookup(ifname="trial0")[0], master=bridge, state="up")
    return "a veth on a bridge was made"


def _vxlan() -> str:
    with IPRoute() as ip:
        ip.link("add", ifname="trial3", kind="vxlan", vxlan_id=1, vxlan_group="192.0.2.1", vxlan_port=4789)
    return "a VXLAN interface was made"


def _firewalls(engine: Engine) -> Callable[[], str]:
    """The rules of the kinds of NAT that this engine makes."""

    def load() -> str:
        kinds = [kind for kind, behaviour in NAMES.items() if engines.choose(behaviour, hosts=1) is engine]
        for kind in kinds:
            behaviour = NAMES[kind]
            external = tuple(IPv4Address("198.51.100.1") + number for number in range(behaviour.addresses))
            firewall = engines.firewall(NatSetup(behaviour, external, (IPv4Address("192.168.0.2"),)), engine)
            apply_firewall(kind, firewall)
            remove_firewall(kind, firewall)
        return f"the rules of these NATs were loaded: {', '.join(kinds)}"

    return load


def _queue(*discipline: str) -> Callable[[], str]:
    def add() -> str:
        command = ("tc", "qdisc", "replace", "dev", "lo", "root", *discipline)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise OSError(result.stderr.strip())
        return f"a queue of {discipline[0]} was made"

    return add


_HERE: Final[dict[str, Callable[[], str]]] = {
    "namespaces": _namespaces,
    "TUN": _tun,
    "veth and bridge": _links,
    "iptables in the kernel": _firewalls(Engine.IPTABLES),
    "nftables in the kernel": _firewalls(Engine.NFTABLES),
    "token buckets": _queue("tbf", "rate", "1mbit", "burst", "1540", "latency", "100ms"),
    "netem": _queue("netem", "delay", "1ms"),
}
_IN_A_CONTAINER: Final[dict[str, Callable[[], str]]] = {"VXLAN in containers": _vxlan}


def main() -> None:
    seen = {}
    for name, attempt in (_IN_A_CONTAINER if sys.argv[1:] == ["container"] else _HERE).items():
        try:
            seen[name] = Seen(True, attempt())
        except (OSError, NetlinkError, NodeError) as error:
            seen[name] = Seen(False, " ".join(str(error).split()))
            if name == "namespaces":
                break  # the rest would be tried on the machine itself
    print(json.dumps({name: asdict(each) for name, each in seen.items()}))


if __name__ == "__main__":
    main()
