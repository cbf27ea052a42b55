"""Which engine makes a NAT: iptables where it can do it exactly, nftables for the rest."""

from __future__ import annotations

from typing import Final

from lab.nat import iptables, nftables, upnp
from lab.nat.kinds import Engine, NatBehaviour
from lab.nat.setup import NatSetup, UnsupportedError
from lab.plan import Firewall

_BUILDERS: Final = {Engine.IPTABLES: iptables.firewall, Engine.NFTABLES: nftables.firewall}
_OBJECTIONS: Final = {Engine.IPTABLES: iptables.objection, Engine.NFTABLES: nftables.objection}


def choose(behaviour: NatBehaviour, hosts: int, wanted: Engine | None = None) -> Engine:
    """The engine for a NAT with so many inside hosts: the one wanted, or the first that does it exactly.

    Raises UnsupportedError, with what stands in the way.
    """
    objections = {engine: _OBJECTIONS[engine](behaviour, hosts) for engine in ([wanted] if wanted else _OBJECTIONS)}
    for engine, why in objections.items():
        if why is None:
            return engine
    what = "; ".join(f"{engine} cannot do this exactly: {why}" for engine, why in objections.items())
    raise UnsupportedError(what)


def firewall(nat: NatSetup, engine: Engine) -> Firewall:
    """The rules of a NAT. Raises UnsupportedError."""
    rules = _BUILDERS[engine](nat)
    return rules.model_copy(update={"nftables": rules.nftables + upnp.TABLE}) if nat.behaviour.upnp else rules
