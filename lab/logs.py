"""Structured logs: one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO


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


def handler(stream: TextIO, **fields: str) -> logging.Handler:
    """What writes JSON lines to a stream; `fields` go into every line."""
    made = logging.StreamHandler(stream)
    made.setFormatter(_JsonLines(fields))
    return made


def set_up_with(writer: logging.Handler, *, level: int = logging.INFO) -> None:
    """Log by this handler alone."""
    logging.basicConfig(level=level, handlers=[writer], force=True)


def set_up(*, level: int = logging.INFO, **fields: str) -> None:
    """Log to standard error as JSON lines; `fields` go into every line."""
    set_up_with(handler(sys.stderr, **fields), level=level)


QUIET = frozenset({"dropped", "mapping verified", "peer trusted"})
"""Events that a Teredo program logs only when asked to be talkative: there may be one for every packet."""


def log_event(name: str, facts: dict[str, Any]) -> None:
    """One line for an event of a Teredo program."""
    logging.getLogger("teredo").log(logging.DEBUG if name in QUIET else logging.INFO, name, extra={"facts": facts})
