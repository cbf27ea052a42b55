"""Topologies written in tests, and what the loader says of them."""

from __future__ import annotations

from textwrap import dedent

import pytest

from lab.topology.load import TopologyError, parse
from lab.topology.model import Topology


def topology(text: str) -> Topology:
    return parse(dedent(text).encode(), "lab.yaml")


def errors(text: str | bytes) -> list[str]:
    content = text if isinstance(text, bytes) else dedent(text).encode()
    with pytest.raises(TopologyError) as caught:
        parse(content, "lab.yaml")
    return str(caught.value).splitlines()


def server_and(text: str) -> str:
    """A topology of one server in lines 1 and 2, and `text` from line 3 on."""
    return "servers:\n  server:\n" + dedent(text)
