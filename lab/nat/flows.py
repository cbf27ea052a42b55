"""What a running NAT remembers: looking at its flows and making it forget some. Call inside the NAT's namespace."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Set
from typing import Any

from lab.nat.kinds import Filtering, Mapping, NatBehaviour, PortChoice
from lab.nat.nftables import TABLE
from lab.plan import Firewall

_UDP = 17
_SEEN_REPLY = 2  # IPS_SEEN_REPLY of Linux's nf_conntrack_common.h


def mappings(in_maps: bool) -> list[dict[str, Any]]:
    """What the NAT translates now: ``{"inside", "outside", "remote", "opened", "answered", "expires"}``.

    A row for each remote that is let in, in words where it is no endpoint. `expires` is in seconds, `opened` a side,
    `answered` whether packets have gone both ways, None where that is not kept. `in_maps`: all that is nftables' maps,
    and not conntrack's flows.
    """
    if in_maps:
        rows = _mapped()
    else:
        from pyroute2.conntrack import Conntrack  # noqa: PLC0415 - slow to import, and few nodes need it

        with Conntrack() as table:
            rows = [row for entry in table.dump_entries() if (row := _mapping(entry)) is not None]
    return sorted(rows, key=lambda row: (row["inside"], row["remote"]))


def _mapped() -> list[dict[str, Any]]:
    """The same from maps: what is mapped, by whom it may be reached."""
    permitted = _elements("permitted")
    rows: list[dict[str, Any]] = []
    for key, expires, outside in _elements("mapped") or ():
        facts = {"inside": _endpoint(key[:2]), "outside": _endpoint(outside), "opened": "inside", "answered": None}
        if len(key) > 2:
            remotes = [(_endpoint(key[2:]), expires)]
        elif permitted is None:
            remotes = [("anybody", expires)]
        else:
            who = [(_endpoint(other[2:]), until) for other, until, _ in permitted if other[:2] == outside]
            remotes = who or [("nobody yet", expires)]
        rows += [facts | {"remote": remote, "expires": until} for remote, until in remotes]
    return rows


def _endpoint(parts: list[Any]) -> str:
    """An address, with or without its port."""
    return ":".join(map(str, parts))


def _mapping(entry: Any) -> dict[str, Any] | None:  # noqa: ANN401 - pyroute2 has no types
    """One flow; None if it is not UDP, or not translated."""
    there, back = entry.tuple_orig, entry.tuple_reply
    if there.proto != _UDP:
        return None
    sent_from, sent_to = f"{there.saddr}:{there.sport}", f"{there.daddr}:{there.dport}"
    answered_from, answered_to = f"{back.saddr}:{back.sport}", f"{back.daddr}:{back.dport}"
    facts = {"expires": entry.timeout, "answered": bool(entry.status & _SEEN_REPLY)}
    if there.saddr != back.daddr:
        return {"inside": sent_from, "outside": answered_to, "remote": sent_to, "opened": "inside"} | facts
    if there.daddr != back.saddr:
        return {"inside": answered_from, "outside": sent_to, "remote": sent_from, "opened": "outside"} | facts
    return None


def forget_remotes(behaviour: NatBehaviour, firewall: Firewall, keep: Set[str]) -> None:
    """Forget every UDP flow but those with the remote addresses in `keep`, and whom the inside has talked to.

    Mappings stay: this makes the paths between clients cold again without touching the clients' addresses.
    """
    from pyroute2.conntrack import Conntrack  # noqa: PLC0415 - as above
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    with Conntrack() as table:
        for entry in list(table.dump_entries()):
            if entry.tuple_orig.proto == _UDP and not keep & {entry.tuple_orig.daddr, entry.tuple_orig.saddr}:
                try:
                    table.entry("del", tuple_orig=entry.tuple_orig)
                except NetlinkError:  # it ended by itself meanwhile
                    continue
    if firewall.in_maps:
        _forget_elements(behaviour, keep)
    elif "create seen " in firewall.ipset:
        subprocess.run(("ipset", "flush", "seen"), check=True)


def _forget_elements(behaviour: NatBehaviour, keep: Set[str]) -> None:
    """The same for the maps of nftables, in which the third part of a key is a remote address if there is one."""
    names = ["permitted"] if behaviour.filtering is not Filtering.EIF else []
    if behaviour.mapping is not Mapping.EIM:
        kept = range(behaviour.addresses) if behaviour.ports is PortChoice.PRESERVING else ()
        names += ["mapped", *(f"kept{index}" for index in kept)]
    commands = [
        f"delete element ip {TABLE} {name} {{ {' . '.join(map(str, key))} }}\n"
        for name in names
        for key in _keys(name)
        if key[2] not in keep
    ]
    if commands and not _nft("".join(commands)):
        for command in commands:  # one of them has ended by itself meanwhile
            _nft(command)


def _nft(text: str) -> bool:
    return subprocess.run(("nft", "-f", "-"), input=text, text=True, capture_output=True, check=False).returncode == 0


def _keys(name: str) -> Iterator[list[Any]]:
    return (key for key, _, _ in _elements(name) or ())


def _elements(name: str) -> list[tuple[list[Any], int, list[Any]]] | None:
    """Each element of a map or set of the NAT: key, seconds that it has left, and value; None if there is no such."""
    kind = "map" if name == "mapped" else "set"
    listing = subprocess.run(
        ("nft", "-j", "list", kind, "ip", TABLE, name), capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        return None
    found: list[tuple[list[Any], int, list[Any]]] = []
    for item in json.loads(listing.stdout)["nftables"]:
        for element in item.get(kind, {}).get("elem", ()):
            key, value = element if kind == "map" else (element, {"concat": []})
            timed = key.get("elem", {"val": key})
            found.append((timed["val"]["concat"], timed.get("expires", 0), value["concat"]))
    return found
