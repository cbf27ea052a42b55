"""Carries one request from standard input to a lab's control socket, and its answers to standard output.

Run in a controller's container by the command line outside; it imports little, since it runs at every command.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from lab import unix


def main() -> int:
    """Exit code 3: the lab does not answer."""
    try:
        connection = unix.connect(Path(sys.argv[1]))
    except OSError as error:
        print(f"the lab does not answer: {error}", file=sys.stderr)
        return 3
    with connection, connection.makefile("rb", buffering=0) as answers:
        connection.sendall(sys.stdin.buffer.readline())
        shutil.copyfileobj(answers, os.fdopen(1, "wb", buffering=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
