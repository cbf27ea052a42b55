"""`teredo-lab nat`: what each NAT of a running lab really does, and changing it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from lab.console import BAD_INPUT, FAILED, Json, Name, err, fail, out, progress_bar, the_lab
from lab.state import Lab, node_facts

_LONGEST = 320


class _ShowByDefault(TyperGroup):
    """A group whose command `show` need not be named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer hides its kind
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="nat",
    cls=_ShowByDefault,
    help="Measure the NATs of a running lab from packets, show their rules, change them.\n\n"
    "`teredo-lab nat [NODE]` is short for `teredo-lab nat show [NODE]`.",
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Nat = Annotated[str, typer.Argument(help="The NAT's node: `home-nat` for the site `home`.")]


@app.command()
def show(
    node: Annotated[str | None, typer.Argument(help="Only this NAT, in full.", show_default=False)] = None,
    name: Name = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only what `up` looks at.")] = False,
    lifetime: Annotated[
        int | None,
        typer.Option(min=1, max=3600, help="Also measure how long mappings live, up to so many seconds."),
    ] = None,
    rules: Annotated[
        bool, typer.Option("--rules", help="Print the rules that the kernel has now, and no more.")
    ] = False,
    mappings: Annotated[
        bool, typer.Option("--mappings", help="Print what the NAT translates now, but for measurements, and no more.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure NATs: mapping, filtering, ports, hairpinning and more. Exit code 1 if one is not what it is meant to be.

    It judges from packets alone. With `--lifetime` it takes about two and a half lifetimes.

    Example: `teredo-lab nat home-nat --lifetime 130`
    """
    lab = the_lab(name)
    if node is not None:
        _need_nat(lab, node)
    if rules:
        _print_rules(lab, node, as_json=as_json)
        return
    if mappings:
        _print_mappings(lab, node, as_json=as_json)
        return
    request: dict[str, Any] = {"nodes": [node] if node else [], "thorough": not quick, "lifetime": lifetime}
    rows = _measure(lab, request, quiet=as_json)
    if as_json:
        if node is not None:
            rows[0]["rules"] = _rules(lab, node)
        print(json.dumps(rows, indent=2))
    elif node is not None:
        _print_one(rows[0])
    else:
        _print_all(rows)
    _judge(rows)


@app.command("set")
def set_(
    node: Nat,
    change: Annotated[
        list[str],
        typer.Argument(metavar="KIND|OPTION=VALUE…", help="A kind of NAT, options of `nat:` in a topology, or both."),
    ],
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Make a NAT another one. All its mappings are lost; clients find out by themselves.

    Examples: `teredo-lab nat set home-nat port_symmetric`, `teredo-lab nat set home-nat cone hairpin=yes`
    """
    from lab.changing import make_nat  # noqa: PLC0415 - slow to import
    from lab.topology.changes import ChangeError  # noqa: PLC0415

    lab = the_lab(name)
    site = _need_nat(lab, node)["site"]
    options: dict[str, str] = {}
    for word in change:
        option, is_option, value = word.partition("=")
        options[option if is_option else "kind"] = value if is_option else word
    try:
        make_nat(lab, site, options)
    except ChangeError as error:
        fail(BAD_INPUT, error)
    _after(lab, node, as_json=as_json)


@app.command()
def reset(node: Nat, name: Name = None, as_json: Json = False) -> None:
    """Power-cycle a NAT: all its mappings are lost, and new ones may get other ports.

    Example: `teredo-lab nat reset home-nat`
    """
    lab = the_lab(name)
    _need_nat(lab, node)
    lab.ask_once("nat-reset", node=node)
    _after(lab, node, as_json=as_json)


def _after(lab: Lab, node: str, *, as_json: bool) -> None:
    """Show what a NAT has become."""
    rows = _measure(lab, {"nodes": [node]}, quiet=as_json)
    if as_json:
        print(json.dumps(rows[0], indent=2))
    else:
        _print_all(rows)
    _judge(rows)


def _need_nat(lab: Lab, node: str) -> dict[str, Any]:
    status = lab.ask_once("status")
    facts = node_facts(status, node)
    if facts["role"] != "nat":
        known = ", ".join(each["name"] for each in status["nodes"] if each["role"] == "nat")
        fail(BAD_INPUT, f"{node} is no NAT but a {facts['role']}; the NATs are {known}")
    return facts


def _measure(lab: Lab, request: dict[str, Any], *, quiet: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with progress_bar(quiet=quiet) as show_progress:
        for answer in lab.ask("nat", **request):
            show_progress({"what": "measuring NATs", "done": answer["done"], "total": answer["total"]})
            rows.append(answer["row"])
    order = [facts["name"] for facts in lab.ask_once("status")["nodes"]]
    return sorted(rows, key=lambda row: order.index(row["node"]))


def _judge(rows: list[dict[str, Any]]) -> None:
    bad = [row for row in rows if not row["ok"]]
    for row in bad:
        why = "; ".join(row["problems"])
        err.print(f"{row['node']} is not what it is meant to be: {why}", style="red", highlight=False, soft_wrap=True)
    if bad:
        raise typer.Exit(FAILED)


def _rules(lab: Lab, node: str) -> dict[str, str]:
    answer = lab.ask_once("rules", node=node)
    rules: dict[str, str] = answer["rules"]
    return rules


def _print_rules(lab: Lab, node: str | None, *, as_json: bool) -> None:
    if node is None:
        fail(BAD_INPUT, "--rules needs the name of a NAT: `teredo-lab nat home-nat --rules`")
    rules = _rules(lab, node)
    if as_json:
        print(json.dumps(rules, indent=2))
        return
    for command, text in rules.items():
        print(f"# {command}\n{text}")


def _print_mappings(lab: Lab, node: str | None, *, as_json: bool) -> None:
    if node is None:
        fail(BAD_INPUT, "--mappings needs the name of a NAT: `teredo-lab nat home-nat --mappings`")
    from lab.nat.bench import LOCAL_PORTS  # noqa: PLC0415 - slow to import

    every = lab.ask_once("mappings", nodes=[node])["mappings"][node]
    rows = [row for row in every if int(row["inside"].rpartition(":")[2]) not in LOCAL_PORTS]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("inside", "outside", "lets in", "answered", "seconds"):
        table.add_column(column, overflow="fold")
    for row in rows:
        ends = (row["inside"], row["outside"], row["remote"])
        table.add_row(*ends, _yes_no(row["answered"]), str(row["expires"]))
    out.print(table)


def _yes_no(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "·"}[value]


def _print_all(rows: list[dict[str, Any]]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("NAT", "kind", "engine", "mapping", "filtering", "ports", "hairpin", "as meant"):
        table.add_column(column, overflow="fold")
    for row in rows:
        if row["udp"]:
            ports = row["ports"] if row["delta"] is None else f"{row['ports']} +{row['delta']}"
            seen = [row["mapping"], row["filtering"], ports, _yes_no(row["hairpin"])]
        else:
            seen = ["no UDP", "", "", ""]
        meant = Text("yes", "green") if row["ok"] else Text("no", "red")
        table.add_row(row["node"], row["kind"], row["engine"], *seen, meant)
    out.print(table)


_WORDS = {
    "kind": "meant to be",
    "engine": "made by",
    "mapping": "mapping",
    "filtering": "filtering",
    "ports": "ports",
    "delta": "each port above the last by",
    "external": "external addresses seen",
    "pooling": "pooling",
    "collision": "two hosts, one port",
    "hairpin": "hairpinning",
    "icmp_errors": "ICMP errors come in",
    "upnp": "opens ports on request",
    "lifetime_new": "new mappings live, seconds",
    "lifetime": "answered ones live, seconds",
    "outbound_refresh": "prolonged from inside",
    "inbound_refresh": "prolonged from outside",
}


def _print_one(row: dict[str, Any]) -> None:
    out.print(row["node"], style="bold", highlight=False)
    if not row["udp"]:
        out.print("no UDP passes", highlight=False)
    for key, words in _WORDS.items():
        value = row[key]
        if value is None or value == []:
            continue
        text = _yes_no(value) if isinstance(value, bool) else ", ".join(value) if isinstance(value, list) else value
        out.print(f"  {words + ':':<30} {text}", highlight=False)
    for host in row["hosts"]:
        out.print(f"  {'for ' + host['node'] + ':':<30} {host['mapping']}, {host['filtering']}", highlight=False)
    out.print(f"rules: teredo-lab nat {row['node']} --rules", style="dim", highlight=False)
