"""Files that are written as a whole, or not at all: whoever finds one need not ask whether it is finished."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

_PERMISSIONS = 0o666


def put(path: Path, text: str) -> None:
    """Write a file at once or not at all; what is no regular file, such as a pipe, as it comes. Raises OSError."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    mode = path.stat().st_mode if path.exists() else _PERMISSIONS & ~_umask()
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as new:
        try:
            new.write(text)
            new.flush()
            os.fchmod(new.fileno(), mode & 0o7777)
            Path(new.name).replace(path)
        except BaseException:
            Path(new.name).unlink()
            raise


def try_to_put(path: Path) -> None:
    """Raise the OSError that `put` would, as far as can be known without doing it."""
    path = path.resolve()
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if path.is_file() or not path.exists():
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def _umask() -> int:
    """What new files of this process are not allowed."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
