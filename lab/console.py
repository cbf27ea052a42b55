"""What the commands share: where they print, how they fail, which lab they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from lab import files, state
from lab.backends import base
from lab.state import Lab

OK, FAILED, BAD_INPUT, MACHINE = 0, 1, 2, 3


def known_backend(backend: str) -> str:
    """A backend's name, or leave with what is wrong with it."""
    if backend not in base.BACKENDS:
        fail(BAD_INPUT, f"there is no backend {backend!r}; there are {' and '.join(base.BACKENDS)}")
    return backend


Name = Annotated[
    str | None, typer.Option("--name", "-n", help="The lab's name, where several run.", show_default=False)
]
Backend = Annotated[
    str,
    typer.Option(
        help="How nodes come to exist: `netns` (network namespaces) or `docker` (containers).",
        envvar="TEREDO_LAB_BACKEND",
        callback=known_backend,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
TopologyFile = Annotated[Path, typer.Argument(metavar="[FILE]", help="The topology to read.", show_default=True)]
DEFAULT_TOPOLOGY = Path("topologies/default.yaml")
err = Console(stderr=True)
out = Console()


def fail(code: int, message: object) -> NoReturn:
    """Print an error and leave."""
    err.print(f"teredo-lab: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def writable(path: Path | None) -> Path | None:
    """A file that a report can be written to; or leave with what is wrong, before there is work to lose."""
    try:
        if path is not None:
            files.try_to_put(path)
    except OSError as error:
        _cannot_write(path, error)
    return path


def write(path: Path | None, text: Callable[[], str]) -> None:
    """Write a report to a file, if there shall be one, or leave with what is wrong."""
    try:
        if path is not None:
            files.put(path, text())
    except OSError as error:
        _cannot_write(path, error)


def _cannot_write(path: Path | None, error: OSError) -> NoReturn:
    fail(BAD_INPUT, f"cannot write {path}: {error.strerror}; name a file in a directory that is there and writable")


def the_lab(name: str | None) -> Lab:
    """The lab of that name, or the only one that runs."""
    if name is not None:
        return base.find(name)
    running = state.labs() or base.running()
    if len(running) == 1:
        return running[0]
    if not running:
        fail(BAD_INPUT, "no lab is running: start one with `teredo-lab up`")
    fail(BAD_INPUT, f"several labs are running, say which with --name: {', '.join(lab.name for lab in running)}")


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Any]:
    """A function that shows reports of progress on standard error."""
    from rich.progress import (  # noqa: PLC0415 - slow to import
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(report: dict[str, Any]) -> None:
            what = report["what"]
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=report["total"])
            bar.update(tasks[what], completed=report["done"], total=report["total"])

        yield show
