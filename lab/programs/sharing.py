"""Several programs in one process, each in a network and with a log of its own.

A process takes 6 MB and 15 ms, and a lab of a thousand clients has no room for that many. Programs need not know that
they share one: whatever one of them has scheduled runs in its network.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab import programs
from lab.backends import linux
from lab.logs import handler, set_up_with
from lab.programs.process import Order, process_name
from lab.teredo.runner import stop_on_signals

_log = logging.getLogger("programs")

_REQUESTS: Final = 4096
"""Bytes that all requests to end fit into that can wait at once."""


@dataclass(frozen=True)
class _Home:
    """Where a program is: the descriptor of its network namespace, and what writes its log."""

    network: int
    log: logging.Handler


_home: ContextVar[_Home] = ContextVar("home")


class _Logs(logging.Handler):
    """Writes into the log of whose record it is."""

    def emit(self, record: logging.LogRecord) -> None:
        _home.get().log.handle(record)


def _at_home(callback: Callable[..., Any], arguments: Sequence[Any]) -> Any:  # noqa: ANN401 - whatever it returns
    home = _home.get(None)
    if home is not None:
        linux.setns(home.network, linux.NEWNET)
    return callback(*arguments)


class _Loop(asyncio.SelectorEventLoop):
    """Runs each callback in the network of the program that has scheduled it."""

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon(_at_home, callback, args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, _at_home, callback, args, context=context)

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        super().add_reader(fd, _at_home, callback, args)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]  # noqa: ANN401
        return super().run_in_executor(executor, copy_context().run, _at_home, func, args)


@dataclass(frozen=True)
class Lodger:
    """A program that shares a process: its number and what it is, its network, whom it tells, and who is told its exit
    code."""

    number: int
    order: Order
    network: int
    tell: Callable[[dict[str, Any]], None]
    ended: Callable[[int], None]


def run_all(lodgers: Sequence[Lodger], ending: int) -> None:
    """Run these programs in this process, until all of them have ended.

    Lines that come by the descriptor `ending` are numbers of those that shall end.
    """
    linux.set_process_name(process_name(lodgers[0].order.kind, f"{lodgers[0].order.node}+{len(lodgers) - 1}"))
    set_up_with(_Logs())
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(_all(lodgers, ending))


async def _all(lodgers: Sequence[Lodger], ending: int) -> None:
    loop, stop = asyncio.get_running_loop(), stop_on_signals()
    stops = {lodger.number: asyncio.Event() for lodger in lodgers}

    def end_some() -> None:
        for line in os.read(ending, _REQUESTS).split():
            stops[int(line)].set()

    async def end_all() -> None:
        await stop.wait()
        for each in stops.values():
            each.set()

    loop.add_reader(ending, end_some)
    watching = loop.create_task(end_all())
    tasks = []
    for lodger in lodgers:
        context = copy_context()
        context.run(_home.set, _Home(lodger.network, _log_of(lodger.order)))
        tasks.append(loop.create_task(_one(lodger, stops[lodger.number]), context=context))
    await asyncio.gather(*tasks)
    watching.cancel()


def _log_of(order: Order) -> logging.Handler:
    assert order.log is not None
    return handler(Path(order.log).open("a", buffering=1), node=order.node)


async def _one(lodger: Lodger, stop: asyncio.Event) -> None:
    code = 1
    try:
        main = programs.shareable(lodger.order.kind)
        assert main is not None
        await main(lodger.order.options, lodger.order.context(lodger.tell), stop)
        code = 0
    except Exception:
        _log.exception("ended by an error")
    lodger.ended(code)
