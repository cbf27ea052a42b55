"""A running lab's answers on their way: JSON lines, and behind one of these the bytes that an answer has as `data`.

What a capture sees goes this way, and as text it would cost more than all else that a capture does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

_DATA: Final = "data"
_SIZE: Final = "bytes of data"


def encode(answer: dict[str, Any]) -> bytes:
    """An answer as it goes on its way."""
    if _DATA not in answer:
        return json.dumps(answer).encode() + b"\n"
    data: bytes = answer[_DATA]
    rest = {key: value for key, value in answer.items() if key != _DATA}
    return b"%b\n%b" % (json.dumps({**rest, _SIZE: len(data)}).encode(), data)


def decode(line: bytes) -> tuple[dict[str, Any], int]:
    """What a line says, and how many bytes are behind it that belong to it. Raises ValueError."""
    answer: dict[str, Any] = json.loads(line)
    return answer, answer.pop(_SIZE, 0)


def whole(answer: dict[str, Any], data: bytes) -> dict[str, Any]:
    """An answer with its data."""
    return {**answer, _DATA: data}


def read(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """The answers of a stream until its end. Raises ValueError where one is none."""
    for line in stream:
        answer, size = decode(line)
        yield whole(answer, stream.read(size)) if size else answer
