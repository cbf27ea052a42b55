"""The few Linux calls that Python 3.11 does not offer: namespaces, mounts and what belongs to them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

NEWNS: Final = 0x00020000
NEWUTS: Final = 0x04000000
NEWUSER: Final = 0x10000000
NEWPID: Final = 0x20000000
NEWNET: Final = 0x40000000

MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MS_NOSUID_NODEV_NOEXEC: Final = 0x2 | 0x4 | 0x8

_SIOCGIFFLAGS = 0x8913
_SIOCETHTOOL = 0x8946
_ETHTOOL_GLINK = 0x0A
_IFF_RUNNING = 0x40

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15

SO_TIMESTAMPNS: Final = 35
_SO_ATTACH_FILTER = 26
_INSTRUCTION = 8
"""Bytes of one of BPF's."""

_SYSTEM_TOOLS = "/usr/sbin:/sbin:/usr/local/sbin"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move this thread into new namespaces (unshare(2)). Raises OSError."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int = 0) -> None:
    """Move this thread into the namespace that `fd` refers to (setns(2)). Raises OSError."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, fstype: str | None, flags: int, data: str = "") -> None:
    """mount(2). Raises OSError."""
    kind = None if fstype is None else fstype.encode()
    options = data.encode() or None
    result = _libc.mount(source.encode(), target.encode(), kind, ctypes.c_ulong(flags), options)
    _check(result, f"mount {target}")


def isolate(user: tuple[int, int] | None) -> None:
    """Move into a lab's namespaces; the next child is process 1 there, and has `mount_own` to call. Raises OSError.

    `user` is the ordinary user's (uid, gid) that becomes root in a user namespace, or None for real root.
    """
    flags = NEWNS | NEWPID | NEWNET
    unshare(flags if user is None else flags | NEWUSER)
    if user is not None:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user[0]} 1")
        Path("/proc/self/gid_map").write_text(f"0 {user[1]} 1")


def mount_own() -> None:
    """Part from the mounts of others, and see the processes of the own PID namespace alone. Raises OSError."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID_NODEV_NOEXEC)


def is_mapped(user: int) -> bool:
    """Whether there is such a user in this user namespace, whom root could become."""
    ranges = (line.split() for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(int(first) <= user < int(first) + int(count) for first, _, count in ranges)


def become(user: int) -> None:
    """Give root up for an ordinary user, for good. Raises OSError."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")  # or /proc/self would still be root's


def _path() -> str:
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return path if path.endswith(_SYSTEM_TOOLS) else f"{path}:{_SYSTEM_TOOLS}"


def find_tool(name: str) -> str | None:
    """The path of a command, also of one that is kept out of an ordinary user's PATH."""
    return shutil.which(name, path=_path())


def use_system_tools() -> None:
    """Have this process and its children find the commands that `find_tool` finds."""
    os.environ["PATH"] = _path()


def set_process_name(name: str) -> None:
    """The name that ps shows, cut to 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def end_with_parent() -> None:
    """Have this process get SIGTERM when the one ends that forked it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def attach_filter(packets: socket.socket, instructions: Iterable[Sequence[int]]) -> None:
    """Have the kernel pass on only what a program of classic BPF takes; what came in before it stood is thrown away.

    Instructions are code, jump if true, jump if false, constant. Raises OSError.
    """
    lines = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    program = ctypes.create_string_buffer(lines, len(lines))
    header = struct.pack("@HP", len(lines) // _INSTRUCTION, ctypes.addressof(program))
    packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
    with contextlib.suppress(BlockingIOError):
        while packets.recv(1, socket.MSG_DONTWAIT):
            pass


def current_netns() -> int:
    """A file descriptor of this thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def wait_for_links(names: Sequence[str], timeout: float) -> None:
    """Return when these interfaces of the present namespace are operational. Raises TimeoutError.

    The kernel lets up to a second pass between a link's carrier and its use, and IPv6 waits for that; asking for the
    carrier makes it do at once what it would do then (since Linux 6.8, and before that there is only the waiting).
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for name in names:
            while not _is_operational(any_socket.fileno(), name.encode()):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the link {name} has not come up within {timeout:.0f} s")
                time.sleep(0.01)


def _is_operational(fd: int, name: bytes) -> bool:
    question = ctypes.create_string_buffer(struct.pack("@II", _ETHTOOL_GLINK, 0), 8)
    fcntl.ioctl(fd, _SIOCETHTOOL, struct.pack("@16sP16x", name, ctypes.addressof(question)))
    answer = fcntl.ioctl(fd, _SIOCGIFFLAGS, struct.pack("@16sH22x", name, 0))
    return bool(struct.unpack_from("@H", answer, 16)[0] & _IFF_RUNNING)


class NetworkNamespaces:
    """Network namespaces that live as long as this process: each is held by one file descriptor and nothing else."""

    def __init__(self) -> None:
        self._home = current_netns()
        self.fds: dict[str, int] = {}

    def create(self, name: str) -> None:
        """Make a namespace; the thread stays where it was."""
        unshare(NEWNET)
        try:
            self.fds[name] = current_netns()
        finally:
            setns(self._home, NEWNET)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Be in a namespace for a while. Sockets opened there stay there; nothing may be awaited meanwhile."""
        setns(self.fds[name], NEWNET)
        try:
            yield
        finally:
            setns(self._home, NEWNET)

    def enter(self, name: str) -> None:
        """Move into a namespace for good, as a forked program does."""
        setns(self.fds[name], NEWNET)
