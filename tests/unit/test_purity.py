"""The protocol and its simulation have no I/O: they import neither sockets nor clocks, and bring their own chance."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lab

ROOT = Path(lab.__file__).parent
IMPURE = {"runner.py", "client_runner.py", "server_runner.py", "tunnel_runner.py", "mmsg.py"} | {
    "tun.py",
    "surroundings.py",
    "upnp.py",
}
"""The modules of lab.teredo that do the I/O."""

FORBIDDEN = {"asyncio", "fcntl", "io", "os", "secrets", "select", "selectors", "shutil", "signal", "socket"} | {
    "subprocess",
    "sys",
    "threading",
    "time",
    "datetime",
    "multiprocessing",
    "pyroute2",
}
PLANNING = {
    "": ("plan.py", "planner.py", "link.py", "story.py"),
    "nat": ("kinds.py", "setup.py", "engines.py", "iptables.py", "nftables.py", "upnp.py", "observation.py"),
    "topology": ("model.py", "rules.py", "addressing.py", "changes.py"),
    "check": ("expectation.py", "html.py"),
    "datapath": ("choice.py", "offload.py"),
    "seeing": (
        *("cast.py", "conversation.py", "diagram.py", "fields.py", "follow.py", "frames.py", "lines.py", "meaning.py"),
        *("notes.py", "pcapng.py", "svg.py"),
    ),
    "web": ("guard.py", "moving.py", "picture.py"),
    "workshop": ("lesson.py", "judgement.py"),
    "doctor": ("commands.py", "facts.py", "findings.py", "judgement.py", "judgement_docker.py", "remedies.py"),
}
"""The modules that make a plan, that judge a machine, or that take packets apart: pure functions too."""

MODULES = [ROOT / folder / name for folder, names in PLANNING.items() for name in names] + [
    path
    for folder in (ROOT / "teredo", ROOT / "simulation")
    for path in sorted(folder.rglob("*.py"))
    if path.name not in IMPURE
]


def imports(path: Path) -> set[tuple[str, str | None]]:
    """What a module imports: (module, None), or (module, name) for an import of a name."""
    found: set[tuple[str, str | None]] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "", alias.name) for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_pure_module_imports_no_io_no_clock_and_no_shared_randomness(path: Path) -> None:
    for module, name in imports(path):
        top = module.split(".")[0]
        assert top not in FORBIDDEN, f"{path.name} imports {module}"
        assert top != "random" or name == "Random", f"{path.name} uses the generator of the module random"
        assert not (module.startswith("lab.teredo") and f"{name}.py" in IMPURE), f"{path.name} imports {name}"
        assert not (module.startswith("lab.teredo.") and f"{module.split('.')[2]}.py" in IMPURE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_pure_module_opens_nothing(path: Path) -> None:
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}


def test_the_list_of_modules_is_not_empty() -> None:
    assert len(MODULES) > 12
    assert {path.name for path in (ROOT / "teredo").glob("*.py")} >= IMPURE
