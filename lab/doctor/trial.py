"""What labs ask of the kernel, really tried in namespaces of a child, which end with it. They leave nothing behind.

The same steps run in a container that may do what a node may: `python -m lab.doctor.trial` prints what came of them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import IPv4Address
from typing import Any, Final, NoReturn

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lab.backends import linux, trunk
from lab.backends.containers import Tunnel
from lab.doctor.facts import Step, Trial, nat_step
from lab.link import loss_rules, queue
from lab.nat import engines
from lab.nat.kinds import NAMES, Engine, NatBehaviour
from lab.nat.setup import NatSetup
from lab.node import NodeError, apply_firewall, apply_sysctls, remove_firewall, run_tool
from lab.plan import TRUNK, Firewall, LinkQuality, udp_timeouts
from lab.teredo.tun import Interface, Tun, TunError

SYSCTLS: Final = udp_timeouts(31, 121)
"""Not what they are by themselves, so that setting them is tried too."""

_NAME = "doctor"
_TIMEOUT = 20.0
_OUTSIDE = [IPv4Address("198.51.100.1") + number for number in range(4)]
_INSIDE = [IPv4Address("192.168.0.2") + number for number in range(2)]


def everything() -> tuple[str, ...]:
    """All steps there are."""
    return tuple(_STEPS)


class Attempt:
    """Steps that are being tried in a child."""

    def __init__(self, pid: int, reading: int) -> None:
        self._pid = pid
        self._reading = reading

    def result(self, timeout: float = _TIMEOUT) -> Trial:
        """What came of it; the child has ended then, and what it has made is gone."""
        text = b""
        try:
            while select.select([self._reading], [], [], timeout)[0]:
                part = os.read(self._reading, 65536)
                if not part:
                    return Trial(**json.loads(text)) if text else Trial("the process that tried it died")
                text += part
            return Trial(f"nothing came of it within {timeout:g} s")
        finally:
            os.close(self._reading)
            os.killpg(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def start(steps: Iterable[str], become: int | None = None) -> Attempt:
    """Begin to try steps in namespaces like a lab's, as this user or, where root asks, as another one.

    To be called while there are no threads: the child is a fork.
    """
    reading, writing = os.pipe()
    gone, alive = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(gone)
        os.setsid()
        os.close(alive)
        _try_isolated(steps, writing, become)
    os.close(writing)
    os.close(alive)
    os.read(gone, 1)  # it leads a process group now
    os.close(gone)
    return Attempt(pid, reading)


def _try_isolated(steps: Iterable[str], writing: int, become: int | None) -> NoReturn:
    try:
        if become is not None:
            linux.become(become)
        linux.isolate(None if os.geteuid() == 0 else (os.geteuid(), os.getegid()))
        child = os.fork()
        if child == 0:
            linux.mount_own()
            _tell(writing, steps=try_out(steps))
        else:
            os.waitpid(child, 0)
    except OSError as error:
        _tell(writing, problem=_text(error))
    except BaseException:
        _tell(writing, problem=traceback.format_exc())
    finally:
        os._exit(0)


def _tell(writing: int, **result: Any) -> None:
    with os.fdopen(writing, "w") as stream:
        json.dump(result, stream)


def try_out(steps: Iterable[str]) -> dict[str, str | None]:
    """Try steps here, in a network that nobody else needs; what was said against each, None where it worked."""
    linux.use_system_tools()
    results: dict[str, str | None] = dict.fromkeys(steps)
    for step in results:
        try:
            _STEPS[step]()
        except (OSError, NetlinkError, NodeError, TunError) as error:
            results[step] = _text(error)
    return results


def _text(error: Exception) -> str:
    if isinstance(error, NetlinkError):
        return os.strerror(error.code)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error).removeprefix(f"{_NAME}: ")


def _tun() -> None:
    Tun(Interface(_NAME)).close()


def _add(name: str, **options: Any) -> None:
    with IPRoute() as ip:
        ip.link("add", ifname=name, **options)


def _ipv6() -> None:
    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
        ip.addr("add", index=1, address="2001:db8::1", prefixlen=128)


def _rules() -> None:
    with IPRoute() as ip:
        ip.rule("add", family=socket.AF_INET6, src="2001:db8::/64", table=100)


def _vxlan() -> None:
    trunk.join(_NAME, [Tunnel(interface="vxlan", vni=1, remote="192.0.2.1")])


def _quality(quality: LinkQuality) -> None:
    run_tool(_NAME, ("tc", *queue("lo", quality)))
    run_tool(_NAME, ("tc", "qdisc", "del", "dev", "lo", "root"))


def _nat(firewall: Firewall) -> None:
    apply_firewall(_NAME, firewall)
    remove_firewall(_NAME, firewall)


def _nats() -> dict[str, Callable[[], None]]:
    """Every kind of NAT, made by the engine that a lab would take."""
    steps: dict[str, Callable[[], None]] = {}
    for kind, behaviour in NAMES.items():
        for hosts in range(1, len(_INSIDE) + 1):
            engine = engines.choose(behaviour, hosts)
            if (step := nat_step(engine, kind)) not in steps:
                steps[step] = partial(_nat, _rules_of(behaviour, hosts, engine))
    return steps


def _rules_of(behaviour: NatBehaviour, hosts: int, engine: Engine) -> Firewall:
    setup = NatSetup(behaviour, tuple(_OUTSIDE[: behaviour.addresses]), tuple(_INSIDE[:hosts]))
    return engines.firewall(setup, engine).model_copy(update={"sysctls": {}})  # a container's are the engine's to set


_STEPS: Final[dict[str, Callable[[], None]]] = {
    Step.TUN: _tun,
    Step.VETH: partial(_add, TRUNK, kind="veth", peer="wan"),
    Step.BRIDGE: partial(_add, "lan", kind="bridge"),
    Step.IPV6: _ipv6,
    Step.RULES: _rules,
    Step.PACKETS: lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM).close(),
    Step.VXLAN: _vxlan,
    Step.LOSS: lambda: run_tool(_NAME, ("nft", "-f", "-"), loss_rules("lo", LinkQuality(loss=50))),
    Step.RATE: partial(_quality, LinkQuality(rate=10**6)),
    Step.DELAY: partial(_quality, LinkQuality(delay=1)),
    **_nats(),
    Step.CONNTRACK: partial(apply_sysctls, _NAME, SYSCTLS),
}
"""In this order: links before what is made of them, and connection tracking is there when NATs have brought it in."""

if __name__ == "__main__":
    print(json.dumps(try_out(everything())))
