"""`teredo-lab check`: who reaches whom, and what is written of that."""

from __future__ import annotations

import json
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lab.console import BAD_INPUT, FAILED, Json, Name, err, fail, out, progress_bar, the_lab, writable, write
from lab.state import Lab, StateError

app = typer.Typer()

if TYPE_CHECKING:
    from lab.seeing.again import Conversations

Capture = Annotated[
    bool,
    typer.Option(
        "--capture/--no-capture",
        help="Try pairs again that are not as expected, and keep a capture of that beside the lab's logs.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        help="Also write a page to this file: matrix, results, stories of what failed, topology, versions.",
        callback=writable,
        show_default=False,
    ),
]
_PROBES = ("icmp6", "udp", "tcp")


@app.command()
def check(
    nodes: Annotated[list[str] | None, typer.Argument(help="Only pairs among these nodes.", show_default=False)] = None,
    name: Name = None,
    as_json: Json = False,
    junit: Annotated[
        Path | None, typer.Option(help="Also write JUnit XML to this file.", callback=writable, show_default=False)
    ] = None,
    html: Html = None,
    capture: Capture = True,
) -> None:
    """Prove who reaches whom: every ordered pair, cold, by ICMPv6, UDP and TCP.

    Example: `teredo-lab check alice bob --html report.html`
    """
    run_check(the_lab(name), nodes or [], as_json=as_json, junit=junit, html=html, capture=capture)


def run_check(
    lab: Lab, nodes: list[str], *, as_json: bool, junit: Path | None, html: Path | None, capture: bool
) -> None:
    """Check the pairs among these nodes, or all; print the results and write the reports. Leaves if one is wrong."""
    from lab.check import report  # noqa: PLC0415

    known = {node["name"] for node in lab.ask_once("status")["nodes"]}
    if unknown := set(nodes) - known:
        fail(BAD_INPUT, f"lab {lab.name!r} has no node {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
    results: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    began, start = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S %Z}", time.monotonic()
    with progress_bar(quiet=as_json) as show:
        for answer in lab.ask("check", nodes=nodes):
            if answer["event"] == "left out":
                left_out = answer["nodes"]
            elif answer["event"] == "pair":
                results += answer["results"]
                show({"what": "checking pairs", "done": answer["done"], "total": answer["total"]})
    seconds = time.monotonic() - start
    order = {probe: at for at, probe in enumerate(_PROBES)}
    results.sort(key=lambda result: (result["source"], result["destination"], order[result["probe"]]))
    failed = [result for result in results if not result["ok"]]
    write(junit, lambda: report.junit(results, f"teredo-lab.{lab.name}"))
    about = _about(lab) if html is not None else {}
    talked = _try_again(lab, failed) if capture and failed else None
    kept = _keep(lab, talked) if talked is not None else None
    if html is not None:
        if capture and not failed:
            talked = _examples(lab, results)
        about |= {"results": results, "left_out": left_out, "began": began, "seconds": seconds}
        _write_page(html, about, talked, kept, capture=capture)
    if as_json:
        told = {"ok": not failed, "results": results, "left_out": left_out, "capture": kept and str(kept)}
        print(json.dumps(told, indent=2))
    else:
        report.show(results, out)
        for node, reason in left_out.items():
            err.print(f"left out: {node}: {reason}", style="yellow", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(FAILED)


def _about(lab: Lab) -> dict[str, Any]:
    """What a page tells of the lab, as it is when the check has ended."""
    from lab.environment import surroundings  # noqa: PLC0415 - slow to import
    from lab.seeing.live import cast_of  # noqa: PLC0415

    status = lab.ask_once("status")
    return {"status": status, "cast": cast_of(lab), "environment": surroundings(lab, status)}


def _write_page(
    html: Path, about: dict[str, Any], talked: Conversations | None, kept: Path | None, *, capture: bool
) -> None:
    from lab.check.html import Record, html_text  # noqa: PLC0415 - slow to import

    record = Record(
        command=shlex.join(("teredo-lab", *sys.argv[1:])),
        **about,
        stories=[*talked.stories()] if talked is not None else (),
        tried_again=talked.results if talked is not None else (),
        capture="" if kept is None else str(kept),
        no_stories="" if talked is not None else "there was no capture" if capture else "--no-capture was given",
    )
    write(html, lambda: html_text(record))


def _try_again(lab: Lab, failed: list[dict[str, Any]]) -> Conversations | None:
    """Try again what has failed, with a capture, and say what was different."""
    from lab.seeing.again import again  # noqa: PLC0415 - slow to import

    try:
        talked = again(lab, failed)
    except StateError as error:
        _no_capture(error)
        return None
    before = {(each["source"], each["destination"], each["probe"]): each["observed"] for each in failed}
    for each in talked.results:
        which = each["source"], each["destination"], each["probe"]
        if before.get(which, each["observed"]) != each["observed"]:
            told = f"{which[0]} → {which[1]} by {which[2]} was {before[which]}, and now is {each['observed']}"
            err.print(told, style="yellow", highlight=False, soft_wrap=True)
    return talked


def _keep(lab: Lab, talked: Conversations) -> Path | None:
    """Keep the capture, and say where."""
    try:
        kept = talked.keep(lab)
    except OSError as error:
        _no_capture(error)
        return None
    err.print(f"tried again, with a capture: {kept}", style="yellow", highlight=False, soft_wrap=True)
    return kept


def _no_capture(error: Exception) -> None:
    err.print(f"there is no capture of what failed: {error}", style="yellow", highlight=False, soft_wrap=True)


def _examples(lab: Lab, results: list[dict[str, Any]]) -> Conversations | None:
    """Have a pair for each kind of path talk once more, with a capture."""
    from lab.seeing.again import converse, examples  # noqa: PLC0415 - slow to import

    try:
        return converse(lab, [[pair] for pair in examples(results)])  # one by one: to be seen alone
    except StateError as error:
        err.print(f"the report has no stories: {error}", style="yellow", highlight=False, soft_wrap=True)
        return None
