"""A Docker engine of the tests' own, which may die: in namespaces, with directories that nobody else has."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker

ROOT: str | None = os.environ.get("TEREDO_LAB_TEST_ENGINE_ROOT")
"""A file system in which another engine than the machine's is installed; docs/containers.md tells how."""

_STARTING = 60.0


class OwnEngine:
    """An engine below a directory; its networks, and the rules for them, are in a network namespace of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.host = f"unix://{directory}/docker.sock"
        self._engine: subprocess.Popen[bytes] | None = None
        script = f"set -e; ip link set lo up; {_moved(directory)} echo ready; exec sleep infinity"
        self._holder = subprocess.Popen(("unshare", "--net", "--mount", "sh", "-c", script), stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"

    def start(self) -> bool:
        """Start it, and wait until it answers; tell whether it still knows its networks.

        Docker 20.10 stores a new network in steps. If it dies between two of them it panics (in reservePools of
        libnetwork) whenever it starts; what helps is what its users have to do: take its store of networks away.
        """
        if self._starts():
            return True
        said = self._said()
        assert "libnetwork.(*controller).reservePools" in said, said
        (self._directory / "data/network/files/local-kv.db").unlink()
        assert self._starts(), self._said()
        return False

    def _said(self) -> str:
        return (self._directory / "log").read_text()[-3000:]

    def _starts(self) -> bool:
        """Start it, and wait until it answers or has ended."""
        place = self._directory
        with (place / "log").open("ab") as log:
            self._engine = subprocess.Popen(
                (
                    *("nsenter", f"--target={self._holder.pid}", "--net", "--mount"),
                    *("dockerd", f"--data-root={place}/data", f"--exec-root={place}/exec"),
                    *(f"--pidfile={place}/pid", f"--host={self.host}"),
                ),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _STARTING
        while not self.answers():
            if self._engine.poll() is not None:
                self.kill()
                return False
            assert time.monotonic() < deadline, "the engine does not answer"
            time.sleep(0.1)
        return True

    def answers(self) -> bool:
        with contextlib.suppress(docker.errors.DockerException), contextlib.closing(self.client(2)) as client:
            return bool(client.ping())
        return False

    def client(self, timeout: int = 60) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.host, timeout=timeout)

    def kill(self) -> None:
        """Let it die at once, and the containerd that is its own, as for want of memory; containers live on."""
        assert self._engine is not None
        _kill(self._directory, "dockerd", "containerd")
        self._engine.wait()
        # Where nobody waits for its end, a containerd that is dead counts as one that runs.
        (self._directory / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def end(self) -> None:
        """Stop it, and whatever it has started."""
        if self._engine is not None and self._engine.poll() is None:
            self._engine.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._engine.wait(timeout=30)
        _kill(self._directory, "dockerd", "containerd", "containerd-shim-runc-v2")
        self._holder.kill()
        self._holder.wait()


def _moved(directory: Path) -> str:
    """What moves a shell into the other engine's file system, with the machine's devices, and the directory."""
    if ROOT is None:
        return ""
    shared = [Path("/proc"), Path("/sys"), Path("/dev"), directory]
    mounts = "".join(f"mkdir -p {ROOT}{each}; mount --rbind {each} {ROOT}{each}; " for each in shared)
    return f"mount --bind {ROOT} {ROOT}; {mounts} cd {ROOT}; mkdir -p old; pivot_root . old; umount -l old;"


def _kill(directory: Path, *programs: str) -> None:
    """Kill an engine's processes of these programs: those whose command lines have its directory."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            name, *arguments = path.read_text(errors="replace").split("\0")
            if Path(name).name in programs and str(directory) in str(arguments):
                os.kill(int(path.parent.name), signal.SIGKILL)


@contextlib.contextmanager
def own_engine(directory: Path, *images: str) -> Iterator[OwnEngine]:
    """An engine that runs and has these images of the machine's engine."""
    engine = OwnEngine(directory)
    try:
        engine.start()
        load = ("docker", "--host", engine.host, "load")
        with subprocess.Popen(("docker", "save", *images), stdout=subprocess.PIPE) as saved:
            subprocess.run(load, stdin=saved.stdout, check=True, capture_output=True)
        yield engine
    finally:
        engine.end()
