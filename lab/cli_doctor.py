"""`teredo-lab doctor`: whether this machine can run labs, and what it lacks."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lab.backends import base
from lab.console import MACHINE, Backend, Json, out

app = typer.Typer()

if TYPE_CHECKING:
    from lab.doctor.findings import Finding

_PLACES = {"netns": "network namespaces", "docker": "containers"}
_MARKS = {
    "ok": Text("ok", "green"),
    "missing": Text("missing", "bold red"),
    "optional-missing": Text("optional", "yellow"),
}


@app.command()
def doctor(backend: Backend = base.DEFAULT, as_json: Json = False) -> None:
    """Tell whether this machine can run labs, what it has of all that they use, and how to get what is missing.

    What can be tried is tried: namespaces, TUN, links and the rules of every kind of NAT, in namespaces that are gone
    afterwards; with `--backend docker` in a container, too. Exit code 3 if labs of this backend cannot run; what only
    the other one needs is optional then.

    Example: `teredo-lab doctor --backend docker`
    """
    from lab.doctor.judgement import able, judge  # noqa: PLC0415 - slow to import
    from lab.doctor.probes import collect  # noqa: PLC0415

    findings = judge(collect(containers=backend == "docker"), "docker" if backend == "docker" else "netns")
    ok = able(findings)
    if as_json:
        answer: dict[str, Any] = {"ok": ok, "backend": backend, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(answer, indent=2))
    else:
        _print(findings, backend)
    if not ok:
        raise typer.Exit(MACHINE)


def _print(findings: list[Finding], backend: str) -> None:
    table = Table("", "", "what was found", box=SIMPLE_HEAD, pad_edge=False)
    group = None
    for finding in findings:
        if finding.group != group:
            group = finding.group
            table.add_row(Text(group, "bold"), "", "")
        table.add_row(f"  {finding.name}", _MARKS[finding.status], Text(finding.found))
    out.print(table)
    for status in ("missing", "optional-missing"):
        for finding in (each for each in findings if each.status == status):
            out.print(
                f"{finding.group}: {finding.name}, for {finding.purpose}:",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            out.print(f"    {finding.remedy}", style="bold", highlight=False, markup=False, soft_wrap=True)
    lacking = [finding.name for finding in findings if finding.status == "missing"]
    if lacking:
        verdict = Text(f"labs in {_PLACES[backend]} cannot run here: {', '.join(lacking)}", "red")
    else:
        verdict = Text(f"labs in {_PLACES[backend]} can run here", "green")
    out.print(verdict, soft_wrap=True)
