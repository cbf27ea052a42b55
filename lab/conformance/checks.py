"""The list of checks: functions with the requirements that they examine; they raise UnmetError where one is not met."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from lab.conformance.bench import Bench, UnmetError

Part = Literal["server", "client", "relay"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that can be seen from outside. `requirements` are ids of docs/requirements.md."""

    part: Part
    requirements: tuple[str, ...]
    title: str
    function: Callable[[Bench], None]

    def run(self, bench: Bench) -> str | None:
        """Why the program does not do it, or None if it does."""
        if self.part == "client" and not bench.client:
            return f"the client has no address: it is {bench.client_state}"
        try:
            self.function(bench)
        except UnmetError as unmet:
            return str(unmet)
        return None


CHECKS: Final[list[Check]] = []


def check(part: Part, *requirements: str) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Add a function to the list; its docstring is its title."""

    def add(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        title = (function.__doc__ or "").strip().rstrip(".")
        CHECKS.append(Check(part, requirements, title, function))
        return function

    return add


def must(condition: object, unmet: str) -> None:
    """Raise UnmetError with this text unless the condition holds."""
    if not condition:
        raise UnmetError(unmet)
