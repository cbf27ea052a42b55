"""How good a link is: units as people write them, and what makes a link so: text for `nft` and arguments for `tc`.

Both ends of a link do the same to what they send. Loss and cuts are a packet filter's, a rate is a token bucket's, and
delay, jitter and reordering are netem's, which not every kernel has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from lab.plan import LinkQuality, Network

_RATES: Final = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_TIMES: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}

_MTU: Final = 1514
_LATENCY: Final = "100ms"
"""How long packets may wait for their turn before they are dropped, as in a router with a small buffer."""

_SLOWEST: Final = 1000
"""Bits a second; `tc` takes less than a byte a second for no rate, and one packet in minutes is as good as none."""

NETEM: Final = ("delay", "jitter", "reorder")


def percentage(written: object) -> float:
    """A percentage, with or without a sign. Raises ValueError."""
    return _number(written, {"%": 1.0, "": 1.0})


def rate(written: object) -> int:
    """Bits a second from ``10mbit``. Raises ValueError."""
    bits = _number(written, _RATES | {"": 1})
    if 0 < bits < _SLOWEST:
        raise ValueError(f"less than {show_rate(_SLOWEST)} is too slow")
    return int(bits)


def milliseconds(written: object) -> float:
    """Milliseconds from ``50ms`` or ``1.5s``. Raises ValueError."""
    return _number(written, _TIMES | {"": 1.0})


def _number(written: object, units: dict[str, float] | dict[str, int]) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z%]*)\s*", str(written).lower())
    if match is None or match[2] not in units:
        raise ValueError(f"one of these units is needed: {', '.join(filter(None, units))}")
    return float(match[1]) * units[match[2]]


def show_rate(bits: int) -> str:
    """A rate with the largest unit that makes it a whole number."""
    unit = next(unit for unit in reversed(_RATES) if bits % _RATES[unit] == 0)
    return f"{bits // _RATES[unit]}{unit}"


def problems(quality: LinkQuality) -> Iterator[tuple[str, str, str]]:
    """What does not go together: the option, what is wrong with it, and a remedy."""
    for option in ("jitter", "reorder"):
        if getattr(quality, option) and not quality.delay:
            yield option, f"{option} needs a delay", "add delay: 50ms"
    if quality.delay and quality.jitter > quality.delay:
        yield "jitter", "jitter cannot be more than the delay", "take less"


def uplinks(networks: Sequence[Network]) -> dict[str, tuple[tuple[str, str], tuple[str, str]]]:
    """By node, the link to the one upstream: the end at the node and the other one, as (node, interface)."""
    ends = {}
    for network in networks:
        (gateway, name), *others = network.members
        for number, (node, interface) in enumerate(others):
            ends[node] = (node, interface), (gateway, name if network.kind == "p2p" else f"{name}{number}")
    return ends


def loss_rules(interface: str, quality: LinkQuality) -> str:
    """An nftables table that drops what an interface sends, in place of the one before."""
    table = f"table netdev link-{interface}"
    text = f"{table}\ndelete {table}\n"
    lost = round(quality.loss * 10000)
    all_ = quality.down or lost >= 1_000_000  # nft refuses a comparison that is always true
    drop = "drop" if all_ else f"numgen random mod 1000000 < {lost} drop"
    if not quality.down and not quality.loss:
        return text
    hook = f'type filter hook egress device "{interface}" priority 0;'
    return f"{text}{table} {{\n  chain sent {{\n    {hook}\n    {drop}\n  }}\n}}\n"


def queue(interface: str, quality: LinkQuality) -> list[str]:
    """Arguments for `tc` that make an interface's queue; none where nothing is asked for."""
    replace = ["qdisc", "replace", "dev", interface, "root"]
    bits = f"{quality.rate}bit"
    if quality.delay:
        wait = [f"{quality.delay}ms", *([f"{quality.jitter}ms"] if quality.jitter else [])]
        reorder = ["reorder", f"{quality.reorder}%"] if quality.reorder else []
        return [*replace, "netem", "delay", *wait, *reorder, *(["rate", bits] if quality.rate else [])]
    if quality.rate:  # the bucket holds what may go at once: a hundredth of a second's worth, and two packets at least
        burst = max(2 * _MTU, quality.rate // 800)
        return [*replace, "tbf", "rate", bits, "burst", str(burst), "latency", _LATENCY]
    return []
