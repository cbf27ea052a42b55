"""The Teredo machines in virtual time, behind NAT models, on an Internet that is a heap of events.

`lab.Simulation` builds one and runs it. Nothing here waits or touches the machine, and a seed decides everything, so an
hour of refreshes takes milliseconds and a failure happens again.
"""

from lab.simulation.hosts import Host, NativeHost, Ping
from lab.simulation.lab import Simulation
from lab.simulation.nat import NatModel
from lab.simulation.network import Clock, Internet, Outer
from lab.simulation.nodes import ClientNode, RelayNode, ServerNode

__all__ = [
    "ClientNode",
    "Clock",
    "Host",
    "Internet",
    "NatModel",
    "NativeHost",
    "Outer",
    "Ping",
    "RelayNode",
    "ServerNode",
    "Simulation",
]
