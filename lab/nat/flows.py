"""What a running NAT remembers: looking at its flows and making it forget some. Call inside the NAT's namespace."""

from __future__ import annotations

import re
from collections.abc import Set

from pyroute2 import IPSet
from pyroute2.conntrack import Conntrack
from pyroute2.netlink.exceptions import NetlinkError

from lab.plan import Firewall

_REMOTE_SETS = re.compile(r"^create (seen_\S+)", re.MULTILINE)


def forget_remotes(firewall: Firewall, keep: Set[str]) -> None:
    """Forget every UDP flow but those with the remote addresses in `keep`, and whom the inside has talked to.

    Mappings stay: this makes the paths between clients cold again without touching the clients' addresses.
    """
    with Conntrack() as table:
        for entry in list(table.dump_entries()):
            if entry.tuple_orig.proto == 17 and not keep & {entry.tuple_orig.daddr, entry.tuple_orig.saddr}:
                try:
                    table.entry("del", tuple_orig=entry.tuple_orig)
                except NetlinkError:  # it ended by itself meanwhile
                    continue
    with IPSet() as sets:
        for name in _REMOTE_SETS.findall(firewall.ipset):
            sets.flush(name)
