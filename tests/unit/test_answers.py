"""Answers of a running lab on their way, also out of a container."""

from __future__ import annotations

import io
import socket
import struct
import threading
from typing import Any

import pytest

from lab import answers
from lab.backends.docker import Output
from lab.state import StateError

ANSWERS: list[dict[str, Any]] = [
    {"event": "a"},
    {"event": "b", "tap": 3, "data": bytes(range(256)) * 1000},
    {"data": b"\n"},
    {"event": "c"},
]
SENT = b"".join(map(answers.encode, ANSWERS))


def test_answers_come_out_as_they_went_in() -> None:
    assert [*answers.read(io.BytesIO(SENT))] == ANSWERS


def test_answers_are_written_whole_also_where_nothing_blocks() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)

    def write() -> None:
        with ours:
            for answer in ANSWERS:
                answers.send(ours.fileno(), answer)

    writing = threading.Thread(target=write)
    writing.start()
    with theirs, theirs.makefile("rb") as stream:
        assert [*answers.read(stream)] == ANSWERS
    writing.join()


def test_who_writes_learns_that_nobody_reads_any_more() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(BrokenPipeError):
        answers.send(ours.fileno(), ANSWERS[1])


def output(*frames: tuple[int, bytes]) -> io.BufferedReader:
    """As an engine passes it on; it ends after these frames."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for stream, data in frames:
            theirs.sendall(struct.pack(">BxxxI", stream, len(data)) + data)
    return io.BufferedReader(Output(ours, "a"))


@pytest.mark.parametrize(
    ("size", "some"), [(1, [ANSWERS[0], *ANSWERS[2:]]), (1000, ANSWERS), (1 << 20, ANSWERS)], ids=["1", "1000", "all"]
)
def test_answers_come_out_of_a_container_whatever_the_frames(size: int, some: list[dict[str, Any]]) -> None:
    sent = b"".join(map(answers.encode, some))
    frames = [(1, sent[at : at + size]) for at in range(0, len(sent), size)]
    assert [*answers.read(output(*frames))] == some


def test_what_a_command_in_a_container_complains_of_is_told() -> None:
    with pytest.raises(StateError, match="lab 'a': it does not answer"):
        output((2, b"it does not answer\n")).read()
