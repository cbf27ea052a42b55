"""`teredo-lab link`: how good the links of a running lab are, and changing that."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lab.console import BAD_INPUT, MACHINE, Json, Name, fail, out, the_lab
from lab.link import NETEM, problems, show_rate
from lab.plan import LinkQuality
from lab.state import node_facts

app = typer.Typer()


@app.command()
def link(
    node: Annotated[str | None, typer.Argument(help="The node whose link it is: `alice`, `home-nat`.")] = None,
    loss: Annotated[str | None, typer.Option(help="Packets to lose, in percent.", show_default=False)] = None,
    rate: Annotated[str | None, typer.Option(help="Bits a second: `512kbit`, `10mbit`.", show_default=False)] = None,
    delay: Annotated[str | None, typer.Option(help="For each packet: `50ms`. Needs netem.", show_default=False)] = None,
    jitter: Annotated[
        str | None, typer.Option(help="By which the delay varies. Needs netem.", show_default=False)
    ] = None,
    reorder: Annotated[
        str | None, typer.Option(help="Packets that overtake, in percent. Needs netem.", show_default=False)
    ] = None,
    down: Annotated[
        bool | None, typer.Option("--down/--up", help="Cut the link, or mend it.", show_default=False)
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="First forget all that the link has.")] = False,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Show links, or change the one between a node and the next one upstream, in both directions.

    What is not said stays as it is. Without options it shows what the link has; without a node, all links that are not
    perfect.

    Examples: `teredo-lab link home-nat --loss 10 --rate 1mbit`, `teredo-lab link alice --down`
    """
    lab = the_lab(name)
    links: dict[str, dict[str, Any]] = lab.ask_once("links")["links"]
    if node is None:
        _show({each: quality for each, quality in links.items() if quality != _PERFECT}, as_json=as_json)
        return
    node_facts(lab.ask_once("status"), node)
    if node not in links:
        fail(BAD_INPUT, f"{node} has no link of its own; these have: {', '.join(links)}")
    written = {"loss": loss, "rate": rate, "delay": delay, "jitter": jitter, "reorder": reorder, "down": down}
    given = {option: value for option, value in written.items() if value is not None}
    if given or clear:
        quality = _changed({} if clear else links[node], given)
        _need_netem(quality)
        lab.ask_once("link", node=node, quality=quality.model_dump())
        links[node] = quality.model_dump()
    _show({node: links[node]}, as_json=as_json)


_PERFECT = LinkQuality().model_dump()


def _changed(before: dict[str, Any], given: dict[str, Any]) -> LinkQuality:
    from lab.topology.model import Link  # noqa: PLC0415 - slow to import
    from lab.topology.wording import explain  # noqa: PLC0415

    try:
        quality = Link.model_validate(before | given).quality
    except ValidationError as error:
        errors = error.errors(include_url=False)
        fail(BAD_INPUT, "\n".join(explain({**item, "loc": ("servers", "", "link", *item["loc"])}) for item in errors))
    wrong = [f"{what}; {remedy}" for _, what, remedy in problems(quality)]
    if wrong:
        fail(BAD_INPUT, "\n".join(wrong))
    return quality


def _need_netem(quality: LinkQuality) -> None:
    from lab.backends.netns import why_no_netem  # noqa: PLC0415 - slow to import

    if any(getattr(quality, option) for option in NETEM) and (why := why_no_netem()) is not None:
        fail(MACHINE, f"delay, jitter and reorder need netem, and {why}")


def _show(links: dict[str, dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(links, indent=2))
        return
    if not links:
        out.print("all links are perfect")
        return
    table = Table("link of", "loss", "rate", "delay", "jitter", "reorder", "", box=SIMPLE_HEAD, pad_edge=False)
    for node, quality in links.items():
        percents = {option: f"{quality[option]:g} %" if quality[option] else "·" for option in ("loss", "reorder")}
        times = [f"{quality[option]:g} ms" if quality[option] else "·" for option in ("delay", "jitter")]
        speed = show_rate(quality["rate"]) if quality["rate"] else "·"
        table.add_row(node, percents["loss"], speed, *times, percents["reorder"], "down" if quality["down"] else "up")
    out.print(table)
