"""Carries one request from standard input to a lab's control socket, and its answers to standard output.

Run in a controller's container by the command line outside; it imports little, since it runs at every command.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from lab import unix

_POLL = 0.02


def main() -> int:
    """Arguments: the socket, and for how many seconds a controller may still be starting. Exit code 3: no answer."""
    path, deadline = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
    while True:
        try:
            connection = unix.connect(path)
            break
        except OSError as error:
            if time.monotonic() >= deadline:
                print(f"the lab does not answer: {error}", file=sys.stderr)
                return 3
        time.sleep(_POLL)
    with connection, connection.makefile("rb", buffering=0) as answers:
        connection.sendall(sys.stdin.buffer.readline())
        shutil.copyfileobj(answers, os.fdopen(1, "wb", buffering=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
