"""The programs that a node can run, by the `kind` that a plan gives them."""

from __future__ import annotations

from typing import Final

from lab.programs import miredo, teredo, web
from lab.programs.base import Context, Run

PROGRAMS: Final[dict[str, Run]] = {
    "teredo-client": teredo.client,
    "teredo-server": teredo.server,
    "teredo-relay": teredo.relay,
    "miredo-client": miredo.client,
    "miredo-server": miredo.server,
    "miredo-relay": miredo.relay,
    "web": web.web,
}

__all__ = ["PROGRAMS", "Context", "Run"]
