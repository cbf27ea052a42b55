"""Structured logs: one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


class _JsonLines(logging.Formatter):
    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            **self._fields,
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(*, level: int = logging.INFO, **fields: str) -> None:
    """Log to standard error as JSON lines; `fields` go into every line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(fields))
    logging.basicConfig(level=level, handlers=[handler], force=True)


QUIET = frozenset({"dropped", "mapping verified", "peer trusted"})
"""Events that a Teredo program logs only when asked to be talkative: there may be one for every packet."""


def log_event(name: str, facts: dict[str, Any]) -> None:
    """One line for an event of a Teredo program."""
    logging.getLogger("teredo").log(logging.DEBUG if name in QUIET else logging.INFO, name, extra={"facts": facts})
