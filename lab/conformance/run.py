"""Runs all checks against the programs of a lab that has just come up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from lab.conformance import client, relay, server  # noqa: F401 - they add their checks to the list
from lab.conformance.bench import Bench
from lab.conformance.checks import CHECKS
from lab.places import Places

PARTS: Final = ("server", "client", "relay")

TOPOLOGY: Final = """
servers: {{server: {{program: {program}}}}}
relays: {{relay: {{program: {program}}}}}
hosts: {{web: }}
sites: {{home: {{nat: cone, clients: {{client: {{program: {program}}}}}}}}}
checks: {{pairs: ring}}
"""


def run(status: dict[str, Any], places: Places, tell: Callable[[dict[str, Any]], None]) -> None:
    """Run them one after the other; tell each result."""
    bench = Bench(status, places)
    for done, check in enumerate(sorted(CHECKS, key=lambda check: PARTS.index(check.part)), 1):
        why = check.run(bench)
        result = {
            "part": check.part,
            "requirements": list(check.requirements),
            "title": check.title,
            "met": why is None,
            "why": why,
        }
        tell({"event": "checked", "done": done, "total": len(CHECKS), "result": result})
