"""`make bench`: how long a lab takes from nothing to up, to qualified, to checked; medians over several runs.

Everything is measured from outside, through the command that users call; the inner times are the supervisor's own.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lab.nat.kinds import KINDS

_NAME = "bench"
_COMMAND = (sys.executable, "-m", "lab.cli")
_KINDS = ("cone", "addr_restricted", "port_restricted")


def generated(clients: int, per_site: int) -> str:
    """A topology with so many clients behind NATs of mixed kinds; a ring of checks."""
    lines = ["servers: {server: }", "relays: {relay: }", "hosts: {web: }", "checks: {pairs: ring}", "sites:"]
    for first in range(0, clients, per_site):
        lines.append(f"  site{first // per_site}:")
        lines.append(f"    nat: {_KINDS[first // per_site % len(_KINDS)]}")
        lines.append("    clients:")
        lines += [f"      client{number}:" for number in range(first, min(first + per_site, clients))]
    return "\n".join(lines) + "\n"


def every_kind(count: int) -> str:
    """A topology with so many NATs of all kinds, and a client behind each."""
    kinds = list(KINDS)
    lines = ["servers: {server: }", "checks: {pairs: ring}", "sites:"]
    lines += [f"  site{n}: {{nat: {kinds[n % len(kinds)]}, clients: {{client{n}: }}}}" for n in range(count)]
    return "\n".join(lines) + "\n"


def _measuring(topology: Path) -> dict[str, float]:
    """What measuring the NATs adds to `up`; seconds, and the ratio to `up` without it. Raises RuntimeError."""
    took = {}
    for what, option in (("with", "--measure"), ("without", "--no-measure")):
        began = time.monotonic()
        up = _cli("up", str(topology), "--name", _NAME, "--json", option)
        took[f"up {what} measuring the NATs"] = time.monotonic() - began
        _cli("down", "--name", _NAME)
        if up.returncode != 0:
            raise RuntimeError(up.stderr)
    with_, without = took.values()
    return took | {"measuring adds": with_ - without, "ratio": with_ / without}


def _matrix() -> dict[str, float]:
    """RFC 6081 Figure 1 with all extensions, from nothing to the finished table, and in virtual time; seconds.

    Raises RuntimeError.
    """
    took = {}
    for what, option in (("on the kernel", None), ("in virtual time", "--simulated")):
        began = time.monotonic()
        run = _cli("matrix", "--only", "all", "--json", *([option] if option else []))
        took[f"matrix {what}"] = time.monotonic() - began
        if run.returncode != 0:
            raise RuntimeError(run.stderr)
    return took


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((*_COMMAND, *arguments), capture_output=True, text=True, check=False)


def _once(topology: Path) -> dict[str, float]:
    """One lab from nothing to checked and gone; seconds by step. Raises RuntimeError."""
    _cli("down", "--name", _NAME)
    began = time.monotonic()
    up = _cli("up", str(topology), "--name", _NAME, "--json")
    took = {"up and qualified, as the user waits": time.monotonic() - began}
    if up.returncode != 0:
        raise RuntimeError(up.stderr)
    took |= {f"  {step}, since its supervisor began": at for step, at in json.loads(up.stdout)["timings"].items()}
    began = time.monotonic()
    check = _cli("check", "--name", _NAME, "--json")
    took["checks, as the user waits"] = time.monotonic() - began
    if check.returncode != 0:
        raise RuntimeError(check.stderr + check.stdout[-2000:])
    _cli("down", "--name", _NAME)
    began = time.monotonic()
    whole = _cli("up", str(topology), "--name", _NAME, "--check", "--json")
    took["up --check, as the user waits"] = time.monotonic() - began
    if whole.returncode != 0:
        raise RuntimeError(whole.stderr + whole.stdout[-2000:])
    took["results"] = len(json.loads(whole.stdout)["results"])
    began = time.monotonic()
    _cli("down", "--name", _NAME)
    took["down"] = time.monotonic() - began
    return took


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def _import_time() -> float:
    """The reference in the same run: what starting the command costs with nothing to do."""
    began = time.monotonic()
    _cli("--help")
    return time.monotonic() - began


def main(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each lab.")] = 5,
    clients: Annotated[int, typer.Option(min=1, help="Clients of the large lab.")] = 100,
    nats: Annotated[
        int, typer.Option(min=1, help="NATs of the lab that is brought up with and without measuring.")
    ] = 20,
    per_site: Annotated[int, typer.Option(min=1, help="Clients behind one NAT of the large lab.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Measure bring-up, qualification and checks of the default lab and of a large one; medians in seconds."""
    report: dict[str, Any] = {
        "environment": {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()},
        "runs": runs,
        "labs": {},
    }
    console = Console()
    with tempfile.TemporaryDirectory() as directory:
        large = Path(directory) / "large.yaml"
        large.write_text(generated(clients, per_site))
        for name, topology in (("default", Path("topologies/default.yaml")), (f"{clients} clients", large)):
            rows = [
                _once(topology) | {"reference: teredo-lab --help": _import_time()}
                for _ in track(range(runs), f"{name} lab", disable=as_json, console=Console(stderr=True))
            ]
            report["labs"][name] = _medians(rows)
        kinds = Path(directory) / "kinds.yaml"
        kinds.write_text(every_kind(nats))
        rounds = track(range(runs), f"{nats} NATs", disable=as_json, console=Console(stderr=True))
        rounds_of_matrix = track(range(runs), "matrix", disable=as_json, console=Console(stderr=True))
        report["matrix"] = _medians([_matrix() for _ in rounds_of_matrix])
        report["nats"] = {"count": nats, **_medians([_measuring(kinds) for _ in rounds])}
    if as_json:
        print(json.dumps(report, indent=2))
        return
    console.print(" ".join(f"{key} {value}" for key, value in report["environment"].items()), highlight=False)
    table = Table("step", *report["labs"], title=f"medians of {runs} runs, seconds", title_justify="left")
    for key in next(iter(report["labs"].values())):
        table.add_row(
            key, *(f"{lab[key]:.3f}" if key != "results" else f"{lab[key]:.0f}" for lab in report["labs"].values())
        )
    console.print(table)
    nat_table = Table("step", f"{nats} NATs", title=f"medians of {runs} runs, seconds", title_justify="left")
    for key, value in report["nats"].items():
        nat_table.add_row(key, f"{value:.3f}" if key != "count" else str(value))
    console.print(nat_table)
    matrix = Table("step", "162 sites", title=f"medians of {runs} runs, seconds", title_justify="left")
    for key, value in report["matrix"].items():
        matrix.add_row(key, f"{value:.3f}")
    console.print(matrix)


if __name__ == "__main__":
    typer.run(main)
