"""`teredo-lab doctor`: whether this machine can run labs."""

from __future__ import annotations

import json

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lab.backends import base
from lab.console import MACHINE, Backend, Json, err, out

_STYLES = {"ok": "green", "missing": "bold red", "optional": "yellow"}


def doctor(backend: Backend = base.DEFAULT, as_json: Json = False) -> None:
    """Look at this machine: what its kernel can do, which is tried, commands, Docker, memory; and tell what is missing.

    Exit code 3 if the backend cannot run here. What it can do without is optional.

    Example: `teredo-lab doctor --backend docker`
    """
    from lab.doctor.judgement import able, facts, judge  # noqa: PLC0415 - slow to import
    from lab.doctor.probes import look  # noqa: PLC0415

    with err.status("looking at this machine"):
        findings = judge(dict(look()), backend)
    if as_json:
        print(json.dumps(facts(findings, backend), indent=2))
    else:
        table = Table("", "", "", box=SIMPLE_HEAD, pad_edge=False, show_header=False)
        for finding in findings:
            what = Text(finding.what)
            if finding.remedy is not None:
                what.append(f"\nfor {finding.purpose}\n{finding.remedy}", "dim")
            table.add_row(Text(finding.state, _STYLES[finding.state]), finding.name, what)
        out.print(table)
        missing = [finding.name for finding in findings if finding.state == "missing"]
        verdict = (
            f"labs of {backend} cannot run here: {', '.join(missing)}" if missing else f"labs of {backend} can run here"
        )
        out.print(verdict, style="red" if missing else "green", highlight=False, soft_wrap=True)
    if not able(findings):
        raise typer.Exit(MACHINE)
