"""A running lab becomes another plan's: what may change, and when programs start anew."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import Mock

import pytest

from lab.backends import replanning
from lab.backends.nodes import Nodes
from lab.backends.programs import Local
from lab.node import NodeError
from lab.plan import NodePlan, Plan, Program
from lab.planner import plan
from lab.programs.process import Order
from lab.state import Lab
from lab.topology.changes import pinned, with_extensions
from tests.unit.helpers.topologies import topology

LAB = topology("servers: {server: }\nsites: {home: {nat: cone, clients: {alice: , bob: }}}")


async def changed(new: Plan) -> Nodes:
    nodes = Nodes(plan(LAB))
    nodes.places, nodes.programs = Mock(), Mock(**{"facts.return_value": {}})
    nodes.by_name["alice"].teredo_address = "2001::1"
    await replanning.change(plan(LAB), new, nodes)
    return nodes


def test_a_client_with_other_extensions_starts_anew_and_nothing_else_does() -> None:
    new = plan(with_extensions(pinned(LAB), "alice", ()))
    nodes = asyncio.run(changed(new))
    nodes.programs.replace.assert_called_once_with(new.node("alice"))  # type: ignore[attr-defined]
    assert nodes.places.mock_calls == []  # type: ignore[attr-defined]
    assert nodes.by_name["alice"].teredo_address is None
    assert nodes.by_name["alice"].worst == ("starting", None)
    assert {each["name"]: each["extensions"] for each in nodes.facts()}["alice"] == []


def test_more_than_a_client_s_programs_cannot_change() -> None:
    moved = plan(
        topology("servers: {server: }\nsites: {home: {nat: cone, clients: {alice: {ipv4: 192.168.1.9}, bob: }}}")
    )
    with pytest.raises(NodeError, match="only NATs and programs of clients can change"):
        asyncio.run(changed(moved))


class Numbered(Local):
    """Programs that are numbers."""

    def __init__(self) -> None:
        super().__init__(Lab("numbered", Path("/nowhere")), Mock(), logs=False)
        self.started: list[str] = []
        self.asked: list[int] = []

    def _run(self, order: Order) -> int:
        self.started.append(str(order.options["which"]))
        return len(self.started)

    def _end(self, number: int) -> None:
        self.asked.append(number)


def node(*which: str) -> NodePlan:
    programs = tuple(Program(kind="web", options={"which": each}) for each in which)
    return NodePlan(name="alice", role="client", programs=programs)


def test_programs_start_only_when_those_before_have_ended() -> None:
    async def main() -> None:
        programs = Numbered()
        programs.start(node("one", "two"))
        programs.replace(node("three"))
        programs.ended(1, 0)
        assert programs.started == ["one", "two"]
        programs.replace(node("four"))  # before it came to three
        assert programs.asked == [1, 2]
        programs.ended(2, 0)
        assert programs.started == ["one", "two", "four"]
        programs.replace(node("five"))
        programs.ended(3, 0)
        programs.ended(3, 0)  # as of a process that others have shared
        assert programs.started == ["one", "two", "four", "five"]

    asyncio.run(main())
