"""The programs that a node can run, by the `kind` that a plan gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lab.programs import miredo, teredo, upnp, web
from lab.programs.base import Context, Run

PROGRAMS: Final[dict[str, Run]] = {
    "teredo-client": teredo.client,
    "teredo-server": teredo.server,
    "teredo-relay": teredo.relay,
    "miredo-client": miredo.client,
    "miredo-server": miredo.server,
    "miredo-relay": miredo.relay,
    "upnp": upnp.upnp,
    "web": web.web,
}

PROBLEMS: Final[dict[str, Callable[[], str | None]]] = {
    **dict.fromkeys(("miredo-client", "miredo-server", "miredo-relay"), miredo.problem),
    "upnp": upnp.problem,
}
"""Of programs that not every machine can run: why this one cannot, if so."""

__all__ = ["PROBLEMS", "PROGRAMS", "Context", "Run"]
