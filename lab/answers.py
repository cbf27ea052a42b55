"""A running lab's answers on their way: JSON lines, and behind one of these the bytes that an answer has as `data`.

What a capture sees goes this way, and as text it would cost more than all else that a capture does.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

_DATA: Final = "data"
_SIZE: Final = "bytes of data"


def encode(answer: dict[str, Any]) -> bytes:
    """An answer as it goes on its way."""
    return b"".join(_parts(answer))


def send(descriptor: int, answer: dict[str, Any]) -> None:
    """Write an answer to a descriptor, also to one that does not block. Raises OSError if nobody reads it any more."""
    parts = [memoryview(part) for part in _parts(answer)]
    while parts:
        try:
            written = os.writev(descriptor, parts)
        except BlockingIOError:
            select.select((), (descriptor,), ())
            continue
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if parts:
            parts[0] = parts[0][written:]


def _parts(answer: dict[str, Any]) -> list[bytes | memoryview]:
    if _DATA not in answer:
        return [json.dumps(answer).encode() + b"\n"]
    data: bytes | memoryview = answer[_DATA]
    rest = {key: value for key, value in answer.items() if key != _DATA}
    return [json.dumps({**rest, _SIZE: len(data)}).encode() + b"\n", data]


def read(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """The answers of a stream until its end. Raises ValueError where one is none."""
    for line in stream:
        answer: dict[str, Any] = json.loads(line)
        size = answer.pop(_SIZE, 0)
        yield {**answer, _DATA: stream.read(size)} if size else answer
