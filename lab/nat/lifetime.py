"""Measures how long a NAT keeps idle mappings, and what prolongs them (RFC 5780 section 4.6, RFC 4787 REQ-5 and 6).

A mapping that is tested is prolonged by the test, so each is tested once: one mapping for each second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lab.nat.bench import Bench, Pair
from lab.nat.observation import Lifetimes

_CONFIRMING = 2.2
"""Seconds after which conntrack takes a flow that was answered for an established one."""

_CONFIRMATIONS = 5

_EARLY = 0.6
_LATE = 1.4
"""When a mapping is prolonged and when it is tested, in lifetimes: without the former it would be gone by then."""


async def lifetimes(bench: Bench, longest: int) -> Lifetimes:
    """Measure up to so many seconds. It takes that long at most, and then a mapping's lifetime and a half again."""
    with bench.open():
        new, established = await asyncio.gather(_life(bench, longest, _unanswered), _life(bench, longest, _answered))
        if established is None:
            return Lifetimes(new, None)
        outbound, inbound = await asyncio.gather(
            _prolonged(bench, established, lambda pair: pair.outward()),
            _prolonged(bench, established, lambda pair: pair.inward()),
        )
        return Lifetimes(new, established, outbound, inbound)


async def _unanswered(bench: Bench) -> Pair:
    """A mapping through which a packet has left, and none has come in."""
    pair = bench.pair()
    await pair.outward()
    return pair


async def _answered(bench: Bench) -> Pair:
    """A mapping that has carried packets both ways for a while; one from inside was the last."""
    pair = await _unanswered(bench)
    for _ in range(_CONFIRMATIONS):
        await pair.inward()
        await asyncio.sleep(_CONFIRMING / _CONFIRMATIONS)
        await pair.outward()
    return pair


async def _life(bench: Bench, longest: int, make: Callable[[Bench], Awaitable[Pair]]) -> int | None:
    """The last second in which a mapping of this sort lets a packet in; None if it lives on for `longest` seconds."""
    dead = asyncio.Event()

    async def lives(seconds: int) -> bool:
        pair = await make(bench)
        try:
            async with asyncio.timeout(seconds - 0.5):  # between the seconds at which it may end
                await dead.wait()
        except TimeoutError:
            pass
        else:
            return False
        alive = await pair.inward()
        if not alive:
            dead.set()  # older ones need not be waited for
        return alive

    tests = await asyncio.gather(*(lives(seconds) for seconds in range(1, longest + 1)))
    return tests.index(False) if False in tests else None


async def _prolonged(bench: Bench, life: int, prolong: Callable[[Pair], Awaitable[object]]) -> bool:
    pair = await _answered(bench)
    await asyncio.sleep(_EARLY * life)
    await prolong(pair)
    await asyncio.sleep((_LATE - _EARLY) * life)
    return await pair.inward()
