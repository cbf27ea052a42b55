"""`teredo-lab client`: changing the clients of a running lab."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lab.console import BAD_INPUT, FAILED, Json, Name, fail, out, the_lab
from lab.launch import settle
from lab.state import node_facts

app = typer.Typer(
    name="client",
    help="Change clients of a running lab. What a client is and knows now, `teredo-lab status NODE` shows.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _group() -> None:
    """There is one command so far; this keeps its name."""


@app.command("set")
def set_(
    node: Annotated[str, typer.Argument(help="The client's node: `alice`.")],
    change: Annotated[
        list[str],
        typer.Argument(
            metavar="OPTION=VALUE…",
            help="`extensions=` with a list of names, with `all` or with `none`: which extensions of RFC 6081 it has.",
        ),
    ],
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Have a client's program start anew with other options. It forgets its peers, and qualifies again.

    What `teredo-lab check` expects follows. Exit code 1 if the client fails.

    Example: `teredo-lab client set alice extensions=symmetric,port-preserving`
    """
    from lab.changing import make_client  # noqa: PLC0415 - slow to import
    from lab.topology.changes import ChangeError  # noqa: PLC0415

    lab = the_lab(name)
    status = lab.ask_once("status")
    role = node_facts(status, node)["role"]
    if role != "client":
        known = ", ".join(each["name"] for each in status["nodes"] if each["role"] == "client")
        fail(BAD_INPUT, f"{node} is no client but a {role}; the clients are {known}")
    options: dict[str, str] = {}
    for word in change:
        option, is_option, value = word.partition("=")
        if not is_option:
            fail(BAD_INPUT, f"{word!r} sets nothing: write an option and its value, as in extensions=none")
        options[option] = value
    try:
        make_client(lab, node, options)
    except ChangeError as error:
        fail(BAD_INPUT, error)
    settle(lab, quiet=as_json)
    facts = node_facts(lab.ask_once("status"), node)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        has = ", ".join(facts["extensions"]) or "none"
        why = f": {facts['reason']}" if facts["reason"] else ""
        out.print(f"{node} is {facts['state']}{why}; extensions: {has}", highlight=False, markup=False, soft_wrap=True)
    if facts["state"] == "failed":
        raise typer.Exit(FAILED)
