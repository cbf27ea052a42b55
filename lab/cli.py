"""The command `teredo-lab`: its commands by name, each of which is imported when it is called."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from lab.console import BAD_INPUT, FAILED, MACHINE, err
from lab.state import MachineError, RefusedError, StateError

COMMANDS: Final = {
    "up": "cli_up",
    "down": "cli_lab",
    "status": "cli_lab",
    "exec": "cli_lab",
    "shell": "cli_lab",
    "logs": "cli_lab",
    "check": "cli_check",
    "story": "cli_story",
    "capture": "cli_capture",
    "decode": "cli_decode",
    "web": "cli_web",
    "nat": "cli_nat",
    "link": "cli_link",
    "client": "cli_client",
    "workshop": "cli_workshop",
    "matrix": "cli_matrix",
    "interop": "cli_interop",
    "conformance": "cli_conformance",
    "scale": "cli_scale",
    "plan": "cli_topology",
    "compose": "cli_topology",
    "schema": "cli_topology",
    "doctor": "cli_doctor",
    "teredo": "cli_teredo",
}
"""The module in this package of each command, in the order in which `--help` shows them."""

_MARKUP: Final = "markdown"


class _Commands(Mapping[str, Any]):
    """The commands, made when they are asked for: `exec` need not wait for all that `up` imports."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - whatever Typer calls a command
        holder = typer.Typer(rich_markup_mode=_MARKUP)
        holder.add_typer(import_module(f"lab.{COMMANDS[name]}").app)
        return typer.main.get_group(holder).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": _Commands()})

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - Typer's own
        return list(COMMANDS)


app = typer.Typer(
    name="teredo-lab",
    cls=_Group,
    help="A laboratory in which Teredo really runs: clients behind real NATs, servers, relays, native IPv6 hosts.",
    epilog="Exit codes: 0 all as expected, 1 an expectation failed, 2 bad input, 3 the machine lacks something.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=_MARKUP,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # noqa: PLC0415 - slow to import

        print(f"teredo-lab {metadata.version('teredo-lab')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Entry point: problems of the lab's state become one line and exit code 2; 3 if the lab could not do it."""
    try:
        app()
    except (MachineError, StateError) as error:
        err.print(f"teredo-lab: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(BAD_INPUT if isinstance(error, StateError) and not isinstance(error, RefusedError) else MACHINE)
    except BrokenPipeError:
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
