"""Fixtures of the end-to-end tier: it needs namespaces, a TUN device and the tools of the lab."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.datapath.choice import VARIABLE, DataPath
from lab.doctor.commands import COMMANDS
from lab.state import ENVIRONMENT, all_labs
from tests.e2e.labs import RunningLab, running

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
TOOLS = {command.name: command.package for command in COMMANDS if not command.name.startswith("miredo")}


def missing() -> str | None:
    """What this machine lacks for the tier, and how to get it; None if it lacks nothing."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = [package for command, package in TOOLS.items() if shutil.which(command, path=path) is None]
    if absent:
        return f"needs the packages {' '.join(absent)}: run `make test`, which installs them"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    if os.geteuid() != 0 and subprocess.run(("unshare", "-Un", "true"), check=False, capture_output=True).returncode:
        return "needs root or unprivileged user namespaces"
    return None


@pytest.fixture(autouse=True, scope="session")
def _able() -> Iterator[None]:
    """Run where the machine can, with a place for labs that no other lab of the user is in."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if (why := missing()) is not None:
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="teredo-lab-") as place:
        os.environ[ENVIRONMENT] = place
        yield
    del os.environ[ENVIRONMENT]


CARRYING = (
    *("test_check", "test_datapath", "test_extensions", "test_links", "test_miredo", "test_standalone"),
    *("test_topologies", "test_wire"),
)
"""The modules whose tests have programs of ours carry data: they run once with each data path. Those about bubbles,
messages and timers alone run once, and those about data paths themselves choose."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rsplit(".", maxsplit=1)[-1] in CARRYING:
        metafunc.parametrize("datapath", [DataPath.KERNEL, DataPath.USERSPACE], indirect=True, scope="session")


@pytest.fixture(autouse=True, scope="session")
def datapath(request: pytest.FixtureRequest) -> Iterator[DataPath]:
    """How programs of ours carry data that are told nothing else."""
    choice = getattr(request, "param", DataPath.AUTO)
    if choice is DataPath.KERNEL and os.geteuid() != 0:
        pytest.skip("data go through the kernel only where root has them go")
    if choice is not DataPath.AUTO:  # then topologies may choose
        os.environ[VARIABLE] = choice
    yield choice
    os.environ.pop(VARIABLE, None)


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """Fail a test that leaves a lab behind, but for a module's own, which was there before."""
    before = all_labs()
    yield
    left = [lab.name for lab in all_labs() if lab not in before]
    assert not left, f"labs left behind: {left}"


Start = Callable[[str | Path], RunningLab]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start labs that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda topology: stack.enter_context(running(topology, tmp_path))
