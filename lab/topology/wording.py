"""Error messages in words that help: what is wrong, what was perhaps meant, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from functools import lru_cache
from typing import Final

from pydantic_core import ErrorDetails

from lab.topology.document import Loc, shown
from lab.topology.model import Checks, Client, Expect, Host, Link, Nat, Options, Relay, Server, Site, Topology

_KEY: Final = "[key]"
"""What pydantic adds to the path when the key itself is wrong."""

_MODELS: Final[dict[tuple[str, int], type[Options]]] = {
    ("servers", 2): Server,
    ("relays", 2): Relay,
    ("hosts", 2): Host,
    ("sites", 2): Site,
    ("sites", 4): Client,
    ("checks", 1): Checks,
    ("checks", 3): Expect,
}
"""Whose options are found at a path, by the path's first part and its length."""

_GUESSABLE: Final = 300
"""Among more names than this, a guess at what was meant takes too long in a file that is wrong everywhere."""


def unknown(what: str, word: str, known: Collection[str]) -> tuple[str, str]:
    """The complaint about a word that names no `what`, and the remedy."""
    return f"unknown {what} {shown(word)}", _instead(word, tuple(known))


@lru_cache(maxsize=1024)
def _instead(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word[:60], known, n=1) if len(known) <= _GUESSABLE else []
    guess = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f"{guess}known: {listed or 'none'}"


def explain(error: ErrorDetails) -> str:
    """What pydantic found, for somebody who never heard of it."""
    loc = error["loc"]
    if error["type"] == "extra_forbidden":
        return _unknown_option(loc)
    if loc[-1] == _KEY:
        name = shown(str(loc[-2]))
        if "secrets" in loc[:-2]:
            return f"{name} cannot be a client id; it takes 1 to 255 printable ASCII characters without spaces"
        more = 11 if loc[0] == "matrix" else 30
        return (
            f"{name} cannot be a name; it takes a lower-case letter, then up to {more} lower-case letters, digits,"
            " hyphens"
        )
    if error["type"] == "missing":
        return f"{loc[-1]} is missing; it takes {_description(loc)}"
    option = next(part for part in reversed(loc) if isinstance(part, str))
    return f"{option} cannot be {_input(error['input'])}; it takes {_description(loc)}"


def _unknown_option(loc: Loc) -> str:
    option = str(loc[-1])
    if loc == ("clients",):
        return "a client needs a site: move it under sites: <site>: clients:"
    owner = _model(loc[:-1])
    assert owner is not None
    return "; ".join(unknown("option", option, owner.fields()))


def _model(loc: Loc) -> type[Options] | None:
    if len(loc) == 2 and loc[0] == "matrix":
        return Nat
    if loc[2:] in (("nat",), ("link",)):
        return Nat if loc[2] == "nat" else Link
    if len(loc) == 5 and loc[4] == "link":
        return Link
    if loc[2:3] in (("nat",), ("link",)):
        return None
    return _MODELS.get((str(loc[0]), len(loc))) if loc else Topology


def _description(loc: Loc) -> str:
    """What belongs at a path: the options of a thing, or what the option around the path says of itself."""
    model = _model(loc)
    if model is not None:
        return f"options: {', '.join(model.fields())}"
    for length in reversed(range(len(loc))):
        owner = _model(loc[:length])
        if owner is not None:
            return owner.fields()[str(loc[length])]
    raise AssertionError(loc)


def _input(value: object) -> str:
    match value:
        case str():
            return shown(value)
        case dict():
            return "a mapping" if value else "an empty mapping"
        case list():
            return f"a list of {len(value)}"
        case _:
            return "empty"
