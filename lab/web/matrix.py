"""The matrix of a check as the page shows it: of each pair a few words, since a browser has no room for all results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

MOST_FAILURES: Final = 100
"""Results not as expected that are told in full."""

BAD: Final = "✗ "
"""What the words of a pair begin with that is not as expected."""


def matrix(results: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]) -> dict[str, Any]:
    """The results of a check in rows of words, one for each source; None where there is no result."""
    pairs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        pairs.setdefault((result["source"], result["destination"]), []).append(result)
    sources, destinations = (_in_order(pair[end] for pair in pairs) for end in (0, 1))
    failed = [result for result in results if not result["ok"]]
    return {
        "good": len(results) - len(failed),
        "total": len(results),
        "left_out": dict(left_out),
        "sources": sources,
        "destinations": destinations,
        "cells": [[_words(pairs.get((source, to))) for to in destinations] for source in sources],
        "failures": [_failure(result) for result in failed[:MOST_FAILURES]],
        "more_failures": max(0, len(failed) - MOST_FAILURES),
    }


def _in_order(names: Iterable[str]) -> list[str]:
    """By their letters, and by numbers where they have some: bob-2 before bob-10."""

    def key(name: str) -> list[tuple[str, int]]:
        return [(letters, int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d*)", name)]

    return sorted(set(names), key=key)


def _words(results: Sequence[Mapping[str, Any]] | None) -> str | None:
    if results is None:
        return None
    first = results[0]
    words = "unreachable" if first["expected"] == "reachable" else "no, expected"
    if first["observed"] == "reachable":
        words = f"{first['path'] or 'reached'}, {first['first_packet_ms']:.1f} ms"
    return words if all(result["ok"] for result in results) else BAD + words


def _failure(result: Mapping[str, Any]) -> str:
    why = f": {result['reason']}" if result["reason"] else ""
    pair = f"{result['source']} → {result['destination']} ({result['probe']})"
    return f"{pair}: expected {result['expected']} ({result['because']}), observed {result['observed']}{why}"
